//! Keys with a TTL or a lease: not gone before their time, gone after it.
//!
//! The time of an end is known within bounds: a TTL begins to run between the invocation and the end of the write, a lease between those of
//! its grant or its last keep-alive, by a clock that may be off by [`Context::clock_error`], and come earlier by
//! [`Context::stamps_ahead`] or later by [`Context::stamps_behind`]. Rules:
//! - **early**: a linearizable read that finds nothing, or an event that a key expired, does not come before the earliest time at which
//!   the key can have ended. Where a deletion, a revocation or an unknown outcome can explain it, nothing is said.
//! - **late**: with [`Context::final_from`], a final linearizable read does not find a key that must have ended more than
//!   [`Context::expiry_delay`] before the read began, counted from `final_from` at the earliest.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::{
    Context, History, facts,
    subscriptions::subscriptions,
    verdict::{Findings, Verdict, Witness, describe},
};
use crate::history::{Call, End, Event, Key, Mode, Nanos, Operation, Reply, Revision, Seen};

const NANOS_PER_MS: Nanos = 1_000_000;

/// Checks all keys that have had a TTL or a lease.
pub fn check(history: &History<'_>, context: &Context<'_>) -> Verdict {
    let mut findings = Findings::default();
    let ends = Ends::new(history, context);
    for operation in &history.operations {
        if let (Call::Read { key, mode }, End::Ok(time, Reply::Row { row, .. })) =
            (&operation.call, &operation.end)
            && *mode == Mode::Linearizable
            && let Some(mortal) = ends.keys.get(key)
        {
            findings.count("reads", 1);
            match row {
                None => ends.absent(*key, mortal, operation, *time, &mut findings),
                Some(row) => ends.present(*key, mortal, operation, row.mod_rev, &mut findings),
            }
        }
    }
    for subscription in subscriptions(history, context) {
        for (place, seen) in &subscription.seen {
            let Seen::Changes { changes, .. } = seen else {
                continue;
            };
            for change in changes.iter().filter(|change| change.expired) {
                findings.count("expiries seen", 1);
                if let Some(mortal) = ends.keys.get(&change.key) {
                    ends.expired(change.key, mortal, change.revision, *place, &mut findings);
                }
            }
        }
    }
    findings.verdict()
}

/// What changed a key that may end by itself.
#[derive(Default)]
struct Mortal<'a> {
    /// Acknowledged puts, by revision.
    puts: BTreeMap<Revision, &'a Operation>,
    /// Puts of unknown outcome.
    unknown_puts: Vec<&'a Operation>,
    /// Deletes that were carried out, or may have been.
    deletes: Vec<&'a Operation>,
}

/// What gives a lease its time, or takes it.
#[derive(Default)]
struct Lease<'a> {
    /// Grants and keep-alives that were carried out, with their TTLs in nanoseconds.
    renewals: Vec<(&'a Operation, Nanos)>,
    /// Keep-alives of unknown outcome.
    unknown: Vec<&'a Operation>,
    /// Revocations that were carried out, or may have been.
    revocations: Vec<&'a Operation>,
}

struct Ends<'a> {
    events: &'a [Event],
    context: &'a Context<'a>,
    keys: BTreeMap<Key, Mortal<'a>>,
    /// By shard and id.
    leases: BTreeMap<(u32, u64), Lease<'a>>,
}

fn is_put(call: &Call) -> bool {
    matches!(
        call,
        Call::Write { .. } | Call::Cas { .. } | Call::Increment { .. }
    )
}

impl<'a> Ends<'a> {
    fn new(history: &'a History<'_>, context: &'a Context<'_>) -> Self {
        let mut ends = Self {
            events: history.events,
            context,
            keys: BTreeMap::new(),
            leases: BTreeMap::new(),
        };
        for operation in &history.operations {
            if let Call::Write {
                key, ttl_ms, lease, ..
            } = operation.call
                && (ttl_ms != 0 || lease != 0)
            {
                ends.keys.entry(key).or_default();
            }
        }
        for operation in &history.operations {
            ends.add_change(operation);
            ends.add_lease(operation);
        }
        ends
    }

    fn add_change(&mut self, operation: &'a Operation) {
        for key in facts::changed_keys(&operation.call) {
            let Some(mortal) = self.keys.get_mut(&key) else {
                continue;
            };
            match &operation.end {
                End::Fail(..) => {}
                _ if matches!(operation.call, Call::Delete { .. }) => mortal.deletes.push(operation),
                End::Unknown => mortal.unknown_puts.push(operation),
                End::Ok(_, reply) => {
                    if is_put(&operation.call)
                        && let Some((revision, _)) = facts::changes(operation, reply)
                    {
                        mortal.puts.insert(revision, operation);
                    }
                }
            }
        }
    }

    fn add_lease(&mut self, operation: &'a Operation) {
        let (partition, id) = match (&operation.call, &operation.end) {
            (_, End::Fail(..)) => return,
            (Call::Grant { partition, .. }, End::Ok(_, Reply::Lease { lease, .. })) => (*partition, *lease),
            (Call::KeepAlive { partition, lease } | Call::Revoke { partition, lease }, _) => {
                (*partition, *lease)
            }
            _ => return,
        };
        let lease = self
            .leases
            .entry(((self.context.shard_of)(partition), id))
            .or_default();
        match (&operation.call, &operation.end) {
            (Call::Revoke { .. }, _) => lease.revocations.push(operation),
            (_, End::Ok(_, Reply::Lease { ttl_ms, .. })) => {
                lease
                    .renewals
                    .push((operation, ttl_ms.saturating_mul(NANOS_PER_MS)));
            }
            _ => lease.unknown.push(operation),
        }
    }

