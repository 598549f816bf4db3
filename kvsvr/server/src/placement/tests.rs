//! Random clusters, operations and faults against the naive model: operations end, nothing unsafe happens on the way.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    model::{Group, World},
    *,
};

mod abort;
mod pace;
mod recovered;
mod reseed;
mod silent;

fn node(id: u64) -> Node {
    Node {
        id,
        address: format!("n{id}:1"),
        store_id: format!("store-{id}"),
        state: NodeState::Up,
        evicted: false,
        slow: false,
        pace: Pace::Unknown,
        labels: BTreeMap::new(),
        silent_ms: None,
    }
}

/// As a bootstrap lays it out.
fn cluster(nodes: u64, shards: u32, replication: usize) -> World {
    let ids: Vec<u64> = (1..=nodes).collect();
    let mut rows = BTreeMap::new();
    let meta = ShardRow {
        replicas: ids.clone(),
        ..ShardRow::default()
    };
    rows.insert(0, meta);
    for id in 1..=shards {
        let place = |r: usize| ids[(id as usize - 1 + r) % ids.len()];
        let row = ShardRow {
            id,
            replicas: (0..replication).map(place).collect(),
            ..ShardRow::default()
        };
        rows.insert(id, row);
    }
    let view = View {
        nodes: ids.iter().map(|id| (*id, node(*id))).collect(),
        rows,
        replication,
        ..View::default()
    };
    let mut world = World::of(&view);
    world.tick();
    world
}

/// Both sets decide alone.
fn disjoint_quorums(a: &[BTreeSet<u64>], b: &[BTreeSet<u64>], all: &BTreeSet<u64>) -> bool {
    let ids: Vec<u64> = all.iter().copied().collect();
    let decides = |configs: &[BTreeSet<u64>], some: &BTreeSet<u64>| {
        configs
            .iter()
            .all(|set| set.intersection(some).count() >= majority(set.len()))
    };
    (0..1u32 << ids.len()).any(|bits| {
        let some: BTreeSet<u64> = ids
            .iter()
            .enumerate()
            .filter(|(i, _)| bits >> i & 1 == 1)
            .map(|(_, id)| *id)
            .collect();
        let rest: BTreeSet<u64> = all.difference(&some).copied().collect();
        decides(a, &some) && decides(b, &rest)
    })
}

fn live_voters(world: &World, group: &Group, odd: Option<u64>) -> usize {
    let smallest = group.configs.iter();
    let good = |id: &&u64| Some(**id) != odd && world.alive(**id);
    smallest
        .map(|set| set.iter().filter(good).count())
        .min()
        .unwrap_or(0)
}

/// The voter that a step takes out so that it is made anew: it does not count as a good one.
fn odd(world: &World, shard: u32, step: &Step) -> Option<u64> {
    let operation = world.stored.operation.filter(|op| op.state == OpState::Running)?;
    match (operation.kind, step) {
        (OpKind::Reseed { shard: of, node }, Step::ChangeVoters(next))
            if of == shard && !next.contains(&node) =>
        {
            Some(node)
        }
        _ => None,
    }
}

/// Carries out one step and holds it to what must never be broken.
fn checked_step(world: &mut World, shard: u32, step: &Step, to_the_end: bool) {
    let before = world.clone();
    world.perform(shard, step, to_the_end);
    let (was, is) = (&before.groups[&shard], &world.groups[&shard]);
    let wanted = before.stored.wanted_voters(&before.stored.rows[&shard]);
    let odd = odd(&before, shard, step);
    if let (Some(_), Step::ChangeVoters(next)) = (odd, step) {
        assert!(
            next.iter().all(|id| before.alive(*id)),
            "shard {shard}: {step:?} takes a vote while another voter is down: {was:?}"
        );
    }
    assert!(
        live_voters(world, is, None) >= live_voters(&before, was, odd).min(wanted),
        "shard {shard}: {step:?} lost live voters: {was:?} {is:?}"
    );
    let all: BTreeSet<u64> = was.configs.iter().chain(&is.configs).flatten().copied().collect();
    // The joint configuration that a change of voters goes through.
    let mut joint = was.configs.clone();
    if let Step::ChangeVoters(next) = step {
        joint.push(next.clone());
    }
    assert!(
        !disjoint_quorums(&was.configs, &joint, &all) && !disjoint_quorums(&joint, &is.configs, &all),
        "shard {shard}: {step:?} makes disjoint quorums: {was:?} {is:?}"
    );
    assert!(is.configs.len() <= 2, "shard {shard}: two changes at a time");
    if let Step::ChangeVoters(next) = step {
        let old: BTreeSet<u64> = was.configs.iter().flatten().copied().collect();
        let new: Vec<&u64> = next.difference(&old).collect();
        let gone: Vec<&u64> = old.difference(next).collect();
        assert!(new.len() <= 1 && gone.len() <= 1, "{step:?} from {old:?}");
        for node in new {
            assert!(was.learners.contains(node) && was.caught_up.contains(node));
        }
    }
}

