//! Delivery: what one user did is told to the others it concerns.
//!
//! The queue is the change log of kvsvr itself: a *consumer* on each shard reads what was stored, and is acknowledged when all of it has been told. Whatever is told is a register
//! or can be told twice, so that a worker may die at any moment and another one begins again where the last acknowledgement was.
//!
//! | stored | told |
//! |---|---|
//! | a conversation's head | each member's list of conversations, and who is connected gets the messages at once |
//! | a member who left | the last head that is theirs |
//! | a receipt, one to one | the other side's list |
//! | what a user wants of another one | the other one and their conversation |
//! | how far a user has read | the conversation, as a receipt |
//! | an account | the contacts, who show its name; if it was deleted, all that is left of it goes |
//! | that something has changed for a user, by whomever | the user's devices that are connected |
//!
//! Under load many messages of a conversation are in one batch, and only the newest head is told.

mod assign;
mod gather;
mod tell;
mod workers;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chat_core::UserId;
use chat_proto::v1::server_frame::Body;
use futures::FutureExt;
use kvsvr_client::{Code, Consumer, ConsumerBatch, ConsumerStart, Error};

pub use assign::shards_of;
use gather::Gathered;
pub use workers::Workers;

use crate::{failure::Failure, limits::MAX_BATCH, logic::Logic};

/// Name of the consumer on each shard.
pub const CONSUMER: &str = "chat-delivery";
/// After a failure, before the next try.
const PAUSE: Duration = Duration::from_millis(200);

/// Who passes hints on to users that are connected. Hints may be lost.
pub trait Notices: Send + Sync {
    /// To all devices of these users.
    fn notify(&self, users: &[UserId], body: &Body);
}

/// What workers have done.
#[derive(Debug, Default)]
pub struct Counters {
    /// Changes that were told.
    pub events: AtomicU64,
    /// Times that not everything could be told, and was tried again.
    pub failures: AtomicU64,
}

/// Tells what is stored in one shard.
pub struct Worker {
    counters: Arc<Counters>,
    logic: Logic,
    notices: Arc<dyn Notices>,
    members: tell::MembersCache,
}

impl Worker {
    /// A worker of these services.
    pub fn new(logic: Logic, notices: Arc<dyn Notices>) -> Self {
        Self {
            counters: Arc::default(),
            logic,
            notices,
            members: tell::MembersCache::default(),
        }
    }

    /// Works until another worker takes the shard over, or for ever.
    pub async fn run(&self, shard: u32) {
        loop {
            let client = self.logic.store().client();
            match client.consumer_open(shard, CONSUMER, ConsumerStart::At(1)).await {
                Ok(consumer) => match self.work(consumer).await {
                    Ended::TakenOver => {
                        tracing::info!(shard, "another delivery worker has taken the shard over");
                        return;
                    }
                    Ended::Failed => {}
                },
                Err(error) => {
                    tracing::warn!(shard, %error, "the consumer of the shard cannot be opened; trying again")
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn work(&self, mut consumer: Consumer) -> Ended {
        let shard = consumer.shard();
        loop {
            let (batch, then) = match next(&mut consumer).await {
                Ok(next) => next,
                Err(error) => return self.ended(shard, &error).await,
            };
            let ConsumerBatch { events, revision } = batch;
            let gathered = Gathered::of(&events);
            while let Err(failure) = self.tell(&gathered).await {
                self.counters.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(shard, %failure, "not everything could be told; trying again");
                tokio::time::sleep(PAUSE).await;
            }
            self.counters
                .events
                .fetch_add(events.len() as u64, Ordering::Relaxed);
            if let Err(error) = consumer.ack(revision).await {
                return self.ended(shard, &error).await;
            }
            if let Some(error) = then {
                return self.ended(shard, &error).await;
            }
        }
    }

    async fn ended(&self, shard: u32, error: &Error) -> Ended {
        if error.code == Code::Fenced {
            return Ended::TakenOver;
        }
        tracing::warn!(shard, %error, "the change log cannot be read; trying again");
        if error.code == Code::Compacted {
            // Nothing is lost of what was sent; whom it concerns hears of it with the next message of the conversation.
            tracing::error!(
                shard,
                "delivery was so far behind that changes are gone: going on after them"
            );
            let client = self.logic.store().client();
            let reset = client
                .consumer_reset(shard, CONSUMER, error.revision.saturating_sub(1))
                .await;
            if let Err(error) = reset {
                tracing::warn!(shard, %error, "the consumer cannot be reset; trying again");
            }
        }
        Ended::Failed
    }

    async fn tell(&self, gathered: &Gathered) -> Result<(), Failure> {
        tell::all(&self.logic, self.notices.as_ref(), &self.members, gathered).await
    }
}

/// All that is there already, up to a bound, and the error that came after it. So what comes while some is told becomes one batch, and the more there is,
/// the more of it is told and acknowledged at once.
async fn next(consumer: &mut Consumer) -> Result<(ConsumerBatch, Option<Error>), Error> {
    let mut all = consumer.next().await?;
    while all.events.len() < MAX_BATCH {
        match consumer.next().now_or_never() {
            None => break,
            Some(Ok(more)) => {
                all.events.extend(more.events);
                all.revision = more.revision;
            }
            Some(Err(error)) => return Ok((all, Some(error))),
        }
    }
    Ok((all, None))
}

enum Ended {
    TakenOver,
    Failed,
}
