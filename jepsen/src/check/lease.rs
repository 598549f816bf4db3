//! Keys with a TTL or a lease: not gone before their time, gone after it.
//!
//! The time of an end is known within bounds: a TTL begins to run between the invocation and the end of the write, a lease between those of
//! its grant or its last keep-alive, by a clock that may be off by [`Context::clock_error`]. What else was wrong with clocks
//! ([`Context::wrong_clocks`]) excuses only keys that lived at that time. Rules:
//! - **early**: a linearizable read that finds nothing, an event that a key expired, or a call that is refused because its lease has ended
//!   does not come before the earliest time at which the key or the lease can have ended. Where a deletion, a revocation or an unknown
//!   outcome can explain it, nothing is said.
//! - **revoked**: what began after a revocation had ended finds the lease gone: no keep-alive, no write with it and no other revocation is
//!   carried out, and no linearizable read finds a value that was put with it. An id is not used again.
//! - **late**: a linearizable read in a quiet time does not find a key that must have ended more than [`Context::expiry_delay`] before the
//!   read began, counted from the beginning of that time at the earliest. Quiet is what comes after the cluster has recovered for good, and
//!   any time that begins [`Context::recovery`] after the last of [`Context::disturbed`]: a leader looks for what is due every 200 ms and
//!   removes it through the log, and until it has, reads show it. Where a clock was wrong before, the TTL may have begun to run only when
//!   it got quiet: a shard's time never goes back, but it may have lagged, or have been ahead when the key was written. The same is so of calls
//!   that a lease which must have ended would have refused.

#[cfg(test)]
mod tests;
mod used;

use std::collections::BTreeMap;

use super::{
    Context, History, facts,
    subscriptions::subscriptions,
    verdict::{Findings, Verdict, Witness, describe},
};
use crate::history::{Call, End, Event, Key, Mode, Nanos, Operation, Reply, Revision, Seen};

const NANOS_PER_MS: Nanos = 1_000_000;
/// How the error begins that says that there is no such lease.
const NOT_FOUND: &str = "not_found";