fn checked_store(world: &mut World, writes: &[Write]) {
    let before = world.stored.clone();
    world.store(writes);
    for (id, row) in &world.stored.rows {
        assert!(
            before.rows[id].changes <= row.changes,
            "the epoch of shard {id} went back"
        );
        let members = world.groups[id].configs.iter().flatten();
        for node in members.filter(|node| before.rows[id].hosts().any(|host| host == **node)) {
            assert!(
                row.hosts().any(|host| host == *node),
                "shard {id}: the voter {node} is to destroy its replica"
            );
        }
    }
}

/// A replica that was destroyed never comes back as the same.
fn checked_tick(world: &mut World, seen: &mut BTreeMap<(u32, u64), u64>) {
    let before = world.clone();
    world.tick();
    for (id, group) in &world.groups {
        for (node, incarnation) in &group.replicas {
            if before.groups[id].replicas.get(node) != Some(incarnation) {
                let newest = seen.insert((*id, *node), *incarnation);
                assert!(
                    newest.is_none_or(|newest| newest < *incarnation),
                    "shard {id}: node {node} starts incarnation {incarnation} after {newest:?}"
                );
            }
        }
        for (node, incarnation) in &before.groups[id].replicas {
            let member = group.configs.iter().any(|set| set.contains(node));
            assert!(
                group.replicas.get(node) == Some(incarnation) || !member,
                "shard {id}: node {node} destroys a replica that votes"
            );
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    /// The controller looks and carries out all, some of it, or only stores.
    Round {
        steps: usize,
        stores: bool,
        joint: bool,
    },
    /// A controller that has been deposed carries out what it decided long ago.
    Late,
    Kill(u64),
    Revive(u64),
    Ask(usize, u64),
    Reseed(u32, u64),
    Abort,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (0..4usize, any::<bool>(), prop::bool::weighted(0.8))
            .prop_map(|(steps, stores, joint)| Event::Round { steps, stores, joint }),
        2 => Just(Event::Late),
        2 => (1..9u64).prop_map(Event::Kill),
        4 => (1..9u64).prop_map(Event::Revive),
        3 => (0..8usize, 1..9u64).prop_map(|(verb, node)| Event::Ask(verb, node)),
        2 => (0..9u32, 1..9u64).prop_map(|(shard, node)| Event::Reseed(shard, node)),
        1 => Just(Event::Abort),
    ]
}

fn request(world: &World, verb: usize, node: u64) -> Request {
    let new = world.stored.nodes.len() as u64 + 1;
    let (address, store_id) = (format!("n{new}:1"), format!("store-{new}"));
    match verb {
        0 => Request::Add { address, store_id },
        1 => Request::Drain(node),
        2 => Request::Undrain(node),
        3 => Request::Remove(node),
        4 => Request::Evict(node),
        5 => Request::Restore(node),
        6 => Request::Label(node, BTreeMap::from([("zone".into(), format!("z{}", new % 3))])),
        _ => Request::Replace {
            old: node,
            address,
            store_id,
        },
    }
}

fn ask(world: &mut World, request: &Request) -> Result<(), String> {
    let view = world.view();
    let number = view.operation.map_or(1, |op| op.id + 1);
    let writes = admit(&view, request, number)?;
    checked_store(world, &writes);
    Ok(())
}

/// Runs until nothing is to be done any more; panics if that takes too long.
fn settle(world: &mut World, seen: &mut BTreeMap<(u32, u64), u64>) {
    for _ in 0..2_000 {
        checked_tick(world, seen);
        let decision = decide(&world.view());
        if decision.writes.is_empty() && decision.steps.is_empty() {
            return;
        }
        for (shard, step) in &decision.steps {
            checked_step(world, *shard, step, true);
        }
        checked_store(world, &decision.writes);
    }
    panic!("no end: {:#?}", decide(&world.view()));
}

fn spread(world: &World, count: impl Fn(&ShardRow, u64) -> bool) -> usize {
    let up = world.stored.in_state(NodeState::Up);
    let counts = up.map(|node| world.stored.data().filter(|row| count(row, node.id)).count());
    let counts: Vec<usize> = counts.collect();
    counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0)
}

