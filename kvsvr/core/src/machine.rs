//! The state machine of one shard.
//!
//! [`Machine::apply`] turns committed log entries into outcomes, events and one engine batch, which the host must write before it
//! applies more. What must be fast to decide (leases, sessions, consumers) is also held in memory; everything is in the engine, so
//! [`Machine::load`] continues at any entry. The result does not depend on how entries are split into calls, nor on which garbage the
//! engine has dropped yet: apply reads neither history nor change log, so a transaction in the log reads the newest state only.
//!
//! Memory is bounded, whatever the state holds: a command may replace or delete
//! [`MAX_OLD_ROW_BYTES`](crate::limits::MAX_OLD_ROW_BYTES) of rows; once the commands of an entry have gathered
//! [`MAX_ENTRY_BYTES`] of such rows and of outcomes, its further commands on keys are answered Overloaded,
//! which a session does not remember; and [`Machine::apply`] leaves entries for the next call.
//!
//! Time is the newest stamp of any entry. The revision grows by one with each command that changes a key: a deletion of nothing, a
//! transaction without effect, leases, sessions and consumers do not move it. What one command does shares one revision: all of a
//! transaction, all keys of a revoked lease, all that one `Expire` removes.
//!
//! It does not know Raft, does not check whether a partition belongs to the shard, and never decides *when* to expire or to
//! compact: the leader proposes both, see [`Machine::next_expiry`] and [`Machine::compaction_target`].

use bytes::Bytes;

use crate::{
    codec::{decode_batch, decode_command, decode_outcome},
    command::{Command, Op, Outcome, OutcomeResult},
    engine::{Cf, EngineRead, WriteBatch},
    error::{Corrupt, ErrorCode, Failure, Rejection},
    event::Event,
    keys,
    limits::{APPLY_STOP_BYTES, MAX_ENTRY_BYTES, MAX_EXPIRE},
    overlay::Overlay,
    read::{ResultBudget, View, shard_head},
    rows::{Head, LogRowBuilder, RestoreRow},
    types::{LogPosition, Revision, ShardId, StampMs},
};

mod commit;
mod consumers;
mod data;
mod expire;
mod leases;
mod restore;
mod retention;
mod sessions;
mod tx;

pub use crate::rows::ConsumerRow;
use consumers::Consumers;
use leases::Leases;
pub use retention::CompactionTarget;
use sessions::{Admission, Sessions};

/// A committed log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands in the log.
    pub position: LogPosition,
    /// What it says.
    pub payload: Payload,
}

/// What a log entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: a new leader's first entry.
    Blank,
    /// The shard's members, opaque.
    Membership(Bytes),
    /// Commands, see [`encode_batch`](crate::codec::encode_batch).
    Batch(Bytes),
}

/// What came of some entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// To be written before anything else is applied. Always holds the new applied position.
    pub batch: WriteBatch,
    /// For each entry that was applied, one outcome for each of its commands.
    pub replies: Vec<Vec<Outcome>>,
    /// All changes, in order.
    pub events: Vec<Event>,
    /// The newest revision.
    pub revision: Revision,
    /// The oldest revision that can be read.
    pub floor: Revision,
    /// The position of the last entry that was applied.
    pub applied: LogPosition,
    /// A backup was restored to its end: the revision has jumped, without events.
    pub restored: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Machine {
    shard: ShardId,
    head: Head,
    leases: Leases,
    sessions: Sessions,
    consumers: Consumers,
    /// How far it is restored from a backup.
    restore: Option<RestoreRow>,
    /// No ttl key of the shard is below it, see [`expire`].
    ttl_from: Bytes,
}

/// What bounds a call of apply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ApplyBounds {
    /// Bytes gathered after which it leaves the further entries for the next call.
    pub(crate) bytes: usize,
    /// Of the reads in each transaction.
    pub(crate) reads: ResultBudget,
    /// Keys and leases that one `Expire` removes.
    pub(crate) expire: usize,
}

impl ApplyBounds {
    pub(crate) const fn new() -> Self {
        Self {
            bytes: APPLY_STOP_BYTES,
            reads: ResultBudget::new(),
            expire: MAX_EXPIRE,
        }
    }
}

/// What one call of apply gathers.
struct Step<'e> {
    shard: ShardId,
    overlay: Overlay<'e>,
    /// Of the reads in each transaction.
    reads: ResultBudget,
    /// Keys and leases that one `Expire` removes.
    max_expire: usize,
    events: Vec<Event>,
    /// Of the present entry.
    log: LogRowBuilder,
    /// Of the present entry.
    index: u64,
    /// Bytes that the commands of the present entry have gathered: rows that they replace or delete, outcomes.
    entry_bytes: usize,
    /// Bytes of all entries: what their commands have gathered, and the commands.
    bytes: usize,
    /// The last part of a backup was among them.
    restored: bool,
}

