//! Nodes whose disks are slow.

use super::*;

fn pace(world: &mut World, node: u64, pace: Pace) {
    world.stored.nodes.get_mut(&node).unwrap().pace = pace;
}

fn led(world: &World, node: u64) -> usize {
    let groups = world.groups.values();
    groups.filter(|group| group.leader == Some(node)).count()
}

#[test]
fn a_node_whose_disk_is_slow_leads_nothing_until_that_is_over() {
    let mut world = cluster(3, 6, 3);
    let mut seen = BTreeMap::new();
    settle(&mut world, &mut seen);
    assert_eq!(by_itself(&world.view()), None);
    pace(&mut world, 2, Pace::Slow);
    assert_eq!(by_itself(&world.view()), Some(Request::Slow(2)));
    ask(&mut world, &Request::Slow(2)).unwrap();
    settle(&mut world, &mut seen);
    check_settled(&world, true);
    assert_eq!(led(&world, 2), 0);
    assert!(world.stored.rows[&1].replicas.contains(&2), "its replicas stay");
    assert_eq!(by_itself(&world.view()), None, "it is known");
    // Neither nor.
    pace(&mut world, 2, Pace::Unknown);
    assert_eq!(by_itself(&world.view()), None);
    refused(&mut world, &Request::Restore(2), "leads again by itself");
    pace(&mut world, 2, Pace::Quick);
    assert_eq!(by_itself(&world.view()), Some(Request::Quick(2)));
    ask(&mut world, &Request::Quick(2)).unwrap();
    settle(&mut world, &mut seen);
    check_settled(&world, true);
    assert!(world.stored.data().any(|row| row.replicas.first() == Some(&2)));
}

#[test]
fn if_half_of_the_disks_are_slow_nothing_moves() {
    let mut world = cluster(4, 4, 3);
    let mut seen = BTreeMap::new();
    settle(&mut world, &mut seen);
    pace(&mut world, 1, Pace::Slow);
    pace(&mut world, 2, Pace::Slow);
    assert_eq!(by_itself(&world.view()), None);
    pace(&mut world, 2, Pace::Quick);
    ask(&mut world, &Request::Slow(1)).unwrap();
    settle(&mut world, &mut seen);
    pace(&mut world, 3, Pace::Slow);
    assert_eq!(by_itself(&world.view()), None);
}

/// The operator has the last word, and an evicted node stays evicted.
#[test]
fn what_an_operator_has_taken_back_is_not_begun_again() {
    let mut world = cluster(3, 3, 3);
    let mut seen = BTreeMap::new();
    settle(&mut world, &mut seen);
    pace(&mut world, 1, Pace::Slow);
    ask(&mut world, &Request::Slow(1)).unwrap();
    let id = world.stored.operation.unwrap().id;
    ask(&mut world, &Request::Abort(id)).unwrap();
    settle(&mut world, &mut seen);
    assert_eq!(by_itself(&world.view()), None);
    assert!(!world.stored.nodes[&1].slow);
    ask(&mut world, &Request::Evict(1)).unwrap();
    settle(&mut world, &mut seen);
    assert_eq!(by_itself(&world.view()), Some(Request::Slow(1)));
    ask(&mut world, &Request::Slow(1)).unwrap();
    settle(&mut world, &mut seen);
    pace(&mut world, 1, Pace::Quick);
    ask(&mut world, &Request::Quick(1)).unwrap();
    settle(&mut world, &mut seen);
    check_settled(&world, true);
    assert_eq!(led(&world, 1), 0);
}
