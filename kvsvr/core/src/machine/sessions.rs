//! Sessions: each command of a client is applied once, however often and in whatever order it arrives.
//!
//! A session remembers the outcome of each sequence number until the client says that it has it (`acked_below`); a command below that
//! is refused as `ResultForgotten`. One row is written for each session and log entry and deleted when the client has all outcomes in it.
//! A command that is answered from memory, or refused here, changes nothing: so the newest row of a session always survives, and
//! `acked_below` and the time of last use can be read back from it.
//!
//! Memory is bounded for each session and for the shard; the longest unused sessions are closed first. What is remembered of a long
//! outcome, or of one for which a session has no bytes left, is a stub: only that the command was applied. A command is never refused for
//! bytes: its client could not make room, because what holds it up is that very command.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use bytes::Bytes;

use super::Step;
use crate::{
    codec::encode_outcome_to,
    command::{Outcome, OutcomeResult, SessionSeq},
    engine::{Cf, EngineRead, Scan},
    error::{Corrupt, ErrorCode, Rejection},
    keys::{self, Key, place},
    limits::{
        self, FRESH_KEPT, MAX_REMEMBERED_OUTCOME, MAX_SESSION_BYTES, MAX_SESSION_WINDOW, MAX_SESSIONS_BYTES,
        MAX_STUB, REMEMBERED_OVERHEAD,
    },
    rows::{SessionRow, WindowRow, encode_window, put_outcome},
    types::{Revision, ShardId, StampMs},
};

/// What to do with a command.
pub(super) enum Admission {
    /// It is new.
    Run,
    /// It was applied; its encoded outcome.
    Remembered(Bytes),
    /// It is refused.
    Rejected(Rejection),
}

#[derive(Debug, Default)]
struct Session {
    last_used: StampMs,
    acked_below: u64,
    /// seq -> encoded outcome and the index of its log entry. No seq is below `acked_below`.
    window: BTreeMap<u64, (Encoded, u64)>,
    /// Index of a log entry -> how many of its outcomes are in the window. The row exists while there are any.
    rows: BTreeMap<u64, usize>,
    /// Of the outcomes in the window.
    bytes: usize,
    /// Of the present log entry, not written yet: as in its [`WindowRow`].
    fresh: Vec<u8>,
}

/// An encoded outcome. Most are short, and need no memory of their own.
#[derive(Clone, Debug)]
enum Encoded {
    Short(u8, [u8; Encoded::SHORT]),
    Long(Bytes),
}

impl Encoded {
    const SHORT: usize = 22;

    fn new(encoded: &[u8]) -> Self {
        let mut short = [0; Self::SHORT];
        match short.get_mut(..encoded.len()) {
            Some(part) => {
                part.copy_from_slice(encoded);
                Self::Short(encoded.len() as u8, short)
            }
            None => Self::Long(Bytes::copy_from_slice(encoded)),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short(len, bytes) => &bytes[..usize::from(*len)],
            Self::Long(bytes) => bytes,
        }
    }
}

/// The sessions of a shard.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_id: BTreeMap<u64, Session>,
    by_use: BTreeSet<(StampMs, u64)>,
    /// Of all windows.
    bytes: usize,
    /// Sessions with fresh outcomes.
    touched: BTreeSet<u64>,
    /// The outcome that is being remembered.
    scratch: Vec<u8>,
}

/// At least that of a stub, so that whatever is forgotten makes room for one.
fn cost(outcome: &Encoded) -> usize {
    outcome.bytes().len().max(MAX_STUB) + REMEMBERED_OVERHEAD
}

impl Sessions {
    pub(super) fn load(shard: ShardId, engine: &dyn EngineRead) -> Result<Self, Corrupt> {
        let mut sessions = Self::default();
        let start = keys::session_key(shard, 0);
        // Windows sort after all sessions, those of one session by index.
        let end = keys::consumer_key(shard, &[]);
        let mut bad = None;
        engine.scan(
            Cf::State,
            Scan {
                start: &start,
                end: &end,
                reverse: false,
            },
            &mut |key, value| match sessions.load_row(key, value) {
                Ok(()) => ControlFlow::Continue(()),
                Err(corrupt) => {
                    bad = Some(corrupt);
                    ControlFlow::Break(())
                }
            },
        )?;
        if let Some(bad) = bad {
            return Err(bad);
        }
        for (id, session) in &mut sessions.by_id {
            // The newest row has told the final acked_below.
            session.forget(|_| {});
            sessions.bytes += session.bytes;
            sessions.by_use.insert((session.last_used, *id));
        }
        Ok(sessions)
    }

