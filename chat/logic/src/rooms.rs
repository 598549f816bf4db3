//! Who sends to one conversation at the same time is served by one transaction.
//!
//! Each transaction of a conversation must be decided on the one before it, so there is nothing to gain from several at a time. Messages wait
//! at the conversation's desk; one task works off all that wait, and remembers what the conversation was, so that the next one needs no look before. Another process may have
//! a desk for it, too: then both look again when the other was quicker.

use std::{mem, sync::Arc};

use chat_core::{
    ConversationId,
    limits::MAX_SEND_BATCH,
    room::{Draft, Refusal, Room, Sent},
};
use chat_proto::v1::Code;
use chat_storage::{Store, StoreError};
use parking_lot::Mutex;
use quick_cache::unsync::Cache;
use tokio::sync::oneshot;

use crate::{
    failure::Failure,
    limits::{CACHED_ROOMS, MAX_WAITING_SENDS},
    logic::Clock,
};

/// The conversations that are in mind.
pub(crate) struct Rooms {
    store: Store,
    now_ms: Clock,
    desks: Mutex<Cache<ConversationId, Arc<Desk>>>,
}

struct Desk {
    id: ConversationId,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// A task works it off.
    is_served: bool,
    /// What the conversation was after the last transaction.
    room: Option<Room>,
}

struct Waiting {
    draft: Draft,
    answer: oneshot::Sender<Result<Sent, Failure>>,
}

impl Rooms {
    pub(crate) fn new(store: Store, now_ms: Clock) -> Self {
        Self {
            store,
            now_ms,
            desks: Mutex::new(Cache::new(CACHED_ROOMS)),
        }
    }

    fn desk(&self, id: ConversationId) -> Arc<Desk> {
        let mut desks = self.desks.lock();
        if let Some(desk) = desks.get(&id) {
            return Arc::clone(desk);
        }
        let desk = Arc::new(Desk {
            id,
            queue: Mutex::default(),
        });
        desks.insert(id, Arc::clone(&desk));
        desk
    }

    /// What the conversation was a moment ago: good enough for what is forgotten anyway.
    pub(crate) async fn look(&self, id: ConversationId) -> Result<Room, Failure> {
        let desk = self.desk(id);
        let known = desk.queue.lock().room.clone();
        match known {
            Some(room) => Ok(room),
            None => {
                let room = self.store.room(id).await?;
                desk.queue.lock().room.get_or_insert(room.clone());
                Ok(room)
            }
        }
    }

    /// Sends a message.
    pub(crate) async fn send(&self, id: ConversationId, draft: Draft) -> Result<Sent, Failure> {
        let desk = self.desk(id);
        let (answer, sent) = oneshot::channel();
        let is_served = {
            let mut queue = desk.queue.lock();
            if queue.waiting.len() >= MAX_WAITING_SENDS {
                return Err(Failure::limited("messages to this conversation", BUSY));
            }
            queue.waiting.push(Waiting { draft, answer });
            mem::replace(&mut queue.is_served, true)
        };
        if !is_served {
            // A task of its own: whoever waits may go away.
            tokio::spawn(serve(desk, self.store.clone(), Arc::clone(&self.now_ms)));
        }
        sent.await.unwrap_or_else(|_| {
            Err(Failure::new(
                Code::UnknownOutcome,
                "the server stops: it may have been sent, try again",
            ))
        })
    }
}

/// After which a conversation is perhaps less busy.
const BUSY: std::time::Duration = std::time::Duration::from_millis(500);

async fn serve(desk: Arc<Desk>, store: Store, now_ms: Clock) {
    loop {
        let (waiting, room) = {
            let mut queue = desk.queue.lock();
            let count = queue.waiting.len().min(MAX_SEND_BATCH);
            if count == 0 {
                queue.is_served = false;
                return;
            }
            let waiting: Vec<Waiting> = queue.waiting.drain(..count).collect();
            (waiting, queue.room.take())
        };
        let (drafts, answers): (Vec<Draft>, Vec<_>) = waiting
            .into_iter()
            .map(|Waiting { draft, answer }| (draft, answer))
            .unzip();
        match send(&store, desk.id, room, &drafts, now_ms()).await {
            Ok((room, sent)) => {
                desk.queue.lock().room = Some(room);
                for (answer, sent) in answers.into_iter().zip(sent) {
                    drop(answer.send(sent.map_err(Failure::from)));
                }
            }
            Err(error) => {
                let failure = Failure::from(error);
                for answer in answers {
                    drop(answer.send(Err(failure.clone())));
                }
            }
        }
    }
}

async fn send(
    store: &Store,
    id: ConversationId,
    room: Option<Room>,
    drafts: &[Draft],
    now_ms: u64,
) -> Result<(Room, Vec<Result<Sent, Refusal>>), StoreError> {
    let mut room = match room {
        Some(room) => room,
        None => store.room(id).await?,
    };
    let sent = store.send(&mut room, drafts, now_ms).await?;
    Ok((room, sent))
}
