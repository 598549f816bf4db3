//! The fake's state machine: enough of the real one's contract to test a client against.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvsvr_proto::v1::{self, command, outcome, read_request, read_result, watch_event};

#[derive(Default)]
pub(crate) struct Shard {
    pub(crate) revision: u64,
    pub(crate) floor: u64,
    pub(crate) data: BTreeMap<(Bytes, Bytes), v1::KeyValue>,
    pub(crate) log: Vec<v1::WatchEvent>,
    pub(crate) sessions: BTreeMap<u64, Session>,
    pub(crate) next_session: u64,
    /// Epoch and cursor.
    pub(crate) consumers: BTreeMap<String, (u64, u64)>,
}

#[derive(Default)]
pub(crate) struct Session {
    outcomes: BTreeMap<u64, v1::Outcome>,
    acked_below: u64,
}

fn rejected(code: v1::ErrorCode) -> outcome::Result {
    outcome::Result::Rejected(v1::Rejection {
        code: code.into(),
        message: format!("{code:?}"),
        revision: 0,
    })
}

impl Shard {
    pub(crate) fn apply(&mut self, command: v1::Command) -> v1::Outcome {
        let (id, seq) = (command.session, command.seq);
        if id != 0 {
            let Some(session) = self.sessions.get_mut(&id) else {
                return self.outcome(rejected(v1::ErrorCode::SessionExpired));
            };
            session.acked_below = session.acked_below.max(command.acked_below);
            let below = session.acked_below;
            session.outcomes.retain(|seq, _| *seq >= below);
            if let Some(outcome) = session.outcomes.get(&seq) {
                return outcome.clone();
            }
            if seq < below {
                return self.outcome(rejected(v1::ErrorCode::ResultForgotten));
            }
        }
        let result = self.change(command);
        let outcome = self.outcome(result);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.outcomes.insert(seq, outcome.clone());
        }
        outcome
    }

    fn outcome(&self, result: outcome::Result) -> v1::Outcome {
        v1::Outcome {
            revision: self.revision,
            result: Some(result),
        }
    }

    fn change(&mut self, command: v1::Command) -> outcome::Result {
        let partition = command.partition.unwrap_or_default();
        match command.op.unwrap() {
            command::Op::SessionOpen(_) => {
                self.next_session += 1;
                self.sessions.insert(self.next_session, Session::default());
                outcome::Result::Session(v1::SessionResult {
                    id: self.next_session,
                })
            }
            command::Op::Put(put) => {
                let version = self.put(partition, put.key, put.value);
                outcome::Result::Put(v1::PutResult { version })
            }
            command::Op::Delete(delete) => {
                let deleted = self.delete(partition, delete.key);
                outcome::Result::Delete(v1::DeleteResult { deleted })
            }
            command::Op::Increment(increment) => {
                let place = (partition.name.clone(), increment.key.clone());
                let old = match self.data.get(&place).map(|kv| <[u8; 8]>::try_from(&kv.value[..])) {
                    None => 0,
                    Some(Ok(bytes)) => i64::from_be_bytes(bytes),
                    Some(Err(_)) => return rejected(v1::ErrorCode::WrongType),
                };
                let value = old + increment.delta;
                self.put(partition, increment.key, value.to_be_bytes().to_vec().into());
                outcome::Result::Increment(v1::IncrementResult { value })
            }
            command::Op::ConsumerOpen(open) => {
                let start = open.start_revision.checked_sub(1).unwrap_or(self.revision);
                let (epoch, cursor) = self.consumers.entry(open.name).or_insert((0, start));
                *epoch += 1;
                outcome::Result::Consumer(v1::ConsumerResult {
                    epoch: *epoch,
                    cursor: *cursor,
                })
            }
            command::Op::ConsumerAck(ack) => match self.consumers.get_mut(&ack.name) {
                None => rejected(v1::ErrorCode::NotFound),
                Some((epoch, _)) if *epoch != ack.epoch => rejected(v1::ErrorCode::Fenced),
                Some((epoch, cursor)) => {
                    *cursor = ack.revision.max(*cursor);
                    outcome::Result::Consumer(v1::ConsumerResult {
                        epoch: *epoch,
                        cursor: *cursor,
                    })
                }
            },
            other => panic!("the fake does not know {other:?}"),
        }
    }

    pub(crate) fn put(&mut self, partition: v1::Partition, key: Bytes, value: Bytes) -> u64 {
        self.revision += 1;
        let place = (partition.name.clone(), key.clone());
        let old = self.data.get(&place);
        let kv = v1::KeyValue {
            key,
            value,
            create_rev: old.map_or(self.revision, |kv| kv.create_rev),
            mod_rev: self.revision,
            version: old.map_or(1, |kv| kv.version + 1),
            ..v1::KeyValue::default()
        };
        self.log
            .push(event(watch_event::Kind::Put, partition, kv.clone()));
        let version = kv.version;
        self.data.insert(place, kv);
        version
    }

    fn delete(&mut self, partition: v1::Partition, key: Bytes) -> u64 {
        if self.data.remove(&(partition.name.clone(), key.clone())).is_none() {
            return 0;
        }
        self.revision += 1;
        let kv = v1::KeyValue {
            key,
            mod_rev: self.revision,
            ..v1::KeyValue::default()
        };
        self.log.push(event(watch_event::Kind::Delete, partition, kv));
        1
    }

    pub(crate) fn read(&self, request: v1::ReadRequest) -> v1::ReadResult {
        let partition = request.partition.unwrap().name;
        let result = match request.op.unwrap() {
            read_request::Op::Get(get) => {
                let kv = self.data.get(&(partition, get.key)).cloned();
                read_result::Result::Get(v1::GetResult { kv })
            }
            read_request::Op::Range(range) => {
                // Pages of `limit` keys; the continuation is the first key of the next.
                let start = if range.continuation.is_empty() {
                    range.start
                } else {
                    range.continuation
                };
                let mut kvs: Vec<_> = self
                    .data
                    .range((partition.clone(), start)..)
                    .take_while(|((p, k), _)| *p == partition && (range.end.is_empty() || k < &range.end))
                    .map(|(_, kv)| kv.clone())
                    .collect();
                let limit = if range.limit == 0 {
                    kvs.len()
                } else {
                    range.limit as usize
                };
                let continuation = kvs.get(limit).map(|kv| kv.key.clone()).unwrap_or_default();
                kvs.truncate(limit);
                read_result::Result::Range(v1::RangeResult { kvs, continuation })
            }
            read_request::Op::Txn(_) => panic!("the fake does not read in transactions"),
        };
        v1::ReadResult {
            revision: self.revision,
            age_ms: 0,
            result: Some(result),
        }
    }
}

fn event(kind: watch_event::Kind, partition: v1::Partition, kv: v1::KeyValue) -> v1::WatchEvent {
    v1::WatchEvent {
        kind: kind.into(),
        partition: Some(partition),
        kv: Some(kv),
    }
}