    /// The TTL and the lease that the key has after this put: an increment keeps them, a cas drops them.
    fn terms(&self, mortal: &Mortal<'a>, revision: Revision) -> Option<(&'a Operation, Nanos, u64)> {
        let mut puts = mortal.puts.range(..=revision).rev();
        let put = mortal.puts.get(&revision)?;
        if matches!(put.call, Call::Increment { .. }) {
            let (_, before) = puts.find(|(_, put)| !matches!(put.call, Call::Increment { .. }))?;
            return Self::own_terms(before);
        }
        Self::own_terms(put)
    }

    fn own_terms<'b>(put: &&'b Operation) -> Option<(&'b Operation, Nanos, u64)> {
        match put.call {
            Call::Write { ttl_ms, lease, .. } => Some((put, ttl_ms.saturating_mul(NANOS_PER_MS), lease)),
            Call::Cas { .. } => Some((put, 0, 0)),
            _ => None,
        }
    }

    /// The earliest time at which what this put left can have ended by itself; `None` if it cannot be said.
    fn earliest(&self, key: Key, mortal: &Mortal<'a>, revision: Revision, seen_at: usize) -> Option<Nanos> {
        let (put, ttl, lease) = self.terms(mortal, revision)?;
        let end = match (ttl, lease) {
            (0, 0) => Nanos::MAX,
            (ttl, 0) => put.invoked.saturating_add(ttl),
            (_, id) => {
                let lease = self.leases.get(&(self.context.shard(key), id))?;
                if lease
                    .revocations
                    .iter()
                    .any(|revocation| revocation.first < seen_at)
                {
                    return None;
                }
                let ends = lease
                    .renewals
                    .iter()
                    .map(|(renewal, ttl)| renewal.invoked.saturating_add(*ttl));
                ends.max()?
            }
        };
        let early = self.context.clock_error.saturating_add(self.context.stamps_ahead);
        Some(end.saturating_sub(early))
    }

    /// The latest time at which it ends by itself; `None` if it need not, or it cannot be said.
    fn latest(&self, key: Key, mortal: &Mortal<'a>, revision: Revision) -> Option<Nanos> {
        let (put, ttl, lease) = self.terms(mortal, revision)?;
        let ended = |operation: &Operation| match operation.end {
            End::Ok(time, _) | End::Fail(time, _) => Some(time),
            End::Unknown => None,
        };
        let end = match (ttl, lease) {
            (0, 0) => return None,
            (ttl, 0) => ended(put)?.saturating_add(ttl),
            (_, id) => {
                let lease = self.leases.get(&(self.context.shard(key), id))?;
                if !lease.unknown.is_empty() {
                    return None;
                }
                let ends = lease
                    .renewals
                    .iter()
                    .map(|(renewal, ttl)| Some(ended(renewal)?.saturating_add(*ttl)));
                ends.max()??
            }
        };
        let late = self
            .context
            .clock_error
            .saturating_add(self.context.stamps_behind);
        Some(end.saturating_add(late))
    }

    /// A read found nothing by some time.
    fn absent(&self, key: Key, mortal: &Mortal<'a>, read: &Operation, time: Nanos, findings: &mut Findings) {
        // The newest put that was over before the read began, and those that may have come after it.
        let over = mortal.puts.iter().filter(|(_, put)| put.last < read.first);
        let Some((newest, put)) = over.max_by_key(|(revision, _)| **revision) else {
            return;
        };
        let may_be_after = |other: &&Operation| other.last > put.first && other.first < read.last;
        if mortal.deletes.iter().any(may_be_after) || mortal.unknown_puts.iter().any(may_be_after) {
            return;
        }
        let candidates = mortal
            .puts
            .range(*newest..)
            .filter(|(_, put)| put.first < read.last);
        let ends: Option<Vec<_>> = candidates
            .map(|(revision, _)| self.earliest(key, mortal, *revision, read.last))
            .collect();
        if let Some(end) = ends.and_then(|ends| ends.into_iter().min())
            && time < end
        {
            let text = format!(
                "{} found nothing, but key {key} lasts until {end} ns by {}",
                describe(read),
                describe(put)
            );
            findings.push(Witness::new("early", text).operations([put.id, read.id]));
        }
    }

    /// An event said that the key expired at a revision.
    fn expired(
        &self,
        key: Key,
        mortal: &Mortal<'a>,
        revision: Revision,
        place: usize,
        findings: &mut Findings,
    ) {
        if mortal.unknown_puts.iter().any(|put| put.first < place) {
            return;
        }
        let Some((newest, put)) = mortal.puts.range(..revision).next_back() else {
            return;
        };
        let time = self.events[place].time;
        if let Some(end) = self.earliest(key, mortal, *newest, place)
            && time < end
        {
            let text = format!(
                "event {place} shows at {time} ns that key {key} expired, but it lasts until {end} ns by {}",
                describe(put)
            );
            findings.push(Witness::new("early", text).operations([put.id]).events([place]));
        }
    }

    /// A read found the key.
    fn present(
        &self,
        key: Key,
        mortal: &Mortal<'a>,
        read: &Operation,
        mod_rev: Revision,
        findings: &mut Findings,
    ) {
        if !facts::is_final_read(read, self.context) {
            return;
        }
        let Some(end) = self.latest(key, mortal, mod_rev) else {
            return;
        };
        // Nothing was promised while there was no leader.
        let due = end.max(self.context.final_from.unwrap_or_default());
        if read.invoked > due.saturating_add(self.context.expiry_delay) {
            let text = format!("{} found key {key}, which ended at {end} ns", describe(read));
            let put = mortal.puts.get(&mod_rev).map(|put| put.id);
            findings.push(Witness::new("late", text).operations(put.into_iter().chain([read.id])));
        }
    }
}
