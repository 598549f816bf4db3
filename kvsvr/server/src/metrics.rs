//! What the node measures, in the Prometheus text format.
//!
//! One [`Metrics`] per node, with a registry of its own: several nodes in one process do not mix. A call site is one line; a label is
//! resolved once ([`Metrics::shard`], [`Metrics::listener`]), never per observation, which is then a few atomic additions. Values that
//! are read from elsewhere (sizes, positions) are gauges that the node sets before they are shown. It reads no clock.
//!
//! | metric | unit | labels | meaning |
//! |---|---|---|---|
//! | `kvsvr_commit_seconds` | histogram, s | shard | from the proposal to its commit, on the leader |
//! | `kvsvr_apply_seconds` | histogram, s | shard | one batch of entries into the engine |
//! | `kvsvr_apply_batch_commands` | histogram, commands | shard | commands in that batch |
//! | `kvsvr_queue_commands` | commands | shard | waiting to be proposed |
//! | `kvsvr_queue_bytes` | bytes | shard | the same, in bytes |
//! | `kvsvr_replication_lag_entries` | entries | shard | on the leader: how far its slowest member is behind |
//! | `kvsvr_apply_lag_entries` | entries | shard | committed and not applied yet |
//! | `kvsvr_reads_total` | counter | shard, mode | reads answered |
//! | `kvsvr_writes_total` | counter | shard | commands acknowledged |
//! | `kvsvr_rejected_total` | counter | shard, code | requests answered with an error |
//! | `kvsvr_expired_total` | counter, keys | shard | keys removed because their time was up |
//! | `kvsvr_compaction_floor` | revision | shard | reads below it are refused |
//! | `kvsvr_revision` | revision | shard | applied |
//! | `kvsvr_leader` | 0 or 1 | shard | whether this replica leads |
//! | `kvsvr_wal_fsync_seconds` | histogram, s | | one fdatasync of the WAL |
//! | `kvsvr_wal_written_bytes_total` | counter, bytes | | written to the WAL |
//! | `kvsvr_wal_batch_records` | histogram, records | | records in one write |
//! | `kvsvr_wal_bytes` | bytes | | WAL segments on disk |
//! | `kvsvr_wal_unflushed_bytes` | bytes | | WAL that a restart would replay |
//! | `kvsvr_row_cache_hits_total`, `..._misses_total` | counter | | point reads by where they were answered |
//! | `kvsvr_row_cache_entries`, `..._bytes` | entries, bytes | | what the cache holds |
//! | `kvsvr_snapshot_sent_bytes_total`, `..._received_bytes_total` | counter, bytes | | snapshots to and from peers |
//! | `kvsvr_exec_streams` | streams | | open Exec streams |
//! | `kvsvr_exec_frame_requests` | histogram, requests | | requests in one frame |
//! | `kvsvr_forwarded_total` | counter | | requests passed on to a leader |
//! | `kvsvr_watch_subscribers` | streams | | open watches and consumers |
//! | `kvsvr_connections` | connections | listener | open |
//! | `kvsvr_connections_refused_total` | counter | listener | closed because of the cap |
//! | `kvsvr_disk_free_bytes` | bytes | | left on the data directory's file system |
//! | `kvsvr_process_resident_bytes`, `kvsvr_process_uptime_seconds` | bytes, s | | the process |
//! | `kvsvr_build_info` | 1 | version | which build runs |

mod shard;
mod window;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use kvsvr_core::types::{META_SHARD, ShardId};
use parking_lot::Mutex;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, core::Collector,
};

pub use self::shard::{ReadKind, ShardMetrics};
use self::{shard::ShardFamilies, window::Window};

/// Upper bounds of the buckets of a duration in seconds: 50 us to 10 s.
const SECONDS: [f64; 17] = [
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0,
];
/// Upper bounds of the buckets of a number of things in a batch.
const COUNTS: [f64; 13] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0,
];

/// Requests of clients that were answered well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// Reads, in whatever mode.
    pub reads: u64,
    /// Commands, acknowledged as a leader.
    pub writes: u64,
}