impl Machine {
    /// Loads a shard's state. A shard without any is empty.
    pub fn load(shard: ShardId, engine: &dyn EngineRead) -> Result<Self, Corrupt> {
        Ok(Self {
            shard,
            head: shard_head(engine, shard)?,
            leases: Leases::load(shard, engine)?,
            sessions: Sessions::load(shard, engine)?,
            consumers: Consumers::load(shard, engine)?,
            restore: restore::load(shard, engine)?,
            ttl_from: keys::shard_range(shard).0,
        })
    }

    /// Applies committed entries, the next ones of the log: the first one and as many more as fit in
    /// [`APPLY_STOP_BYTES`], one of [`Applied::replies`] for each. Those that are left must be given to the
    /// next call. The engine must show the state after the batch of the call before.
    ///
    /// After an error the machine must not be used any more.
    pub fn apply(&mut self, engine: &dyn EngineRead, entries: &[Entry]) -> Result<Applied, Corrupt> {
        self.apply_within(engine, entries, ApplyBounds::new())
    }

    /// Like [`Machine::apply`], within other bounds. Those of reads and of `Expire` decide about outcomes: they must be the same on all replicas.
    pub(crate) fn apply_within(
        &mut self,
        engine: &dyn EngineRead,
        entries: &[Entry],
        bounds: ApplyBounds,
    ) -> Result<Applied, Corrupt> {
        let overlay = Overlay::new(engine);
        let (events, log) = (Vec::new(), LogRowBuilder::default());
        let mut step = Step {
            shard: self.shard,
            overlay,
            reads: bounds.reads,
            max_expire: bounds.expire,
            events,
            log,
            index: 0,
            entry_bytes: 0,
            bytes: 0,
            restored: false,
        };
        let mut replies = Vec::with_capacity(entries.len());
        for entry in entries {
            if step.bytes >= bounds.bytes && !replies.is_empty() {
                break;
            }
            self.check_position(entry.position)?;
            self.head.applied = Some(entry.position);
            step.index = entry.position.index;
            replies.push(self.apply_entry(&mut step, &entry.payload)?);
        }
        step.overlay
            .put(Cf::State, keys::head_key(self.shard), self.head.encode());
        Ok(Applied {
            restored: step.restored,
            batch: step.overlay.into_batch(),
            replies,
            events: step.events,
            revision: self.head.revision,
            floor: self.head.floor,
            applied: self.head.applied.unwrap_or_default(),
        })
    }

    fn check_position(&self, next: LogPosition) -> Result<(), Corrupt> {
        match self.head.applied {
            Some(LogPosition { index, term, .. }) if next.index != index + 1 || next.term < term => {
                let what = format!(
                    "{next:?} does not follow the last applied one, {:?}",
                    self.head.applied
                );
                Err(Corrupt::new(format!("the log of shard {}", self.shard), what))
            }
            _ => Ok(()),
        }
    }

    fn apply_entry(&mut self, step: &mut Step<'_>, payload: &Payload) -> Result<Vec<Outcome>, Corrupt> {
        let batch = match payload {
            Payload::Blank => return Ok(Vec::new()),
            Payload::Membership(membership) => {
                self.head.membership = membership.clone();
                return Ok(Vec::new());
            }
            Payload::Batch(batch) => decode_batch(batch)?,
        };
        self.head.stamp = self.head.stamp.max(batch.stamp);
        step.entry_bytes = 0;
        step.expect(batch.commands.len());
        step.bytes += batch.commands.iter().map(Bytes::len).sum::<usize>();
        let outcomes = batch
            .commands
            .iter()
            .map(|command| {
                let outcome = self.run(step, command)?;
                step.spend(outcome.bytes());
                Ok(outcome)
            })
            .collect::<Result<_, Corrupt>>()?;
        self.close_log_row(step);
        self.sessions.finish_entry(step);
        Ok(outcomes)
    }

    /// Runs one command, once for each sequence number of its session.
    fn run(&mut self, step: &mut Step<'_>, encoded: &Bytes) -> Result<Outcome, Corrupt> {
        let command = match decode_command(encoded) {
            Ok(command) => command,
            Err(rejection) => return Ok(self.outcome(OutcomeResult::Rejected(rejection))),
        };
        let ids = command.session.filter(|_| command.op != Op::SessionClose);
        if let Some(ids) = ids {
            match self.sessions.admit(ids) {
                Admission::Run => {}
                Admission::Remembered(outcome) => return decode_outcome(&outcome),
                Admission::Rejected(rejection) => {
                    return Ok(self.outcome(OutcomeResult::Rejected(rejection)));
                }
            }
        }
        let result = match self.execute(step, command) {
            Ok(result) => result,
            Err(Failure::Rejected(rejection)) => OutcomeResult::Rejected(rejection),
            Err(Failure::Corrupt(corrupt)) => return Err(corrupt),
        };
        let outcome = self.outcome(result);
        if let Some(ids) = ids
            && !is_for_later(&outcome)
        {
            self.sessions.remember(step, ids, &outcome, self.head.stamp);
        }
        Ok(outcome)
    }

    fn outcome(&self, result: OutcomeResult) -> Outcome {
        Outcome {
            revision: self.head.revision,
            result,
        }
    }

