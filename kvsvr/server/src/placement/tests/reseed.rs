//! A replica that is made anew on its node.

use super::*;

/// What is known of an odd replica: when an operation has made it anew it is another one, or none.
pub(super) fn check_settled(world: &World) {
    let Some(op) = world.stored.operation.filter(|op| op.state == OpState::Done) else {
        return;
    };
    let OpKind::Reseed { shard, node } = op.kind else {
        return;
    };
    let row = &world.stored.rows[&shard];
    assert!(
        !row.replicas.contains(&node) || row.incarnation(node) > 0,
        "shard {shard}: node {node} has the replica that it had: {row:?}"
    );
}

fn reseed(shard: u32, node: u64) -> Request {
    Request::Reseed { shard, node }
}

/// Rounds of a controller that forgets everything after each, until the operation has ended or `until` holds. Counts them.
fn rounds(world: &mut World, seen: &mut BTreeMap<(u32, u64), u64>, until: &dyn Fn(&World) -> bool) -> usize {
    for round in 0..100 {
        if until(world) || world.stored.operation.is_none_or(|op| op.state.ended()) {
            return round;
        }
        checked_tick(world, seen);
        let decision = decide(&world.view());
        for (shard, step) in &decision.steps {
            checked_step(world, *shard, step, true);
        }
        checked_store(world, &decision.writes);
    }
    panic!("no end: {:#?}", decide(&world.view()));
}

fn done(world: &World) -> bool {
    world.stored.operation.unwrap().state == OpState::Done
}

#[test]
fn a_replica_is_made_anew_where_it_was() {
    for (shard, node) in [(1, 1), (1, 2), (2, 3), (0, 1), (0, 3)] {
        let mut world = cluster(3, 2, 3);
        let mut seen = BTreeMap::new();
        let before = world.stored.rows[&shard].voters();
        ask(&mut world, &reseed(shard, node)).unwrap();
        let others = before.iter().copied().filter(|id| *id != node).collect();
        let taken = |world: &World| world.groups[&shard].configs == [BTreeSet::clone(&others)];
        rounds(&mut world, &mut seen, &taken);
        assert!(taken(&world), "shard {shard}: its vote is not taken");
        assert_ne!(world.groups[&shard].leader, Some(node));
        settle(&mut world, &mut seen);
        assert!(done(&world));
        check_settled_all(&world);
        let row = &world.stored.rows[&shard];
        assert_eq!(row.voters(), before);
        assert_eq!(world.groups[&shard].replicas[&node], row.incarnation(node));
        assert!(
            row.incarnation(node) > 0 && row.incarnations.len() == 1,
            "{row:?}"
        );
        // And again.
        let first = row.incarnation(node);
        ask(&mut world, &reseed(shard, node)).unwrap();
        settle(&mut world, &mut seen);
        assert!(done(&world) && world.stored.rows[&shard].incarnation(node) > first);
    }
}

fn check_settled_all(world: &World) {
    super::check_settled(world, true);
}

/// Another voter is a little behind: its vote is needed, so the odd one's is not taken yet.
#[test]
fn the_vote_stays_until_all_others_are_caught_up() {
    let mut world = cluster(4, 1, 3);
    ask(&mut world, &reseed(1, 2)).unwrap();
    world.groups.get_mut(&1).unwrap().caught_up.remove(&3);
    let decision = decide(&world.view());
    assert!(decision.steps.is_empty(), "{decision:?}");
    let waits = decision.waiting.iter().any(|why| why.contains("or is behind"));
    assert!(waits, "{decision:?}");
}

#[test]
fn what_would_leave_too_few_is_refused() {
    let mut world = cluster(4, 4, 3);
    refused(
        &mut world,
        &reseed(9, 1),
        "there is no shard 9; shards are 0 (meta) to 4",
    );
    refused(&mut world, &reseed(1, 9), "there is no node 9");
    refused(
        &mut world,
        &reseed(1, 4),
        "node 4 has no replica of shard 1 that votes",
    );
    world.stored.nodes.get_mut(&3).unwrap().silent_ms = Some(4_000);
    world.tick();
    refused(&mut world, &reseed(1, 1), "its replica on node 3 does not answer");
    refused(&mut world, &reseed(0, 1), "the meta shard: its replica on node 3");
    refused(&mut world, &reseed(1, 3), "node 3 (n3:1) does not answer");
    ask(&mut world, &reseed(4, 1)).unwrap();
    refused(&mut world, &reseed(1, 1), "there is one at a time");

    let mut world = cluster(4, 1, 3);
    let late = |lag_entries, lag_ms| {
        let mut view = world.view();
        let progress = Progress {
            caught_up: false,
            lag_entries,
            lag_ms,
            heard: true,
        };
        view.real.get_mut(&1).unwrap().progress.insert(3, progress);
        check(&view, &reseed(1, 2))
    };
    for ms in [None, Some(9_000)] {
        let reason = late(5_000, ms).unwrap_err();
        assert!(
            reason.contains("its replica on node 3 is 5000 entries behind"),
            "{reason}"
        );
        // Under load nobody knows at once how late it is.
        assert_eq!(late(1, ms), Ok(()));
    }
    world.stored.rows.get_mut(&1).unwrap().learners.push(4);
    refused(&mut world, &reseed(1, 2), "its members are being changed");
    for replication in [1, 2] {
        let mut world = cluster(3, 1, replication);
        let text = format!("shard 1 has {}", kvsvr_proto::count(replication, "voter"));
        refused(&mut world, &reseed(1, 1), &text);
    }
    let mut world = cluster(2, 1, 2);
    refused(&mut world, &reseed(0, 1), "the meta shard has 2 voters");
}