/// The metrics of one node.
pub struct Metrics {
    registry: Registry,
    families: ShardFamilies,
    shards: Mutex<BTreeMap<ShardId, Arc<ShardMetrics>>>,
    fsync: Histogram,
    fsync_window: Mutex<Window>,
    wal_written: IntCounter,
    wal_batch: Histogram,
    wal_bytes: IntGauge,
    wal_unflushed: IntGauge,
    cache_hits: IntCounter,
    cache_misses: IntCounter,
    cache_entries: IntGauge,
    cache_bytes: IntGauge,
    snapshot_sent: IntCounter,
    snapshot_received: IntCounter,
    exec_streams: IntGauge,
    exec_frame: Histogram,
    forwarded: IntCounter,
    watches: IntGauge,
    connections: IntGaugeVec,
    connections_refused: IntCounterVec,
    disk_free: IntGauge,
    resident: IntGauge,
    uptime: IntGauge,
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Arc<Metrics> {
        let registry = Registry::new();
        let r = Registrar(&registry);
        r.gauge_vec("build_info", "Which build runs; always 1", &["version"])
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        Arc::new(Metrics {
            families: ShardFamilies::new(&r),
            shards: Mutex::new(BTreeMap::new()),
            fsync: r.histogram("wal_fsync_seconds", "One fdatasync of the WAL", &SECONDS),
            fsync_window: Mutex::new(Window::default()),
            wal_written: r.counter("wal_written_bytes_total", "Bytes written to the WAL"),
            wal_batch: r.histogram("wal_batch_records", "Records in one write to the WAL", &COUNTS),
            wal_bytes: r.gauge("wal_bytes", "Bytes of WAL segments on disk"),
            wal_unflushed: r.gauge("wal_unflushed_bytes", "Bytes of WAL that a restart would replay"),
            cache_hits: r.counter("row_cache_hits_total", "Point reads answered by the row cache"),
            cache_misses: r.counter("row_cache_misses_total", "Point reads that went to the engine"),
            cache_entries: r.gauge("row_cache_entries", "Entries in the row cache"),
            cache_bytes: r.gauge("row_cache_bytes", "Bytes in the row cache"),
            snapshot_sent: r.counter("snapshot_sent_bytes_total", "Bytes of snapshots sent to peers"),
            snapshot_received: r.counter(
                "snapshot_received_bytes_total",
                "Bytes of snapshots received from peers",
            ),
            exec_streams: r.gauge("exec_streams", "Open Exec streams"),
            exec_frame: r.histogram("exec_frame_requests", "Requests in one Exec frame", &COUNTS),
            forwarded: r.counter("forwarded_total", "Requests passed on to a leader"),
            watches: r.gauge("watch_subscribers", "Open watches and consumers"),
            connections: r.gauge_vec("connections", "Open connections", &["listener"]),
            connections_refused: r.counter_vec(
                "connections_refused_total",
                "Connections closed because there were too many",
                &["listener"],
            ),
            disk_free: r.gauge(
                "disk_free_bytes",
                "Bytes left on the file system of the data directory",
            ),
            resident: r.gauge("process_resident_bytes", "Memory of the process"),
            uptime: r.gauge("process_uptime_seconds", "Seconds since the process started"),
            registry,
        })
    }

    /// The metrics of one shard; the same for each call with the same shard.
    pub fn shard(&self, shard: ShardId) -> Arc<ShardMetrics> {
        let mut shards = self.shards.lock();
        Arc::clone(
            shards
                .entry(shard)
                .or_insert_with(|| Arc::new(self.families.resolve(shard))),
        )
    }

    /// What the node has done for clients since its start: in data shards, those that it has given up too.
    pub fn answered(&self) -> Answered {
        let shards = self.shards.lock();
        let data = shards.iter().filter(|(shard, _)| **shard != META_SHARD);
        data.fold(Answered::default(), |sum, (_, shard)| Answered {
            reads: sum.reads + shard.reads_answered(),
            writes: sum.writes + shard.writes_acknowledged(),
        })
    }

    /// The metrics of one listening port.
    pub fn listener(&self, name: &str) -> ListenerMetrics {
        ListenerMetrics {
            open: self.connections.with_label_values(&[name]),
            refused: self.connections_refused.with_label_values(&[name]),
        }
    }

    /// One fdatasync of the WAL.
    pub fn wal_synced(&self, took: Duration) {
        self.fsync.observe(took.as_secs_f64());
        self.fsync_window.lock().record(micros(took));
    }

    /// One write to the WAL.
    pub fn wal_wrote(&self, bytes: usize, records: usize) {
        self.wal_written.inc_by(bytes as u64);
        self.wal_batch.observe(records as f64);
    }

    /// Sizes of the WAL: segments on disk, and what a restart would replay.
    pub fn wal_sizes(&self, total_bytes: u64, unflushed_bytes: u64) {
        self.wal_bytes.set(clamp(total_bytes));
        self.wal_unflushed.set(clamp(unflushed_bytes));
    }