    fn load_row(&mut self, key: &[u8], value: &[u8]) -> Result<(), Corrupt> {
        match Key::decode(Cf::State, key)?.1 {
            Key::Session(id) => {
                let last_used = SessionRow::decode(key, value)?.opened_at;
                self.by_id.insert(
                    id,
                    Session {
                        last_used,
                        ..Session::default()
                    },
                );
            }
            Key::Window { session, index } => {
                let WindowRow {
                    stamp,
                    acked_below,
                    outcomes,
                } = WindowRow::decode(key, &Bytes::copy_from_slice(value))?;
                let session = self.by_id.get_mut(&session).ok_or_else(|| {
                    Corrupt::new(place(Cf::State, key), "outcomes of a session that does not exist")
                })?;
                session.last_used = stamp;
                session.acked_below = acked_below;
                for (seq, outcome) in outcomes {
                    session.insert(seq, Encoded::new(&outcome), index);
                }
            }
            _ => return Err(Corrupt::new(place(Cf::State, key), "not a row of a session")),
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Decides about a command. Changes nothing.
    pub(super) fn admit(&self, ids: SessionSeq) -> Admission {
        let SessionSeq {
            session: id,
            seq,
            acked_below,
        } = ids;
        let rejected = |code, message: String| Admission::Rejected(Rejection::new(code, message));
        let Some(session) = self.by_id.get(&id) else {
            let message =
                format!("session {id} is not known: it was closed, unused for too long, or never was");
            return rejected(ErrorCode::SessionExpired, message);
        };
        if seq < session.acked_below {
            let message = format!(
                "the client of session {id} has acknowledged all below {}",
                session.acked_below
            );
            return rejected(ErrorCode::ResultForgotten, message);
        }
        let remembered = if crate::mutant!("dedup-by-client-only") {
            session.window.range(seq..).next().map(|(_, outcome)| outcome)
        } else {
            session.window.get(&seq)
        };
        if let Some((outcome, _)) = remembered {
            return Admission::Remembered(Bytes::copy_from_slice(outcome.bytes()));
        }
        if !session.has_room(acked_below) {
            let message = format!("too many outcomes of session {id} are not acknowledged");
            return rejected(ErrorCode::Overloaded, message);
        }
        Admission::Run
    }

    /// Remembers the outcome of a command that was admitted to run.
    pub(super) fn remember(
        &mut self,
        step: &mut Step<'_>,
        ids: SessionSeq,
        outcome: &Outcome,
        stamp: StampMs,
    ) {
        // An `Expire` within a session may have closed that session.
        let Some(session) = self.by_id.get_mut(&ids.session) else {
            return;
        };
        let before = session.bytes;
        session.acked_below = session.acked_below.max(ids.acked_below);
        // The row of the present entry may be among them; it is written at the entry's end.
        session.forget(|index| {
            step.overlay
                .delete(Cf::State, keys::window_key(step.shard, ids.session, index));
        });
        encode_bounded(outcome, session.room(), &mut self.scratch);
        put_outcome(&mut session.fresh, ids.seq, &self.scratch);
        session.insert(ids.seq, Encoded::new(&self.scratch), step.index);
        self.scratch.clear();
        self.bytes = self.bytes + session.bytes - before;
        if session.last_used != stamp {
            self.by_use.remove(&(session.last_used, ids.session));
            self.by_use.insert((stamp, ids.session));
            session.last_used = stamp;
        }
        self.touched.insert(ids.session);
        self.bound_bytes(step, ids.session);
    }

    /// Closes the longest unused sessions, but not `except`, while the shard remembers too much.
    fn bound_bytes(&mut self, step: &mut Step<'_>, except: u64) {
        while self.bytes > MAX_SESSIONS_BYTES {
            let oldest = self.by_use.iter().map(|(_, id)| *id).find(|id| *id != except);
            let Some(oldest) = oldest else { return };
            self.close(step, oldest);
        }
    }

    /// Opens a session with a new id; closes the longest unused one if there are too many.
    pub(super) fn open(&mut self, step: &mut Step<'_>, id: u64, stamp: StampMs) {
        if self.by_id.len() >= limits::sessions::most()
            && let Some((_, oldest)) = self.by_use.first().copied()
        {
            self.close(step, oldest);
        }
        let row = SessionRow { opened_at: stamp };
        step.overlay
            .put(Cf::State, keys::session_key(step.shard, id), row.encode());
        self.by_id.insert(
            id,
            Session {
                last_used: stamp,
                ..Session::default()
            },
        );
        self.by_use.insert((stamp, id));
    }

    /// Closes a session, if there is one of this id.
    pub(super) fn close(&mut self, step: &mut Step<'_>, id: u64) {
        let Some(session) = self.by_id.remove(&id) else {
            return;
        };
        step.overlay.delete(Cf::State, keys::session_key(step.shard, id));
        for index in session.rows.keys() {
            step.overlay
                .delete(Cf::State, keys::window_key(step.shard, id, *index));
        }
        self.by_use.remove(&(session.last_used, id));
        self.touched.remove(&id);
        self.bytes -= session.bytes;
    }

    /// Closes at most `max` of the sessions that are idle at `bound` and says whether there are more.
    pub(super) fn close_idle(&mut self, step: &mut Step<'_>, bound: StampMs, max: usize) -> bool {
        for _ in 0..max {
            match self.oldest_idle(bound) {
                Some(id) => self.close(step, id),
                None => return false,
            }
        }
        self.oldest_idle(bound).is_some()
    }

    fn oldest_idle(&self, bound: StampMs) -> Option<u64> {
        let (last_used, id) = self.by_use.first()?;
        (last_used.saturating_add(limits::sessions::idle_ms()) <= bound).then_some(*id)
    }

    /// When the longest unused session becomes idle.
    pub(super) fn next_idle(&self) -> Option<StampMs> {
        self.by_use
            .first()
            .map(|(last_used, _)| last_used.saturating_add(limits::sessions::idle_ms()))
    }

    /// Writes what the present log entry added.
    pub(super) fn finish_entry(&mut self, step: &mut Step<'_>) {
        for id in std::mem::take(&mut self.touched) {
            let Some(session) = self.by_id.get_mut(&id) else {
                continue;
            };
            let row = encode_window(session.last_used, session.acked_below, &session.fresh);
            session.fresh.clear();
            // What one large entry needed must not stay for as long as its session: nobody counts it.
            session.fresh.shrink_to(FRESH_KEPT);
            step.overlay
                .put(Cf::State, keys::window_key(step.shard, id, step.index), row);
        }
    }
}

impl Session {
    fn insert(&mut self, seq: u64, outcome: Encoded, index: u64) {
        self.bytes += cost(&outcome);
        *self.rows.entry(index).or_default() += 1;
        self.window.insert(seq, (outcome, index));
    }

    /// Forgets what the client has acknowledged; calls `dropped` for each row of which nothing is left.
    fn forget(&mut self, mut dropped: impl FnMut(u64)) {
        while let Some(first) = self.window.first_entry() {
            if *first.key() >= self.acked_below + u64::from(crate::mutant!("session-forgets-in-flight")) {
                return;
            }
            let (outcome, index) = first.remove();
            self.bytes -= cost(&outcome);
            if let Some(left) = self.rows.get_mut(&index) {
                *left -= 1;
                if *left == 0 {
                    self.rows.remove(&index);
                    dropped(index);
                }
            }
        }
    }

    /// Whether one more outcome fits once those below `acked_below` are forgotten.
    fn has_room(&self, acked_below: u64) -> bool {
        self.window.len() < MAX_SESSION_WINDOW
            || self.window.range(acked_below..).count() < MAX_SESSION_WINDOW
    }

    /// Bytes that the next outcome may have, so that the rest of the window still has room for stubs. At least [`MAX_STUB`].
    fn room(&self) -> usize {
        let later = MAX_SESSION_WINDOW.saturating_sub(self.window.len() + 1);
        let reserved = later * (MAX_STUB + REMEMBERED_OVERHEAD) + REMEMBERED_OVERHEAD;
        MAX_SESSION_BYTES.saturating_sub(self.bytes + reserved)
    }
}

/// Makes `out` the encoded outcome, or, instead of one that is longer than `room`, a stub: that it was applied.
fn encode_bounded(outcome: &Outcome, room: usize, out: &mut Vec<u8>) {
    out.clear();
    encode_outcome_to(outcome, out);
    if out.len() > room.min(MAX_REMEMBERED_OUTCOME) {
        out.clear();
        // One long outcome must not hold memory for ever.
        out.shrink_to(MAX_REMEMBERED_OUTCOME);
        encode_outcome_to(&stub(outcome.revision), out);
    }
}

/// Encoded it has at most [`MAX_STUB`] bytes.
pub(super) fn stub(revision: Revision) -> Outcome {
    let message = "the command was applied, but its outcome was not kept";
    let rejection = Rejection::new(ErrorCode::ResultForgotten, message);
    Outcome {
        revision,
        result: OutcomeResult::Rejected(rejection),
    }
}
