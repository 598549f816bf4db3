//! Leases that are used, or whose keys are found, when they have ended.

use super::{Ends, Lease, Mortal, NOT_FOUND, ended};
use crate::{
    check::verdict::{Findings, Witness, describe},
    history::{Call, End, Key, Nanos, Operation, Row},
};

impl<'a> Ends<'a> {
    /// A call that only a lease that has not ended can have carried out, or that was refused for that.
    pub(super) fn used(&self, operation: &Operation, findings: &mut Findings) {
        let (partition, id) = match operation.call {
            Call::KeepAlive { partition, lease } | Call::Revoke { partition, lease } => (partition, lease),
            Call::Write { key, lease, .. } if lease != 0 => (key.partition, lease),
            _ => return,
        };
        let is_done = match &operation.end {
            End::Ok(..) => true,
            End::Fail(_, error) if error.starts_with(NOT_FOUND) => false,
            _ => return,
        };
        let place = ((self.context.shard_of)(partition), id);
        let Some(lease) = self.leases.get(&place) else {
            return;
        };
        if let Some(revocation) = lease.revoked_before(operation) {
            findings.count("after revocations", 1);
            if is_done {
                let text = format!(
                    "{} was carried out, but lease {id} had ended by {}",
                    describe(operation),
                    describe(revocation)
                );
                findings.push(Witness::new("revoked", text).operations([revocation.id, operation.id]));
            }
        } else if let Some(end) = self.must_have_ended(place, operation) {
            findings.count("late calls", 1);
            if is_done {
                let text = format!(
                    "{} was carried out, but lease {id} ended at {end} ns",
                    describe(operation)
                );
                findings.push(Witness::new("late", text).operations([operation.id]));
            }
        }
    }

    /// When a lease ended at the latest, if a call must find it gone.
    fn must_have_ended(&self, lease: (u32, u64), call: &Operation) -> Option<Nanos> {
        let since = self.context.quiet_since((call.invoked, ended(call)?))?;
        let end = self.lease_latest(lease, call, since)?;
        self.is_past(end, since, call).then_some(end)
    }

    /// A linearizable read of a key that had a lease.
    pub(super) fn read_after_revocation(
        &self,
        key: Key,
        mortal: &Mortal<'a>,
        read: &Operation,
        row: Option<&Row>,
        findings: &mut Findings,
    ) {
        let over = mortal.puts.values().rev().find(|put| put.last < read.first);
        let revoked = |put: &Operation| self.lease_of(put)?.revoked_before(read);
        findings.count(
            "reads after revocations",
            u64::from(over.is_some_and(|put| revoked(put).is_some())),
        );
        let Some(row) = row else {
            return;
        };
        // One that was acknowledged, or all that can have written the value.
        let puts = match mortal.puts.get(&row.mod_rev) {
            Some(put) => vec![*put],
            None => mortal.unknown_writers(row.value),
        };
        let broken: Option<Vec<_>> = puts.iter().map(|put| Some((*put, revoked(put)?))).collect();
        if let Some((put, revocation)) = broken.unwrap_or_default().first() {
            let text = format!(
                "{} found key {key} as it was put by {}, but that lease had ended by {}",
                describe(read),
                describe(put),
                describe(revocation)
            );
            findings.push(Witness::new("revoked", text).operations([put.id, revocation.id, read.id]));
        }
    }

    /// The lease that this put gave its key.
    fn lease_of(&self, put: &Operation) -> Option<&Lease<'a>> {
        match put.call {
            Call::Write { key, lease, .. } if lease != 0 => {
                self.leases.get(&(self.context.shard(key), lease))
            }
            _ => None,
        }
    }
}

impl<'a> Lease<'a> {
    /// A revocation that was over when the call began.
    fn revoked_before(&self, call: &Operation) -> Option<&'a Operation> {
        let mut revocations = self.revocations.iter().copied();
        revocations.find(|of| matches!(of.end, End::Ok(..)) && of.last < call.first)
    }
}

impl<'a> Mortal<'a> {
    /// Puts of unknown outcome that can have left this value. An increment can have left any.
    fn unknown_writers(&self, value: u64) -> Vec<&'a Operation> {
        let puts = self.unknown_puts.iter().copied();
        puts.filter(|put| match put.call {
            Call::Write { value: written, .. } => written == value,
            Call::Cas { to, .. } => to == value,
            _ => true,
        })
        .collect()
    }
}