/// `even`: nobody was down when the last operation ended, so nobody was passed over.
fn check_settled(world: &World, even: bool) {
    let op = world.stored.operation;
    reseed::check_settled(world);
    assert!(
        op.is_none_or(|op| op.state.ended()),
        "{op:?} did not end: {:?}",
        decide(&world.view())
    );
    for (id, group) in &world.groups {
        let row = &world.stored.rows[id];
        assert_eq!(group.configs, [row.voters()], "shard {id}");
        assert!(row.change.is_none());
        if *id > 0 {
            assert_eq!(row.replicas.len(), world.stored.replication, "shard {id}");
            assert!(row.learners.is_empty() && group.learners.is_empty());
            for node in &row.replicas {
                assert_eq!(
                    world.stored.state(*node),
                    NodeState::Up,
                    "shard {id}: node {node}"
                );
            }
        }
        let hosts: BTreeSet<u64> = row.hosts().collect();
        let running: BTreeSet<u64> = group.replicas.keys().copied().collect();
        assert_eq!(hosts, running, "shard {id}");
    }
    let plain = world
        .stored
        .nodes
        .values()
        .all(|n| !n.evicted && !n.slow && n.labels.is_empty());
    for (id, row) in &world.stored.rows {
        let able = row.replicas.iter().any(|id| world.stored.may_lead(*id));
        let leads = |node: Option<&u64>| node.is_some_and(|node| world.stored.evicted(*node));
        assert!(
            op.is_none() || !even || *id == 0 || !able || !leads(row.replicas.first()),
            "shard {id}: {row:?} prefers an evicted node"
        );
    }
    if op.is_some() && even && plain {
        assert!(spread(world, |row, node| row.replicas.contains(&node)) <= 1);
        assert!(spread(world, |row, node| row.replicas.first() == Some(&node)) <= 1);
        let meta = world.stored.meta().unwrap();
        assert_eq!(
            meta.replicas.len(),
            world.stored.wanted_voters(meta),
            "{:?}",
            world.stored
        );
    }
}

