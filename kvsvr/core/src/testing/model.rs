//! The state machine once more, as plainly as it can be said: maps, full copies of the past, no encoding, no engine.
//!
//! It knows no limits of size or number; tests of those stand beside the code. Messages of rejections are not part of it: compare outcomes
//! with [`Model::same`].

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    command::{
        Command, Compare, CompareOperator, CompareTarget, KeyValue, Op, Outcome, OutcomeResult, Range,
        RangeResult, SessionSeq, Txn, TxnOp, TxnOpResult, TxnResult,
    },
    error::{ErrorCode, Rejection},
    event::{Event, EventKind},
    limits::SESSION_IDLE_MS,
    types::{Partition, Revision, StampMs},
};

type Id = (Partition, Bytes);
type Rows = BTreeMap<Id, ModelRow>;
type Answer<T> = Result<T, Rejection>;

/// A key's version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in KeyValue")]
pub struct ModelRow {
    pub value: Bytes,
    pub create_rev: Revision,
    pub mod_rev: Revision,
    pub version: u64,
    pub lease: u64,
    pub expires_at: StampMs,
}

#[derive(Clone, Debug, Default)]
struct ModelSession {
    last_used: StampMs,
    acked_below: u64,
    outcomes: BTreeMap<u64, Outcome>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Model {
    /// States after revision 0, 1, 2, ...
    pub states: Vec<Rows>,
    /// All events.
    pub events: Vec<Event>,
    /// The oldest revision that can be read.
    pub floor: Revision,
    stamp: StampMs,
    leases: BTreeMap<u64, (u64, StampMs)>,
    last_lease: u64,
    sessions: BTreeMap<u64, ModelSession>,
    last_session: u64,
    /// Epoch and cursor by name.
    pub consumers: BTreeMap<Bytes, (u64, Revision)>,
}

/// What a command is about to change.
struct Draft {
    rows: Rows,
    touched: Vec<Id>,
    revision: Revision,
    stamp: StampMs,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            states: vec![Rows::new()],
            events: Vec::new(),
            floor: 0,
            stamp: 0,
            leases: BTreeMap::new(),
            last_lease: 0,
            sessions: BTreeMap::new(),
            last_session: 0,
            consumers: BTreeMap::new(),
        }
    }
}

fn refuse<T>(code: ErrorCode) -> Answer<T> {
    Err(Rejection::new(code, ""))
}

fn compacted<T>(first: Revision) -> Answer<T> {
    Err(Rejection {
        code: ErrorCode::Compacted,
        message: String::new(),
        revision: first,
    })
}

/// The order of stored keys.
fn sort_key((partition, key): &Id) -> (u16, u16, usize, Bytes, Bytes) {
    (
        partition.slot(),
        partition.region,
        partition.name.len(),
        partition.name.clone(),
        key.clone(),
    )
}

impl Model {
    /// The newest revision.
    pub fn revision(&self) -> Revision {
        self.states.len() as u64 - 1
    }

    /// Equal but for messages, which the model does not have.
    pub fn same(model: &Outcome, real: &Outcome) -> bool {
        let mut real = real.clone();
        if let OutcomeResult::Rejected(rejection) = &mut real.result {
            rejection.message.clear();
        }
        *model == real
    }

    /// One log entry.
    pub fn apply(&mut self, stamp: StampMs, commands: &[Command]) -> Vec<Outcome> {
        self.stamp = self.stamp.max(stamp);
        commands.iter().map(|command| self.run(command)).collect()
    }

    fn outcome(&self, result: Answer<OutcomeResult>) -> Outcome {
        let result = result.unwrap_or_else(OutcomeResult::Rejected);
        Outcome {
            revision: self.revision(),
            result,
        }
    }

