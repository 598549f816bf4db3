//! What a benchmark measured: recording while it runs, the result for people and as JSON.
//!
//! Latencies go into HDR histograms (three significant digits) in a few shards, so that clients on different threads seldom meet and
//! thousands of clients need no memory of their own. Times are taken by the caller; nothing here reads a clock.

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use kvsvr_proto::count;
use serde::Serialize;

use super::{target::OpError, workload::OpKind};
use crate::{
    limits::{BENCH_HISTOGRAM_SHARDS, BENCH_MAX_NS},
    output::{Field, Mood, Output},
};

/// The parts of a run: from `record_from` on operations count, and after `end` none begins.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// The first operation begins.
    pub start: Instant,
    /// The warm-up is over.
    pub record_from: Instant,
    /// No operation begins any more.
    pub end: Instant,
}

impl Window {
    /// A run that begins now.
    pub fn new(start: Instant, warmup: Duration, duration: Duration) -> Self {
        let record_from = start + warmup;
        Self {
            start,
            record_from,
            end: record_from + duration,
        }
    }
}

/// Latencies of one kind of operation, in nanoseconds.
fn histogram() -> Histogram<u64> {
    #[expect(
        clippy::expect_used,
        reason = "the bounds are constants that HDR accepts; a test makes one"
    )]
    Histogram::new_with_bounds(1_000, BENCH_MAX_NS, 3).expect("valid bounds")
}

#[derive(Default)]
struct Shard {
    latencies: [Option<Histogram<u64>>; OpKind::ALL.len()],
    in_window: u64,
    misses: u64,
    errors: u64,
    unknown: u64,
    sample: Option<String>,
}

/// Collects the measurements of all clients.
pub struct Recorder {
    shards: Vec<Mutex<Shard>>,
    done: AtomicU64,
}

impl Default for Recorder {
    fn default() -> Self {
        let shards = (0..BENCH_HISTOGRAM_SHARDS).map(|_| Mutex::default()).collect();
        Self {
            shards,
            done: AtomicU64::new(0),
        }
    }
}

impl Recorder {
    /// One operation of `client` that began (or was due) at `begin` and was over at `done`. `Ok(false)` is a read that found
    /// nothing. Those that began in the warm-up only count for [`Recorder::done`].
    pub fn record(
        &self,
        window: &Window,
        client: usize,
        kind: OpKind,
        times: (Instant, Instant),
        outcome: &Result<bool, OpError>,
    ) {
        let (begin, done) = times;
        self.done.fetch_add(1, Ordering::Relaxed);
        if begin < window.record_from {
            return;
        }
        let mut shard = lock(&self.shards[client % self.shards.len()]);
        match outcome {
            Ok(found) => {
                let nanos = u64::try_from((done - begin).as_nanos()).unwrap_or(u64::MAX);
                shard.latencies[kind as usize]
                    .get_or_insert_with(histogram)
                    .saturating_record(nanos);
                shard.in_window += u64::from(done <= window.end);
                shard.misses += u64::from(!found);
            }
            Err(error) => {
                shard.errors += 1;
                shard.unknown += u64::from(error.unknown);
                shard.sample.get_or_insert_with(|| error.message.clone());
            }
        }
    }

    /// Operations so far, those of the warm-up and failed ones included.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Adds all shards up, over a measured time.
    pub fn measured(&self, elapsed: Duration) -> Measured {
        let mut all = histogram();
        let mut by_kind: [Histogram<u64>; OpKind::ALL.len()] = std::array::from_fn(|_| histogram());
        let mut sum = Shard::default();
        for shard in &self.shards {
            let shard = lock(shard);
            for (total, part) in by_kind.iter_mut().zip(&shard.latencies) {
                if let Some(part) = part {
                    // Same bounds on both sides: adding cannot fail.
                    let _ = total.add(part);
                }
            }
            sum.in_window += shard.in_window;
            sum.misses += shard.misses;
            sum.errors += shard.errors;
            sum.unknown += shard.unknown;
            sum.sample = sum.sample.or_else(|| shard.sample.clone());
        }
        for part in &by_kind {
            let _ = all.add(part);
        }
        let by_op = OpKind::ALL
            .into_iter()
            .zip(&by_kind)
            .filter(|(_, h)| !h.is_empty())
            .map(|(kind, h)| (kind.name(), Latency::of(h)))
            .collect();
        Measured {
            ops_per_s: sum.in_window as f64 / elapsed.as_secs_f64().max(1e-9),
            latency: Latency::of(&all),
            by_op,
            errors: sum.errors,
            unknown: sum.unknown,
            misses: sum.misses,
            error_sample: sum.sample,
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // Counters stay usable whatever happened to the thread that held them.
    shard.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Percentiles of a set of operations, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// How many there were.
    pub ops: u64,
    /// Average.
    pub mean_ms: f64,
    /// Half were faster.
    pub p50_ms: f64,
    /// 90 % were faster.
    pub p90_ms: f64,
    /// 99 % were faster.
    pub p99_ms: f64,
    /// 99.9 % were faster.
    pub p999_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let ms = |nanos: f64| (nanos / 1e3).round() / 1e3;
        let at = |quantile| ms(histogram.value_at_quantile(quantile) as f64);
        if histogram.is_empty() {
            return Self::default();
        }
        Self {
            ops: histogram.len(),
            mean_ms: ms(histogram.mean()),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: ms(histogram.max() as f64),
        }
    }
}

/// What a run measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Operations that ended in the measured time, for each second of it.
    pub ops_per_s: f64,
    /// All successful operations that began in the measured time.
    #[serde(flatten)]
    pub latency: Latency,
    /// The same for each kind of operation.
    pub by_op: std::collections::BTreeMap<&'static str, Latency>,
    /// Operations that failed.
    pub errors: u64,
    /// Those of them that may have happened.
    pub unknown: u64,
    /// Reads that found no key: the keys were not loaded.
    pub misses: u64,
    /// The message of one of the errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_sample: Option<String>,
}