fn carry_out(world: &mut World, event: &Event, late: &mut Option<(World, Decision)>) {
    match event {
        Event::Round { steps, stores, joint } => {
            let decision = decide(&world.view());
            *late = Some((world.clone(), decision.clone()));
            for (shard, step) in decision.steps.iter().take(*steps) {
                checked_step(world, *shard, step, *joint);
            }
            if *stores {
                checked_store(world, &decision.writes);
            }
        }
        Event::Late => {
            let Some((then, decision)) = late.clone() else {
                return;
            };
            for (shard, step) in &decision.steps {
                // The preconditions: membership and row are those that the step was decided on.
                let (was, is) = (&then.groups[shard], &world.groups[shard]);
                let row_is = then.stored.rows[shard].changes == world.stored.rows[shard].changes;
                if row_is && (&was.configs, &was.learners) == (&is.configs, &is.learners) {
                    // Whoever is to vote is looked at again by the leader.
                    let caught_up = |id: &u64| is.caught_up.contains(id) && world.alive(*id);
                    let able = match step {
                        Step::ChangeVoters(next) => {
                            next.iter()
                                .filter(|id| !was.configs[0].contains(id))
                                .all(caught_up)
                                && live(world, next) >= live(world, &was.configs[0]).min(next.len())
                        }
                        _ => true,
                    };
                    if able {
                        checked_step(world, *shard, step, true);
                    }
                }
            }
            let same = |write: &Write| match write {
                Write::Row(row) => world.stored.rows.get(&row.id) == then.stored.rows.get(&row.id),
                _ => true,
            };
            let unchanged = then.stored.operation == world.stored.operation
                && decision.writes.iter().all(same)
                && then.stored.rows == world.stored.rows;
            if unchanged {
                checked_store(world, &decision.writes);
            }
        }
        Event::Kill(id) | Event::Revive(id) => {
            if let Some(node) = world.stored.nodes.get_mut(id) {
                node.silent_ms = matches!(event, Event::Kill(_)).then_some(5_000);
            }
        }
        Event::Ask(verb, node) => {
            let request = request(world, *verb, *node);
            // A refusal is as good.
            let _ = ask(world, &request);
        }
        Event::Reseed(shard, node) => {
            let (shard, node) = (*shard, *node);
            let _ = ask(world, &Request::Reseed { shard, node });
        }
        Event::Abort => {
            // A second one ends it where it stands; that has a test of its own.
            if let Some(op) = world.stored.operation.filter(|op| op.state == OpState::Running) {
                let _ = ask(world, &Request::Abort(op.id));
            }
        }
    }
}

fn live(world: &World, set: &BTreeSet<u64>) -> usize {
    set.iter().filter(|id| world.alive(**id)).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn operations_end_and_nothing_unsafe_happens(
        nodes in 3..6u64,
        shards in 1..9u32,
        single in any::<bool>(),
        events in prop::collection::vec(event(), 1..120),
    ) {
        let mut world = cluster(nodes, shards, if single { 1 } else { 3 });
        let mut seen = BTreeMap::new();
        let mut late = None;
        for event in &events {
            carry_out(&mut world, event, &mut late);
            checked_tick(&mut world, &mut seen);
        }
        // Faults end; who is not a member needs not come back.
        for node in world.stored.nodes.values_mut() {
            node.silent_ms = None;
        }
        settle(&mut world, &mut seen);
        let killed = events.iter().any(|event| matches!(event, Event::Kill(_)));
        check_settled(&world, !killed);
    }

    /// A node that never comes back is replaced all the same.
    #[test]
    fn a_dead_node_is_replaced(nodes in 3..6u64, shards in 1..9u32, dead in 1..4u64) {
        let mut world = cluster(nodes, shards, 3);
        world.stored.nodes.get_mut(&dead).unwrap().silent_ms = Some(10_000);
        world.tick();
        let request = request(&world, 7, dead);
        ask(&mut world, &request).unwrap();
        let plan = plan(&world.view());
        prop_assert!(plan.last().unwrap().text.contains("is done"), "{:#?}", plan);
        let mut seen = BTreeMap::new();
        settle(&mut world, &mut seen);
        prop_assert_eq!(world.stored.state(dead), NodeState::Removed);
        for group in world.groups.values_mut() {
            prop_assert!(!group.configs[0].contains(&dead) && !group.learners.contains(&dead));
            // Its process is gone with it.
            group.replicas.remove(&dead);
        }
        check_settled(&world, true);
    }
}

#[track_caller]
fn refused(world: &mut World, request: &Request, part: &str) {
    let reason = ask(world, request).unwrap_err();
    assert!(reason.contains(part), "{reason}");
}