    fn run(&mut self, command: &Command) -> Outcome {
        let Some(SessionSeq {
            session: id,
            seq,
            acked_below,
        }) = command.session.filter(|_| command.op != Op::SessionClose)
        else {
            let result = self.execute(command);
            return self.outcome(result);
        };
        match self.sessions.get(&id) {
            None => return self.outcome(refuse(ErrorCode::SessionExpired)),
            Some(session) if seq < session.acked_below => {
                return self.outcome(refuse(ErrorCode::ResultForgotten));
            }
            Some(session) => {
                if let Some(outcome) = session.outcomes.get(&seq) {
                    return outcome.clone();
                }
            }
        }
        let result = self.execute(command);
        let outcome = self.outcome(result);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.last_used = self.stamp;
            session.acked_below = session.acked_below.max(acked_below);
            session.outcomes.insert(seq, outcome.clone());
        }
        outcome
    }

    fn draft(&self) -> Draft {
        let rows = self.states[self.states.len() - 1].clone();
        Draft {
            rows,
            touched: Vec::new(),
            revision: self.revision() + 1,
            stamp: self.stamp,
        }
    }

    fn commit(&mut self, draft: Draft, deleted_as: EventKind) -> u64 {
        let before = &self.states[self.states.len() - 1];
        let mut events = Vec::new();
        for id in &draft.touched {
            let (old, new) = (before.get(id), draft.rows.get(id));
            let (partition, key) = id.clone();
            match new {
                Some(row) if row.mod_rev == draft.revision => events.push(Event {
                    revision: draft.revision,
                    kind: EventKind::Put,
                    partition,
                    key,
                    value: row.value.clone(),
                    create_rev: row.create_rev,
                    version: row.version,
                    lease: row.lease,
                    expires_at: row.expires_at,
                }),
                None if old.is_some() => {
                    events.push(Event::deletion(draft.revision, deleted_as, partition, key));
                }
                _ => {}
            }
        }
        let changed = events.len() as u64;
        if changed > 0 {
            self.events.extend(events);
            self.states.push(draft.rows);
        }
        changed
    }

    fn execute(&mut self, command: &Command) -> Answer<OutcomeResult> {
        let partition = &command.partition;
        match command.op.clone() {
            Op::Txn(txn) => self.txn(partition, &txn).map(OutcomeResult::Txn),
            Op::LeaseGrant { id, ttl_ms } => self.grant(id, ttl_ms),
            Op::LeaseKeepAlive { id } => {
                let Some((ttl_ms, expires_at)) = self.leases.get_mut(&id) else {
                    return refuse(ErrorCode::NotFound);
                };
                *expires_at = self.stamp + *ttl_ms;
                Ok(OutcomeResult::Lease {
                    id,
                    ttl_ms: *ttl_ms,
                    deleted: 0,
                })
            }
            Op::LeaseRevoke { id } => {
                let Some((ttl_ms, _)) = self.leases.remove(&id) else {
                    return refuse(ErrorCode::NotFound);
                };
                let mut draft = self.draft();
                draft.delete_lease(id);
                let deleted = self.commit(draft, EventKind::Expire);
                Ok(OutcomeResult::Lease { id, ttl_ms, deleted })
            }
            Op::SessionOpen => {
                self.last_session += 1;
                let session = ModelSession {
                    last_used: self.stamp,
                    ..ModelSession::default()
                };
                self.sessions.insert(self.last_session, session);
                Ok(OutcomeResult::Session {
                    id: self.last_session,
                })
            }
            Op::SessionClose => {
                let id = command.session.map_or(0, |ids| ids.session);
                self.sessions.remove(&id);
                Ok(OutcomeResult::Session { id })
            }
            Op::ConsumerOpen { .. }
            | Op::ConsumerAck { .. }
            | Op::ConsumerDelete { .. }
            | Op::ConsumerReset { .. } => self.consumer(&command.op),
            Op::Expire { up_to_ms } => Ok(self.expire(up_to_ms)),
            Op::Compact { revision, pass_below } => self.compact(revision, pass_below),
            // The model is of shards that begin empty.
            Op::Restore { .. } => refuse(ErrorCode::Refused),
            op => {
                let mut draft = self.draft();
                let result = self.write(&mut draft, partition, &as_txn_op(op))?;
                self.commit(draft, EventKind::Delete);
                Ok(match result {
                    TxnOpResult::Put { version } => OutcomeResult::Put { version },
                    TxnOpResult::Delete { deleted } => OutcomeResult::Delete { deleted },
                    TxnOpResult::Increment { value } => OutcomeResult::Increment { value },
                    TxnOpResult::Append { seq } => OutcomeResult::Append { seq },
                    TxnOpResult::Get(_) | TxnOpResult::Range(_) => unreachable!("not a write"),
                })
            }
        }
    }

    fn grant(&mut self, id: u64, ttl_ms: u64) -> Answer<OutcomeResult> {
        if id != 0 && self.leases.contains_key(&id) {
            return refuse(ErrorCode::AlreadyExists);
        }
        let mut chosen = id;
        while chosen == 0 {
            self.last_lease += 1;
            chosen = if self.leases.contains_key(&self.last_lease) {
                0
            } else {
                self.last_lease
            };
        }
        self.leases.insert(chosen, (ttl_ms, self.stamp + ttl_ms));
        Ok(OutcomeResult::Lease {
            id: chosen,
            ttl_ms,
            deleted: 0,
        })
    }

    fn expire(&mut self, up_to_ms: StampMs) -> OutcomeResult {
        let bound = up_to_ms.min(self.stamp);
        let mut draft = self.draft();
        // As the ttl rows sort: by time, keys before leases.
        let due = |at: StampMs| at != 0 && at <= bound;
        let keys = draft.rows.iter().filter(|(_, row)| due(row.expires_at));
        let keys = keys.map(|(id, row)| (row.expires_at, 1, Some(sort_key(id)), 0, Some(id.clone())));
        let leases = self.leases.iter().filter(|(_, (_, at))| due(*at));
        let leases = leases.map(|(id, (_, at))| (*at, 2, None, *id, None));
        let mut all: Vec<_> = keys.chain(leases).collect();
        all.sort();
        let mut ended = 0;
        for (_, _, _, lease, id) in all {
            match id {
                Some(id) => drop(draft.delete(&id)),
                None => {
                    draft.delete_lease(lease);
                    self.leases.remove(&lease);
                    ended += 1;
                }
            }
        }
        let keys = self.commit(draft, EventKind::Expire);
        self.sessions
            .retain(|_, session| session.last_used + SESSION_IDLE_MS > bound);
        OutcomeResult::Expire {
            keys,
            leases: ended,
            more: false,
        }
    }

    fn compact(&mut self, revision: Revision, pass_below: Revision) -> Answer<OutcomeResult> {
        if revision > self.revision() {
            return refuse(ErrorCode::FutureRevision);
        }
        let old = self.floor;
        for floor in old..=revision {
            // Would a consumer lose the event at `floor` that it still has and may not lose?
            let holds = |cursor: Revision| cursor >= old && cursor >= pass_below && cursor < floor;
            if self.consumers.values().any(|(_, cursor)| holds(*cursor)) {
                break;
            }
            self.floor = floor;
        }
        Ok(OutcomeResult::Compact { floor: self.floor })
    }

    fn consumer(&mut self, op: &Op) -> Answer<OutcomeResult> {
        let revision = self.revision();
        let check = |floor: Revision, cursor: Revision| match cursor {
            _ if cursor < floor => compacted(floor + 1),
            _ if cursor > revision => refuse(ErrorCode::FutureRevision),
            _ => Ok(()),
        };
        let name = match op {
            Op::ConsumerOpen { name, .. }
            | Op::ConsumerAck { name, .. }
            | Op::ConsumerDelete { name }
            | Op::ConsumerReset { name, .. } => name,
            _ => unreachable!("not of a consumer"),
        };
        let old = self.consumers.get(name).copied();
        let (epoch, cursor) = match (op, old) {
            (Op::ConsumerOpen { .. }, Some((epoch, cursor))) => {
                check(self.floor, cursor)?;
                (epoch + 1, cursor)
            }
            (
                Op::ConsumerOpen {
                    start_revision: 0, ..
                },
                None,
            ) => (1, revision),
            (Op::ConsumerOpen { start_revision, .. }, None) => {
                check(self.floor, start_revision - 1)?;
                (1, start_revision - 1)
            }
            (_, None) => return refuse(ErrorCode::NotFound),
            (Op::ConsumerAck { epoch, .. }, Some((owner, _))) if *epoch != owner => {
                return refuse(ErrorCode::Fenced);
            }
            (Op::ConsumerAck { revision: done, .. }, Some((epoch, cursor))) => {
                if *done > revision {
                    return refuse(ErrorCode::FutureRevision);
                }
                (epoch, cursor.max(*done))
            }
            (Op::ConsumerReset { revision: to, .. }, Some((epoch, _))) => {
                check(self.floor, *to)?;
                (epoch + 1, *to)
            }
            (_, Some((epoch, cursor))) => {
                self.consumers.remove(name);
                return Ok(OutcomeResult::Consumer { epoch, cursor });
            }
        };
        self.consumers.insert(name.clone(), (epoch, cursor));
        Ok(OutcomeResult::Consumer { epoch, cursor })
    }

    fn txn(&mut self, partition: &Partition, txn: &Txn) -> Answer<TxnResult> {
        if txn.then_ops.iter().chain(&txn.else_ops).any(is_pinned) {
            return refuse(ErrorCode::Invalid);
        }
        let mut draft = self.draft();
        let succeeded = txn
            .compares
            .iter()
            .all(|compare| holds(&draft.rows, partition, compare));
        let ops = if succeeded { &txn.then_ops } else { &txn.else_ops };
        let mut results = Vec::new();
        for op in ops {
            results.push(match op {
                TxnOp::Get { key, .. } => {
                    let row = draft.rows.get(&(partition.clone(), key.clone()));
                    TxnOpResult::Get(row.map(|row| kv(key, row)))
                }
                TxnOp::Range(range) => TxnOpResult::Range(RangeResult {
                    kvs: select(&draft.rows, partition, range),
                    continuation: Bytes::new(),
                }),
                write => self.write(&mut draft, partition, write)?,
            });
        }
        self.commit(draft, EventKind::Delete);
        Ok(TxnResult { succeeded, results })
    }

    fn write(&self, draft: &mut Draft, partition: &Partition, op: &TxnOp) -> Answer<TxnOpResult> {
        let id = |key: &Bytes| (partition.clone(), key.clone());
        Ok(match op {
            TxnOp::Put {
                key,
                value,
                ttl_ms,
                lease,
            } => {
                if *lease != 0 && !self.leases.contains_key(lease) {
                    return refuse(ErrorCode::NotFound);
                }
                let expires_at = if *ttl_ms == 0 { 0 } else { draft.stamp + ttl_ms };
                TxnOpResult::Put {
                    version: draft.put(id(key), value.clone(), expires_at, *lease),
                }
            }
            TxnOp::Delete { key } => TxnOpResult::Delete {
                deleted: draft.delete(&id(key)),
            },
            TxnOp::DeleteRange { start, end } => {
                let range = Range {
                    start: start.clone(),
                    end: end.clone(),
                    ..Range::default()
                };
                let found = select(&draft.rows, partition, &range);
                TxnOpResult::Delete {
                    deleted: found.iter().map(|kv| draft.delete(&id(&kv.key))).sum(),
                }
            }
            TxnOp::Increment { key, delta } => TxnOpResult::Increment {
                value: draft.increment(id(key), *delta)?,
            },
            TxnOp::Append {
                prefix,
                value,
                ttl_ms,
            } => {
                let seq = draft.increment(id(prefix), 1)?;
                if seq <= 0 {
                    return refuse(ErrorCode::WrongType);
                }
                let key = [&prefix[..], &seq.to_be_bytes()].concat().into();
                let expires_at = if *ttl_ms == 0 { 0 } else { draft.stamp + ttl_ms };
                draft.put((partition.clone(), key), value.clone(), expires_at, 0);
                TxnOpResult::Append { seq: seq as u64 }
            }
            TxnOp::Get { .. } | TxnOp::Range(_) => unreachable!("not a write"),
        })
    }

    fn state(&self, at: Revision) -> Answer<&Rows> {
        match at {
            _ if at < self.floor => compacted(self.floor),
            _ if at > self.revision() => refuse(ErrorCode::FutureRevision),
            _ => Ok(&self.states[at as usize]),
        }
    }

    /// Reads a key at a revision.
    pub fn get(&self, partition: &Partition, key: &Bytes, at: Revision) -> Answer<Option<KeyValue>> {
        let row = self.state(at)?.get(&(partition.clone(), key.clone()));
        Ok(row.map(|row| kv(key, row)))
    }

    /// Reads a range at its revision (`None` = the newest), without a limit by the server.
    pub fn range(&self, partition: &Partition, range: &Range) -> Answer<Vec<KeyValue>> {
        let rows = self.state(range.revision.unwrap_or(self.revision()))?;
        Ok(select(rows, partition, range))
    }
}

