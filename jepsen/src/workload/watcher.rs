//! One watch of a partition, or of the keys of a shard without their values: it is broken off and begun again, sometimes further back, now and then far behind what is compacted, reads
//! slowly if told, and at the end goes on until it has seen everything.

use std::time::Duration;

use kvsvr_client::{
    CallOptions, Client, EventKind, Partition, ReadFrom, Watch, WatchBatch, WatchItem, WatchOptions,
    WatchStart,
};
use tokio::time::{sleep, timeout};

use super::{
    caller::{AGAIN, Env, ending},
    names::{self, Raw},
    perform::Failed,
    random::Random,
    recorder::Logger,
    stop::Stop,
};
use crate::history::{Call, Change, Reply, Revision, Seen};

/// How far back a new watch begins at most, as a rule.
const BACK: u64 = 50;
/// How far back it begins now and then: past what a shard keeps.
const FAR_BACK: u64 = 10_000;

/// How a watcher behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Mean time after which it breaks off and begins again.
    pub(super) lasts: Duration,
    /// Mean pause after each batch.
    pub(super) pause: Duration,
    /// It watches at any replica and not only at the leader.
    pub(super) anywhere: bool,
}

/// What it watches.
#[derive(Clone, Copy, Debug)]
enum What {
    Partition(u32),
    /// A whole shard, without values.
    Keys(u32),
}

/// A watcher, one process of the history.
pub(super) struct Watcher {
    client: Client,
    logger: Logger,
    what: What,
    manner: Manner,
    random: Random,
    /// It does not begin before.
    first: Revision,
    /// It has seen everything up to here.
    through: Revision,
    watch: Option<Watch>,
    /// How often the present watch has gone on with a new stream.
    resumptions: u64,
}

impl Watcher {
    /// One that sees what comes after a revision.
    pub(super) fn new(env: &Env, partition: u32, manner: Manner, random: Random, first: Revision) -> Self {
        Self::of(env, What::Partition(partition), manner, random, first)
    }

    /// One of all keys of a shard, without values.
    pub(super) fn keys(env: &Env, shard: u32, manner: Manner, random: Random) -> Self {
        Self::of(env, What::Keys(shard), manner, random, 0)
    }

    fn of(env: &Env, what: What, manner: Manner, random: Random, first: Revision) -> Self {
        Self {
            client: env.clients.next(),
            logger: env.recorder.client(),
            what,
            manner,
            random,
            first,
            through: first,
            watch: None,
            resumptions: 0,
        }
    }

    /// Watches until it is told to stop.
    pub(super) async fn work(&mut self, stop: &Stop) {
        while !stop.is_set() {
            let back = match self.random.below(100) {
                0..25 => self.random.below(BACK),
                25..30 => self.random.below(FAR_BACK),
                _ => 0,
            };
            let after = self.through.saturating_sub(back).max(self.first);
            let lasts = self.random.exponential(self.manner.lasts);
            // Opening has a deadline of its own and is never broken off: a call that began must end in the history.
            let ended = match self.open(after).await {
                true => stop.or(timeout(lasts, self.follow(Revision::MAX))).await,
                false => Some(Ok(())),
            };
            if let Some(Ok(())) = ended {
                // It failed by itself: not again at once.
                stop.pause(AGAIN).await;
            }
        }
    }

    /// Goes on until it has seen everything up to the revision.
    pub(super) async fn drain(&mut self, target: Revision) {
        while self.through < target {
            self.manner.pause = Duration::ZERO;
            if self.open(self.through).await {
                self.follow(target).await;
            }
            if self.through < target {
                sleep(AGAIN).await;
            }
        }
    }

