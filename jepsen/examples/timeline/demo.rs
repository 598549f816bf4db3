//! An invented run: five nodes, a register workload under a few faults, and one read that does not see what was written before it.
//!
//! It resembles what a cluster does only as far as it takes to look at the page.

use kvsvr_jepsen::{
    check::{self, Context, History},
    history::{Call, Event, Key, Mode, Nanos, Process, Reply, Row, Step},
    report::{
        Fault, Judgement, Mark, Message, NodeState, Place, Record, Role, changes_of, operations_of, rates_of,
        seen_of,
    },
};

const MS: Nanos = 1_000_000;
const SECOND: Nanos = 1000 * MS;
const END: Nanos = 60 * SECOND;
const CLIENTS: u64 = 12;
const NODES: u32 = 5;
const KEYS: u32 = 40;

/// Leaders of shard 1: from when, who, term.
const LEADERS: [(Nanos, u32, u64); 4] = [
    (0, 0, 1),
    (12 * SECOND, 2, 2),
    (28 * SECOND, 1, 4),
    (47 * SECOND, 3, 5),
];
/// Nodes that are down: who, from, to.
const DOWN: [(u32, Nanos, Nanos); 2] = [(0, 11_200 * MS, 16 * SECOND), (1, 45_900 * MS, 51 * SECOND)];

/// xorshift64* (Vigna, An experimental exploration of Marsaglia's xorshift generators, scrambled).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

/// A run with about so many operations.
pub(crate) fn record(operations: u64) -> Record {
    let mut random = Random(42);
    let events = history(&mut random, operations.max(100));
    let shard_of = |_: u32| 1;
    let (history, context) = (History::new(&events), Context::new(&shard_of));
    let linear = check::linear::check(&history, &context);
    let revisions = check::revisions::check(&history, &context);
    let mut record = Record {
        title: "An invented run, seed 42".to_owned(),
        details: vec![("kinds of faults".to_owned(), "cut, kill, slow disk".to_owned())],
        seed: 42,
        plan: "{\n  \"nodes\": 5,\n  \"clients\": 12,\n  \"faults\": [\"cut\", \"kill\", \"slow disk\"]\n}"
            .to_owned(),
        replay: "cargo run --release -- replay plans/42.json".to_owned(),
        cause: Some("linear: a read did not see a write that was acknowledged before it began".to_owned()),
        ended: END,
        judgements: vec![
            Judgement::new("linear", &linear),
            Judgement::new("revisions", &revisions),
        ],
        nodes: (1..=NODES).map(|n| format!("n{n}")).collect(),
        clients: vec!["clients".to_owned()],
        states: states(&mut random),
        faults: faults(),
        marks: marks(),
        operations: operations_of(&events),
        seen: seen_of(&events),
        messages: messages(&mut random),
        rates: rates_of(&events, SECOND / 5),
        ..Record::default()
    };
    record.keep_messages(20_000);
    record
}

/// No leader answers in the 800 ms before another one leads.
fn is_served(time: Nanos) -> bool {
    let gap =
        |(from, ..): &(Nanos, u32, u64)| *from > 0 && (from.saturating_sub(800 * MS)..*from).contains(&time);
    !LEADERS.iter().any(gap)
}

/// Keys with the revision, value and version that they have.
struct Store {
    revision: u64,
    rows: Vec<Option<Row>>,
}

impl Store {
    fn execute(&mut self, call: &Call, stale: bool) -> Reply {
        match call {
            Call::Write { key, value, .. } => {
                self.revision += 1;
                let revision = self.revision;
                let before = self.rows[key.key as usize];
                let row = Row {
                    value: *value,
                    create_rev: before.map_or(revision, |row| row.create_rev),
                    mod_rev: revision,
                    version: before.map_or(1, |row| row.version + 1),
                };
                self.rows[key.key as usize] = Some(row);
                let version = row.version;
                Reply::Written { revision, version }
            }
            Call::Read { key, .. } => {
                let newest = self.rows[key.key as usize];
                let row = newest.filter(|_| !stale);
                let revision = self.revision;
                let age_ms = 0;
                Reply::Row {
                    revision,
                    row,
                    age_ms,
                }
            }
            _ => Reply::Acked,
        }
    }
}

/// Clients call one after another; each call takes effect in the middle.
fn history(random: &mut Random, operations: u64) -> Vec<Event> {
    let pause = END * CLIENTS / operations;
    // When a client calls next, and as what process.
    let mut clients: Vec<(Nanos, Process)> =
        (0..CLIENTS).map(|client| (random.below(pause), client)).collect();
    let mut calls = Vec::new();
    loop {
        let client = (0..clients.len())
            .min_by_key(|client| clients[*client].0)
            .unwrap_or(0);
        let (invoked, process) = clients[client];
        if invoked >= END - SECOND {
            break;
        }
        let slow = if (33 * SECOND..39 * SECOND).contains(&invoked) {
            6
        } else {
            1
        };
        let took = (pause / 4 + random.below(pause / 2)) * slow;
        let unknown = !is_served(invoked) && random.below(3) == 0;
        let ended = invoked + if unknown { SECOND } else { took };
        calls.push((invoked + (ended - invoked) / 2, invoked, ended, process, unknown));
        let next = if unknown { process + CLIENTS } else { process };
        clients[client] = (ended + random.below(pause / 2), next);
    }
    calls.sort_unstable();
    let mut store = Store {
        revision: 0,
        rows: vec![None; KEYS as usize],
    };
    let mut events = Vec::new();
    let mut stale = false;
    for (value, (effect, invoked, ended, process, unknown)) in (1..).zip(calls) {
        let key = key(random);
        let call = call(random, key, value);
        let refused = !is_served(invoked) && !unknown;
        let was_stale = stale;
        let is_read = matches!(call, Call::Read { .. });
        stale |= is_read && !refused && !unknown && effect > LEADERS[2].0 + SECOND;
        let step = end(&mut store, &call, (unknown, refused), stale && !was_stale);
        let event = |time, step| Event { time, process, step };
        events.push(event(invoked, Step::Invoke { call }));
        events.push(event(ended, step));
    }
    events.sort_by_key(|event| event.time);
    events
}