    /// The 99th percentile of the last few thousand fdatasyncs of the WAL in microseconds, right within 4%; 0 if there was none.
    pub fn fsync_p99_us(&self) -> u64 {
        self.fsync_window.lock().quantile(0.99)
    }

    /// Point reads that the row cache answered, and that it did not.
    pub fn row_cache_looked_up(&self, hits: u64, misses: u64) {
        self.cache_hits.inc_by(hits);
        self.cache_misses.inc_by(misses);
    }

    /// What the row cache holds.
    pub fn row_cache_holds(&self, entries: u64, bytes: u64) {
        self.cache_entries.set(clamp(entries));
        self.cache_bytes.set(clamp(bytes));
    }

    /// Hits per point read since the start, 0 to 1; 0 if there was none.
    pub fn row_cache_hit_rate(&self) -> f64 {
        let (hits, misses) = (self.cache_hits.get(), self.cache_misses.get());
        if hits + misses == 0 {
            return 0.0;
        }
        hits as f64 / (hits + misses) as f64
    }

    /// Bytes of a snapshot went to a peer.
    pub fn snapshot_sent(&self, bytes: usize) {
        self.snapshot_sent.inc_by(bytes as u64);
    }

    /// Bytes of a snapshot came from a peer.
    pub fn snapshot_received(&self, bytes: usize) {
        self.snapshot_received.inc_by(bytes as u64);
    }

    /// An Exec stream is open until the guard is dropped.
    pub fn exec_stream_opened(&self) -> GaugeGuard {
        GaugeGuard::new(&self.exec_streams)
    }

    /// One frame of an Exec stream.
    pub fn exec_frame(&self, requests: usize) {
        self.exec_frame.observe(requests as f64);
    }

    /// Requests were passed on to a leader.
    pub fn forwarded(&self, requests: u64) {
        self.forwarded.inc_by(requests);
    }

    /// A watch or a consumer is open until the guard is dropped.
    pub fn watch_opened(&self) -> GaugeGuard {
        GaugeGuard::new(&self.watches)
    }

    /// Bytes left on the file system of the data directory.
    pub fn disk_free(&self, bytes: u64) {
        self.disk_free.set(clamp(bytes));
    }

    /// Memory of the process, and how long it has been running.
    pub fn process(&self, resident_bytes: u64, uptime: Duration) {
        self.resident.set(clamp(resident_bytes));
        self.uptime.set(clamp(uptime.as_secs()));
    }

    /// Everything in the Prometheus text format, version 0.0.4.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// The metrics of one listening port.
#[derive(Clone, Debug)]
pub struct ListenerMetrics {
    open: IntGauge,
    refused: IntCounter,
}

impl ListenerMetrics {
    /// A connection is open until the guard is dropped.
    pub fn opened(&self) -> GaugeGuard {
        GaugeGuard::new(&self.open)
    }

    /// A connection was closed because there were too many.
    pub fn refused(&self) {
        self.refused.inc();
    }
}

/// Counts one in a gauge while it lives.
#[derive(Debug)]
pub struct GaugeGuard(IntGauge);

impl GaugeGuard {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Resident memory of this process in bytes; 0 where the system does not tell (it is read from /proc).
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    parse_resident(&status).unwrap_or(0)
}

fn parse_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Creates metrics and registers them.
struct Registrar<'a>(&'a Registry);

impl Registrar<'_> {
    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let registered = made.and_then(|metric| self.0.register(Box::new(metric.clone())).map(|()| metric));
        // Names and buckets are constants of this file, so this fails in the first test or never.
        match registered {
            Ok(metric) => metric,
            Err(error) => panic!("a metric is defined wrongly: {error}"),
        }
    }

    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(format!("kvsvr_{name}"), help)
    }

    fn histogram_opts(name: &str, help: &str, buckets: &[f64]) -> HistogramOpts {
        HistogramOpts::from(Self::opts(name, help)).buckets(buckets.to_vec())
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::with_opts(Self::opts(name, help)))
    }

    fn counter_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Self::opts(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::with_opts(Self::opts(name, help)))
    }

    fn gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Self::opts(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.add(Histogram::with_opts(Self::histogram_opts(name, help, buckets)))
    }

    fn histogram_vec(&self, name: &str, help: &str, buckets: &[f64], labels: &[&str]) -> HistogramVec {
        self.add(HistogramVec::new(
            Self::histogram_opts(name, help, buckets),
            labels,
        ))
    }
}

#[cfg(test)]
mod tests;
