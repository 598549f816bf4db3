//! Writes histories down.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    check::facts,
    history::{Call, Event, Key, Nanos, Process, Reply, Seen, Step},
};

/// The clock of a history: nanoseconds since the run began. It must not go back.
pub type Now = Arc<dyn Fn() -> Nanos + Send + Sync>;

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was carried out.
    Ok(Reply),
    /// It was not, and never will be. With the error's code and text.
    Fail(String),
    /// Nobody knows. With the error's code and text.
    Info(String),
    /// The answer is none that a workload can have caused. Nobody knows whether it was carried out. With what is strange.
    Strange(String),
}

/// A history that grows. Clones are the same one.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

struct Inner {
    now: Now,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    processes: Process,
    monotonic: BTreeSet<Process>,
    values: u64,
    /// Calls that ended `ok`, `fail`, `info`.
    ended: [u64; 3],
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recorder({} events)", self.0.state.lock().events.len())
    }
}

impl Recorder {
    /// An empty history.
    pub fn new(now: Now) -> Self {
        Self(Arc::new(Inner {
            now,
            state: Mutex::default(),
        }))
    }

    /// A new logical client.
    pub fn client(&self) -> Logger {
        Logger {
            recorder: self.clone(),
            process: self.process(false),
            monotonic: false,
        }
    }

    /// A new logical client that was promised that the revisions it sees of a shard do not fall.
    pub fn monotonic_client(&self) -> Logger {
        Logger {
            recorder: self.clone(),
            process: self.process(true),
            monotonic: true,
        }
    }

    fn process(&self, monotonic: bool) -> Process {
        let mut state = self.0.state.lock();
        let process = state.processes;
        state.processes += 1;
        if monotonic {
            state.monotonic.insert(process);
        }
        process
    }

    /// A number that was not given before in this history, from 1 on.
    pub fn unique(&self) -> u64 {
        let mut state = self.0.state.lock();
        state.values += 1;
        state.values
    }

    /// The time now, on the history's clock.
    pub fn now(&self) -> Nanos {
        (self.0.now)()
    }

    /// The history so far.
    pub fn events(&self) -> Vec<Event> {
        self.0.state.lock().events.clone()
    }

    /// For [`Context::monotonic`](crate::check::Context::monotonic).
    pub fn monotonic(&self) -> BTreeSet<Process> {
        self.0.state.lock().monotonic.clone()
    }

    /// Keys of these partitions that calls so far may have changed.
    pub fn changed_keys(&self, partitions: std::ops::Range<u32>) -> BTreeSet<Key> {
        let state = self.0.state.lock();
        let calls = state.events.iter().filter_map(|event| match &event.step {
            Step::Invoke { call } => Some(call),
            _ => None,
        });
        calls
            .flat_map(facts::changed_keys)
            .filter(|key| partitions.contains(&key.partition))
            .collect()
    }

    /// How many calls ended `ok`, `fail` and `info` so far; strange answers count with the last. Cheap.
    pub fn ended(&self) -> [u64; 3] {
        self.0.state.lock().ended
    }

    /// How many calls of each kind ended so: by the name of the call and `ok`, `fail`, `info` or `strange`.
    pub fn counts(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        let state = self.0.state.lock();
        let mut open = BTreeMap::new();
        let mut counts = BTreeMap::new();
        for event in &state.events {
            let end = match &event.step {
                Step::Invoke { call } => {
                    open.insert(event.process, name(call));
                    continue;
                }
                Step::Seen { .. } => continue,
                Step::Ok { .. } => "ok",
                Step::Fail { .. } => "fail",
                Step::Info { .. } => "info",
                Step::Strange { .. } => "strange",
            };
            if let Some(name) = open.remove(&event.process) {
                *counts.entry((name, end)).or_default() += 1;
            }
        }
        counts
    }

    fn push(&self, process: Process, step: Step) {
        // The time is taken under the lock, so that the order of events is that of their times.
        let mut state = self.0.state.lock();
        let time = self.now();
        match &step {
            Step::Ok { .. } => state.ended[0] += 1,
            Step::Fail { .. } => state.ended[1] += 1,
            Step::Info { .. } | Step::Strange { .. } => state.ended[2] += 1,
            Step::Invoke { .. } | Step::Seen { .. } => {}
        }
        state.events.push(Event { time, process, step });
    }
}

