//! After a recovery of lost quorums: rows follow groups that changed without them, and the ordinary operations work again.

use super::*;

/// Nodes are lost for good, and of each shard that has no majority left the first survivor becomes the only voter.
fn recovered(world: &mut World, lost: &[u64]) {
    for id in lost {
        world.stored.nodes.get_mut(id).unwrap().silent_ms = Some(10_000);
    }
    let up: Vec<u64> = world
        .stored
        .nodes
        .keys()
        .copied()
        .filter(|id| !lost.contains(id))
        .collect();
    for group in world.groups.values_mut() {
        let voters = group.configs[0].clone();
        let left: Vec<u64> = up.iter().copied().filter(|id| voters.contains(id)).collect();
        if left.len() >= majority(voters.len()) {
            continue;
        }
        group.leader = left.first().copied();
        let Some(chosen) = group.leader else { continue };
        group.configs = vec![[chosen].into()];
        group.learners.clear();
        group.caught_up = [chosen].into();
    }
}

/// The controller's looks without an operation, to the end.
fn follow(world: &mut World) {
    let mut rounds = 0;
    while differs(&world.view()) {
        let decision = decide(&world.view());
        let of_operations = |write: &Write| matches!(write, Write::Operation(_) | Write::NewOperation(_));
        assert!(!decision.writes.iter().any(of_operations), "{decision:?}");
        world.carry_out(&decision);
        world.tick();
        rounds += 1;
        assert!(rounds < 50, "no end: {decision:?}");
    }
}

#[test]
fn rows_follow_what_was_recovered_without_an_operation() {
    let mut world = cluster(5, 3, 3);
    assert!(
        !differs(&world.view()),
        "nothing is to be done in a whole cluster"
    );
    recovered(&mut world, &[5]);
    assert!(!differs(&world.view()), "every shard has its majority");
    let mut world = cluster(5, 3, 3);
    recovered(&mut world, &[2, 3, 4]);
    let before = world.stored.rows.clone();
    follow(&mut world);
    let meta = world.stored.meta().unwrap();
    assert_eq!(meta.replicas, [1]);
    for node in 2..=5 {
        assert!(
            meta.learners.contains(&node),
            "each node is to have the meta shard"
        );
        assert_eq!(
            meta.incarnation(node),
            1,
            "what node {node} had of it does not count"
        );
    }
    assert_eq!(
        meta.incarnation(1),
        0,
        "the survivor's is what it was, and so is its promise"
    );
    assert_eq!(world.groups[&0].learners, [2, 3, 4, 5].into());
    // 1, 2 and 3 had shard 1; 3, 4 and 5 had shard 3; nobody is left of shard 2, whose row stays as it was.
    for (shard, only) in [(1, 1), (3, 5)] {
        let row = &world.stored.rows[&shard];
        assert_eq!(
            (&row.replicas[..], &row.learners[..]),
            (&[only][..], &[][..]),
            "{row:?}"
        );
        assert!(row.changes > before[&shard].changes);
    }
}

#[test]
fn members_change_as_ever_after_a_recovery() {
    let mut world = cluster(3, 4, 3);
    recovered(&mut world, &[2, 3]);
    follow(&mut world);
    let mut seen = BTreeMap::new();
    settle(&mut world, &mut seen);
    assert_eq!(world.stored.operation, None, "nothing begins by itself");
    // Both ways: in its place, and out for good once there are others.
    let replace = request(&world, 7, 2);
    ask(&mut world, &replace).unwrap();
    settle(&mut world, &mut seen);
    assert_eq!(world.stored.state(2), NodeState::Removed);
    refused(&mut world, &Request::Remove(3), "add a node first");
    let add = request(&world, 0, 0);
    ask(&mut world, &add).unwrap();
    settle(&mut world, &mut seen);
    ask(&mut world, &Request::Remove(3)).unwrap();
    settle(&mut world, &mut seen);
    assert_eq!(world.stored.state(3), NodeState::Removed);
    for group in world.groups.values_mut() {
        // Their processes are gone.
        group.replicas.retain(|node, _| ![2, 3].contains(node));
        assert!(!group.learners.contains(&2) && !group.learners.contains(&3));
    }
    check_settled(&world, true);
}

#[test]
fn what_was_being_changed_is_over_with_the_group() {
    let row = ShardRow {
        id: 4,
        replicas: vec![1, 2, 3],
        learners: vec![5],
        change: Some(Change {
            add: Some(5),
            remove: Some(1),
        }),
        changes: 6,
        incarnations: [(2, 3), (5, 6)].into(),
    };
    let followed = row.follow(&[2].into(), &BTreeSet::new());
    let expected = ShardRow {
        replicas: vec![2],
        learners: Vec::new(),
        change: None,
        incarnations: [(2, 3)].into(),
        ..row.clone()
    };
    assert_eq!(followed, expected);
    // A change as ever keeps all of it: who voted is a learner.
    let followed = row.follow(&[2, 3, 5].into(), &[1].into());
    assert_eq!((followed.learners, followed.change), (vec![1], row.change));
}
