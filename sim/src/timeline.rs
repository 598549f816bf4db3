//! A run as the report of `kvsvr-jepsen` shows it: what nodes, faults, clients and the network did, and what proves a failure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kvsvr_client::transport::Method;
use kvsvr_jepsen::{
    history::Nanos,
    report::{
        Fault, Mark, Message, NodeState, Place, Record, Role, changes_of, operations_of, rates_of, seen_of,
    },
};

use crate::{
    faults::Band,
    invariants,
    net::{self, Direction, Fate},
    outcome::Outcome,
    plan::Plan,
    run,
};

/// Length of what rates are counted over.
const RATES: Nanos = 200_000_000;

/// The record of a run that `outcome` came of; `replay` is the command that runs it again.
pub fn record(plan: &Plan, outcome: &Outcome, seen: &run::Record, replay: &str) -> Record {
    let cause = outcome.failures.first();
    let mut record = Record {
        title: format!("Simulation, seed {} ({})", plan.seed, plan.origin),
        version: outcome.version.clone(),
        details: details(plan),
        seed: plan.seed,
        plan: plan.to_json(),
        replay: replay.to_owned(),
        cause: cause.map(|failure| format!("{}: {}", failure.found_by, failure.text)),
        failed_at: seen.broken_at.map(nanos),
        ended: nanos(outcome.simulated),
        judgements: seen.judgements.clone(),
        nodes: (0..plan.machines())
            .map(|node| format!("node {}", node + 1))
            .collect(),
        clients: run::CLIENTS.map(str::to_owned).to_vec(),
        states: states(plan, seen),
        faults: seen.bands.iter().map(|band| fault(plan, band)).collect(),
        marks: marks(seen),
        operations: operations_of(&seen.resolved),
        seen: seen_of(&seen.resolved),
        messages: messages(plan, &seen.messages),
        rates: rates_of(&seen.history, RATES),
        ..Record::default()
    };
    record.messages.sort_by_key(|message| message.sent);
    record
}

/// What was run.
fn details(plan: &Plan) -> Vec<(String, String)> {
    let kinds: BTreeSet<&str> = plan.faults.iter().map(|fault| fault.what.kind()).collect();
    let kinds: Vec<&str> = kinds.into_iter().collect();
    let kinds = if kinds.is_empty() {
        "none".to_owned()
    } else {
        kinds.join(", ")
    };
    let mut details = vec![("kinds of faults", kinds), ("shards", plan.shards.to_string())];
    if !plan.engine.is_default() {
        details.push(("engine", "RocksDB".to_owned()));
    }
    if !plan.orders.is_empty() {
        details.push(("orders of operators", plan.orders.len().to_string()));
    }
    let owned = details.into_iter().map(|(name, text)| (name.to_owned(), text));
    owned.collect()
}

fn nanos(time: Duration) -> Nanos {
    u64::try_from(time.as_nanos()).unwrap_or(Nanos::MAX)
}

/// What replicas said of themselves, and that those of a process that has ended are down.
fn states(plan: &Plan, seen: &run::Record) -> Vec<NodeState> {
    let mut states: Vec<NodeState> = seen
        .samples
        .iter()
        .map(|(at, replica)| state(*at, replica))
        .collect();
    for (machine, ended) in &seen.ended {
        states.extend((0..=plan.shards).map(|shard| NodeState {
            time: nanos(ended.at),
            node: *machine as u32,
            shard,
            role: Role::Down,
            term: 0,
            commit: 0,
            applied: 0,
        }));
    }
    states.sort_by_key(|state| state.time);
    changes_of(states)
}

fn state(at: Duration, replica: &invariants::Replica) -> NodeState {
    NodeState {
        time: nanos(at),
        node: replica.machine as u32,
        shard: replica.shard.0,
        role: match replica.role {
            invariants::Role::Leader => Role::Leader,
            invariants::Role::Candidate => Role::Candidate,
            invariants::Role::Follower | invariants::Role::Stopped => Role::Follower,
            invariants::Role::Learner => Role::Learner,
        },
        term: replica.term,
        commit: replica.committed.unwrap_or(0),
        applied: replica.applied.unwrap_or(0),
    }
}

fn fault(plan: &Plan, band: &Band) -> Fault {
    let of_plan = plan.faults.get(band.fault);
    let text = of_plan.and_then(|fault| serde_json::to_string(&fault.what).ok());
    Fault {
        kind: band.kind.to_owned(),
        text: text.unwrap_or_else(|| "only a majority is left, without faults".to_owned()),
        from: nanos(band.from),
        to: band.until.map(nanos),
        place: if band.nodes.len() == plan.machines() {
            Place::All
        } else {
            Place::Nodes(band.nodes.iter().map(|node| *node as u32).collect())
        },
    }
}

/// Begins and ends of processes.
fn marks(seen: &run::Record) -> Vec<Mark> {
    let ends = seen.ended.iter().map(|(machine, ended)| Mark {
        time: nanos(ended.at),
        node: *machine as u32,
        text: format!("process {} ended: {}", ended.process, ended.reason),
    });
    let mut processes: BTreeMap<(usize, u64), Duration> = BTreeMap::new();
    for (at, replica) in &seen.samples {
        processes.entry((replica.machine, replica.process)).or_insert(*at);
    }
    let begins = processes.into_iter().map(|((machine, process), at)| Mark {
        time: nanos(at),
        node: machine as u32,
        text: format!("process {process} takes part"),
    });
    let mut marks: Vec<Mark> = ends.chain(begins).collect();
    marks.sort_by_key(|mark| mark.time);
    marks
}

fn messages(plan: &Plan, events: &[net::Event]) -> Vec<Message> {
    let nodes = (0..plan.machines()).map(|node| plan.address(node));
    let hosts: Vec<String> = nodes.chain(run::CLIENTS.map(str::to_owned)).collect();
    let number = |host: &str| {
        hosts
            .iter()
            .position(|known| known == host)
            .map(|place| place as u32)
    };
    let shown = |event: &net::Event| {
        let (fate, arrives) = match event.fate {
            Fate::Delivered => ("", true),
            Fate::Dropped => ("lost", false),
            Fate::Duplicated => ("carried out again", true),
            Fate::Replayed => ("an old one, played again", true),
            Fate::ResetBefore => ("lost, and broke its connection", false),
            Fate::ResetAfter => ("broke its connection", true),
        };
        Some(Message {
            sent: nanos(event.sent),
            arrived: arrives.then_some(nanos(event.at)),
            from: number(&event.from)?,
            to: number(&event.to)?,
            kind: kind(event.method, event.direction),
            bytes: event.bytes as u64,
            fate: fate.to_owned(),
        })
    };
    events.iter().filter_map(shown).collect()
}

fn kind(method: Method, direction: Direction) -> String {
    match direction {
        Direction::Request => format!("{method:?}"),
        Direction::Answer => format!("{method:?} answer"),
    }
}