/// Whatever was done when it is taken back: as many voters as before, on the same nodes.
#[test]
fn it_is_taken_back_at_any_point() {
    for shard in [0, 1] {
        let mut kept = 0;
        for point in 0..20 {
            let mut world = cluster(3, 1, 3);
            let mut seen = BTreeMap::new();
            ask(&mut world, &reseed(shard, 2)).unwrap();
            for _ in 0..point {
                checked_tick(&mut world, &mut seen);
                let decision = decide(&world.view());
                for (shard, step) in &decision.steps {
                    checked_step(&mut world, *shard, step, true);
                }
                checked_store(&mut world, &decision.writes);
            }
            let had_vote = world.stored.rows[&shard].replicas.contains(&2);
            if ask(&mut world, &Request::Abort(1)).is_err() {
                assert!(done(&world));
                break;
            }
            settle(&mut world, &mut seen);
            check_settled_all(&world);
            assert_eq!(world.stored.operation.unwrap().state, OpState::Aborted);
            let row = &world.stored.rows[&shard];
            assert_eq!(row.voters(), BTreeSet::from([1, 2, 3]));
            if row.incarnation(2) == 0 {
                assert!(
                    had_vote,
                    "shard {shard}, point {point}: the odd replica has its vote again"
                );
                kept += 1;
            }
        }
        assert!(kept > 0, "taken back at once it is as it was");
    }
}

/// A voter that dies before the vote is taken holds it up: two good ones are needed.
#[test]
fn the_vote_stays_while_another_voter_is_down() {
    let mut world = cluster(3, 1, 3);
    let mut seen = BTreeMap::new();
    ask(&mut world, &reseed(1, 2)).unwrap();
    world.stored.nodes.get_mut(&3).unwrap().silent_ms = Some(5_000);
    settle(&mut world, &mut seen);
    let waiting = decide(&world.view()).waiting;
    assert!(
        waiting[0].contains("node 3 (n3:1) does not answer"),
        "{waiting:?}"
    );
    assert_eq!(world.groups[&1].configs, [BTreeSet::from([1, 2, 3])]);
    world.stored.nodes.get_mut(&3).unwrap().silent_ms = None;
    settle(&mut world, &mut seen);
    assert!(done(&world));
    check_settled_all(&world);
}

/// The node dies when its replica is gone: another node gets the new one, or it is waited for.
#[test]
fn a_node_that_dies_meanwhile_is_waited_for_or_replaced() {
    for nodes in [3, 4] {
        let mut world = cluster(nodes, 1, 3);
        let mut seen = BTreeMap::new();
        ask(&mut world, &reseed(1, 2)).unwrap();
        let gone = |world: &World| !world.stored.rows[&1].hosts().any(|id| id == 2);
        rounds(&mut world, &mut seen, &gone);
        assert!(gone(&world));
        world.stored.nodes.get_mut(&2).unwrap().silent_ms = Some(5_000);
        settle(&mut world, &mut seen);
        if nodes == 3 {
            let waiting = decide(&world.view()).waiting;
            assert!(
                waiting[0].contains("neither node 2 (n2:1) nor another node"),
                "{waiting:?}"
            );
            world.stored.nodes.get_mut(&2).unwrap().silent_ms = None;
            settle(&mut world, &mut seen);
        }
        assert!(done(&world));
        let expected = if nodes == 3 { [1, 2, 3] } else { [1, 3, 4] };
        assert_eq!(world.stored.rows[&1].voters(), BTreeSet::from(expected));
    }
}

/// A node that has a replica fewer for a moment is not given another shard's for the sake of evenness.
#[test]
fn nothing_else_is_moved_meanwhile() {
    let mut world = cluster(4, 8, 3);
    let mut seen = BTreeMap::new();
    ask(&mut world, &Request::Evict(4)).unwrap();
    settle(&mut world, &mut seen);
    let others = |world: &World| {
        let rows = world.stored.rows.values().filter(|row| row.id != 1);
        rows.map(|row| (row.id, row.replicas.clone())).collect::<Vec<_>>()
    };
    let before = others(&world);
    let voters = world.stored.rows[&1].voters();
    ask(&mut world, &reseed(1, 1)).unwrap();
    settle(&mut world, &mut seen);
    assert_eq!(world.stored.rows[&1].voters(), voters);
    assert_eq!(others(&world), before);
}

#[test]
fn the_plan_is_in_words() {
    let plan_of = |shard, node| {
        let mut world = cluster(3, 1, 3);
        ask(&mut world, &reseed(shard, node)).unwrap();
        let texts = plan(&world.view()).into_iter().map(|doing| doing.text);
        texts.collect::<Vec<_>>()
    };
    assert_eq!(
        plan_of(1, 1),
        [
            "shard 1: hand leadership to node 2 (n2:1)",
            "shard 1: change the voters to 2,3",
            "shard 1: note it in the shard map",
            "shard 1: note it in the shard map",
            "shard 1: drop the replica of node 1 (n1:1)",
            "shard 1: note it in the shard map",
            "shard 1: begin to add a voter, node 1",
            "shard 1: add node 1 (n1:1) as a learner",
            "shard 1: change the voters to 1,2,3",
            "shard 1: note it in the shard map",
            "shard 1: note it in the shard map",
            "reseed shard 1 on node 1 is done",
        ]
    );
    assert_eq!(
        plan_of(0, 3),
        [
            "meta shard: change the voters to 1,2",
            "meta shard: note it in the shard map",
            "meta shard: note it in the shard map",
            "meta shard: drop the replica of node 3 (n3:1)",
            "meta shard: begin to add a voter, node 3",
            "meta shard: add node 3 (n3:1) as a learner",
            "meta shard: change the voters to 1,2,3",
            "meta shard: note it in the shard map",
            "meta shard: note it in the shard map",
            "reseed shard 0 on node 3 is done",
        ]
    );
}
