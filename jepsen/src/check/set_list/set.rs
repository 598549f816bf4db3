//! Sets: keys that one plain write each, and nothing else, changes.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{
    Context, History, facts,
    verdict::{Findings, Witness, describe},
};
use crate::history::{Call, End, Key, MARKER, Mode, Operation, Reply};

/// Checks the linearizable scans of each partition with elements.
pub(super) fn check(history: &History<'_>, context: &Context<'_>, findings: &mut Findings) {
    let (elements, others) = elements(history);
    let mut shown: BTreeMap<Key, &Operation> = BTreeMap::new();
    let mut read_at_end = BTreeSet::new();
    let mut scans: Vec<_> = history
        .operations
        .iter()
        .filter(|scan| scan.last != usize::MAX)
        .collect();
    scans.sort_by_key(|scan| scan.last);
    for scan in scans {
        let (
            Call::Scan {
                partition,
                mode: Mode::Linearizable,
            },
            End::Ok(_, Reply::Items { items, .. }),
        ) = (&scan.call, &scan.end)
        else {
            continue;
        };
        let found: BTreeMap<u32, u64> = items
            .iter()
            .filter_map(|(key, value)| Some((u32::try_from(*key).ok()?, *value)))
            .collect();
        if facts::is_final_read(scan, context) {
            read_at_end.insert(*partition);
        }
        findings.count("scans", 1);
        for (key, write) in elements.range(Key::all_of(*partition)) {
            let value = found.get(&key.key).copied();
            lost_or_phantom(scan, *key, write, value, shown.get(key).copied(), findings);
        }
        for (number, value) in found {
            let key = Key {
                partition: *partition,
                key: number,
            };
            if elements.contains_key(&key) {
                shown.entry(key).or_insert(scan);
            } else if !others.contains(&key) && !context.accounts.contains_key(&key) {
                let text = format!("{} shows key {key} = {value}, which nobody wrote", describe(scan));
                findings.push(Witness::new("phantom", text).operations([scan.id]));
            }
        }
    }
    if context.final_from.is_some() {
        // Where nobody scans, keys that happen to be written once are no set.
        let scanned = history
            .operations
            .iter()
            .filter_map(|operation| match operation.call {
                Call::Scan { partition, .. } => Some(partition),
                _ => None,
            });
        let scanned: BTreeSet<u32> = scanned.collect();
        let partitions = elements.keys().map(|key| key.partition);
        let partitions: BTreeSet<u32> = partitions.filter(|of| scanned.contains(of)).collect();
        for partition in partitions.difference(&read_at_end) {
            findings.unknown(format!(
                "no final linearizable scan of partition {partition} was answered"
            ));
        }
    }
}

/// Elements with their writes, and the other keys that something changes.
fn elements<'a>(history: &'a History<'_>) -> (BTreeMap<Key, &'a Operation>, BTreeSet<Key>) {
    let mut elements = BTreeMap::new();
    let mut others = BTreeSet::new();
    let mut markers = BTreeSet::new();
    for operation in &history.operations {
        let is_plain = matches!(
            operation.call,
            Call::Write {
                ttl_ms: 0,
                lease: 0,
                ..
            }
        );
        for key in facts::changed_keys(&operation.call) {
            if key.key == MARKER {
                markers.insert(key);
            } else if !is_plain || elements.insert(key, operation).is_some() {
                others.insert(key);
            }
        }
    }
    elements.retain(|key, _| !others.contains(key));
    // Where registers and the like live, the keys that happen to be written once are no set.
    let mixed: BTreeSet<u32> = others.iter().map(|key| key.partition).collect();
    let (elements, rest): (BTreeMap<_, _>, BTreeMap<_, _>) = elements
        .into_iter()
        .partition(|(key, _)| !mixed.contains(&key.partition));
    others.extend(rest.into_keys().chain(markers));
    (elements, others)
}

fn lost_or_phantom(
    scan: &Operation,
    key: Key,
    write: &Operation,
    found: Option<u64>,
    shown: Option<&Operation>,
    findings: &mut Findings,
) {
    let written = facts::written_value(&write.call).map(|(_, value)| value);
    if found.is_none() {
        let is_acknowledged = matches!(write.end, End::Ok(..)) && write.last < scan.first;
        let before = shown.filter(|other| other.last < scan.first);
        if is_acknowledged || before.is_some() {
            let text = format!(
                "{} does not show key {key}, of {}",
                describe(scan),
                describe(write)
            );
            let ids = before
                .map(|other| other.id)
                .into_iter()
                .chain([scan.id, write.id]);
            findings.push(Witness::new("lost", text).operations(ids));
        }
    } else if found != written || matches!(write.end, End::Fail(..)) || write.first > scan.last {
        let text = format!(
            "{} shows key {key} as {found:?}, but there was only {}",
            describe(scan),
            describe(write)
        );
        findings.push(Witness::new("phantom", text).operations([scan.id, write.id]));
    }
}
