//! One logical client: carries calls out through the client library, and writes down what came of them.
//!
//! The library's certainty decides: a definite error is a failure, an unknown outcome stays unknown, and a read that got no answer has
//! failed, since it changes nothing. An answer that nothing in the workloads can have caused is neither: see
//! [`Step::Strange`](crate::history::Step::Strange).

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kvsvr_client::{CallOptions, Certainty, Client, ReadFrom};
use tokio::time::sleep;

use super::{
    names,
    near::Near,
    perform::{Failed, Result, perform},
    recorder::{Ending, Logger, Recorder},
    ways,
};
use crate::{
    check::facts,
    history::{Call, Key, Mode, Reply, Revision},
};

/// Between two attempts of a call that must succeed.
pub(super) const AGAIN: Duration = Duration::from_millis(100);

/// What the parts of a workload share.
#[derive(Clone)]
pub struct Env {
    /// Carry calls out.
    pub clients: Clients,
    /// Writes them down.
    pub recorder: Recorder,
    /// Of all chance.
    pub seed: u64,
    /// The shard of a partition.
    pub shard_of: ShardOf,
}

/// Clients of the library that logical clients share, a few each: what one of them knows about who leads, the others have to find out by
/// themselves.
#[derive(Clone)]
pub struct Clients {
    all: Arc<[Client]>,
    next: Arc<AtomicUsize>,
}

impl Clients {
    /// So many as the transports make; at least one.
    ///
    /// # Errors
    /// Those of making one.
    pub fn make(
        count: usize,
        make: impl FnMut() -> kvsvr_client::Result<Client>,
    ) -> kvsvr_client::Result<Self> {
        let all: kvsvr_client::Result<Arc<[Client]>> =
            std::iter::repeat_with(make).take(count.max(1)).collect();
        Ok(Self {
            all: all?,
            next: Arc::default(),
        })
    }

    /// One for a new logical client.
    pub fn next(&self) -> Client {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        self.all[turn % self.all.len()].clone()
    }

    /// The same, whose calls may take so long.
    pub(super) fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            all: self
                .all
                .iter()
                .map(|client| client.with_timeout(timeout))
                .collect(),
            next: Arc::clone(&self.next),
        }
    }
}

/// The shard of a partition, by its number.
pub type ShardOf = Arc<dyn Fn(u32) -> u32 + Send + Sync>;

impl Env {
    /// The newest revision of a partition's shard. Asks until it is answered.
    pub(super) async fn head(&self, partition: u32) -> Revision {
        let (client, partition) = (self.clients.next(), names::partition(partition));
        loop {
            match client.get(&partition, names::key(names::MARKER)).await {
                Ok(read) => return read.revision,
                Err(_) => sleep(AGAIN).await,
            }
        }
    }
}

/// One logical client.
pub(super) struct Caller {
    pub(super) env: Env,
    pub(super) client: Client,
    logger: Logger,
    /// The newest revision that it knows of each shard.
    known: BTreeMap<u32, Revision>,
    near: Option<Arc<Near>>,
    /// Calls so far: every third one is carried out in another way, if there is one.
    calls: u64,
}

impl Caller {
    pub(super) fn new(env: &Env) -> Self {
        Self {
            env: env.clone(),
            client: env.clients.next(),
            logger: env.recorder.client(),
            known: BTreeMap::new(),
            near: None,
            calls: 0,
        }
    }

    /// One whose reads ask all replicas in turn.
    pub(super) fn anywhere(env: &Env) -> Self {
        let options = CallOptions {
            timeout: None,
            read_from: Some(ReadFrom::Any),
        };
        let mut caller = Self::new(env);
        caller.client = caller.client.with_options(options);
        caller
    }

    /// The so manieth client of a program: every second one reads at any replica.
    pub(super) fn of_number(env: &Env, number: u32) -> Self {
        match number % 2 {
            0 => Self::new(env),
            _ => Self::anywhere(env),
        }
    }

    /// The same, and its calls must see revisions that do not fall.
    pub(super) fn monotonic(env: &Env) -> Self {
        Self {
            logger: env.recorder.monotonic_client(),
            ..Self::anywhere(env)
        }
    }

    /// One whose reads that need not be linearizable go through near-caches, whose hits are at most so old.
    pub(super) fn near(env: &Env, max_age: Duration) -> Self {
        let mut caller = Self::new(env);
        caller.near = Some(Arc::new(Near::new(caller.client.clone(), max_age)));
        caller
    }

    /// The newest revision of the partition's shard that it was told.
    pub(super) fn known(&self, partition: u32) -> Revision {
        let shard = (self.env.shard_of)(partition);
        self.known.get(&shard).copied().unwrap_or_default()
    }

