//! What a replica's applied state says of consumers and sessions.
//!
//! It is read through the node's own engine, write buffer and row cache, as the node itself reads it when it starts.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use bytes::Bytes;
use kvsvr::shard::Shard;
use kvsvr_core::{
    engine::{Cf, EngineRead, Scan},
    error::Corrupt,
    keys::Key,
    rows::{ConsumerRow, SessionRow, WindowRow},
    types::{Revision, ShardId, StampMs},
};

/// The consumers and sessions of a shard after some entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Of the last entry that is applied.
    pub index: u64,
    /// Of the state.
    pub revision: Revision,
    /// By name.
    pub consumers: BTreeMap<Bytes, ConsumerRow>,
    /// By number.
    pub sessions: BTreeMap<u64, Session>,
}

/// A session as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// The client has all outcomes below it.
    pub acked_below: u64,
    /// The commands whose outcomes are remembered.
    pub remembered: BTreeSet<u64>,
    /// The stamp of its last command, or of its opening.
    pub last_used: StampMs,
}

impl Applied {
    /// Of a replica now. `None` if it has applied nothing, is installing a snapshot, or is busy.
    ///
    /// # Errors
    /// A row does not decode, or the engine does not give it.
    pub(super) fn of(shard: &Shard) -> Option<Result<Self, String>> {
        if shard.head().installs() % 2 == 1 {
            return None;
        }
        let look = |machine: &kvsvr_core::machine::Machine, engine: &dyn EngineRead| {
            let mut applied = Self {
                index: machine.applied()?.index,
                revision: machine.revision(),
                consumers: machine
                    .consumers()
                    .map(|(name, row)| (name.clone(), row))
                    .collect(),
                sessions: BTreeMap::new(),
            };
            let read = applied.read_sessions(shard.id(), engine);
            Some(read.map(|()| applied).map_err(|corrupt| corrupt.to_string()))
        };
        shard
            .machine()
            .try_with_machine(|machine, engine| look(machine, engine))
            .flatten()
    }

    fn read_sessions(&mut self, shard: ShardId, engine: &dyn EngineRead) -> Result<(), Corrupt> {
        // Windows sort after all sessions, consumers after them.
        let (_, start) = Key::Session(0).encode(shard);
        let (_, end) = Key::Consumer(Bytes::new()).encode(shard);
        let range = Scan {
            start: &start,
            end: &end,
            reverse: false,
        };
        let mut bad = None;
        engine.scan(
            Cf::State,
            range,
            &mut |key, value| match self.read_row(key, value) {
                Ok(()) => ControlFlow::Continue(()),
                Err(corrupt) => {
                    bad = Some(corrupt);
                    ControlFlow::Break(())
                }
            },
        )?;
        bad.map_or(Ok(()), Err)
    }

    fn read_row(&mut self, key: &[u8], value: &[u8]) -> Result<(), Corrupt> {
        match Key::decode(Cf::State, key)?.1 {
            Key::Session(session) => {
                let last_used = SessionRow::decode(key, value)?.opened_at;
                self.sessions.entry(session).or_default().last_used = last_used;
            }
            // Those of a session sort by index: the newest says what the client has.
            Key::Window { session, .. } => {
                let row = WindowRow::decode(key, &Bytes::copy_from_slice(value))?;
                let session = self.sessions.entry(session).or_default();
                session.acked_below = row.acked_below;
                session.last_used = row.stamp;
                session
                    .remembered
                    .extend(row.outcomes.iter().map(|(seq, _)| *seq));
            }
            _ => {}
        }
        Ok(())
    }
}
