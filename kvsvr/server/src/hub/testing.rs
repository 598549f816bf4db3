//! A change log in memory, for the tests of what follows one.

use futures::FutureExt as _;
use kvsvr_core::event::EventKind;

use super::*;

/// A shard's whole change log and what the engine has of it.
#[derive(Default)]
pub(crate) struct Model {
    state: Mutex<ModelState>,
}

#[derive(Default)]
struct ModelState {
    log: Vec<Event>,
    /// The engine's newest revision.
    revision: Revision,
    floor: Revision,
    replays: u64,
}

impl Model {
    /// Writes revisions with these numbers of events to the engine; the publication that follows.
    pub(crate) fn apply(&self, sizes: &[usize]) -> (Revision, Arc<[Event]>) {
        let mut state = self.state.lock();
        let mut events = Vec::new();
        for size in sizes {
            state.revision += 1;
            let revision = state.revision;
            events.extend((0..*size).map(|i| event(revision, i)));
        }
        state.log.extend(events.clone());
        (state.revision, events.into())
    }

    pub(crate) fn compact(&self, floor: Revision) {
        let mut state = self.state.lock();
        state.floor = state.floor.max(floor.min(state.revision));
    }

    pub(crate) fn replays(&self) -> u64 {
        self.state.lock().replays
    }

    pub(crate) fn floor(&self) -> Revision {
        self.state.lock().floor
    }

    pub(crate) fn wanted(&self, after: Revision, up_to: Revision, filter: &EventFilter) -> Vec<Event> {
        let state = self.state.lock();
        let inside = |e: &&Event| e.revision > after && e.revision <= up_to;
        state
            .log
            .iter()
            .filter(inside)
            .filter(|e| filter.matches(&e.partition, &e.key))
            .cloned()
            .collect()
    }
}

impl History for Model {
    fn replay<'a>(
        &'a self,
        after: Revision,
        max_bytes: usize,
        filter: &'a EventFilter,
    ) -> BoxFuture<'a, Result<Replayed, SubscriptionError>> {
        let mut state = self.state.lock();
        state.replays += 1;
        if after < state.floor {
            let floor = state.floor;
            return async move { Err(SubscriptionError::Compacted { floor }) }.boxed();
        }
        let mut replayed = Replayed {
            events: Vec::new(),
            up_to: after,
        };
        let mut bytes = 0;
        let later = &state.log[state.log.partition_point(|e| e.revision <= after)..];
        for revision in later.chunk_by(|a, b| a.revision == b.revision) {
            bytes += revision.iter().map(event_bytes).sum::<usize>();
            replayed.events.extend(
                revision
                    .iter()
                    .filter(|e| filter.matches(&e.partition, &e.key))
                    .cloned(),
            );
            replayed.up_to = revision[0].revision;
            if bytes >= max_bytes {
                break;
            }
        }
        async move { Ok(replayed) }.boxed()
    }
}

pub(crate) fn event(revision: Revision, i: usize) -> Event {
    Event {
        revision,
        kind: EventKind::Put,
        partition: Partition::local(format!("p{}", revision % 3)),
        key: format!("key/{i}").into(),
        value: vec![i as u8; (revision as usize * 37 + i) % 300].into(),
        create_rev: revision,
        version: 1,
        lease: 0,
        expires_at: 0,
    }
}

pub(crate) fn hub(model: &Arc<Model>, capacity: usize) -> Arc<Hub> {
    Hub::new(model.clone(), model.state.lock().revision, capacity)
}

pub(crate) fn publish(hub: &Hub, model: &Model, sizes: &[usize]) {
    let (revision, events) = model.apply(sizes);
    hub.publish(revision, events);
}