fn key(random: &mut Random) -> Key {
    let key = u32::try_from(random.below(u64::from(KEYS))).unwrap_or(0);
    Key { partition: 0, key }
}

fn call(random: &mut Random, key: Key, value: u64) -> Call {
    if random.below(2) == 0 {
        let mode = Mode::Linearizable;
        return Call::Read { key, mode };
    }
    Call::Write {
        key,
        value,
        ttl_ms: 0,
        lease: 0,
    }
}

fn end(store: &mut Store, call: &Call, (unknown, refused): (bool, bool), stale: bool) -> Step {
    if refused {
        let error = "NOT_LEADER: no leader is known".to_owned();
        return Step::Fail { error };
    }
    let reply = store.execute(call, stale);
    if unknown {
        let error = "DEADLINE: no answer within 1 s".to_owned();
        return Step::Info { error };
    }
    Step::Ok { reply }
}

fn down(node: u32, time: Nanos) -> bool {
    DOWN.iter()
        .any(|(who, from, to)| *who == node && (*from..*to).contains(&time))
}

fn leader(time: Nanos) -> (Nanos, u32, u64) {
    let known = LEADERS.iter().rev().find(|(from, ..)| *from <= time);
    known.copied().unwrap_or(LEADERS[0])
}

/// Samples of shards 0 and 1 every 20 ms.
fn states(random: &mut Random) -> Vec<NodeState> {
    let mut samples = Vec::new();
    for time in (0..END).step_by(20_000_000) {
        for (node, shard) in (0..NODES).flat_map(|node| [(node, 0), (node, 1)]) {
            let (_, who, term) = if shard == 0 { (0, 4, 1) } else { leader(time) };
            let standing = |(at, next, _): &(Nanos, u32, u64)| {
                *next == node && shard == 1 && *at > time && at - time < 300 * MS
            };
            let role = match () {
                () if down(node, time) => Role::Down,
                () if LEADERS.iter().any(standing) => Role::Candidate,
                () if who == node => Role::Leader,
                () => Role::Follower,
            };
            let index = if shard == 0 { 40 } else { time / (10 * MS) };
            let behind = if role == Role::Leader { 0 } else { random.below(3) };
            let running = u64::from(role != Role::Down);
            samples.push(NodeState {
                time,
                node,
                shard,
                role,
                term: if role == Role::Candidate { term + 1 } else { term },
                commit: index.saturating_sub(behind) * running,
                applied: index.saturating_sub(behind + random.below(2)) * running,
            });
        }
    }
    changes_of(samples)
}

fn faults() -> Vec<Fault> {
    let fault = |kind: &str, text: &str, (from, to), place| Fault {
        kind: kind.to_owned(),
        text: text.to_owned(),
        from,
        to: Some(to),
        place,
    };
    let killed = |at: usize| (DOWN[at].1, DOWN[at].2);
    vec![
        fault("kill", "kill -9, started again", killed(0), Place::Nodes(vec![0])),
        fault(
            "cut",
            "hears nobody",
            (26 * SECOND, 31 * SECOND),
            Place::Nodes(vec![2]),
        ),
        fault(
            "cut one way",
            "all messages are lost",
            (27 * SECOND, 30 * SECOND),
            Place::Link { from: 3, to: 4 },
        ),
        fault(
            "slow disk",
            "a sync takes 40 ms",
            (33 * SECOND, 39 * SECOND),
            Place::Nodes(vec![1, 3]),
        ),
        fault("kill", "kill -9, started again", killed(1), Place::Nodes(vec![1])),
        fault("delay", "20 ms ± 10 ms", (44 * SECOND, 55 * SECOND), Place::All),
    ]
}

fn marks() -> Vec<Mark> {
    let mark = |time, node, text: &str| Mark {
        time,
        node,
        text: text.to_owned(),
    };
    let mut marks = Vec::new();
    for (node, from, to) in DOWN {
        marks.push(mark(from, node, "killed"));
        marks.push(mark(to, node, "started"));
        marks.push(mark(to + 400 * MS, node, "snapshot installed"));
    }
    for (time, node, term) in LEADERS {
        marks.push(mark(time, node, &format!("leads in term {term}")));
    }
    marks
}

/// Each leader sends to each follower every 5 ms, and is answered.
fn messages(random: &mut Random) -> Vec<Message> {
    let mut messages = Vec::new();
    for time in (0..END).step_by(5_000_000) {
        let (_, from, _) = leader(time);
        for to in (0..NODES).filter(|node| *node != from) {
            let sent = time + random.below(MS);
            let lost = down(to, sent) || down(from, sent) || random.below(60) == 0;
            let took = 300_000 + random.below(600_000);
            let append = Message {
                sent,
                arrived: (!lost).then_some(sent + took),
                from,
                to,
                kind: "append".to_owned(),
                bytes: 90 + random.below(400),
                fate: if lost { "lost" } else { "" }.to_owned(),
            };
            let answer = Message {
                sent: sent + took + 200_000,
                arrived: Some(sent + 2 * took + 200_000),
                from: to,
                to: from,
                kind: "append reply".to_owned(),
                bytes: 24,
                fate: String::new(),
            };
            messages.push(append);
            messages.extend((!lost).then_some(answer));
        }
    }
    messages.sort_by_key(|message| message.sent);
    messages
}