#[test]
fn refusals_say_why() {
    let mut world = cluster(3, 2, 3);
    refused(
        &mut world,
        &Request::Remove(2),
        "without node 2 there are 2 nodes",
    );
    refused(
        &mut world,
        &Request::Drain(9),
        "there is no node 9; nodes are 1, 2, 3",
    );
    refused(&mut world, &Request::Undrain(1), "node 1 is up, not draining");
    let add = |address: &str, store_id: &str| Request::Add {
        address: address.into(),
        store_id: store_id.into(),
    };
    refused(&mut world, &add("x:1", "store-2"), "a store is used once");
    refused(&mut world, &add("n2:1", "fresh"), "kvctl member replace 2 n2:1");
    let replace = Request::Replace {
        old: 2,
        address: "n2:1".into(),
        store_id: "store-1".into(),
    };
    refused(&mut world, &replace, "which is node 1 of this cluster");

    let mut world = cluster(4, 2, 3);
    world.stored.nodes.get_mut(&1).unwrap().silent_ms = Some(4_000);
    world.tick();
    refused(
        &mut world,
        &Request::Remove(2),
        "its replica on node 1 does not answer",
    );
    world.stored.nodes.get_mut(&1).unwrap().silent_ms = None;
    world.tick();
    ask(&mut world, &Request::Remove(2)).unwrap();
    refused(&mut world, &Request::Drain(3), "there is one at a time");
    refused(&mut world, &Request::Abort(7), "no operation 7");
    settle(&mut world, &mut BTreeMap::new());
    check_settled(&world, true);
    refused(&mut world, &Request::Remove(2), "node 2 was removed before");
    refused(&mut world, &add("x:1", "store-2"), "which was node 2");
    refused(&mut world, &Request::Abort(1), "operation 1 is done already");
}

/// The only voter of a shard leads it, evicted or not: what else is asked for does not wait for another one.
#[test]
fn a_drain_onto_an_evicted_node_ends() {
    let mut world = cluster(4, 3, 1);
    ask(&mut world, &Request::Evict(4)).unwrap();
    let mut seen = BTreeMap::new();
    settle(&mut world, &mut seen);
    ask(&mut world, &Request::Drain(1)).unwrap();
    settle(&mut world, &mut seen);
    check_settled(&world, true);
    assert_eq!(world.groups[&1].configs, [BTreeSet::from([4])]);
}

/// The other voters are evicted, and the node that comes in the leader's place is no voter yet: one of them leads meanwhile.
#[test]
fn a_drain_from_between_evicted_nodes_ends() {
    let mut world = cluster(4, 1, 3);
    let mut seen = BTreeMap::new();
    for request in [Request::Evict(1), Request::Evict(2), Request::Drain(3)] {
        ask(&mut world, &request).unwrap();
        settle(&mut world, &mut seen);
        check_settled(&world, true);
    }
}

/// A learner of a destroyed replica, which a late step has left, does not stand in the way of a new one.
#[test]
fn what_is_left_of_a_late_step_is_cleared_away() {
    let mut world = cluster(4, 1, 3);
    let mut seen = BTreeMap::new();
    let group = world.groups.get_mut(&1).unwrap();
    group.learners.insert(4);
    group.incarnations.insert(4, 7);
    ask(&mut world, &Request::Drain(2)).unwrap();
    settle(&mut world, &mut seen);
    check_settled(&world, true);
    assert!(world.groups[&1].configs[0].contains(&4));
    assert!(world.groups[&1].has(4) && world.groups[&1].incarnations[&4] != 7);
}

#[test]
fn an_evicted_node_leads_nothing_until_it_is_restored() {
    let mut world = cluster(5, 16, 3);
    let mut seen = BTreeMap::new();
    settle(&mut world, &mut seen);
    let leads = |world: &World, node: u64| {
        let led = world
            .groups
            .values()
            .filter(|group| group.leader == Some(node))
            .count();
        let preferred = world
            .stored
            .data()
            .filter(|row| row.replicas.first() == Some(&node))
            .count();
        (led, preferred)
    };
    ask(&mut world, &Request::Evict(1)).unwrap();
    settle(&mut world, &mut seen);
    assert_eq!(leads(&world, 1), (0, 0));
    let others = |row: &ShardRow, node| node != 1 && row.replicas.first() == Some(&node);
    let counts: Vec<usize> = (2..=5)
        .map(|node| world.stored.data().filter(|row| others(row, node)).count())
        .collect();
    assert_eq!(counts, [4; 4]);
    ask(&mut world, &Request::Restore(1)).unwrap();
    settle(&mut world, &mut seen);
    check_settled(&world, true);
    assert!(leads(&world, 1).1 >= 3);
}

