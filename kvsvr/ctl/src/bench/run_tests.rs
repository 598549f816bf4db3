//! The loops against a target in memory.

use std::{
    collections::BTreeMap,
    sync::{Mutex, atomic::AtomicUsize},
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;
use crate::bench::{
    target::{Client, Watcher},
    watch,
    workload::{Mix, Skew},
};

/// The partition and where its events go.
type PartitionWatcher = (u64, UnboundedSender<Bytes>);

#[derive(Clone, Default)]
pub(crate) struct FakeTarget {
    data: Arc<Mutex<BTreeMap<(u64, u64), Bytes>>>,
    watchers: Arc<Mutex<Vec<PartitionWatcher>>>,
    in_flight: Arc<AtomicUsize>,
    most_in_flight: Arc<AtomicUsize>,
    delay: Option<Duration>,
    fail_puts: bool,
}

impl FakeTarget {
    async fn enter(&self) {
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_in_flight.fetch_max(now, Ordering::SeqCst);
        match self.delay {
            Some(delay) => sleep(delay).await,
            None => tokio::task::yield_now().await,
        }
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Target for FakeTarget {
    type Key = (u64, u64);
    type Client = FakeTarget;
    const NAME: &'static str = "fake";

    fn key(&self, partition: u64, number: u64) -> (u64, u64) {
        (partition, number)
    }

    fn client(&self, _index: usize) -> FakeTarget {
        self.clone()
    }

    async fn version(&self) -> Result<String, OpError> {
        Ok("0".into())
    }
}

impl Client for FakeTarget {
    type Key = (u64, u64);
    type Watcher = FakeWatcher;

    async fn get(&mut self, key: &(u64, u64)) -> Result<bool, OpError> {
        self.enter().await;
        Ok(self.data.lock().unwrap().contains_key(key))
    }

    async fn put(&mut self, key: &(u64, u64), value: Bytes) -> Result<(), OpError> {
        self.enter().await;
        if self.fail_puts {
            return Err(OpError::unknown("no quorum"));
        }
        for (partition, watcher) in &*self.watchers.lock().unwrap() {
            if *partition == key.0 {
                let _ = watcher.send(value.clone());
            }
        }
        self.data.lock().unwrap().insert(*key, value);
        Ok(())
    }

    async fn scan(&mut self, key: &(u64, u64), limit: u32) -> Result<usize, OpError> {
        self.enter().await;
        let data = self.data.lock().unwrap();
        Ok(data.range(key..&(key.0 + 1, 0)).take(limit as usize).count())
    }

    async fn watch(&mut self, partition: u64) -> Result<FakeWatcher, OpError> {
        let (sender, receiver) = unbounded_channel();
        self.watchers.lock().unwrap().push((partition, sender));
        Ok(FakeWatcher(receiver))
    }
}

pub(crate) struct FakeWatcher(UnboundedReceiver<Bytes>);

impl Watcher for FakeWatcher {
    async fn next(&mut self, values: &mut Vec<Bytes>) -> Result<(), OpError> {
        values.push(self.0.recv().await.ok_or_else(|| OpError::definite("closed"))?);
        Ok(())
    }
}

const SHORT: Duration = Duration::from_millis(60);

fn drive(clients: usize, rate: Option<f64>) -> Drive {
    Drive {
        clients,
        rate,
        warmup: Duration::from_millis(5),
        duration: SHORT,
    }
}

#[tokio::test]
async fn every_workload_runs_on_loaded_keys() {
    for letter in ['a', 'b', 'c', 'd', 'e', 'f'] {
        let bench = Bench::new(FakeTarget::default(), 500, 7, 64, 1);
        bench.load().await.unwrap();
        assert_eq!(bench.target.data.lock().unwrap().len(), 500);
        let workload = Workload::new(Mix::ycsb(letter).unwrap(), Skew::Zipfian(0.9), 500, 1);
        let outcome = run(&bench, &workload, drive(8, None)).await.unwrap();
        let m = outcome.measured;
        assert!(
            m.latency.ops > 0 && m.errors == 0 && outcome.not_started.is_none(),
            "{letter}: {m:?}"
        );
        // A key that is being inserted may be read before it is there (ycsb-d).
        assert!(m.misses == 0 || letter == 'd', "{letter}: {m:?}");
    }
}

#[tokio::test]
async fn values_have_their_size_and_differ() {
    let bench = Bench::new(FakeTarget::default(), 2, 1, 100, 1);
    assert!(bench.values.iter().all(|v| v.len() == 100));
    assert_ne!(bench.values[0], bench.values[1]);
    assert_eq!(
        bench.values,
        Bench::new(FakeTarget::default(), 2, 1, 100, 1).values
    );
}

#[tokio::test]
async fn a_closed_loop_has_one_operation_in_flight_for_each_client() {
    let bench = Bench::new(FakeTarget::default(), 10, 1, 8, 1);
    let workload = Workload::new(Mix::reads(0.0), Skew::Uniform, 10, 1);
    run(&bench, &workload, drive(5, None)).await.unwrap();
    assert_eq!(bench.target.most_in_flight.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn errors_are_counted_and_do_not_stop_a_run() {
    let bench = Bench::new(
        FakeTarget {
            fail_puts: true,
            ..FakeTarget::default()
        },
        10,
        1,
        8,
        1,
    );
    let workload = Workload::new(Mix::reads(0.5), Skew::Uniform, 10, 1);
    let m = run(&bench, &workload, drive(4, None)).await.unwrap().measured;
    assert!(
        m.errors > 0 && m.errors == m.unknown && m.latency.ops > 0,
        "{m:?}"
    );
    assert_eq!(m.latency.ops, m.by_op["read"].ops);
    assert_eq!(m.error_sample.as_deref(), Some("no quorum"));
    let failure = bench.load().await.unwrap_err();
    assert!(failure.message.contains("no quorum"), "{failure}");
}

#[tokio::test]
async fn an_open_loop_begins_what_is_due_and_no_more() {
    let bench = Bench::new(FakeTarget::default(), 10, 1, 8, 1);
    let workload = Workload::new(Mix::reads(1.0), Skew::Uniform, 10, 1);
    let drive = Drive {
        clients: 50,
        rate: Some(2_000.0),
        warmup: Duration::ZERO,
        duration: SHORT,
    };
    let outcome = run(&bench, &workload, drive).await.unwrap();
    let begun = outcome.measured.latency.ops + outcome.not_started.unwrap();
    assert_eq!(begun, 120, "{:?}", outcome.measured);
}

#[tokio::test]
async fn an_open_loop_charges_a_slow_target_for_all_that_waits() {
    // One client, 20 ms for each operation, 1000 due each second: the k-th begins about k * 19 ms late.
    let target = FakeTarget {
        delay: Some(Duration::from_millis(20)),
        ..FakeTarget::default()
    };
    let bench = Bench::new(target, 10, 1, 8, 1);
    let workload = Workload::new(Mix::reads(1.0), Skew::Uniform, 10, 1);
    let duration = Duration::from_millis(200);
    let drive = Drive {
        clients: 1,
        rate: Some(1_000.0),
        warmup: Duration::ZERO,
        duration,
    };
    let outcome = run(&bench, &workload, drive).await.unwrap();
    assert!(outcome.measured.latency.max_ms > 100.0, "{:?}", outcome.measured);
    assert!(outcome.not_started.unwrap() > 150, "{:?}", outcome.not_started);
}

#[tokio::test]
async fn watchers_get_every_event() {
    let bench = Bench::new(FakeTarget::default(), 40, 4, 64, 1);
    let outcome = watch::run(&bench, 8, 1, drive(4, None)).await.unwrap();
    let watch = outcome.watch;
    assert_eq!((watch.watchers, watch.missed), (8, 0));
    assert!(watch.events > 0 && watch.delivery.ops > 0, "{watch:?}");
    assert!(outcome.writes.measured.latency.ops > 0);
}
