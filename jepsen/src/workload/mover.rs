//! A client that begins consumers at a revision, resets them, takes them from itself, and deletes them.
//!
//! Each consumer has one such client, which does one thing after the other, so that every answer can be told beforehand. After an unknown
//! outcome it leaves the consumer behind and takes a new name: a name that was deleted is never used again.

use std::{future::Future, time::Duration};

use kvsvr_client::{Client, Code, Consumer, ConsumerStart, Error};
use tokio::time::timeout;

use super::{
    caller::{AGAIN, Caller, Env, ending},
    names,
    perform::{Failed, Result},
    random::Random,
    recorder::Logger,
    stop::Stop,
    watcher::{changes, ended},
};
use crate::history::{Call, Reply, Revision, Seen};

/// How far from the newest revision cursors are set, at most.
const BACK: u64 = 60;
/// For so long it waits for a batch.
const IDLE: Duration = Duration::from_secs(3);

/// See the module.
pub(super) struct Mover {
    client: Client,
    program: u32,
    number: u32,
    shard: u32,
    /// A partition of the shard.
    partition: u32,
    random: Random,
    /// The process that opens and sees.
    logger: Logger,
    /// Does all else.
    caller: Caller,
    /// No cursor is set before: what was changed earlier is in no history.
    first: Revision,
    lives: u32,
    /// Consumers that may be there still.
    left: Vec<String>,
    pause: Duration,
}

impl Mover {
    pub(super) fn new(
        env: &Env,
        (program, number): (u32, u32),
        partition: u32,
        random: Random,
        pause: Duration,
    ) -> Self {
        Self {
            client: env.clients.next(),
            program,
            number,
            shard: (env.shard_of)(partition),
            partition,
            random,
            logger: env.recorder.client(),
            caller: Caller::new(env),
            first: 0,
            lives: 0,
            left: Vec::new(),
            pause,
        }
    }

    /// One consumer after the other, until it is told to stop.
    pub(super) async fn work(&mut self, stop: &Stop) {
        let env = self.caller.env.clone();
        let Some(first) = stop.or(env.head(self.partition)).await else {
            return;
        };
        self.first = first;
        while stop.pause(self.random.exponential(self.pause)).await {
            self.lives += 1;
            let name = names::moved(self.program, self.number, self.lives);
            self.left.push(name.clone());
            if Box::pin(self.life(&name, stop)).await.is_ok() {
                self.left.pop();
            }
        }
    }

    /// Deletes what it has left behind. Waits until it is done.
    pub(super) async fn finish(&mut self) {
        for name in std::mem::take(&mut self.left) {
            while let Err(Failed::Error(error)) = self.forget(&name).await {
                if error.code == Code::NotFound {
                    break;
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// The life of one consumer. An error leaves open whether it is there.
    async fn life(&mut self, name: &str, stop: &Stop) -> Result<()> {
        let start = self.cursor(0).await? + 1;
        let mut consumer = self.open(name, start).await?;
        for _ in 0..self.random.range(2, 6) {
            let through = self.follow(&mut consumer, stop).await;
            if through > consumer.cursor() && self.random.percent(70) {
                self.ack(&mut consumer, through).await?;
            }
            match self.random.below(4) {
                0 | 1 => {
                    let to = self.cursor(consumer.cursor()).await?;
                    self.reset(name, to).await?;
                }
                2 => {}
                _ => continue,
            }
            let next = self.open(name, start).await?;
            let mut old = std::mem::replace(&mut consumer, next);
            self.refused(&mut old, through).await?;
        }
        self.forget(name).await?;
        let cursor = consumer.cursor();
        self.refused(&mut consumer, cursor).await
    }

    /// Some cursor not far from the newest revision, or from the one that it has.
    async fn cursor(&mut self, now: Revision) -> Result<Revision> {
        let key = names::key(names::MARKER);
        let head = self
            .client
            .get(&names::partition(self.partition), key)
            .await?
            .revision;
        let from = if now > 0 && self.random.percent(50) {
            now
        } else {
            head
        };
        Ok(from.saturating_sub(self.random.below(BACK)).max(self.first))
    }

    /// Records a call of the process that does all but open.
    async fn call(
        &mut self,
        call: Call,
        doing: impl Future<Output = kvsvr_client::Result<Reply>>,
    ) -> Result<Reply> {
        let doing = async { doing.await.map_err(Failed::from) };
        self.caller.call_as(call, doing).await
    }

    async fn open(&mut self, name: &str, start: Revision) -> Result<Consumer> {
        let call = Call::ConsumeAt {
            shard: self.shard,
            name: name.to_owned(),
            start,
        };
        self.logger.invoke(call.clone());
        let opened = self
            .client
            .consumer_open(self.shard, name, ConsumerStart::At(start))
            .await;
        let opened = opened.map_err(Failed::from);
        let (result, opened) = match opened {
            Ok(consumer) => {
                let reply = Reply::Watching {
                    after: consumer.cursor(),
                    epoch: consumer.epoch(),
                };
                (Ok(reply), Some(consumer))
            }
            Err(failed) => (Err(failed), None),
        };
        self.logger.end(ending(&call, &result));
        match (result, opened) {
            (Err(failed), _) => Err(failed),
            (Ok(_), Some(consumer)) => Ok(consumer),
            (Ok(_), None) => Err(Error::definite(Code::Invalid, "a consumer without itself").into()),
        }
    }

    /// Follows some batches. Returns up to where.
    async fn follow(&mut self, consumer: &mut Consumer, stop: &Stop) -> Revision {
        let mut through = consumer.cursor();
        for _ in 0..self.random.range(1, 4) {
            match stop.or(timeout(IDLE, consumer.next())).await {
                Some(Ok(Ok(batch))) => {
                    through = batch.revision;
                    self.logger.seen(Seen::Changes {
                        changes: changes(&batch.events, &self.logger),
                        through,
                    });
                }
                Some(Ok(Err(error))) => {
                    self.logger.seen(ended(&error));
                    break;
                }
                Some(Err(_)) | None => break,
            }
        }
        through
    }

    async fn ack(&mut self, consumer: &mut Consumer, revision: Revision) -> Result<Reply> {
        let call = Call::Ack {
            shard: self.shard,
            name: consumer.name().to_owned(),
            epoch: consumer.epoch(),
            revision,
        };
        let acking = async {
            consumer.ack(revision).await?;
            Ok(Reply::Acked)
        };
        self.call(call, acking).await
    }

    /// Acknowledges as who is the owner no more; that must be refused, which the history says.
    async fn refused(&mut self, old: &mut Consumer, revision: Revision) -> Result<()> {
        match self.ack(old, revision).await {
            Err(Failed::Error(error)) if !error.is_unknown() => Ok(()),
            Err(failed) => Err(failed),
            Ok(_) => Ok(()),
        }
    }

    async fn reset(&mut self, name: &str, revision: Revision) -> Result<Reply> {
        let (client, shard) = (self.client.clone(), self.shard);
        let call = Call::Reset {
            shard,
            name: name.to_owned(),
            revision,
        };
        let resetting = async move {
            let (epoch, after) = client.consumer_reset(shard, name, revision).await?;
            Ok(Reply::Watching { after, epoch })
        };
        self.call(call, resetting).await
    }

    async fn forget(&mut self, name: &str) -> Result<Reply> {
        let (client, shard) = (self.client.clone(), self.shard);
        let call = Call::Forget {
            shard,
            name: name.to_owned(),
        };
        let deleting = async move {
            client.consumer_delete(shard, name).await?;
            Ok(Reply::Acked)
        };
        self.call(call, deleting).await
    }
}