/// No two replicas of a shard are in one zone.
fn check_apart(world: &World) {
    for row in world.stored.data() {
        let zones = row.replicas.iter().map(|id| world.stored.nodes[id].zone());
        assert_eq!(zones.collect::<BTreeSet<_>>().len(), 3, "{row:?}");
    }
}

/// Of three zones each has a replica of each shard, wherever they began; a zone that is lost costs one.
#[test]
fn replicas_of_a_shard_are_in_different_zones() {
    let mut world = cluster(6, 8, 3);
    let mut seen = BTreeMap::new();
    for (number, (node, zone)) in [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c"), (6, "c")]
        .into_iter()
        .enumerate()
    {
        let labels = BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
        ask(&mut world, &Request::Label(node, labels)).unwrap();
        settle(&mut world, &mut seen);
        assert_eq!(world.stored.operation.unwrap().id, number as u64 + 1);
    }
    check_apart(&world);
    assert!(spread(&world, |row, node| row.replicas.contains(&node)) <= 1);
    // A node goes: its replicas stay in its zone.
    ask(&mut world, &Request::Remove(2)).unwrap();
    settle(&mut world, &mut seen);
    check_apart(&world);
}

#[test]
fn a_node_that_is_silent_for_too_long_is_repaired_and_taken_back() {
    let mut world = cluster(4, 4, 3);
    let mut seen = BTreeMap::new();
    world.stored.repair_after_ms = Some(60_000);
    let silent = |world: &mut World, ms| world.stored.nodes.get_mut(&2).unwrap().silent_ms = ms;
    silent(&mut world, Some(59_000));
    world.tick();
    assert_eq!(by_itself(&world.view()), None);
    silent(&mut world, Some(60_000));
    assert_eq!(by_itself(&world.view()), Some(Request::Repair(2)));
    ask(&mut world, &Request::Repair(2)).unwrap();
    assert_eq!(by_itself(&world.view()), None, "one operation at a time");
    settle(&mut world, &mut seen);
    for row in world.stored.data() {
        assert!(
            row.replicas.len() == 3 && !row.hosts().any(|id| id == 2),
            "{row:?}"
        );
    }
    assert_eq!(by_itself(&world.view()), None, "it has nothing any more");
    silent(&mut world, None);
    assert_eq!(by_itself(&world.view()), Some(Request::Return(2)));
    ask(&mut world, &Request::Return(2)).unwrap();
    settle(&mut world, &mut seen);
    check_settled(&world, true);
    assert!(world.stored.data().any(|row| row.replicas.contains(&2)));
}

/// It comes back in the middle, while another one is away, so that nobody else can take what it had.
#[test]
fn a_repair_ends_when_the_node_answers_again() {
    let mut world = cluster(4, 4, 3);
    let mut seen = BTreeMap::new();
    world.stored.nodes.get_mut(&4).unwrap().silent_ms = Some(90_000);
    world.tick();
    ask(&mut world, &Request::Repair(4)).unwrap();
    let decision = decide(&world.view());
    world.carry_out(&decision);
    world.stored.nodes.get_mut(&3).unwrap().silent_ms = Some(5_000);
    world.stored.nodes.get_mut(&4).unwrap().silent_ms = None;
    settle(&mut world, &mut seen);
    assert_eq!(world.stored.operation.unwrap().state, OpState::Done);
    assert_eq!(world.stored.state(4), NodeState::Up);
    assert!(world.stored.data().any(|row| row.replicas.contains(&4)));
}

#[test]
fn what_cannot_be_repaired_is_left_alone() {
    // Two nodes cannot hold three replicas.
    let mut world = cluster(3, 2, 3);
    world.stored.repair_after_ms = Some(60_000);
    world.stored.nodes.get_mut(&2).unwrap().silent_ms = Some(90_000);
    world.tick();
    assert_eq!(by_itself(&world.view()), None);
    // Nor what an operator has taken back, until something else was done.
    let mut world = cluster(4, 2, 3);
    let mut seen = BTreeMap::new();
    world.stored.repair_after_ms = Some(60_000);
    world.stored.nodes.get_mut(&2).unwrap().silent_ms = Some(90_000);
    world.tick();
    ask(&mut world, &Request::Repair(2)).unwrap();
    ask(&mut world, &Request::Abort(1)).unwrap();
    settle(&mut world, &mut seen);
    assert_eq!(world.stored.operation.unwrap().state, OpState::Aborted);
    assert_eq!(by_itself(&world.view()), None);
    world.stored.repair_after_ms = None;
    assert_eq!(by_itself(&world.view()), None);
}

#[test]
fn a_replica_that_votes_keeps_its_incarnation() {
    let row = ShardRow {
        replicas: vec![1, 4],
        incarnations: [(4, 7)].into(),
        changes: 9,
        ..ShardRow::default()
    };
    let again = row.begin(Change {
        add: Some(4),
        remove: Some(1),
    });
    assert_eq!((again.incarnation(4), again.learners), (7, Vec::new()));
}

#[test]
fn a_plan_is_in_words() {
    let mut world = cluster(3, 1, 3);
    ask(
        &mut world,
        &Request::Replace {
            old: 3,
            address: "n4:1".into(),
            store_id: "fresh".into(),
        },
    )
    .unwrap();
    let plan = plan(&world.view());
    let waits = |what| -> Vec<&str> {
        let steps = plan.iter().filter(|doing| doing.after == what);
        steps.map(|doing| doing.text.as_str()).collect()
    };
    assert_eq!(waits(After::Join), ["node 4 (n4:1) is a member"]);
    assert_eq!(waits(After::Copy), ["shard 1: change the voters to 1,2,4"]);
    let texts: Vec<&str> = plan.iter().map(|doing| doing.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "meta shard: add node 4 (n4:1) as a learner",
            "node 4 (n4:1) is a member",
            "meta shard: begin to move a replica from node 3 to node 4",
            "shard 1: begin to move a replica from node 3 to node 4",
            "meta shard: change the voters to 1,2,4",
            "shard 1: add node 4 (n4:1) as a learner",
            "meta shard: note it in the shard map",
            "shard 1: change the voters to 1,2,4",
            "meta shard: note it in the shard map",
            "shard 1: note it in the shard map",
            "shard 1: note it in the shard map",
            "shard 1: drop the replica of node 3 (n3:1)",
            "shard 1: note it in the shard map",
            "node 3 (n3:1) is not a member any more",
            "meta shard: drop the replica of node 3 (n3:1)",
            "replace node 3 by node 4 is done",
        ]
    );
}

/// A lone voter that moves is two for a while: whoever ends the operation then does not leave it so.
#[test]
fn a_lone_voter_is_not_left_as_two() {
    let round = |steps, stores| Event::Round {
        steps,
        stores,
        joint: false,
    };
    let mut world = cluster(3, 4, 1);
    let (mut seen, mut late) = (BTreeMap::new(), None);
    // A new node gets nothing, since it is down; a change of labels moves shard 1 to it, and is aborted when both vote.
    let grow = [
        Event::Ask(0, 1),
        round(1, false),
        round(0, true),
        Event::Kill(4),
        round(0, true),
    ];
    let label = [
        Event::Revive(4),
        Event::Ask(6, 1),
        round(0, true),
        round(1, false),
        round(1, false),
    ];
    for event in grow.iter().chain(&label).chain([&Event::Abort]) {
        carry_out(&mut world, event, &mut late);
        checked_tick(&mut world, &mut seen);
    }
    let configs = &world.groups[&1].configs;
    assert_eq!(configs.last(), Some(&BTreeSet::from([1, 4])), "{configs:?}");
    settle(&mut world, &mut seen);
    check_settled(&world, false);
    assert_eq!(world.stored.rows[&1].replicas, [4]);
}
