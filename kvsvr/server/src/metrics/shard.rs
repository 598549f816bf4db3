//! The metrics of one shard's replica, with their labels resolved.

use std::time::Duration;

use kvsvr_core::types::ShardId;
use kvsvr_proto::v1::ErrorCode;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::{COUNTS, Registrar, SECONDS, clamp};

/// How fresh a read was asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the read modes of the API")]
pub enum ReadKind {
    Linearizable,
    AtLeast,
    Bounded,
    Local,
}

const READ_KINDS: [(ReadKind, &str); 4] = [
    (ReadKind::Linearizable, "linearizable"),
    (ReadKind::AtLeast, "at_least"),
    (ReadKind::Bounded, "bounded"),
    (ReadKind::Local, "local"),
];

/// One past the largest error code.
const CODES: i32 = ErrorCode::ResultForgotten as i32 + 1;

/// The metrics of one shard's replica.
#[derive(Debug)]
pub struct ShardMetrics {
    commit: Histogram,
    apply: Histogram,
    apply_batch: Histogram,
    queue_commands: IntGauge,
    queue_bytes: IntGauge,
    replication_lag: IntGauge,
    apply_lag: IntGauge,
    /// In the order of [`READ_KINDS`].
    reads: [IntCounter; 4],
    writes: IntCounter,
    /// By error code.
    rejected: Vec<IntCounter>,
    expired: IntCounter,
    floor: IntGauge,
    revision: IntGauge,
    leader: IntGauge,
}

impl ShardMetrics {
    /// An entry was committed this long after it was proposed.
    pub fn committed(&self, after: Duration) {
        self.commit.observe(after.as_secs_f64());
    }

    /// One batch was applied.
    pub fn applied(&self, commands: usize, took: Duration) {
        self.apply.observe(took.as_secs_f64());
        self.apply_batch.observe(commands as f64);
    }

    /// What waits to be proposed.
    pub fn queued(&self, commands: usize, bytes: usize) {
        self.queue_commands.set(clamp(commands as u64));
        self.queue_bytes.set(clamp(bytes as u64));
    }

    /// Entries that the slowest member lacks; 0 on a replica that does not lead.
    pub fn replication_lag(&self, entries: u64) {
        self.replication_lag.set(clamp(entries));
    }

    /// Entries that are committed and not applied here.
    pub fn apply_lag(&self, entries: u64) {
        self.apply_lag.set(clamp(entries));
    }

    /// Reads were answered.
    pub fn read(&self, kind: ReadKind, count: u64) {
        self.reads[kind as usize].inc_by(count);
    }

    /// Commands were acknowledged.
    pub fn wrote(&self, commands: u64) {
        self.writes.inc_by(commands);
    }

    /// Reads that were answered, in whatever mode.
    pub fn reads_answered(&self) -> u64 {
        self.reads.iter().map(IntCounter::get).sum()
    }

    /// Commands that were acknowledged.
    pub fn writes_acknowledged(&self) -> u64 {
        self.writes.get()
    }

    /// A request was answered with an error.
    pub fn rejected(&self, code: ErrorCode) {
        self.rejected[code as usize].inc();
    }

    /// Keys were removed because their time was up.
    pub fn expired(&self, keys: u64) {
        self.expired.inc_by(keys);
    }

    /// Where the replica stands: applied revision, compaction floor, and whether it leads.
    pub fn position(&self, revision: u64, floor: u64, leads: bool) {
        self.revision.set(clamp(revision));
        self.floor.set(clamp(floor));
        self.leader.set(i64::from(leads));
    }
}

/// The same for all shards, with the labels open.
pub(super) struct ShardFamilies {
    commit: HistogramVec,
    apply: HistogramVec,
    apply_batch: HistogramVec,
    queue_commands: IntGaugeVec,
    queue_bytes: IntGaugeVec,
    replication_lag: IntGaugeVec,
    apply_lag: IntGaugeVec,
    reads: IntCounterVec,
    writes: IntCounterVec,
    rejected: IntCounterVec,
    expired: IntCounterVec,
    floor: IntGaugeVec,
    revision: IntGaugeVec,
    leader: IntGaugeVec,
}

impl ShardFamilies {
    pub(super) fn new(r: &Registrar<'_>) -> Self {
        let shard = &["shard"][..];
        Self {
            commit: r.histogram_vec("commit_seconds", "From a proposal to its commit", &SECONDS, shard),
            apply: r.histogram_vec(
                "apply_seconds",
                "One batch of entries into the engine",
                &SECONDS,
                shard,
            ),
            apply_batch: r.histogram_vec(
                "apply_batch_commands",
                "Commands in one applied batch",
                &COUNTS,
                shard,
            ),
            queue_commands: r.gauge_vec("queue_commands", "Commands that wait to be proposed", shard),
            queue_bytes: r.gauge_vec("queue_bytes", "Bytes of commands that wait to be proposed", shard),
            replication_lag: r.gauge_vec(
                "replication_lag_entries",
                "Entries that the slowest member lacks, on the leader",
                shard,
            ),
            apply_lag: r.gauge_vec("apply_lag_entries", "Entries committed and not applied", shard),
            reads: r.counter_vec("reads_total", "Reads answered", &["shard", "mode"]),
            writes: r.counter_vec("writes_total", "Commands acknowledged", shard),
            rejected: r.counter_vec(
                "rejected_total",
                "Requests answered with an error",
                &["shard", "code"],
            ),
            expired: r.counter_vec("expired_total", "Keys removed because their time was up", shard),
            floor: r.gauge_vec("compaction_floor", "Reads below this revision are refused", shard),
            revision: r.gauge_vec("revision", "Applied revision", shard),
            leader: r.gauge_vec("leader", "1 if this replica leads its shard", shard),
        }
    }

    pub(super) fn resolve(&self, shard: ShardId) -> ShardMetrics {
        let name = shard.to_string();
        let one = &[name.as_str()][..];
        let rejected = |code: i32| {
            let code = ErrorCode::try_from(code).unwrap_or(ErrorCode::Unspecified);
            self.rejected
                .with_label_values(&[name.as_str(), &code.as_str_name().to_lowercase()])
        };
        ShardMetrics {
            commit: self.commit.with_label_values(one),
            apply: self.apply.with_label_values(one),
            apply_batch: self.apply_batch.with_label_values(one),
            queue_commands: self.queue_commands.with_label_values(one),
            queue_bytes: self.queue_bytes.with_label_values(one),
            replication_lag: self.replication_lag.with_label_values(one),
            apply_lag: self.apply_lag.with_label_values(one),
            reads: READ_KINDS.map(|(_, mode)| self.reads.with_label_values(&[name.as_str(), mode])),
            writes: self.writes.with_label_values(one),
            rejected: (0..CODES).map(rejected).collect(),
            expired: self.expired.with_label_values(one),
            floor: self.floor.with_label_values(one),
            revision: self.revision.with_label_values(one),
            leader: self.leader.with_label_values(one),
        }
    }
}
