//! What is said to be compacted, and who is said to be the owner no more.

use std::collections::BTreeMap;

use super::{
    super::{
        Context, History,
        facts::{self, Facts},
        subscriptions::{Shown, subscriptions},
        verdict::{Findings, describe},
    },
    Followed, Position, Truth,
};
use crate::history::{Call, End, Operation, Reply, Revision, Seen};

/// How the codes of these errors are spelt.
const COMPACTED: &str = "compacted";
const FENCED: &str = "fenced";

/// How far consumers can have come: the history of a shard is kept for them. It is given up after 1 GiB that one of them has not acknowledged,
/// which no run writes.
#[derive(Default)]
pub(super) struct Cursors<'a>(BTreeMap<u32, BTreeMap<&'a str, Cursor<'a>>>);

/// A consumer.
#[derive(Default)]
struct Cursor<'a> {
    /// Owners that began, with their cursors.
    owners: Vec<(&'a Operation, Revision)>,
    /// Acknowledgements that were carried out, or may have been.
    acks: Vec<(&'a Operation, Revision)>,
}

impl<'a> Cursors<'a> {
    pub(super) fn new(history: &'a History<'_>) -> Self {
        let mut cursors = Self::default();
        for operation in &history.operations {
            match (&operation.call, &operation.end) {
                (Call::Consume { shard, name }, End::Ok(_, Reply::Watching { after, .. })) => {
                    cursors.of(*shard, name).owners.push((operation, *after));
                }
                (
                    Call::Ack {
                        shard,
                        name,
                        revision,
                        ..
                    },
                    End::Ok(..) | End::Unknown,
                ) => cursors.of(*shard, name).acks.push((operation, *revision)),
                _ => {}
            }
        }
        cursors
    }

    fn of(&mut self, shard: u32, name: &'a str) -> &mut Cursor<'a> {
        self.0.entry(shard).or_default().entry(name).or_default()
    }

    /// The consumer of a shard that certainly was there at a place and can have come the least far by then: one of its owners, and its
    /// cursor at most.
    fn slowest(&self, shard: u32, place: usize) -> Option<(&'a Operation, Revision)> {
        let all = self.0.get(&shard).into_iter().flat_map(BTreeMap::values);
        all.filter_map(|cursor| cursor.most(place))
            .min_by_key(|(_, most)| *most)
    }
}

impl<'a> Cursor<'a> {
    fn most(&self, place: usize) -> Option<(&'a Operation, Revision)> {
        let (owner, _) = self.owners.iter().find(|(owner, _)| owner.last < place)?;
        let moves = self.owners.iter().chain(&self.acks);
        let begun = moves.filter(|(operation, _)| operation.first < place);
        let most = begun.map(|(_, revision)| *revision).max()?;
        Some((owner, most))
    }
}

/// How far shards can have been at each place of the history.
#[derive(Default)]
pub(super) struct Heads {
    /// By shard and place of an invocation: the least revision of acknowledged changes that were invoked there or later. All that was
    /// there before is less.
    later: BTreeMap<u32, Vec<(usize, Revision)>>,
    /// By shard: the greatest revision that was ever told, where that is all there was.
    greatest: BTreeMap<u32, Revision>,
}

impl Heads {
    pub(super) fn new(history: &History<'_>, context: &Context<'_>, facts: &Facts, shown: &Shown) -> Self {
        let mut heads = Self::default();
        for ((shard, revision), facts) in &facts.changes {
            let first = facts.first().map(|fact| history.operations[fact.operation].first);
            let later = heads.later.entry(*shard).or_default();
            later.extend(first.map(|first| (first, *revision)));
        }
        for later in heads.later.values_mut() {
            later.sort_unstable();
            let mut least = Revision::MAX;
            for (_, revision) in later.iter_mut().rev() {
                least = least.min(*revision);
                *revision = least;
            }
        }
        // Else unknown outcomes may have made revisions that nobody was told of.
        if !context.drained && context.committed.is_none() {
            return heads;
        }
        for (shard, revision) in facts.changes.keys().chain(shown.keys()) {
            heads.told(*shard, *revision);
        }
        for operation in &history.operations {
            if let End::Ok(_, reply) = &operation.end
                && let Some(partition) = facts::partition(&operation.call)
                && let Some(revision) = facts::revision(reply)
            {
                heads.told((context.shard_of)(partition), revision);
            }
        }
        for subscription in subscriptions(history, context) {
            for (_, seen) in &subscription.seen {
                if let Seen::Changes { through, .. } | Seen::Keys { through, .. } = seen {
                    heads.told(subscription.shard, *through);
                }
            }
        }
        heads
    }

    fn told(&mut self, shard: u32, revision: Revision) {
        let greatest = self.greatest.entry(shard).or_default();
        *greatest = revision.max(*greatest);
    }

    /// The shard had no greater revision than this at a place; `None`: it cannot be said.
    fn most(&self, shard: u32, place: usize) -> Option<Revision> {
        self.before_later(shard, place)
            .or_else(|| self.greatest.get(&shard).copied())
    }

    /// The same, only by what came later. (What is in no history makes revisions, too.)
    fn before_later(&self, shard: u32, place: usize) -> Option<Revision> {
        let later = self.later.get(&shard)?;
        let at = later.partition_point(|(first, _)| *first < place);
        let (_, revision) = later.get(at)?;
        Some(revision.saturating_sub(1))
    }
}

impl Truth<'_> {
    /// See [`Heads::before_later`].
    pub(in super::super) fn most(&self, shard: u32, place: usize) -> Option<Revision> {
        self.heads.before_later(shard, place)
    }

    /// A consumer has not acknowledged what is said to be gone.
    fn kept_for_consumers(
        &self,
        what: &Followed<'_>,
        place: usize,
        floor: Revision,
        findings: &mut Findings,
    ) {
        let Some((owner, most)) = self.cursors.slowest(what.subscription.shard, place) else {
            return;
        };
        findings.count("kept for consumers", 1);
        if floor > most {
            let text = format!(
                "{} is told that everything up to revision {floor} is compacted, but a consumer had acknowledged no more than {most}: {}",
                describe(what.subscription.operation),
                describe(owner)
            );
            let witness = self.witness("compaction", text, what, [place]);
            findings.push(witness.operations([owner.id]));
        }
    }

    /// It is told that everything up to a revision is gone, and goes on after it.
    pub(super) fn compacted(
        &self,
        what: &Followed<'_>,
        at: &Position,
        place: usize,
        floor: Revision,
        findings: &mut Findings,
    ) {
        let who = describe(what.subscription.operation);
        if floor < at.through {
            let text = format!(
                "{who} is told to go on after revision {floor}, but it has seen everything up to {}",
                at.through
            );
            findings.push(self.witness("compaction", text, what, [place]));
        }
        self.kept_for_consumers(what, place, floor, findings);
        let most = self.heads.most(what.subscription.shard, place);
        let (Some(kept), Some(most)) = (self.context.keep_revisions, most) else {
            return;
        };
        findings.count("compactions", 1);
        if floor.saturating_add(kept) > most {
            let text = format!(
                "{who} is told that everything up to revision {floor} is compacted, but {kept} revisions are kept, and the newest was \
                 {most} at most"
            );
            findings.push(self.witness("compaction", text, what, [place]));
        }
    }

    /// It ended with an error.
    pub(super) fn ended(
        &self,
        what: &Followed<'_>,
        at: &Position,
        place: usize,
        (code, revision): (&str, Revision),
        findings: &mut Findings,
    ) {
        match code {
            COMPACTED => self.compacted(what, at, place, revision.saturating_sub(1), findings),
            FENCED => {
                findings.count("fenced", 1);
                if !self.has_newer_owner(what, place) {
                    let text = format!(
                        "{} is told that there is a newer owner, but there is none",
                        describe(what.subscription.operation)
                    );
                    findings.push(self.witness("fenced", text, what, [place]));
                }
            }
            _ => {}
        }
    }

    /// Somebody may have become the owner after it, before a place in the history.
    fn has_newer_owner(&self, what: &Followed<'_>, place: usize) -> bool {
        let owner = what.subscription;
        let consumer = facts::taken(&owner.operation.call);
        if consumer.is_none() {
            return false;
        }
        let newer = |end: &End| match end {
            End::Ok(_, Reply::Watching { epoch, .. }) => *epoch > owner.epoch,
            End::Unknown => true,
            _ => false,
        };
        self.history
            .operations
            .iter()
            .any(|other| facts::taken(&other.call) == consumer && other.first < place && newer(&other.end))
    }
}