/// True if the read is of an older state.
fn is_pinned(op: &TxnOp) -> bool {
    match op {
        TxnOp::Get { revision, .. } => revision.is_some(),
        TxnOp::Range(range) => range.revision.is_some() || !range.continuation.is_empty(),
        _ => false,
    }
}

fn kv(key: &Bytes, row: &ModelRow) -> KeyValue {
    let ModelRow {
        value,
        create_rev,
        mod_rev,
        version,
        lease,
        expires_at,
    } = row.clone();
    KeyValue {
        key: key.clone(),
        value,
        create_rev,
        mod_rev,
        version,
        lease,
        expires_at,
    }
}

fn select(rows: &Rows, partition: &Partition, range: &Range) -> Vec<KeyValue> {
    let inside = |key: &Bytes| *key >= range.start && (range.end.is_empty() || *key < range.end);
    let own = rows.iter().filter(|((p, key), _)| p == partition && inside(key));
    let mut kvs: Vec<KeyValue> = own.map(|((_, key), row)| kv(key, row)).collect();
    if range.reverse {
        kvs.reverse();
    }
    if range.limit != 0 {
        kvs.truncate(range.limit as usize);
    }
    if range.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    kvs
}

fn holds(rows: &Rows, partition: &Partition, compare: &Compare) -> bool {
    let row = rows.get(&(partition.clone(), compare.key.clone()));
    let order = match (&compare.target, row) {
        (CompareTarget::Exists, row) => row.is_some().cmp(&true),
        (CompareTarget::Value(_), None) => return false,
        (CompareTarget::Value(value), Some(row)) => row.value.cmp(value),
        (CompareTarget::Version(n), row) => row.map_or(0, |row| row.version).cmp(n),
        (CompareTarget::CreateRev(n), row) => row.map_or(0, |row| row.create_rev).cmp(n),
        (CompareTarget::ModRev(n), row) => row.map_or(0, |row| row.mod_rev).cmp(n),
    };
    match compare.operator {
        CompareOperator::Equal => order.is_eq(),
        CompareOperator::NotEqual => order.is_ne(),
        CompareOperator::Less => order.is_lt(),
        CompareOperator::Greater => order.is_gt(),
    }
}