/// The result of one benchmark; the JSON form is stable.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `kvsvr` or `etcd`.
    pub target: &'static str,
    /// What the target says about its version.
    pub target_version: String,
    /// `put`, `get`, `mixed`, `ycsb-a` and so on, `watch`.
    pub workload: String,
    /// `closed`: each client waits for its answer; `open`: operations begin at a fixed rate.
    #[serde(rename = "loop")]
    pub discipline: &'static str,
    /// Logical clients; of an open loop, the most operations in flight; of `watch`, the writers.
    pub clients: usize,
    /// Of an open loop: operations asked for in each second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Of an open loop: operations that were due but could not begin before the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_started: Option<u64>,
    /// Connections, or independent client instances.
    pub connections: usize,
    /// Threads of the benchmark.
    pub threads: usize,
    /// Partitions that the keys are spread over.
    pub partitions: u64,
    /// Keys before the first insert.
    pub keys: u64,
    /// Bytes of each value.
    pub value_size: usize,
    /// How keys are chosen.
    pub skew: String,
    /// How fresh reads are.
    pub read_mode: String,
    /// Seed of all choices.
    pub seed: u64,
    /// Length of the warm-up.
    pub warmup_s: f64,
    /// Length of the measured time.
    pub duration_s: f64,
    /// CPU seconds (user and system) that the benchmark itself used in the measured time.
    pub client_cpu_s: f64,
    /// The numbers.
    #[serde(flatten)]
    pub measured: Measured,
    /// Of `watch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watch: Option<WatchReport>,
}

/// What the watchers of a benchmark saw. The latencies of such a report are those of the writes.
#[derive(Clone, Debug, Serialize)]
pub struct WatchReport {
    /// How many watched.
    pub watchers: usize,
    /// Events that arrived, all watchers together.
    pub events: u64,
    /// Events in each second of the measured time.
    pub events_per_s: f64,
    /// Events of acknowledged writes that had not arrived a while after the last write.
    pub missed: u64,
    /// From just before a write was sent to when a watcher had its event.
    pub delivery: Latency,
}

impl Report {
    /// Prints it.
    pub fn print(&self, out: &mut Output) -> std::io::Result<()> {
        if out.is_json() {
            return out.json(self);
        }
        let rate = self
            .rate
            .map(|r| format!(", {r:.0} ops/s asked for"))
            .unwrap_or_default();
        out.line(format!(
            "{} ({}), {}: {}, {} loop{rate}, {} B values, {} in {}, {}, {} reads, {:.1} s",
            self.target,
            self.target_version,
            self.workload,
            count(self.clients, "client"),
            self.discipline,
            self.value_size,
            count(self.keys, "key"),
            count(self.partitions, "partition"),
            self.skew,
            self.read_mode,
            self.duration_s,
        ))?;
        let m = &self.measured;
        let mut rows = vec![row("all", Some(m.ops_per_s), &m.latency)];
        if m.by_op.len() > 1 {
            rows.extend(m.by_op.iter().map(|(name, latency)| row(name, None, latency)));
        }
        if let Some(watch) = &self.watch {
            rows.push(row("delivery", Some(watch.events_per_s), &watch.delivery));
        }
        out.table(
            &[
                "OP", "OPS", "OPS/S", "MEAN ms", "P50", "P90", "P99", "P99.9", "MAX",
            ],
            rows,
        )?;
        let mut notes = vec![format!("benchmark's own CPU {:.2} s", self.client_cpu_s)];
        if m.errors > 0 {
            let sample = m.error_sample.as_deref().unwrap_or_default();
            let text = format!(
                "{} errors, {:.2}% of all operations ({} with unknown outcome), such as: {sample}",
                m.errors,
                100.0 * m.errors as f64 / (m.errors + m.latency.ops) as f64,
                m.unknown
            );
            notes.push(out.paint(&text, Mood::Bad));
        }
        if m.misses > 0 {
            notes.push(format!(
                "{} reads found no key: load them first with --load",
                m.misses
            ));
        }
        if let Some(n) = self.not_started.filter(|&n| n > 0) {
            notes.push(out.paint(
                &format!("{n} operations were due but could not begin: overload"),
                Mood::Warn,
            ));
        }
        if let Some(watch) = self.watch.as_ref().filter(|w| w.missed > 0) {
            notes.push(out.paint(&format!("{} events never arrived", watch.missed), Mood::Bad));
        }
        notes.iter().try_for_each(|note| out.line(note))
    }
}

