//! Consumers: named durable cursors on the change log, each with an epoch that fences earlier owners.
//!
//! An epoch is never used again: who is deleted and opened anew begins after the greatest epoch of all that were deleted, or the
//! acknowledgement of an owner of before would be taken for one of the new owner's.
//!
//! A cursor below the floor means that the consumer is cut off: events it wanted are gone. It can then not be opened before an operator
//! resets it. (Its owner may still acknowledge what it got before.)

use std::{collections::BTreeMap, ops::ControlFlow};

use bytes::Bytes;

use super::Step;
use crate::{
    command::OutcomeResult,
    engine::{Cf, EngineRead, Scan},
    error::{Corrupt, ErrorCode, Rejection},
    keys::{self, Key, place},
    limits::MAX_CONSUMERS,
    rows::{ConsumerRow, Head},
    types::{Revision, ShardId},
};

/// The name, which nobody can have, of the row with the greatest epoch of a consumer that was deleted.
const DELETED: Bytes = Bytes::new();

/// The consumers of a shard.
#[derive(Debug)]
pub(super) struct Consumers {
    rows: BTreeMap<Bytes, ConsumerRow>,
    /// The greatest epoch of one that was deleted.
    deleted: u64,
}

impl Consumers {
    pub(super) fn load(shard: ShardId, engine: &dyn EngineRead) -> Result<Self, Corrupt> {
        let start = keys::consumer_key(shard, &[]);
        let end = keys::prefix_end(&start);
        let mut consumers = BTreeMap::new();
        let mut bad = None;
        engine.scan(
            Cf::State,
            Scan {
                start: &start,
                end: &end,
                reverse: false,
            },
            &mut |key, value| {
                let row = ConsumerRow::decode(key, value);
                match Key::decode(Cf::State, key).and_then(|(_, key)| row.map(|row| (key, row))) {
                    Ok((Key::Consumer(name), row)) => {
                        consumers.insert(name, row);
                        return ControlFlow::Continue(());
                    }
                    Ok(_) => bad = Some(Corrupt::new(place(Cf::State, key), "not a row of a consumer")),
                    Err(corrupt) => bad = Some(corrupt),
                }
                ControlFlow::Break(())
            },
        )?;
        let deleted = consumers.remove(&DELETED).map_or(0, |row| row.epoch);
        let rows = consumers;
        bad.map_or(Ok(Self { rows, deleted }), Err)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Bytes, ConsumerRow)> {
        self.rows.iter().map(|(name, row)| (name, *row))
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<ConsumerRow> {
        self.rows.get(name).copied()
    }

    fn find(&self, name: &[u8]) -> Result<ConsumerRow, Rejection> {
        self.get(name).ok_or_else(|| {
            let message = format!("there is no consumer '{}' in this shard", name.escape_ascii());
            Rejection::new(ErrorCode::NotFound, message)
        })
    }

    fn put(&mut self, step: &mut Step<'_>, name: Bytes, row: ConsumerRow) -> OutcomeResult {
        step.overlay
            .put(Cf::State, keys::consumer_key(step.shard, &name), row.encode());
        self.rows.insert(name, row);
        OutcomeResult::Consumer {
            epoch: row.epoch,
            cursor: row.cursor,
        }
    }

    /// Creates the consumer or takes it over.
    pub(super) fn open(
        &mut self,
        step: &mut Step<'_>,
        head: &Head,
        name: Bytes,
        start_revision: Revision,
    ) -> Result<OutcomeResult, Rejection> {
        let row = match self.get(&name) {
            Some(ConsumerRow { epoch, cursor }) => ConsumerRow {
                epoch: epoch + 1,
                cursor,
            },
            None if self.rows.len() >= MAX_CONSUMERS => {
                let message =
                    format!("the shard has {MAX_CONSUMERS} consumers, the most it can have; delete one");
                return Err(Rejection::new(ErrorCode::Refused, message));
            }
            None if start_revision == 0 => ConsumerRow {
                epoch: self.deleted + 1,
                cursor: head.revision,
            },
            None => ConsumerRow {
                epoch: self.deleted + 1,
                cursor: start_revision - 1,
            },
        };
        check_cursor(head, row.cursor)?;
        Ok(self.put(step, name, row))
    }

    /// Moves the cursor forward; never back.
    pub(super) fn ack(
        &mut self,
        step: &mut Step<'_>,
        head: &Head,
        name: &Bytes,
        epoch: u64,
        revision: Revision,
    ) -> Result<OutcomeResult, Rejection> {
        let row = self.find(name)?;
        if epoch != row.epoch {
            let message = format!("epoch {epoch} is not the owner any more, {} is", row.epoch);
            return Err(Rejection::new(ErrorCode::Fenced, message));
        }
        if revision > head.revision {
            return Err(Rejection::future(revision, head.revision));
        }
        if revision <= row.cursor {
            return Ok(OutcomeResult::Consumer {
                epoch,
                cursor: row.cursor,
            });
        }
        Ok(self.put(
            step,
            name.clone(),
            ConsumerRow {
                epoch,
                cursor: if crate::mutant!("consumer-cursor-jumps") {
                    head.revision
                } else {
                    revision
                },
            },
        ))
    }

    pub(super) fn delete(&mut self, step: &mut Step<'_>, name: &Bytes) -> Result<OutcomeResult, Rejection> {
        let ConsumerRow { epoch, cursor } = self.find(name)?;
        self.rows.remove(name);
        step.overlay
            .delete(Cf::State, keys::consumer_key(step.shard, name));
        self.deleted = self.deleted.max(epoch);
        let deleted = ConsumerRow {
            epoch: self.deleted,
            cursor: 0,
        };
        step.overlay.put(
            Cf::State,
            keys::consumer_key(step.shard, &DELETED),
            deleted.encode(),
        );
        Ok(OutcomeResult::Consumer { epoch, cursor })
    }

    /// Sets the cursor, back too, and fences the owner.
    pub(super) fn reset(
        &mut self,
        step: &mut Step<'_>,
        head: &Head,
        name: &Bytes,
        revision: Revision,
    ) -> Result<OutcomeResult, Rejection> {
        let ConsumerRow { epoch, .. } = self.find(name)?;
        check_cursor(head, revision)?;
        Ok(self.put(
            step,
            name.clone(),
            ConsumerRow {
                epoch: epoch + 1,
                cursor: revision,
            },
        ))
    }
}

/// The events after the cursor must still be there, and the cursor in the past.
fn check_cursor(head: &Head, cursor: Revision) -> Result<(), Rejection> {
    if cursor < head.floor {
        return Err(Rejection::compacted(cursor + 1, head.floor + 1));
    }
    if cursor > head.revision {
        return Err(Rejection::future(cursor, head.revision));
    }
    Ok(())
}