    /// Carries a call out, and records it.
    ///
    /// # Errors
    /// Those of [`perform`].
    pub(super) async fn call(&mut self, call: Call) -> Result<Reply> {
        let (client, near) = (self.client.clone(), self.near.clone());
        let doing = call.clone();
        self.calls += 1;
        let is_other_way = self.calls.is_multiple_of(3);
        let doing = async move {
            if let (Some(near), Call::Read { key, mode }) = (near, &doing)
                && let Some(read) = near.read(*key, *mode).await
            {
                return read;
            }
            if is_other_way && let Some(done) = ways::perform(&client, &doing).await {
                return done;
            }
            perform(&client, &doing).await
        };
        self.call_as(call, doing).await
    }

    /// Records a call that the future carries out.
    ///
    /// # Errors
    /// Those of the future.
    pub(super) async fn call_as(
        &mut self,
        call: Call,
        doing: impl Future<Output = Result<Reply>>,
    ) -> Result<Reply> {
        self.logger.invoke(call.clone());
        let result = doing.await;
        let ending = ending(&call, &result);
        if let (Ok(reply), Some(partition)) = (&result, facts::partition(&call)) {
            let shown = match reply {
                Reply::Row { revision, row, .. } => row.map_or(*revision, |row| row.mod_rev.max(*revision)),
                reply => facts::revision(reply).unwrap_or_default(),
            };
            let known = self.known.entry((self.env.shard_of)(partition)).or_default();
            *known = shown.max(*known);
        }
        self.logger.end(ending);
        result
    }

    /// Carries a call out until it succeeds.
    pub(super) async fn insist(&mut self, call: &Call) -> Reply {
        loop {
            match self.call(call.clone()).await {
                Ok(reply) => return reply,
                Err(_) => sleep(AGAIN).await,
            }
        }
    }

    /// Reads a key until it is answered.
    pub(super) async fn final_read(&mut self, key: Key) {
        let mode = Mode::Linearizable;
        self.insist(&Call::Read { key, mode }).await;
    }

    /// Writes the partition's last change, and reads it. Returns its revision.
    pub(super) async fn mark(&mut self, partition: u32) -> Revision {
        let key = Key {
            partition,
            key: names::MARKER,
        };
        let revision = loop {
            let write = Call::Write {
                key,
                value: self.env.recorder.unique(),
                ttl_ms: 0,
                lease: 0,
            };
            match self.call(write).await {
                Ok(Reply::Written { revision, .. }) => break revision,
                _ => sleep(AGAIN).await,
            }
        };
        self.final_read(key).await;
        revision
    }
}

/// What changes nothing: without an answer it has failed.
fn is_read(call: &Call) -> bool {
    matches!(
        call,
        Call::Read { .. }
            | Call::Count { .. }
            | Call::List { .. }
            | Call::Balances { .. }
            | Call::Scan { .. }
            | Call::Pages(_)
            | Call::Watch { .. }
            | Call::WatchKeys { .. }
    ) || matches!(call, Call::Txn(txn) if txn.is_read_only())
}

/// How a call with this result ended.
pub(super) fn ending(call: &Call, result: &Result<Reply>) -> Ending {
    match result {
        Ok(reply) => Ending::Ok(reply.clone()),
        Err(Failed::Strange(what)) => Ending::Strange(what.clone()),
        Err(Failed::Error(error)) if error.certainty == Certainty::Definite || is_read(call) => {
            Ending::Fail(error.to_string())
        }
        Err(Failed::Error(error)) => Ending::Info(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use kvsvr_client::{Code, Error};

    use super::*;

    #[test]
    fn certainty_decides_and_reads_never_stay_open() {
        let key = Key { partition: 1, key: 1 };
        let mode = Mode::Linearizable;
        let (read, delete) = (Call::Read { key, mode }, Call::Delete { key });
        let unknown = || Err(Error::unknown(Code::Timeout, "no answer").into());
        let definite = || Err(Error::definite(Code::NoLeader, "no leader").into());
        let strange = || Err(Failed::Strange("no number".into()));
        for call in [&read, &delete] {
            assert_eq!(ending(call, &strange()), Ending::Strange("no number".into()));
        }
        assert!(matches!(ending(&read, &unknown()), Ending::Fail(_)));
        assert!(matches!(ending(&delete, &unknown()), Ending::Info(_)));
        assert!(matches!(ending(&delete, &definite()), Ending::Fail(_)));
        assert_eq!(ending(&delete, &Ok(Reply::Acked)), Ending::Ok(Reply::Acked));
    }
}
