//! What a history proves about the changes of each shard: who changed which key at which revision.
//!
//! Only acknowledged changes are facts. What unknown outcomes may have changed is kept beside them.

use std::collections::BTreeMap;

use super::{Context, History};
use crate::history::{
    Action, Answer, Call, Change, End, Key, Mode, Operation, Reply, Revision, Txn, TxnDone,
};

/// What a change left at its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// This value.
    Value(u64),
    /// A value that the reply does not tell: an account's.
    Some,
    /// Nothing.
    Gone,
}

/// An acknowledged change of one key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fact {
    pub(crate) key: Key,
    pub(crate) effect: Effect,
    /// The key's version after it, if it was told.
    pub(crate) version: Option<u64>,
    /// [`Operation::id`].
    pub(crate) operation: usize,
}

impl Fact {
    /// A change that is shown at the fact's revision is this one, made by this call.
    pub(crate) fn is_shown_by(&self, change: &Change, call: &Call) -> bool {
        let is_effect = match self.effect {
            Effect::Value(value) => change.value == Some(value),
            Effect::Some => change.value.is_some(),
            Effect::Gone => change.value.is_none() && !change.expired,
        };
        let Some(row) = change.row() else {
            return is_effect;
        };
        let is_version = self.version.is_none_or(|version| version == row.version);
        let is_lease = match call {
            Call::Write { lease, .. } => change.lease == *lease,
            Call::Cas { .. } | Call::Append { .. } => change.lease == 0,
            _ => true,
        };
        is_effect && is_version && is_lease
    }
}

/// All acknowledged changes.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// By shard and revision: the facts of the operation that claims it first.
    pub(crate) changes: BTreeMap<(u32, Revision), Vec<Fact>>,
    /// Operations that claim a revision that another one has: the other, and it.
    pub(crate) claimed_twice: Vec<(usize, usize)>,
    /// Operations of unknown outcome that may have changed the key.
    pub(crate) unknown: BTreeMap<Key, Vec<usize>>,
}

impl Facts {
    pub(crate) fn new(history: &History<'_>, context: &Context<'_>) -> Self {
        let mut facts = Self::default();
        for operation in &history.operations {
            match &operation.end {
                End::Fail(..) => {}
                End::Unknown => {
                    for key in changed_keys(&operation.call) {
                        facts.unknown.entry(key).or_default().push(operation.id);
                    }
                }
                End::Ok(_, reply) => {
                    let Some((revision, changed)) = changes(operation, reply) else {
                        continue;
                    };
                    let Some(first) = changed.first() else { continue };
                    let place = (context.shard(first.key), revision);
                    match facts.changes.get(&place) {
                        Some(others) => {
                            let other = others.first().map_or(operation.id, |fact| fact.operation);
                            facts.claimed_twice.push((other, operation.id));
                        }
                        None => {
                            facts.changes.insert(place, changed);
                        }
                    }
                }
            }
        }
        facts
    }

    /// Facts of a shard with revisions in `after < revision <= through`.
    pub(crate) fn between(
        &self,
        shard: u32,
        after: Revision,
        through: Revision,
    ) -> impl Iterator<Item = (Revision, &[Fact])> {
        let end = through.max(after);
        let range = self.changes.range((shard, after)..=(shard, end));
        range
            .filter(move |((_, revision), _)| *revision > after)
            .map(|((_, revision), facts)| (*revision, &facts[..]))
    }

    /// The operations of unknown outcome that may have changed the key.
    pub(crate) fn unknown(&self, key: Key) -> &[usize] {
        self.unknown.get(&key).map_or(&[], |ids| &ids[..])
    }
}

/// The changes that an acknowledged operation made, and their revision; `None` if it made none.
pub(crate) fn changes(operation: &Operation, reply: &Reply) -> Option<(Revision, Vec<Fact>)> {
    let fact = |key, effect, version| Fact {
        key,
        effect,
        version,
        operation: operation.id,
    };
    Some(match (&operation.call, reply) {
        (Call::Write { key, value, .. }, Reply::Written { revision, version })
        | (Call::Cas { key, to: value, .. }, Reply::Written { revision, version }) => {
            let version = (*version != 0).then_some(*version);
            (*revision, vec![fact(*key, Effect::Value(*value), version)])
        }
        (
            Call::Delete { key },
            Reply::Deleted {
                revision,
                existed: true,
            },
        ) => (*revision, vec![fact(*key, Effect::Gone, None)]),
        (Call::Increment { key, .. }, Reply::Number { revision, value }) => {
            (*revision, vec![fact(*key, Effect::Value(*value as u64), None)])
        }
        (Call::Append { list, value }, Reply::Appended { revision, .. }) => {
            (*revision, vec![fact(*list, Effect::Value(*value), None)])
        }
        (
            call @ (Call::Transfer { .. } | Call::Send { .. } | Call::Receive { .. }),
            Reply::Written { revision, .. },
        ) => {
            let keys = changed_keys(call);
            let facts = keys.into_iter().map(|key| fact(key, Effect::Some, None));
            (*revision, facts.collect())
        }
        (Call::Txn(txn), Reply::Txn(done)) => {
            let effects = txn_effects(txn, done);
            if effects.is_empty() {
                return None;
            }
            let effects = effects.into_iter();
            let facts = effects.map(|(key, effect, version)| fact(key, effect, version));
            (done.revision, facts.collect())
        }
        _ => return None,
    })
}

