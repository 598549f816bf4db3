//! Nodes that do not answer get nothing, and are named where that is in the way.

use super::*;

fn silence(world: &mut World, node: u64, ms: Option<u64>) {
    world.stored.nodes.get_mut(&node).unwrap().silent_ms = ms;
}

/// As seen when these nodes have died a moment ago: nobody has heard of them since, and nobody calls them silent yet.
fn just_died(world: &World, dead: &[u64]) -> View {
    let mut view = world.view();
    for real in view.real.values_mut() {
        for node in dead {
            if let Some(progress) = real.progress.get_mut(node) {
                progress.heard = false;
            }
        }
    }
    view
}

fn receivers(decision: &Decision) -> BTreeSet<u64> {
    let rows = decision.writes.iter().filter_map(|write| match write {
        Write::Row(row) => row.change?.add,
        _ => None,
    });
    rows.collect()
}

/// Five nodes: node 4 has the least, and would be the first to get a replica.
fn draining() -> World {
    let mut world = cluster(5, 3, 3);
    for row in world.stored.rows.values_mut().filter(|row| row.id != 0) {
        row.replicas = vec![1, 2, 3];
    }
    world = World::of(&world.stored);
    world.tick();
    ask(&mut world, &Request::Drain(1)).unwrap();
    world
}

/// Four nodes; node 4 is the one that has nothing, and no vote in the meta shard.
fn one_to_spare() -> World {
    let mut world = cluster(4, 1, 3);
    let meta = world.stored.rows.get_mut(&0).unwrap();
    (meta.replicas, meta.learners) = (vec![1, 2, 3], vec![4]);
    world = World::of(&world.stored);
    settle(&mut world, &mut BTreeMap::new());
    world
}

#[test]
fn who_has_just_died_gets_nothing_until_it_is_heard_of_again() {
    let world = draining();
    let decision = decide(&world.view());
    assert_eq!(receivers(&decision), [4, 5].into(), "{decision:#?}");
    // The other one gets its share; what was for node 4 waits, and says for whom.
    let decision = decide(&just_died(&world, &[4]));
    assert_eq!(receivers(&decision), [5].into(), "{decision:#?}");
    let waits = "shard 1: node 4 (n4:1) does not answer now, and was to get a replica";
    assert!(
        decision.waiting.iter().any(|text| text == waits),
        "{:?}",
        decision.waiting
    );
    // Nothing at all can be begun: the operation is not done for that.
    let decision = decide(&just_died(&world, &[4, 5]));
    assert!(
        receivers(&decision).is_empty() && !decision.is_empty(),
        "{decision:#?}"
    );
    assert!(decision.writes.is_empty(), "{decision:#?}");
}

#[test]
fn who_is_silent_gets_nothing_and_another_node_does() {
    let mut world = draining();
    silence(&mut world, 4, Some(3_000));
    world.tick();
    for _ in 0..200 {
        let decision = decide(&world.view());
        assert!(!receivers(&decision).contains(&4), "{decision:#?}");
        world.carry_out(&decision);
        world.tick();
    }
    assert_eq!(world.stored.operation.unwrap().state, OpState::Done);
    for row in world.stored.data() {
        assert_eq!(row.voters(), [2, 3, 5].into(), "{row:?}");
    }
}

#[test]
fn the_silent_node_that_is_missed_is_named() {
    let mut world = one_to_spare();
    silence(&mut world, 4, Some(3_000));
    world.tick();
    refused(&mut world, &Request::Drain(1), "node 4 (n4:1) does not answer");
    silence(&mut world, 4, None);
    world.tick();
    ask(&mut world, &Request::Drain(1)).unwrap();
    silence(&mut world, 4, Some(3_000));
    let mut seen = BTreeMap::new();
    settle(&mut world, &mut seen);
    let waiting = decide(&world.view()).waiting;
    assert_eq!(
        waiting,
        [
            "shard 1: no node that answers can take the replica of node 1 (n1:1): node 4 (n4:1) does not answer"
        ]
    );
    silence(&mut world, 4, None);
    settle(&mut world, &mut seen);
    check_settled(&world, false);
    assert!(world.stored.rows[&1].replicas.contains(&4));
}

/// It dies when the change has begun: whoever looks sees what is waited for, and for how long.
#[test]
fn a_receiver_that_dies_later_is_named() {
    let mut world = one_to_spare();
    ask(&mut world, &Request::Drain(1)).unwrap();
    let decision = decide(&world.view());
    assert_eq!(receivers(&decision), [4].into(), "{decision:#?}");
    world.carry_out(&decision);
    silence(&mut world, 4, Some(3_000));
    let mut seen = BTreeMap::new();
    settle(&mut world, &mut seen);
    let waiting = decide(&world.view()).waiting;
    let text = "node 4 (n4:1) does not answer; when it has been silent for 60 s another node takes its place, if there is one";
    assert_eq!(
        waiting,
        [format!("meta shard: {text}"), format!("shard 1: {text}")]
    );
}
