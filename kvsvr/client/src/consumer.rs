//! Consumers: named durable cursors on a shard's change log, with a fencing epoch, so that one owner at a time works off the events
//! and a new owner goes on where the old one stopped.

use std::fmt;

use kvsvr_proto::v1::{self, command, outcome};

use crate::{
    client::Client,
    core::Answer,
    error::{Code, Error, Result},
    follow::{Follow, Source, Step},
    retry::Repeat,
    router::Place,
    types::ReadFrom,
    watch::{self, Event},
};

/// Where a consumer that does not exist yet begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsumerStart {
    /// With the next change.
    #[default]
    Now,
    /// With this revision, at least 1.
    At(u64),
}

/// Events of whole revisions.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumerBatch {
    /// Acknowledge this revision when the events have been worked off.
    pub revision: u64,
    /// In revision order, the events of one revision together.
    pub events: Vec<Event>,
}

/// An owned consumer. What it does not acknowledge is delivered again to the next owner; within one `Consumer` every event is
/// delivered once.
pub struct Consumer {
    client: Client,
    shard: u32,
    name: String,
    epoch: u64,
    cursor: u64,
    follow: Follow,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            shard,
            name,
            epoch,
            cursor,
            ..
        } = self;
        write!(
            f,
            "Consumer({name} of shard {shard}, epoch {epoch}, cursor {cursor})"
        )
    }
}

impl Client {
    /// Creates the consumer, or takes it over from its owner, who is fenced.
    ///
    /// # Errors
    /// `Compacted` if the events it wants are gone: reset it; see [`Error`].
    pub async fn consumer_open(&self, shard: u32, name: &str, start: ConsumerStart) -> Result<Consumer> {
        let start_revision = match start {
            ConsumerStart::Now => 0,
            ConsumerStart::At(revision) => revision.max(1),
        };
        let op = command::Op::ConsumerOpen(v1::ConsumerOpen {
            name: name.to_owned(),
            start_revision,
        });
        let v1::ConsumerResult { epoch, cursor } = self.consumer_op(shard, self.repeat(), op).await?;
        let request = v1::ConsumerStreamRequest {
            shard,
            name: name.to_owned(),
            epoch,
        };
        let source = Source::Consumer(request);
        let follow = Follow::new(
            self.core.clone(),
            Place::Shard(shard),
            source,
            ReadFrom::Leader,
            Some(cursor),
        );
        Ok(Consumer {
            client: self.clone(),
            shard,
            name: name.to_owned(),
            epoch,
            cursor,
            follow,
        })
    }

    /// Sets a consumer's cursor by hand: everything up to the revision counts as done. Fences its owner. Returns epoch and cursor.
    ///
    /// # Errors
    /// `NotFound`, `Compacted`, `FutureRevision`; see [`Error`].
    pub async fn consumer_reset(&self, shard: u32, name: &str, revision: u64) -> Result<(u64, u64)> {
        let op = command::Op::ConsumerReset(v1::ConsumerReset {
            name: name.to_owned(),
            revision,
        });
        let result = self.consumer_op(shard, self.repeat(), op).await?;
        Ok((result.epoch, result.cursor))
    }

    /// Deletes a consumer.
    ///
    /// # Errors
    /// `NotFound`; see [`Error`].
    pub async fn consumer_delete(&self, shard: u32, name: &str) -> Result<()> {
        let op = command::Op::ConsumerDelete(v1::ConsumerDelete {
            name: name.to_owned(),
        });
        self.consumer_op(shard, self.repeat(), op).await?;
        Ok(())
    }

    async fn consumer_op(&self, shard: u32, repeat: Repeat, op: command::Op) -> Result<v1::ConsumerResult> {
        let command = v1::Command {
            op: Some(op),
            ..v1::Command::default()
        };
        let answer = self
            .core
            .execute(Place::Shard(shard), command, repeat, self.deadline())
            .await?;
        match answer {
            Answer {
                value:
                    v1::Outcome {
                        result: Some(outcome::Result::Consumer(result)),
                        ..
                    },
                ..
            } => Ok(result),
            answer => Err(answer.unexpected()),
        }
    }
}

impl Consumer {
    /// The shard.
    pub fn shard(&self) -> u32 {
        self.shard
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The fencing epoch: a later owner has a greater one.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Everything up to this revision has been acknowledged.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The next events; waits for them as long as it takes. Cancel-safe.
    ///
    /// # Errors
    /// `Fenced`: another owner has taken over, stop. `Compacted`: compaction has passed the consumer; [`Error::revision`] is the
    /// first revision that it can be reset to. `NotFound`: it was deleted.
    pub async fn next(&mut self) -> Result<ConsumerBatch> {
        loop {
            match self.follow.next().await? {
                Step::Events { revision, events } if !events.is_empty() => {
                    return Ok(ConsumerBatch {
                        revision,
                        events: watch::events(events)?,
                    });
                }
                Step::Events { .. } => {}
                Step::Compacted { resume_from } => {
                    let message = format!(
                        "compaction has passed consumer {} of shard {}: read the state, then reset the consumer to {} or later",
                        self.name,
                        self.shard,
                        resume_from.saturating_sub(1)
                    );
                    return Err(Error {
                        revision: resume_from,
                        ..Error::definite(Code::Compacted, message)
                    });
                }
            }
        }
    }

    /// Everything up to the revision is done. Returns the cursor. May be repeated after an unknown outcome.
    ///
    /// # Errors
    /// `Fenced`: another owner has taken over; see [`Error`].
    pub async fn ack(&mut self, revision: u64) -> Result<u64> {
        let ack = v1::ConsumerAck {
            name: self.name.clone(),
            epoch: self.epoch,
            revision,
        };
        let op = command::Op::ConsumerAck(ack);
        self.cursor = self
            .client
            .consumer_op(self.shard, Repeat::Harmless, op)
            .await?
            .cursor;
        Ok(self.cursor)
    }
}