/// Checks all keys that have had a TTL or a lease.
pub fn check(history: &History<'_>, context: &Context<'_>) -> Verdict {
    let mut findings = Findings::default();
    let ends = Ends::new(history, context);
    for operation in &history.operations {
        ends.refused(operation, &mut findings);
        ends.used(operation, &mut findings);
        if let (Call::Read { key, mode }, End::Ok(time, Reply::Row { row, .. })) =
            (&operation.call, &operation.end)
            && *mode == Mode::Linearizable
            && let Some(mortal) = ends.keys.get(key)
        {
            findings.count("reads", 1);
            ends.read_after_revocation(*key, mortal, operation, row.as_ref(), &mut findings);
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

/// When something was seen to be gone, and where in the history.
struct Gone {
    time: Nanos,
    place: usize,
}

struct Ends<'a> {
    events: &'a [Event],
    context: &'a Context<'a>,
    keys: BTreeMap<Key, Mortal<'a>>,
    /// By shard and id.
    leases: BTreeMap<(u32, u64), Lease<'a>>,
}

fn ended(operation: &Operation) -> Option<Nanos> {
    match operation.end {
        End::Ok(time, _) | End::Fail(time, _) => Some(time),
        End::Unknown => None,
    }
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

    /// The earliest time at which what this put left can have ended by itself, if it was seen gone so; `None` if it cannot be said.
    fn earliest(&self, key: Key, mortal: &Mortal<'a>, revision: Revision, gone: &Gone) -> Option<Nanos> {
        let (put, ttl, lease) = self.terms(mortal, revision)?;
        match (ttl, lease) {
            (0, 0) => Some(Nanos::MAX),
            (ttl, 0) => Some(self.least_end(put, ttl, gone)),
            (_, id) => self.lease_earliest((self.context.shard(key), id), gone),
        }
    }

    /// The same of a lease.
    fn lease_earliest(&self, lease: (u32, u64), gone: &Gone) -> Option<Nanos> {
        let lease = self.leases.get(&lease)?;
        let mut revocations = lease.revocations.iter();
        if revocations.any(|revocation| revocation.first < gone.place) {
            return None;
        }
        // One that is renewed later lives now: an id is not used again.
        let ends = lease
            .renewals
            .iter()
            .map(|(renewal, ttl)| self.least_end(renewal, *ttl, gone));
        ends.max()
    }

    /// The earliest end of what this operation gave so much time.
    fn least_end(&self, operation: &Operation, ttl: Nanos, gone: &Gone) -> Nanos {
        let ended = ended(operation).unwrap_or(gone.time);
        let clocks = self.context.clocks();
        let early = clocks.early((operation.invoked, ended), gone.time);
        let end = operation.invoked.saturating_add(ttl);
        end.saturating_sub(early.saturating_add(self.context.clock_error))
    }

    /// The latest time at which it ends by itself, told in a quiet time to this read; `None` if it need not, or it cannot be said.
    fn latest(
        &self,
        key: Key,
        mortal: &Mortal<'a>,
        revision: Revision,
        (read, quiet_since): (&Operation, Nanos),
    ) -> Option<Nanos> {
        let (put, ttl, lease) = self.terms(mortal, revision)?;
        match (ttl, lease) {
            (0, 0) => None,
            (ttl, 0) => self.greatest_end(put, ttl, quiet_since),
            (_, id) => self.lease_latest((self.context.shard(key), id), read, quiet_since),
        }
    }

    /// The same of a lease, by what can have renewed it before the call ended, which itself does not count.
    fn lease_latest(&self, lease: (u32, u64), call: &Operation, quiet_since: Nanos) -> Option<Nanos> {
        let lease = self.leases.get(&lease)?;
        let is_before = |renewal: &Operation| renewal.first < call.last && renewal.id != call.id;
        if lease.unknown.iter().any(|renewal| is_before(renewal)) {
            return None;
        }
        let renewals = lease.renewals.iter().filter(|(renewal, _)| is_before(renewal));
        let ends = renewals.map(|(renewal, ttl)| self.greatest_end(renewal, *ttl, quiet_since));
        ends.max()?
    }

    /// The latest end of what this operation gave so much time.
    fn greatest_end(&self, operation: &Operation, ttl: Nanos, quiet_since: Nanos) -> Option<Nanos> {
        let was_wrong = self.context.clocks().any_before(quiet_since);
        let begins = if was_wrong { quiet_since } else { 0 };
        let end = ended(operation)?.max(begins).saturating_add(ttl);
        Some(end.saturating_add(self.context.clock_error))
    }

    /// When what this put left ends at the latest, if it must be gone for a linearizable read.
    fn must_be_gone(
        &self,
        key: Key,
        mortal: &Mortal<'a>,
        revision: Revision,
        read: &Operation,
    ) -> Option<Nanos> {
        let since = self.context.quiet_since((read.invoked, ended(read)?))?;
        let end = self.latest(key, mortal, revision, (read, since))?;
        self.is_past(end, since, read).then_some(end)
    }

    /// The call began when what has ended must have been gone for good.
    fn is_past(&self, end: Nanos, quiet_since: Nanos, call: &Operation) -> bool {
        call.invoked > end.max(quiet_since).saturating_add(self.context.expiry_delay)
    }

    fn count_late(&self, read: &Operation, findings: &mut Findings) {
        let at_end = self.context.is_final(read);
        findings.count(if at_end { "late at the end" } else { "late" }, 1);
    }

    /// A call was refused because its lease has ended.
    fn refused(&self, operation: &Operation, findings: &mut Findings) {
        let (partition, lease) = match operation.call {
            Call::KeepAlive { partition, lease } => (partition, lease),
            Call::Write { key, lease, .. } if lease != 0 => (key.partition, lease),
            _ => return,
        };
        let End::Fail(time, error) = &operation.end else {
            return;
        };
        if !error.starts_with(NOT_FOUND) {
            return;
        }
        let gone = Gone {
            time: *time,
            place: operation.last,
        };
        let Some(end) = self.lease_earliest(((self.context.shard_of)(partition), lease), &gone) else {
            return;
        };
        findings.count("refusals", 1);
        if *time < end {
            let text = format!(
                "{} was refused, but lease {lease} lasts until {end} ns",
                describe(operation)
            );
            findings.push(Witness::new("early", text).operations([operation.id]));
        }
    }

    /// A read found nothing by some time.
    fn absent(&self, key: Key, mortal: &Mortal<'a>, read: &Operation, time: Nanos, findings: &mut Findings) {
        // The newest put that was over before the read began, and those that may have come after it.
        let over = mortal.puts.iter().filter(|(_, put)| put.last < read.first);
        let Some((newest, put)) = over.max_by_key(|(revision, _)| **revision) else {
            return;
        };
        // Had it been found, it would have been late.
        if self.must_be_gone(key, mortal, *newest, read).is_some() {
            self.count_late(read, findings);
        }
        let may_be_after = |other: &&Operation| other.last > put.first && other.first < read.last;
        if mortal.deletes.iter().any(may_be_after) || mortal.unknown_puts.iter().any(may_be_after) {
            return;
        }
        let candidates = mortal
            .puts
            .range(*newest..)
            .filter(|(_, put)| put.first < read.last);
        let gone = Gone {
            time,
            place: read.last,
        };
        let ends: Option<Vec<_>> = candidates
            .map(|(revision, _)| self.earliest(key, mortal, *revision, &gone))
            .collect();
        let Some(end) = ends.and_then(|ends| ends.into_iter().min()) else {
            return;
        };
        findings.count("absences", 1);
        if time < end {
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
        let Some(end) = self.earliest(key, mortal, *newest, &Gone { time, place }) else {
            return;
        };
        findings.count("expiries", 1);
        if time < end {
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
        let Some(end) = self.must_be_gone(key, mortal, mod_rev, read) else {
            return;
        };
        self.count_late(read, findings);
        let text = format!("{} found key {key}, which ended at {end} ns", describe(read));
        let put = mortal.puts.get(&mod_rev).map(|put| put.id);
        findings.push(Witness::new("late", text).operations(put.into_iter().chain([read.id])));
    }
}
