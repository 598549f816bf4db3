//! Linearizability of each key, from outside: revisions are not looked at.
//!
//! Linearizability is local (Herlihy and Wing 1990, theorem 1), so each key is searched by itself. Takes part: writes, cas, deletes,
//! linearizable reads, increments and counts. Does not: weaker reads, scans, and keys that a TTL, a lease, a list, a transfer, a send or a
//! transaction of several operations changes; other checkers have those.

mod search;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use self::search::{Entry, Found, Op};
use super::{
    Context, History,
    verdict::{Findings, Verdict, Witness, describe},
};
use crate::history::{Call, End, Key, Mode, Operation, Reply};

/// Operations that a witness lists from the end of the order that was found.
const SHOWN_PREFIX: usize = 5;

/// Checks each key. Unknown if a key's search needs more than [`Context::cache_bytes`].
pub fn check(history: &History<'_>, context: &Context<'_>) -> Verdict {
    let mut findings = Findings::default();
    let excluded = excluded(&history.operations);
    let mut keys: BTreeMap<Key, Vec<Entry>> = BTreeMap::new();
    for operation in &history.operations {
        if let Some((key, op)) = entry(operation)
            && !excluded.contains(&key)
            // Also one that nobody pays: what it has at first is no operation of the history.
            && !context.accounts.contains_key(&key)
        {
            let Operation { id, first, last, .. } = *operation;
            keys.entry(key).or_default().push(Entry { id, op, first, last });
        }
    }
    for (key, entries) in keys {
        findings.count("keys", 1);
        findings.count("operations", entries.len() as u64);
        match search::search(&entries, context.cache_bytes) {
            Found::Order => {}
            Found::Exhausted => findings.unknown(format!(
                "key {key}: {} operations need more than {} bytes of memory to be ordered",
                entries.len(),
                context.cache_bytes
            )),
            Found::Stuck(stuck) => findings.push(witness(key, &stuck, &history.operations)),
        }
    }
    findings.verdict()
}

/// Keys that are not plain registers or counters.
fn excluded(operations: &[Operation]) -> BTreeSet<Key> {
    let mut keys = BTreeSet::new();
    for operation in operations {
        match &operation.call {
            Call::Write {
                key, ttl_ms, lease, ..
            } if *ttl_ms != 0 || *lease != 0 => {
                keys.insert(*key);
            }
            Call::Append { list, .. } => {
                keys.insert(*list);
            }
            Call::Transfer {
                partition, from, to, ..
            } => keys.extend([*from, *to].map(|key| Key {
                partition: *partition,
                key,
            })),
            Call::Txn(txn) => keys.extend(txn.changed_keys()),
            Call::Send { from, to, .. } | Call::Receive { from, to, .. } => keys.extend([*from, *to]),
            _ => {}
        }
    }
    keys
}

/// What the operation does to its key; `None` if it does nothing, or nothing that belongs here.
fn entry(operation: &Operation) -> Option<(Key, Op)> {
    let reply = match &operation.end {
        End::Ok(_, reply) => Some(reply),
        End::Fail(..) => return None,
        End::Unknown => None,
    };
    Some(match (&operation.call, reply) {
        (
            Call::Read {
                key,
                mode: Mode::Linearizable,
            },
            Some(Reply::Row { row, .. }),
        ) => (*key, Op::Read(row.map(|row| row.value))),
        (Call::Write { key, value, .. }, _) => (*key, Op::Write(*value)),
        (Call::Cas { key, from, .. }, Some(Reply::Mismatch { .. })) => (*key, Op::Mismatch(*from)),
        (Call::Cas { key, from, to }, _) => (*key, Op::Cas(*from, *to)),
        (Call::Delete { key }, Some(Reply::Deleted { existed, .. })) => (*key, Op::Delete(Some(*existed))),
        (Call::Delete { key }, _) => (*key, Op::Delete(None)),
        (Call::Increment { key, delta }, Some(Reply::Number { value, .. })) => {
            (*key, Op::Add(*delta, Some(*value)))
        }
        (Call::Increment { key, delta }, _) => (*key, Op::Add(*delta, None)),
        (Call::Count { key }, Some(Reply::Number { value, .. })) => (*key, Op::Count(*value)),
        _ => return None,
    })
}

fn witness(key: Key, stuck: &search::Stuck, operations: &[Operation]) -> Witness {
    let culprit = &operations[stuck.culprit];
    let list = |ids: &[usize]| {
        let texts: Vec<_> = ids.iter().map(|id| describe(&operations[*id])).collect();
        texts.join(", ")
    };
    let mut text = format!("key {key}: no order explains {}", describe(culprit));
    let mut shown = Vec::new();
    if let Some((order, state)) = &stuck.order {
        shown = order[order.len().saturating_sub(SHOWN_PREFIX)..].to_vec();
        let state = state.map_or("absent".to_owned(), |value| value.to_string());
        text += &format!(
            ". Without it {} operations have an order, after which the key is {state}",
            order.len()
        );
        if !shown.is_empty() {
            text += &format!("; the last of them are {}", list(&shown));
        }
        let source = source(culprit, order, operations);
        if !source.is_empty() {
            text += &format!("; what it saw is from {}", list(&source));
            shown.extend(source);
        }
    }
    let others: Vec<_> = stuck
        .unplaced
        .iter()
        .copied()
        .filter(|id| *id != culprit.id)
        .collect();
    if !others.is_empty() {
        text += &format!(
            "; these had begun, too, and need not have happened: {}",
            list(&others)
        );
    }
    Witness::new("linearizability", text).operations(shown.into_iter().chain(others).chain([culprit.id]))
}

/// The last operation in the order that wrote what the culprit saw, and the one that overwrote it.
fn source(culprit: &Operation, order: &[usize], operations: &[Operation]) -> Vec<usize> {
    let seen = match entry(culprit) {
        Some((_, Op::Read(Some(value)) | Op::Cas(value, _))) => value,
        _ => return Vec::new(),
    };
    let leaves = |id: usize| match entry(&operations[id]) {
        Some((_, Op::Write(value) | Op::Cas(_, value))) => Some(Some(value)),
        Some((_, Op::Delete(_))) => Some(None),
        _ => None,
    };
    let mut changes = order.iter().copied().filter(|id| leaves(*id).is_some()).rev();
    let mut after = None;
    let writer = changes.by_ref().find(|id| {
        let is_it = leaves(*id) == Some(Some(seen));
        if !is_it {
            after = Some(*id);
        }
        is_it
    });
    writer.map_or(Vec::new(), |writer| [writer].into_iter().chain(after).collect())
}
