//! Operations that are taken back.

use super::*;

#[test]
fn an_aborted_drain_gives_the_replicas_back() {
    let mut world = cluster(4, 4, 3);
    let mut seen = BTreeMap::new();
    ask(&mut world, &Request::Drain(2)).unwrap();
    for _ in 0..6 {
        checked_tick(&mut world, &mut seen);
        let decision = decide(&world.view());
        world.carry_out(&decision);
    }
    ask(&mut world, &Request::Abort(1)).unwrap();
    settle(&mut world, &mut seen);
    check_settled(&world, true);
    assert_eq!(world.stored.state(2), NodeState::Up);
    assert_eq!(world.stored.operation.unwrap().state, OpState::Aborted);
}

#[test]
fn a_node_that_was_not_removed_drains_as_before() {
    let mut world = cluster(4, 4, 3);
    let mut seen = BTreeMap::new();
    ask(&mut world, &Request::Drain(2)).unwrap();
    settle(&mut world, &mut seen);
    ask(&mut world, &Request::Remove(2)).unwrap();
    ask(&mut world, &Request::Abort(2)).unwrap();
    settle(&mut world, &mut seen);
    check_settled(&world, true);
    assert_eq!(world.stored.state(2), NodeState::Draining);
}

/// What is taken back needs a node that is dead: only another operation can bring one.
#[test]
fn a_second_abort_makes_way_for_another_operation() {
    let mut world = cluster(3, 2, 3);
    let mut seen = BTreeMap::new();
    world.stored.nodes.get_mut(&3).unwrap().silent_ms = Some(600_000);
    world.tick();
    let replace = Request::Replace {
        old: 3,
        address: "n4:1".into(),
        store_id: "fresh".into(),
    };
    let add = Request::Add {
        address: "n5:1".into(),
        store_id: "fresher".into(),
    };
    ask(&mut world, &replace).unwrap();
    let mut rounds = |world: &mut World, until: &dyn Fn(&World) -> bool| {
        for _ in 0..60 {
            if until(world) {
                return true;
            }
            checked_tick(world, &mut seen);
            let decision = decide(&world.view());
            world.carry_out(&decision);
        }
        until(world)
    };
    let moved = |world: &World| world.stored.data().any(|row| row.replicas.contains(&4));
    assert!(rounds(&mut world, &moved));
    ask(&mut world, &Request::Abort(1)).unwrap();
    let ended = |world: &World| world.stored.operation.is_some_and(|op| op.state.ended());
    assert!(!rounds(&mut world, &ended), "it waits for node 3");
    refused(&mut world, &add, "there is one at a time");
    ask(&mut world, &Request::Abort(1)).unwrap();
    assert_eq!(world.stored.operation.unwrap().state, OpState::Aborted);
    assert_eq!(world.stored.state(4), NodeState::Up, "it votes already");
    ask(&mut world, &add).unwrap();
    assert!(rounds(&mut world, &ended), "{:?}", decide(&world.view()));
    // Now there are enough others, with node 3 and without it.
    ask(&mut world, &Request::Remove(3)).unwrap();
    assert!(rounds(&mut world, &ended), "{:?}", decide(&world.view()));
    assert_eq!(world.stored.state(3), NodeState::Removed);
    for row in world.stored.data() {
        assert!(row.replicas.len() == 3 && !row.hosts().any(|node| node == 3));
    }
}

/// A new node that does not vote yet when an addition is taken back twice goes with the next operation.
#[test]
fn a_second_abort_keeps_no_node_that_has_nothing() {
    let mut world = cluster(3, 2, 3);
    let mut seen = BTreeMap::new();
    let add = Request::Add {
        address: "n4:1".into(),
        store_id: "fresh".into(),
    };
    ask(&mut world, &add).unwrap();
    ask(&mut world, &Request::Abort(1)).unwrap();
    ask(&mut world, &Request::Abort(1)).unwrap();
    assert_eq!(world.stored.operation.unwrap().state, OpState::Aborted);
    assert_eq!(world.stored.state(4), NodeState::Leaving);
    ask(&mut world, &Request::Evict(1)).unwrap();
    settle(&mut world, &mut seen);
    assert_eq!(world.stored.state(4), NodeState::Removed);
}
