//! A history with other ends for some operations.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{
    Context, History, facts,
    subscriptions::subscriptions,
    verdict::{Findings, Witness, describe},
};
use crate::history::{End, Event, Operation, Process, Reply, Revision, Seen, Step};

pub(super) struct Patch<'a> {
    events: &'a [Event],
    /// By shard, growing: a revision, and the place where it or a later one was first told.
    told: BTreeMap<u32, Vec<(Revision, usize)>>,
    /// Places of the events that say that an outcome is unknown, by operation.
    infos: BTreeMap<usize, usize>,
    /// Places of a process' invocations.
    invocations: BTreeMap<Process, Vec<usize>>,
    removed: BTreeSet<usize>,
    /// Events to put before a place.
    added: BTreeMap<usize, Vec<Event>>,
}

impl<'a> Patch<'a> {
    pub(super) fn new(history: &History<'a>, context: &Context<'_>) -> Self {
        let mut open: BTreeMap<Process, usize> = BTreeMap::new();
        let mut infos = BTreeMap::new();
        let mut invocations: BTreeMap<Process, Vec<usize>> = BTreeMap::new();
        let mut operation = 0;
        for (place, event) in history.events.iter().enumerate() {
            match event.step {
                Step::Invoke { .. } => {
                    open.insert(event.process, operation);
                    invocations.entry(event.process).or_default().push(place);
                    operation += 1;
                }
                Step::Info { .. } | Step::Strange { .. } => {
                    if let Some(operation) = open.remove(&event.process) {
                        infos.insert(operation, place);
                    }
                }
                Step::Ok { .. } | Step::Fail { .. } => {
                    open.remove(&event.process);
                }
                Step::Seen { .. } => {}
            }
        }
        Self {
            events: history.events,
            told: first_told(history, context),
            infos,
            invocations,
            removed: BTreeSet::new(),
            added: BTreeMap::new(),
        }
    }

    /// The operation was not carried out and will not be.
    pub(super) fn fail(&mut self, operation: &Operation) {
        let place = self
            .infos
            .get(&operation.id)
            .copied()
            .unwrap_or(self.events.len());
        let error = "not in the committed log".to_owned();
        self.replace(operation, place, Step::Fail { error });
    }

    /// The operation was carried out at this revision.
    pub(super) fn succeed(
        &mut self,
        operation: &Operation,
        shard: u32,
        revision: Revision,
        reply: Reply,
        findings: &mut Findings,
    ) {
        let place = self.told(shard, revision);
        if place < operation.first {
            let text = format!(
                "{} made revision {revision} of shard {shard}, which was told before it was invoked",
                describe(operation)
            );
            findings.push(
                Witness::new("phantom", text)
                    .operations([operation.id])
                    .events([place]),
            );
            return;
        }
        // A process that went on, against the rules, cannot get its answer later.
        let invocations = self.invocations.get(&operation.process);
        let goes_on = invocations
            .is_some_and(|places| places.iter().any(|at| (operation.first + 1..place).contains(at)));
        if !goes_on {
            self.replace(operation, place, Step::Ok { reply });
        }
    }

    fn told(&self, shard: u32, revision: Revision) -> usize {
        let told = self.told.get(&shard).map_or(&[][..], |told| &told[..]);
        let at = told.partition_point(|(other, _)| *other < revision);
        told.get(at).map_or(self.events.len(), |(_, place)| *place)
    }

    fn replace(&mut self, operation: &Operation, place: usize, step: Step) {
        self.removed.extend(self.infos.get(&operation.id));
        let time = self
            .events
            .get(place)
            .or(self.events.last())
            .map_or(0, |event| event.time);
        let process = operation.process;
        self.added
            .entry(place)
            .or_default()
            .push(Event { time, process, step });
    }

    /// The patched history.
    pub(super) fn events(mut self) -> Vec<Event> {
        let mut events = Vec::with_capacity(self.events.len());
        for (place, event) in self.events.iter().enumerate() {
            events.extend(self.added.remove(&place).unwrap_or_default());
            if !self.removed.contains(&place) {
                events.push(event.clone());
            }
        }
        events.extend(self.added.into_values().flatten());
        events
    }
}

/// When each revision, or a later one, was first told.
fn first_told(history: &History<'_>, context: &Context<'_>) -> BTreeMap<u32, Vec<(Revision, usize)>> {
    let mut told: BTreeMap<u32, Vec<(Revision, usize)>> = BTreeMap::new();
    for operation in &history.operations {
        if let End::Ok(_, reply) = &operation.end
            && let Some(partition) = facts::partition(&operation.call)
            && let Some(revision) = facts::revision(reply)
        {
            let revision = match reply {
                Reply::Row { row: Some(row), .. } => revision.max(row.mod_rev),
                _ => revision,
            };
            let shard = (context.shard_of)(partition);
            told.entry(shard).or_default().push((revision, operation.last));
        }
    }
    for subscription in subscriptions(history, context) {
        for (place, seen) in &subscription.seen {
            if let Seen::Changes { through, .. } = seen {
                told.entry(subscription.shard)
                    .or_default()
                    .push((*through, *place));
            }
        }
    }
    for told in told.values_mut() {
        told.sort_unstable();
        let mut first = usize::MAX;
        for (_, place) in told.iter_mut().rev() {
            first = first.min(*place);
            *place = first;
        }
    }
    told
}