    fn execute(&mut self, step: &mut Step<'_>, command: Command) -> Result<OutcomeResult, Failure> {
        let Command {
            partition,
            session,
            op,
        } = command;
        self.check_restored(&op)?;
        if gathers(&op) && step.entry_bytes >= MAX_ENTRY_BYTES {
            let message = format!(
                "the commands before it in the log entry replace, delete or read {MAX_ENTRY_BYTES} bytes; nothing was applied, try again"
            );
            return Err(Rejection::new(ErrorCode::Overloaded, message).into());
        }
        Ok(match op {
            Op::Put { .. }
            | Op::Delete { .. }
            | Op::DeleteRange { .. }
            | Op::Increment { .. }
            | Op::Append { .. } => self.write(step, &partition, op)?,
            Op::Txn(txn) => OutcomeResult::Txn(self.txn(step, &partition, txn)?),
            Op::LeaseGrant { id, ttl_ms } => self.lease_grant(step, id, ttl_ms)?,
            Op::LeaseKeepAlive { id } => self.lease_keep_alive(step, id)?,
            Op::LeaseRevoke { id } => self.lease_revoke(step, id)?,
            Op::SessionOpen => OutcomeResult::Session {
                id: self.session_open(step),
            },
            Op::SessionClose => {
                let id = session.map_or(0, |ids| ids.session);
                self.sessions.close(step, id);
                OutcomeResult::Session { id }
            }
            Op::ConsumerOpen { name, start_revision } => {
                self.consumers.open(step, &self.head, name, start_revision)?
            }
            Op::ConsumerAck {
                name,
                epoch,
                revision,
            } => self.consumers.ack(step, &self.head, &name, epoch, revision)?,
            Op::ConsumerDelete { name } => self.consumers.delete(step, &name)?,
            Op::ConsumerReset { name, revision } => {
                self.consumers.reset(step, &self.head, &name, revision)?
            }
            Op::Expire { up_to_ms } => self.expire(step, up_to_ms)?,
            Op::Compact { revision, pass_below } => self.compact(revision, pass_below)?,
            Op::Restore {
                backup,
                number,
                rows,
                head,
            } => self.restore(step, (backup, number), rows, head.as_ref())?,
        })
    }

    fn session_open(&mut self, step: &mut Step<'_>) -> u64 {
        self.head.last_session += 1;
        self.sessions.open(step, self.head.last_session, self.head.stamp);
        self.head.last_session
    }

    /// The newest revision.
    pub fn revision(&self) -> Revision {
        self.head.revision
    }

    /// The oldest revision that can be read.
    pub fn floor(&self) -> Revision {
        self.head.floor
    }

    /// The newest stamp of any entry.
    pub fn last_stamp(&self) -> StampMs {
        self.head.stamp
    }

    /// The last applied entry; `None` = none yet.
    pub fn applied(&self) -> Option<LogPosition> {
        self.head.applied
    }

    /// The last applied membership, opaque; empty = none yet.
    pub fn membership(&self) -> &Bytes {
        &self.head.membership
    }

    /// Bytes of all events so far.
    pub fn event_bytes(&self) -> u64 {
        self.head.event_bytes
    }

    /// Open sessions.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Leases that have not ended.
    pub fn leases(&self) -> usize {
        self.leases.len()
    }

    /// The consumers, by name.
    pub fn consumers(&self) -> impl Iterator<Item = (&Bytes, ConsumerRow)> {
        self.consumers.iter()
    }

    /// A consumer.
    pub fn consumer(&self, name: &[u8]) -> Option<ConsumerRow> {
        self.consumers.get(name)
    }
}

/// True if it may gather much memory. The others are small, and a lease must be kept alive whatever else is in the entry.
fn gathers(op: &Op) -> bool {
    matches!(
        op,
        Op::Put { .. }
            | Op::Delete { .. }
            | Op::DeleteRange { .. }
            | Op::Increment { .. }
            | Op::Append { .. }
            | Op::Txn(_)
            | Op::LeaseRevoke { .. }
            | Op::Expire { .. }
    )
}

/// Nothing was applied and nothing will be: trying the same command again is sound, so it is not remembered.
fn is_for_later(outcome: &Outcome) -> bool {
    let code = match &outcome.result {
        OutcomeResult::Rejected(rejection) => rejection.code,
        _ => return false,
    };
    matches!(code, ErrorCode::Overloaded | ErrorCode::NotReady)
}

impl<'e> Step<'e> {
    /// Makes room for what so many commands change, if each changes one key, as most do.
    fn expect(&mut self, commands: usize) {
        self.overlay.reserve(commands);
        self.events.reserve(commands);
    }

    /// Counts what a command has gathered.
    fn spend(&mut self, bytes: usize) {
        self.entry_bytes += bytes;
        self.bytes += bytes;
    }

    /// The state as the commands so far have left it.
    fn view<'a>(&'a self, head: &Head) -> View<'a> {
        View {
            engine: &self.overlay,
            shard: self.shard,
            revision: head.revision,
            floor: head.floor,
        }
    }
}

#[cfg(test)]
mod tests;
