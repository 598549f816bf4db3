//! An owner of a consumer: opens it, works off what it is given, acknowledges, and is fenced by the next owner, who goes on where it
//! stopped.
//!
//! A shard's consumer has several owners in a run, which take it from one another. What an owner does with the changes is a [`Handler`]'s.

use std::{pin::pin, time::Duration};

use futures::future::{BoxFuture, Either, select};
use kvsvr_client::{Client, Consumer, ConsumerBatch, ConsumerStart, Event};
use tokio::time::{sleep, timeout};

use super::{
    caller::{AGAIN, Caller, Env, ending},
    perform::Failed,
    place::Ends,
    random::Random,
    recorder::Logger,
    stop::Stop,
    watcher::{changes, ended},
};
use crate::history::{Call, Reply, Revision, Seen};

/// What an owner does with what it is given.
pub(super) trait Handler: Send {
    /// Works off one event. It may come again. False: it was told to stop before it was done.
    fn handle<'a>(
        &'a mut self,
        caller: &'a mut Caller,
        event: &'a Event,
        stop: &'a Stop,
    ) -> BoxFuture<'a, bool>;
}

/// Does nothing.
pub(super) struct Nothing;

impl Handler for Nothing {
    fn handle<'a>(&'a mut self, _: &'a mut Caller, _: &'a Event, _: &'a Stop) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(true))
    }
}

/// How owners behave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Mean time for which an owner goes on by itself.
    pub(super) lasts: Duration,
    /// Mean pause before it takes the consumer again.
    pub(super) rests: Duration,
    /// How many of a hundred batches it acknowledges.
    pub(super) acks_percent: u32,
}

/// An owner.
pub(super) struct Owner<H> {
    client: Client,
    shard: u32,
    name: String,
    manner: Manner,
    random: Random,
    /// The process that opens and sees.
    logger: Logger,
    /// Acknowledges, and works. Another process: an acknowledgement whose outcome is unknown must not end the subscription.
    caller: Caller,
    handler: H,
}

impl<H: Handler> Owner<H> {
    pub(super) fn new(
        env: &Env,
        shard: u32,
        name: String,
        manner: Manner,
        random: Random,
        handler: H,
    ) -> Self {
        Self {
            client: env.clients.next(),
            shard,
            name,
            manner,
            random,
            logger: env.recorder.client(),
            caller: Caller::new(env),
            handler,
        }
    }

    /// Takes the consumer again and again until it is told to stop.
    pub(super) async fn work(&mut self, stop: &Stop) {
        while !stop.is_set() {
            if let Some(consumer) = self.open().await {
                let tenure = Stop::new();
                let lasts = self.random.exponential(self.manner.lasts);
                let ends = async {
                    stop.pause(lasts).await;
                    tenure.set();
                };
                let (own, ends) = (pin!(self.own(consumer, Revision::MAX, &tenure)), pin!(ends));
                // Told to stop and not dropped: calls that began must end in the history.
                if let Either::Right(((), own)) = select(own, ends).await {
                    own.await;
                }
            }
            stop.pause(self.random.exponential(self.manner.rests)).await;
        }
    }

    /// Takes the consumer and goes on until everything up to the end of its shard is acknowledged.
    pub(super) async fn drain(&mut self, ends: &Ends) {
        let target = ends.shard(self.shard);
        let never = Stop::new();
        self.manner.acks_percent = 100;
        let mut acknowledged = false;
        while !acknowledged {
            acknowledged = match self.open().await {
                Some(consumer) if consumer.cursor() >= target => true,
                Some(consumer) => self.own(consumer, target, &never).await,
                None => false,
            };
            if !acknowledged {
                sleep(AGAIN).await;
            }
        }
    }

    async fn open(&mut self) -> Option<Consumer> {
        let call = Call::Consume {
            shard: self.shard,
            name: self.name.clone(),
        };
        self.logger.invoke(call.clone());
        let opening = self
            .client
            .consumer_open(self.shard, &self.name, ConsumerStart::Now);
        let mut opened = None;
        let result = opening.await.map_err(Failed::from).map(|consumer| {
            let reply = Reply::Watching {
                after: consumer.cursor(),
                epoch: consumer.epoch(),
            };
            opened = Some(consumer);
            reply
        });
        self.logger.end(ending(&call, &result));
        opened
    }

    /// Works until it is told to stop, is fenced, or has acknowledged the revision. True: the latter.
    async fn own(&mut self, mut consumer: Consumer, target: Revision, stop: &Stop) -> bool {
        // Somebody who is fenced and gets nothing more would wait for ever.
        const IDLE: Duration = Duration::from_secs(20);
        loop {
            let batch = match stop.or(timeout(IDLE, consumer.next())).await {
                Some(Ok(Ok(batch))) => batch,
                Some(Ok(Err(error))) => {
                    self.logger.seen(ended(&error));
                    return false;
                }
                Some(Err(_)) | None => return false,
            };
            let through = batch.revision;
            if !self.take(batch, stop).await {
                return false;
            }
            if !self.random.percent(self.manner.acks_percent) {
                continue;
            }
            let call = Call::Ack {
                shard: self.shard,
                name: self.name.clone(),
                epoch: consumer.epoch(),
                revision: through,
            };
            let acking = async {
                consumer.ack(through).await?;
                Ok(Reply::Acked)
            };
            if self.caller.call_as(call, acking).await.is_err() {
                return false;
            }
            if through >= target {
                return true;
            }
        }
    }

    /// Writes a batch down and works it off. False: it was told to stop before it was done.
    async fn take(&mut self, batch: ConsumerBatch, stop: &Stop) -> bool {
        self.logger.seen(Seen::Changes {
            changes: changes(&batch.events, &self.logger),
            through: batch.revision,
        });
        for event in &batch.events {
            if !self.handler.handle(&mut self.caller, event, stop).await {
                return false;
            }
        }
        true
    }
}