/// The name of a kind of call.
pub fn name(call: &Call) -> &'static str {
    match call {
        Call::Read { .. } => "read",
        Call::Write { .. } => "write",
        Call::Cas { .. } => "cas",
        Call::Delete { .. } => "delete",
        Call::Increment { .. } => "increment",
        Call::Count { .. } => "count",
        Call::Append { .. } => "append",
        Call::List { .. } => "list",
        Call::Transfer { .. } => "transfer",
        Call::Send { .. } => "send",
        Call::Receive { .. } => "receive",
        Call::Balances { .. } => "balances",
        Call::Scan { .. } => "scan",
        Call::Txn(_) => "txn",
        Call::Pages(_) => "pages",
        Call::Grant { .. } => "grant",
        Call::KeepAlive { .. } => "keep_alive",
        Call::Revoke { .. } => "revoke",
        Call::Watch { .. } => "watch",
        Call::Consume { .. } => "consume",
        Call::ConsumeAt { .. } => "consume_at",
        Call::Reset { .. } => "reset",
        Call::Forget { .. } => "forget",
        Call::WatchKeys { .. } => "watch_keys",
        Call::Ack { .. } => "ack",
    }
}

/// One logical client's part of a history. It has one call open at a time.
#[derive(Debug)]
pub struct Logger {
    recorder: Recorder,
    process: Process,
    monotonic: bool,
}

impl Logger {
    /// Its number now.
    pub fn process(&self) -> Process {
        self.process
    }

    /// It calls.
    pub fn invoke(&self, call: Call) {
        self.recorder.push(self.process, Step::Invoke { call });
    }

    /// Its call ended. After an unknown outcome it goes on under a new number, because that call may still take effect.
    pub fn end(&mut self, ending: Ending) {
        let (step, is_unknown) = match ending {
            Ending::Ok(reply) => (Step::Ok { reply }, false),
            Ending::Fail(error) => (Step::Fail { error }, false),
            Ending::Info(error) => (Step::Info { error }, true),
            Ending::Strange(what) => (Step::Strange { what }, true),
        };
        self.recorder.push(self.process, step);
        if is_unknown {
            self.process = self.recorder.process(self.monotonic);
        }
    }

    /// Its watch or consumer got something that no workload makes.
    pub fn strange(&self, what: String) {
        self.recorder.push(self.process, Step::Strange { what });
    }

    /// Its watch or consumer got something.
    pub fn seen(&self, seen: Seen) {
        self.recorder.push(self.process, Step::Seen { seen });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::history::{End, paired};

    fn recorder() -> Recorder {
        let time = AtomicU64::new(0);
        Recorder::new(Arc::new(move || time.fetch_add(1, Ordering::Relaxed)))
    }

    #[test]
    fn a_number_is_not_used_again_after_an_unknown_outcome() {
        let recorder = recorder();
        let mut client = recorder.monotonic_client();
        let other = recorder.client();
        let key = Key { partition: 1, key: 2 };
        for ending in [
            Ending::Info("timeout".into()),
            Ending::Fail("no_leader".into()),
            Ending::Strange("no number".into()),
            Ending::Ok(Reply::Acked),
        ] {
            client.invoke(Call::Delete { key });
            client.end(ending);
        }
        let operations = paired(&recorder.events());
        let processes: Vec<_> = operations.iter().map(|operation| operation.process).collect();
        assert_eq!(processes, [0, 2, 2, 3]);
        assert_eq!(other.process(), 1);
        assert_eq!(operations[0].end, End::Unknown);
        assert_eq!(operations[2].end, End::Unknown);
        assert_eq!(operations[3].end, End::Ok(7, Reply::Acked));
        assert_eq!(recorder.monotonic(), BTreeSet::from([0, 2, 3]));
        assert_eq!(recorder.counts()[&("delete", "info")], 1);
        assert_eq!(recorder.counts()[&("delete", "strange")], 1);
        assert_eq!(recorder.ended(), [1, 1, 2]);
        assert_eq!(recorder.changed_keys(1..2), BTreeSet::from([key]));
        assert!(recorder.changed_keys(2..9).is_empty());
    }

    #[test]
    fn values_are_unique() {
        let recorder = recorder();
        assert_eq!((recorder.unique(), recorder.clone().unique()), (1, 2));
    }
}