fn row(name: &str, ops_per_s: Option<f64>, l: &Latency) -> Vec<Field> {
    let mut row = vec![
        Field::text(name),
        Field::number(l.ops),
        Field::number(ops_per_s.map(|r| format!("{r:.0}")).unwrap_or_default()),
    ];
    let times = [l.mean_ms, l.p50_ms, l.p90_ms, l.p99_ms, l.p999_ms, l.max_ms];
    row.extend(times.map(|ms| Field::number(format!("{ms:.3}"))));
    row
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::output::{Format, tests::Page};

    fn recorded() -> Measured {
        let (recorder, start) = (Recorder::default(), Instant::now());
        let window = Window::new(start, Duration::from_secs(1), Duration::from_secs(2));
        let at = |ms| start + Duration::from_millis(ms);
        recorder.record(&window, 0, OpKind::Read, (at(0), at(500)), &Ok(true));
        for client in 0..100 {
            let begin = 1_000 + client as u64;
            recorder.record(
                &window,
                client,
                OpKind::Read,
                (at(begin), at(begin + 10)),
                &Ok(client != 7),
            );
        }
        recorder.record(&window, 3, OpKind::Update, (at(2_900), at(3_900)), &Ok(true));
        recorder.record(
            &window,
            3,
            OpKind::Update,
            (at(2_000), at(2_001)),
            &Err(OpError::unknown("lost")),
        );
        recorder.record(
            &window,
            4,
            OpKind::Update,
            (at(2_000), at(2_001)),
            &Err(OpError::definite("full")),
        );
        assert_eq!(recorder.done(), 104);
        recorder.measured(Duration::from_secs(2))
    }

    #[test]
    fn what_counts() {
        let m = recorded();
        // Not the warm-up, nor, for the rate, what ended after the end.
        assert_eq!((m.latency.ops, m.ops_per_s), (101, 50.0));
        assert_eq!((m.errors, m.unknown, m.misses), (2, 1, 1));
        assert!((m.latency.p50_ms - 10.0).abs() < 0.02, "{:?}", m.latency);
        assert!((m.latency.max_ms - 1000.0).abs() < 2.0, "{:?}", m.latency);
        assert_eq!(m.by_op.keys().copied().collect::<Vec<_>>(), ["read", "update"]);
        assert_eq!(m.by_op["update"].ops, 1);
    }

    #[test]
    fn longest_latencies_saturate() {
        let (recorder, start) = (Recorder::default(), Instant::now());
        let window = Window::new(start, Duration::ZERO, Duration::from_secs(1));
        let long = start + Duration::from_secs(1000);
        recorder.record(&window, 0, OpKind::Read, (start, long), &Ok(true));
        assert!(recorder.measured(Duration::from_secs(1)).latency.max_ms >= 120_000.0);
    }

    pub(crate) fn report() -> Report {
        Report {
            target: "kvsvr",
            target_version: "0.1.0".into(),
            workload: "mixed".into(),
            discipline: "closed",
            clients: 64,
            rate: None,
            not_started: None,
            connections: 1,
            threads: 1,
            partitions: 16,
            keys: 1000,
            value_size: 256,
            skew: "uniform".into(),
            read_mode: "linearizable".into(),
            seed: 1,
            warmup_s: 1.0,
            duration_s: 2.0,
            client_cpu_s: 0.5,
            measured: recorded(),
            watch: None,
        }
    }

    #[test]
    fn json_has_the_documented_fields() {
        let json = serde_json::to_value(report()).unwrap();
        for field in [
            "target",
            "workload",
            "loop",
            "clients",
            "value_size",
            "keys",
            "ops",
            "ops_per_s",
            "p50_ms",
            "p90_ms",
            "p99_ms",
            "p999_ms",
            "max_ms",
            "mean_ms",
            "errors",
            "unknown",
            "misses",
            "by_op",
            "client_cpu_s",
            "target_version",
            "partitions",
            "connections",
            "read_mode",
            "seed",
            "duration_s",
            "warmup_s",
            "skew",
        ] {
            assert!(
                json.get(field).is_some_and(|v| !v.is_null()),
                "{field} is missing in {json}"
            );
        }
        assert_eq!(json["ops"], 101);
        assert_eq!(json["by_op"]["read"]["ops"], 100);
        assert_eq!(json.get("rate"), None);
        assert_eq!(json.get("watch"), None);
    }

    #[test]
    fn the_table_says_what_went_wrong() {
        let page = Page::default();
        report().print(&mut page.output(Format::Table)).unwrap();
        let text = page.text();
        for part in [
            "(1 with unknown outcome)",
            "% of all operations",
            "1 reads found no key",
            "all ",
            "update ",
            "50",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
    }
}
