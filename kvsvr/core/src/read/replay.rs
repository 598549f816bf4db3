//! Replay of the change log, for watches and consumers.
//!
//! The log has keys only; values are looked up in `data` and `hist` by key and revision. Whole revisions are returned, and as many of them as fit.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::shard_head;
use crate::{
    engine::{Cf, EngineRead, Scan},
    error::{Corrupt, Failure, Rejection},
    event::{Event, EventKind},
    keys::{self, Key, place},
    limits::MAX_REPLAY_SCAN,
    rows::{DataRow, HistRow, LogItem, LogRow},
    types::{Partition, Revision, ShardId},
};

/// A part of the change log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// In revision order, the events of one revision together.
    pub events: Vec<Event>,
    /// All matching events up to this revision are there. Go on after it.
    pub up_to: Revision,
    /// The newest revision of the state that was read; `up_to` is less if there is more.
    pub revision: Revision,
}

/// Reads the events after a revision, in order. Stops at the first revision after `max_bytes` of keys and values.
///
/// `filter` says by partition and key which events are wanted. The engine must be a snapshot. Refused with `Compacted` and the first
/// revision that is still there if `after` is below the floor, with `FutureRevision` if it does not exist.
pub fn replay(
    engine: &dyn EngineRead,
    shard: ShardId,
    after: Revision,
    max_bytes: usize,
    filter: &dyn Fn(&Partition, &[u8]) -> bool,
) -> Result<Replay, Failure> {
    let head = shard_head(engine, shard)?;
    if after < head.floor {
        return Err(Rejection::compacted(after + 1, head.floor + 1).into());
    }
    if after > head.revision {
        return Err(Rejection::future(after, head.revision).into());
    }
    let mut replay = Replay {
        events: Vec::new(),
        up_to: after,
        revision: head.revision,
    };
    let mut bytes = max_bytes.max(1);
    let mut scan = MAX_REPLAY_SCAN;
    while replay.up_to < head.revision && bytes > 0 && scan > 0 {
        let (key, stored) = row_of(engine, shard, replay.up_to + 1)?;
        scan = scan.saturating_sub(stored.len());
        let row = decode_row(&key, &stored)?;
        add_row(engine, shard, row, &mut replay, &mut bytes, filter)?;
    }
    Ok(replay)
}

fn decode_row(key: &Bytes, stored: &Bytes) -> Result<LogRow, Corrupt> {
    match Key::decode(Cf::Log, key)? {
        (_, Key::Log { first }) => LogRow::decode(key, first, stored),
        _ => Err(Corrupt::new(place(Cf::Log, key), "not a key of the change log")),
    }
}

/// The change log row that contains a revision, which must exist and be above the floor.
pub(crate) fn row_of(
    engine: &dyn EngineRead,
    shard: ShardId,
    revision: Revision,
) -> Result<(Bytes, Bytes), Corrupt> {
    let start = keys::log_key(shard, 0);
    let end = keys::prefix_end(&keys::log_key(shard, revision));
    let mut found = None;
    engine.scan(
        Cf::Log,
        Scan {
            start: &start,
            end: &end,
            reverse: true,
        },
        &mut |key, value| {
            found = Some((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            ControlFlow::Break(())
        },
    )?;
    let missing = || {
        Corrupt::new(
            format!("the change log of shard {shard}"),
            format!("revision {revision} is missing"),
        )
    };
    let (key, stored) = found.ok_or_else(missing)?;
    match LogRow::read_head(&stored) {
        Some((last, _, _)) if last >= revision => Ok((key, stored)),
        Some(_) => Err(missing()),
        None => Err(Corrupt::new(place(Cf::Log, &key), "the value does not decode")),
    }
}

/// Adds the events of a row that are after `up_to`, whole revisions of them, until the bytes are used up.
fn add_row(
    engine: &dyn EngineRead,
    shard: ShardId,
    row: LogRow,
    replay: &mut Replay,
    bytes: &mut usize,
    filter: &dyn Fn(&Partition, &[u8]) -> bool,
) -> Result<(), Corrupt> {
    let after = replay.up_to;
    let last = row.last;
    for item in row.items.into_iter().filter(|item| item.revision > after) {
        if item.revision > replay.up_to {
            // The revision before is complete. `up_to` follows behind.
            if *bytes == 0 {
                replay.up_to = item.revision - 1;
                return Ok(());
            }
            replay.up_to = item.revision;
        }
        if filter(&item.partition, &item.key) {
            let event = event(engine, shard, item)?;
            let size = event.partition.name.len() + event.key.len() + event.value.len();
            *bytes = bytes.saturating_sub(size.max(1));
            replay.events.push(event);
        }
    }
    replay.up_to = last;
    Ok(())
}

fn event(engine: &dyn EngineRead, shard: ShardId, item: LogItem) -> Result<Event, Corrupt> {
    let LogItem {
        revision,
        kind,
        partition,
        key,
        previous: _,
    } = item;
    let data_key = keys::data_key(shard, &partition, &key);
    // The log row has many keys: an event must not keep all of it in memory.
    let (partition, key) = keys::data_key_parts(&data_key);
    if kind != EventKind::Put {
        return Ok(Event::deletion(revision, kind, partition, key));
    }
    let row = version(engine, &data_key, revision)?;
    Ok(Event::put(partition, key, row))
}

/// The version of a key that a revision wrote, which must be visible at some revision above the floor.
fn version(engine: &dyn EngineRead, data_key: &[u8], revision: Revision) -> Result<DataRow, Corrupt> {
    if let Some(stored) = engine.get(Cf::Data, data_key)? {
        let row = DataRow::decode_at(data_key, &stored)?;
        if row.mod_rev == revision {
            return Ok(row);
        }
    }
    let key = keys::hist_key(data_key, revision);
    match engine.get(Cf::Hist, &key)? {
        Some(stored) => Ok(HistRow::decode(&key, &stored)?.row),
        None => Err(Corrupt::new(
            place(Cf::Hist, &key),
            "the change log names this version, but it is missing",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::MemEngine;

    #[test]
    fn events_do_not_hold_the_log_row() {
        let row = Bytes::from_static(b"a name, a key");
        let item = LogItem {
            revision: 1,
            kind: EventKind::Delete,
            partition: Partition::local(row.slice(..6)),
            key: row.slice(8..),
            previous: 0,
        };
        let event = event(&MemEngine::new(), ShardId(1), item).unwrap();
        assert_eq!(
            (&event.partition.name[..], &event.key[..]),
            (&b"a name"[..], &b"a key"[..])
        );
        for part in [&event.partition.name, &event.key] {
            assert!(!row.as_ptr_range().contains(&part.as_ptr()));
        }
    }
}