fn as_txn_op(op: Op) -> TxnOp {
    match op {
        Op::Put {
            key,
            value,
            ttl_ms,
            lease,
        } => TxnOp::Put {
            key,
            value,
            ttl_ms,
            lease,
        },
        Op::Delete { key } => TxnOp::Delete { key },
        Op::DeleteRange { start, end } => TxnOp::DeleteRange { start, end },
        Op::Increment { key, delta } => TxnOp::Increment { key, delta },
        Op::Append {
            prefix,
            value,
            ttl_ms,
        } => TxnOp::Append {
            prefix,
            value,
            ttl_ms,
        },
        other => unreachable!("not a write: {other:?}"),
    }
}

impl Draft {
    fn touch(&mut self, id: &Id) {
        if !self.touched.contains(id) {
            self.touched.push(id.clone());
        }
    }

    fn put(&mut self, id: Id, value: Bytes, expires_at: StampMs, lease: u64) -> u64 {
        self.touch(&id);
        let (create_rev, version) = match self.rows.get(&id) {
            Some(row) => (row.create_rev, row.version + 1),
            None => (self.revision, 1),
        };
        let row = ModelRow {
            value,
            create_rev,
            mod_rev: self.revision,
            version,
            lease,
            expires_at,
        };
        self.rows.insert(id, row);
        version
    }

    fn delete(&mut self, id: &Id) -> u64 {
        self.touch(id);
        u64::from(self.rows.remove(id).is_some())
    }

    fn delete_lease(&mut self, lease: u64) {
        let attached = self.rows.iter().filter(|(_, row)| row.lease == lease);
        let mut ids: Vec<Id> = attached.map(|(id, _)| id.clone()).collect();
        ids.sort_by_key(sort_key);
        for id in ids {
            self.delete(&id);
        }
    }

    fn increment(&mut self, id: Id, delta: i64) -> Answer<i64> {
        let row = self.rows.get(&id).cloned();
        let (number, expires_at, lease) = match &row {
            None => (0, 0, 0),
            Some(row) => match <[u8; 8]>::try_from(&row.value[..]) {
                Ok(bytes) => (i64::from_be_bytes(bytes), row.expires_at, row.lease),
                Err(_) => return refuse(ErrorCode::WrongType),
            },
        };
        let Some(sum) = number.checked_add(delta) else {
            return refuse(ErrorCode::WrongType);
        };
        self.put(id, Bytes::copy_from_slice(&sum.to_be_bytes()), expires_at, lease);
        Ok(sum)
    }
}
