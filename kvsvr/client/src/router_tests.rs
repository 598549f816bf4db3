use super::*;

const NOW: Duration = Duration::from_secs(100);

fn map(epoch: u64) -> v1::ShardMap {
    let node = |id: u64| v1::NodeInfo {
        id,
        address: format!("n{id}:1"),
        ..v1::NodeInfo::default()
    };
    let shard = |id, first_slot, last_slot, leader| v1::ShardInfo {
        id,
        first_slot,
        last_slot,
        replicas: vec![1, 2, 3],
        leader,
        ..v1::ShardInfo::default()
    };
    v1::ShardMap {
        cluster_id: "c".into(),
        epoch,
        nodes: (1..=4).map(node).collect(),
        shards: vec![shard(0, 0, 0, 0), shard(1, 0, 2047, 0), shard(2, 2048, 4095, 3)],
        ..v1::ShardMap::default()
    }
}

fn router() -> Router {
    let mut router = Router::new(vec!["seed:1".into(), "n1:1".into()]);
    router.set_map(map(5)).unwrap();
    router
}

fn leader(router: &Router, avoid: &[u64]) -> u64 {
    router.leader(1, avoid, NOW).unwrap().node
}

#[test]
fn slots_and_ids_find_their_shard() {
    let router = router();
    let found = |place| router.shard(place);
    assert_eq!(found(Place::Slot(0)), Some(1));
    assert_eq!(found(Place::Slot(2047)), Some(1));
    assert_eq!(found(Place::Slot(2048)), Some(2));
    assert_eq!(found(Place::Slot(4095)), Some(2));
    assert_eq!(found(Place::Shard(0)), Some(0));
    assert_eq!(found(Place::Shard(3)), None);
    assert_eq!(Router::new(vec![]).shard(Place::Slot(1)), None);
    assert_eq!(router.data_shards(), [1, 2]);
}

#[test]
fn the_leader_is_the_hint_or_the_first_replica() {
    let mut router = router();
    assert_eq!(leader(&router, &[]), 1);
    assert_eq!(router.leader(2, &[], NOW).unwrap().node, 3, "from the map");
    assert!(router.leader_is(1, 2, "n2:1", NOW));
    assert_eq!(leader(&router, &[]), 2);
    assert_eq!(leader(&router, &[2]), 3, "the next replica");
    assert_eq!(leader(&router, &[2, 3]), 1);
    assert_eq!(
        leader(&router, &[1, 2, 3]),
        2,
        "if all are to be avoided, the guess"
    );
}

#[test]
fn a_guess_moves_on_once_however_many_say_that_it_is_wrong() {
    let mut router = router();
    for _ in 0..5 {
        router.not_leader(1, 1);
    }
    assert_eq!(leader(&router, &[]), 2);
    router.not_leader(1, 2);
    router.not_leader(1, 3);
    assert_eq!(leader(&router, &[]), 1, "round the replicas");
}

#[test]
fn nodes_that_failed_are_passed_over_for_a_while() {
    let mut router = router();
    let n1 = router.address(1).unwrap();
    router.penalize(&n1, NOW);
    assert_eq!(leader(&router, &[]), 2);
    assert!(
        !router.leader_is(1, 1, "n1:1", NOW),
        "a hint to it asks for forwarding"
    );
    assert_eq!(router.leader(1, &[], NOW + NODE_PENALTY).unwrap().node, 1);
    for node in [2, 3] {
        let address = router.address(node).unwrap();
        router.penalize(&address, NOW);
    }
    assert_eq!(leader(&router, &[]), 1, "if all have failed, the guess");
    assert_eq!(router.addresses(NOW).first().map(|a| &**a), Some("n4:1"));
}

#[test]
fn hints_to_nodes_that_are_not_in_the_map() {
    let mut router = router();
    assert!(
        !router.leader_is(1, 9, "", NOW),
        "without an address it is no help"
    );
    assert!(router.leader_is(1, 9, "n9:1", NOW));
    assert_eq!(&*router.leader(1, &[], NOW).unwrap().address, "n9:1");
    assert_eq!(leader(&router, &[9]), 1);
    assert!(!router.leader_is(7, 1, "n1:1", NOW), "no such shard");
}

#[test]
fn replicas_take_turns_or_the_nearest_is_asked() {
    let router = router();
    let pick = |from, spread, avoid: &[u64]| {
        let distance = |a: &str| Duration::from_micros(if a == "n3:1" { 1 } else { 50 });
        router
            .replica(1, from, avoid, NOW, spread, distance)
            .unwrap()
            .node
    };
    let turns: Vec<u64> = (0..4).map(|i| pick(ReadFrom::Any, i, &[])).collect();
    assert_eq!(turns, [1, 2, 3, 1]);
    assert_eq!(pick(ReadFrom::Nearest, 0, &[]), 3);
    assert_eq!(pick(ReadFrom::Nearest, 0, &[3]), 1);
    assert_eq!(pick(ReadFrom::Leader, 2, &[]), 1);
    assert_eq!(
        pick(ReadFrom::Node(2), 0, &[2]),
        2,
        "that one, whatever it answered"
    );
}

#[test]
fn maps_that_are_old_foreign_or_broken() {
    let mut router = router();
    router.set_map(map(4)).unwrap();
    assert_eq!(router.epoch(), 5, "an older one is ignored");
    router.set_map(v1::ShardMap { epoch: 6, ..map(6) }).unwrap();
    assert_eq!(router.epoch(), 6);
    let foreign = v1::ShardMap {
        cluster_id: "x".into(),
        ..map(9)
    };
    assert_eq!(router.set_map(foreign).unwrap_err().code, Code::Refused);
    let broken: [fn(&mut v1::ShardMap); 4] = [
        |m| m.shards[1].last_slot = 4096,
        |m| m.shards[1].last_slot = 3000,
        |m| m.shards[2].replicas.clear(),
        |m| m.shards[2].replicas.push(77),
    ];
    for (i, damage) in broken.into_iter().enumerate() {
        let mut bad = map(9);
        damage(&mut bad);
        assert_eq!(router.set_map(bad).unwrap_err().code, Code::Internal, "{i}");
    }
    assert_eq!(router.epoch(), 6);
}
