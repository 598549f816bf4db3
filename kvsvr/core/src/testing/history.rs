//! Whole logs, and checks of everything that can be read after one.

use bytes::Bytes;

use super::model::Model;
use crate::{
    codec::{encode_batch, encode_command},
    command::{Command, KeyValue, Outcome, Range},
    engine::{Engine, EngineRead},
    error::{ErrorCode, Failure},
    event::Event,
    machine::{ApplyBounds, Entry, Machine, Payload},
    read::{self, ScanBudget, View},
    types::{LogPosition, Partition, Revision, ShardId, StampMs},
};

/// The entries of a log, each with its stamp.
#[derive(Clone, Debug)]
pub struct Log {
    /// Stamp and commands of each.
    pub entries: Vec<(StampMs, Vec<Command>)>,
}

impl Log {
    /// As they are committed, from index 1 on.
    pub fn committed(&self) -> Vec<Entry> {
        let entries = self.entries.iter().zip(1..);
        entries
            .map(|((stamp, commands), index)| {
                let commands: Vec<Bytes> = commands.iter().map(encode_command).collect();
                let payload = Payload::Batch(encode_batch(*stamp, &commands));
                Entry {
                    position: LogPosition {
                        index,
                        term: 1,
                        node: 1,
                    },
                    payload,
                }
            })
            .collect()
    }

    /// What the model makes of it.
    pub fn model(&self) -> (Model, Vec<Vec<Outcome>>) {
        let mut model = Model::default();
        let replies = self
            .entries
            .iter()
            .map(|(stamp, commands)| model.apply(*stamp, commands))
            .collect();
        (model, replies)
    }

    /// Applies it in calls of the given lengths (repeated), writing each batch; `between` runs after each and may replace the machine.
    pub fn run(
        &self,
        shard: ShardId,
        engine: &dyn Engine,
        splits: &[usize],
        between: impl FnMut(&dyn Engine, &mut Machine),
    ) -> (Machine, Vec<Vec<Outcome>>, Vec<Event>) {
        let bounds = ApplyBounds {
            bytes: usize::MAX,
            ..ApplyBounds::new()
        };
        self.run_within(shard, engine, splits, bounds, between)
    }

    /// Like [`Log::run`], in calls with these bounds.
    pub(crate) fn run_within(
        &self,
        shard: ShardId,
        engine: &dyn Engine,
        splits: &[usize],
        bounds: ApplyBounds,
        mut between: impl FnMut(&dyn Engine, &mut Machine),
    ) -> (Machine, Vec<Vec<Outcome>>, Vec<Event>) {
        let mut machine = Machine::load(shard, engine).expect("the engine is sound");
        let (mut replies, mut events) = (Vec::new(), Vec::new());
        let committed = self.committed();
        let mut rest = &committed[..];
        for split in splits.iter().copied().cycle() {
            if rest.is_empty() {
                break;
            }
            let now = &rest[..split.clamp(1, rest.len())];
            let applied = machine.apply_within(engine, now, bounds);
            let applied = applied.expect("the engine is sound");
            rest = &rest[applied.replies.len()..];
            engine.write(applied.batch).expect("the engine works");
            replies.extend(applied.replies);
            events.extend(applied.events);
            between(engine, &mut machine);
        }
        (machine, replies, events)
    }
}

/// Checks that every read at every revision, every page and every replay says what the model says.
pub fn check_reads(engine: &dyn EngineRead, shard: ShardId, model: &Model) {
    let view = View::load(engine, shard).expect("the engine is sound");
    assert_eq!((view.revision, view.floor), (model.revision(), model.floor));
    let mut ids: Vec<_> = model
        .states
        .iter()
        .flat_map(|rows| rows.keys().cloned())
        .collect();
    ids.sort();
    ids.dedup();
    for at in model.floor..=model.revision() {
        for (partition, key) in &ids {
            let real = view.get(partition, key, Some(at));
            assert_eq!(
                real,
                Ok(model.get(partition, key, at).expect("in reach")),
                "{key:?} at {at}"
            );
        }
        let mut partitions: Vec<_> = ids.iter().map(|(partition, _)| partition).collect();
        partitions.dedup();
        for partition in partitions {
            for (reverse, limit) in [(false, 0), (true, 0), (false, 1), (true, 2)] {
                let range = Range {
                    reverse,
                    limit,
                    revision: Some(at),
                    ..Range::default()
                };
                let all = Range {
                    limit: 0,
                    ..range.clone()
                };
                let wanted = model.range(partition, &all).expect("in reach");
                for budget in [ScanBudget::new(), ONE_STEP] {
                    assert_eq!(pages(&view, partition, &range, budget), wanted, "{range:?}");
                }
            }
        }
        check_replay(engine, shard, model, at);
    }
    if let Some(below) = model.floor.checked_sub(1) {
        let refused = replay_all(engine, shard, below, usize::MAX);
        assert!(matches!(refused, Err(Failure::Rejected(r)) if r.code == ErrorCode::Compacted));
    }
}

/// Ends a page after each key and seeks after each version.
const ONE_STEP: ScanBudget = ScanBudget {
    bytes: 1,
    skips: 1,
    versions: 1,
};

/// All pages of a range, each within the budget.
fn pages(view: &View<'_>, partition: &Partition, range: &Range, budget: ScanBudget) -> Vec<KeyValue> {
    let mut kvs = Vec::new();
    let mut range = range.clone();
    for _ in 0..10_000 {
        let page = view.range_within(partition, &range, usize::MAX, &mut budget.clone());
        let page = page.expect("in reach");
        assert!(range.limit == 0 || page.kvs.len() <= range.limit as usize);
        kvs.extend(page.kvs);
        if page.continuation.is_empty() {
            return kvs;
        }
        range.continuation = page.continuation;
    }
    panic!("pages that never end");
}

fn check_replay(engine: &dyn EngineRead, shard: ShardId, model: &Model, after: Revision) {
    let wanted: Vec<Event> = model
        .events
        .iter()
        .filter(|event| event.revision > after)
        .cloned()
        .collect();
    for max_bytes in [20, usize::MAX] {
        assert_eq!(
            replay_all(engine, shard, after, max_bytes),
            Ok(wanted.clone()),
            "after {after}"
        );
    }
}

fn replay_all(
    engine: &dyn EngineRead,
    shard: ShardId,
    after: Revision,
    max_bytes: usize,
) -> Result<Vec<Event>, Failure> {
    let mut events = Vec::new();
    let mut after = after;
    loop {
        let part = read::replay(engine, shard, after, max_bytes, &|_, _| true)?;
        let whole = part
            .events
            .iter()
            .all(|event| event.revision > after && event.revision <= part.up_to);
        assert!(
            whole && (part.up_to > after || part.up_to == part.revision),
            "progress by whole revisions"
        );
        events.extend(part.events);
        after = part.up_to;
        if after == part.revision {
            return Ok(events);
        }
    }
}