    /// Watches until it has seen a revision, or cannot go on. Nothing that it was given is lost if this is dropped: it is recorded at
    /// once.
    async fn follow(&mut self, target: Revision) {
        while let Some(watch) = &mut self.watch {
            let next = watch.next().await;
            let resumptions = watch.resumptions();
            if next.is_ok() && resumptions > self.resumptions {
                self.resumptions = resumptions;
                self.logger.seen(Seen::Resumed);
            }
            match next {
                Ok(item) => self.take(item),
                Err(error) => {
                    self.logger.seen(ended(&error));
                    self.watch = None;
                }
            }
            if self.through >= target {
                return;
            }
            if !self.manner.pause.is_zero() {
                sleep(self.random.exponential(self.manner.pause)).await;
            }
        }
    }

    async fn open(&mut self, after: Revision) -> bool {
        self.watch = None;
        let (call, options) = match self.what {
            What::Partition(partition) => (
                Call::Watch { partition, after },
                WatchOptions::partition(names::partition(partition)),
            ),
            What::Keys(shard) => (
                Call::WatchKeys { shard, after },
                WatchOptions::shard(shard).without_values(),
            ),
        };
        self.logger.invoke(call.clone());
        let options = options.progress();
        let from = match self.manner.anywhere {
            true => ReadFrom::Any,
            false => ReadFrom::Leader,
        };
        let client = self.client.with_options(CallOptions {
            timeout: None,
            read_from: Some(from),
        });
        let opened = client.watch(options.start(WatchStart::After(after))).await;
        let result = opened.map_err(Failed::from).map(|watch| {
            self.resumptions = watch.resumptions();
            self.watch = Some(watch);
            Reply::Watching { after, epoch: 0 }
        });
        self.logger.end(ending(&call, &result));
        if self.watch.is_some() {
            self.through = after;
        }
        self.watch.is_some()
    }

    fn take(&mut self, item: WatchItem) {
        let (changes, through) = match item {
            WatchItem::Events(WatchBatch { revision, events }) => match self.what {
                What::Partition(_) => (changes(&events, &self.logger), revision),
                What::Keys(_) => (keys(&events, &self.logger), revision),
            },
            WatchItem::Progress { revision } => (Vec::new(), revision),
            WatchItem::Compacted { resume_from } => {
                let resumed_after = resume_from.saturating_sub(1);
                self.logger.seen(Seen::Compacted { resumed_after });
                self.through = self.through.max(resumed_after);
                if let Some(watch) = &mut self.watch {
                    watch.resume_from(resume_from);
                }
                return;
            }
        };
        self.logger.seen(match self.what {
            What::Partition(_) => Seen::Changes { changes, through },
            What::Keys(_) => Seen::Keys { changes, through },
        });
        self.through = self.through.max(through);
    }
}

/// A watch or a consumer came to its end by this error.
pub(super) fn ended(error: &kvsvr_client::Error) -> Seen {
    Seen::Ended {
        code: error.code.to_string(),
        revision: error.revision,
    }
}

/// Events without values. One that has a value is written down as strange.
fn keys(events: &[kvsvr_client::Event], logger: &Logger) -> Vec<Change> {
    if events.iter().any(|event| !event.kv.value.is_empty()) {
        logger.strange("a value that is not wanted".to_owned());
    }
    as_changes(events, logger, names::change_without_value)
}

/// Events as histories have them. Those that no workload makes are written down as strange.
pub(super) fn changes(events: &[kvsvr_client::Event], logger: &Logger) -> Vec<Change> {
    as_changes(events, logger, names::change)
}

fn as_changes(
    events: &[kvsvr_client::Event],
    logger: &Logger,
    as_one: fn(&Partition, Raw<'_>) -> Result<Option<Change>, names::Strange>,
) -> Vec<Change> {
    let change = |event: &kvsvr_client::Event| {
        let value = (event.kind == EventKind::Put).then_some(&event.kv.value[..]);
        let raw = Raw {
            key: &event.kv.key,
            value,
            revision: event.revision(),
            expired: event.kind == EventKind::Expire,
            create_rev: event.kv.create_rev,
            version: event.kv.version,
            lease: event.kv.lease,
        };
        match as_one(&event.partition, raw) {
            Ok(change) => change,
            Err(names::Strange(what)) => {
                logger.strange(what);
                None
            }
        }
    };
    events.iter().filter_map(change).collect()
}