/// What the answers of a transaction say that it left at its keys, and their versions.
fn txn_effects(txn: &Txn, done: &TxnDone) -> Vec<(Key, Effect, Option<u64>)> {
    let of = |(action, answer): (&Action, &Answer)| {
        let key = Key {
            partition: txn.partition,
            key: action.changes()?,
        };
        match (action, answer) {
            (Action::Put { value, .. }, Answer::Put { version }) => {
                Some((key, Effect::Value(*value), Some(*version)))
            }
            (Action::Add { .. }, Answer::Sum { value }) => Some((key, Effect::Value(*value as u64), None)),
            (Action::Delete { .. }, Answer::Deleted { deleted: 1.. }) => Some((key, Effect::Gone, None)),
            _ => None,
        }
    };
    let ran = txn.branch(done.succeeded).iter().zip(&done.answers);
    ran.filter_map(of).collect()
}

/// Keys that the call changes if it is carried out.
pub(crate) fn changed_keys(call: &Call) -> Vec<Key> {
    match call {
        Call::Write { key, .. }
        | Call::Cas { key, .. }
        | Call::Delete { key }
        | Call::Increment { key, .. }
        | Call::Append { list: key, .. } => vec![*key],
        Call::Transfer {
            partition, from, to, ..
        } => [*from, *to]
            .map(|key| Key {
                partition: *partition,
                key,
            })
            .to_vec(),
        Call::Send { from, .. } => vec![*from],
        Call::Receive { to, .. } => vec![*to],
        Call::Txn(txn) => txn.changed_keys(),
        _ => Vec::new(),
    }
}

/// The value that the call writes if it is carried out, where the call says it.
pub(crate) fn written_value(call: &Call) -> Option<(Key, u64)> {
    match call {
        Call::Write { key, value, .. }
        | Call::Cas { key, to: value, .. }
        | Call::Append { list: key, value } => Some((*key, *value)),
        _ => None,
    }
}

/// The partition whose shard's revision is in the reply.
pub(crate) fn partition(call: &Call) -> Option<u32> {
    match call {
        Call::Read { key, .. }
        | Call::Write { key, .. }
        | Call::Cas { key, .. }
        | Call::Delete { key }
        | Call::Increment { key, .. }
        | Call::Count { key }
        | Call::Append { list: key, .. }
        | Call::List { list: key, .. }
        | Call::Send { from: key, .. }
        | Call::Receive { to: key, .. } => Some(key.partition),
        Call::Transfer { partition, .. } | Call::Balances { partition } | Call::Scan { partition, .. } => {
            Some(*partition)
        }
        Call::Txn(txn) => Some(txn.partition),
        Call::Pages(pages) => Some(pages.partition),
        Call::Grant { .. }
        | Call::KeepAlive { .. }
        | Call::Revoke { .. }
        | Call::Watch { .. }
        | Call::WatchKeys { .. }
        | Call::Consume { .. }
        | Call::ConsumeAt { .. }
        | Call::Reset { .. }
        | Call::Forget { .. }
        | Call::Ack { .. } => None,
    }
}

/// The consumer that a call takes from its owner: shard and name.
pub(crate) fn taken(call: &Call) -> Option<(u32, &str)> {
    match call {
        Call::Consume { shard, name }
        | Call::ConsumeAt { shard, name, .. }
        | Call::Reset { shard, name, .. } => Some((*shard, name)),
        _ => None,
    }
}

/// The revision in a reply.
pub(crate) fn revision(reply: &Reply) -> Option<Revision> {
    match reply {
        Reply::Row { revision, .. }
        | Reply::Written { revision, .. }
        | Reply::Mismatch { revision }
        | Reply::Deleted { revision, .. }
        | Reply::Number { revision, .. }
        | Reply::Appended { revision, .. }
        | Reply::Items { revision, .. }
        | Reply::Balances { revision, .. } => Some(*revision),
        Reply::Txn(done) => Some(done.revision),
        Reply::Pages(all) => Some(all.revision),
        Reply::Lease { .. } | Reply::Watching { .. } | Reply::Acked => None,
    }
}

/// How fresh the call must be; what is not a read goes through the log, and is as fresh as can be.
pub(crate) fn mode(call: &Call) -> Mode {
    match call {
        Call::Read { mode, .. } | Call::List { mode, .. } | Call::Scan { mode, .. } => *mode,
        Call::Pages(pages) => pages.mode,
        _ => Mode::Linearizable,
    }
}

/// A linearizable read of the final state, which was answered.
pub(crate) fn is_final_read(operation: &Operation, context: &Context<'_>) -> bool {
    context.is_final(operation)
        && mode(&operation.call) == Mode::Linearizable
        && matches!(operation.end, End::Ok(..))
}
