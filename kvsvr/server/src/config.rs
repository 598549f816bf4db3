//! The configuration of a node: its settings, their defaults and what must hold between them.
//!
//! This module is plain data; [`settings`] is the table that names and documents each setting once. Where values come from (flags,
//! environment, file) is in `load` (feature `grpc`). Nothing here reads the environment, files or the clock.

#[cfg(feature = "grpc")]
mod load;
pub mod settings;
#[cfg(test)]
#[cfg(feature = "grpc")]
mod tests;
mod units;

use std::path::PathBuf;

use thiserror::Error;

#[cfg(feature = "grpc")]
pub(crate) use self::load::read_file;
#[cfg(feature = "grpc")]
pub use self::load::{Effective, Origin, Sources, load};
use crate::limits;

/// Everything a node is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The data directory. Empty: not given.
    pub data: PathBuf,
    /// HOST:PORT of the gRPC port.
    pub listen: String,
    /// HOST:PORT under which peers and clients reach `listen`.
    pub advertise: String,
    /// HOST:PORT of the HTTP port; `None`: no such port.
    pub http: Option<String>,
    /// Threads of the async runtime; 0: one for each core.
    pub worker_threads: usize,
    /// Connections to the gRPC port.
    pub max_connections: usize,
    /// Free bytes below which writes are refused.
    pub disk_reserve_bytes: u64,
    /// What is logged, and how.
    pub log: LogConfig,
    /// Consensus.
    pub raft: RaftConfig,
    /// Budgets.
    pub memory: MemoryConfig,
    /// The write-ahead log.
    pub wal: WalConfig,
    /// How much of the past is kept.
    pub history: HistoryConfig,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// The form of a line.
    pub format: LogFormat,
    /// A level, or a filter such as `info,kvsvr::raft=debug`.
    pub level: String,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object in each line.
    Json,
}

/// The times of consensus, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats of a leader.
    pub heartbeat_ms: u64,
    /// The shortest time without a leader before an election.
    pub election_min_ms: u64,
    /// The longest.
    pub election_max_ms: u64,
}

impl Timing {
    /// For nodes in one data centre.
    pub const FAST: Timing = Timing {
        heartbeat_ms: 100,
        election_min_ms: 300,
        election_max_ms: 500,
    };
    /// For slow or shared disks and links between sites.
    pub const SLOW: Timing = Timing {
        heartbeat_ms: 200,
        election_min_ms: 1000,
        election_max_ms: 2000,
    };
}

/// The name of a [`Timing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimingPreset {
    /// [`Timing::FAST`].
    Fast,
    /// [`Timing::SLOW`].
    Slow,
}

impl TimingPreset {
    /// The times.
    pub fn timing(self) -> Timing {
        match self {
            TimingPreset::Fast => Timing::FAST,
            TimingPreset::Slow => Timing::SLOW,
        }
    }
}

/// Consensus.
#[derive(Clone, Debug, PartialEq)]
pub struct RaftConfig {
    /// The preset that the times come from unless they are set.
    pub preset: TimingPreset,
    /// The times.
    pub timing: Timing,
    /// Bytes of applied log entries that each shard keeps for followers that are behind.
    pub keep_log: u64,
}

/// Budgets in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryConfig {
    /// What the budgets together must leave room in.
    pub limit: usize,
    /// RocksDB's block cache.
    pub block_cache: usize,
    /// Rows that are applied and not flushed.
    pub write_buffer: usize,
    /// RocksDB's memtables.
    pub memtables: usize,
    /// The row cache; 0: none.
    pub row_cache: usize,
    /// Log entries kept for followers.
    pub wal_cache: usize,
    /// Recent events of one shard kept for watches.
    pub watch_ring: usize,
}

/// The write-ahead log.
#[derive(Clone, Debug, PartialEq)]
pub struct WalConfig {
    /// Bytes of one segment file.
    pub segment: u64,
    /// Bytes of unflushed WAL after which the engine is flushed.
    pub flush: u64,
}

/// How much of the past is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryConfig {
    /// Revisions of each shard.
    pub revisions: u64,
    /// Bytes by which a consumer may be behind.
    pub consumer_lag: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            data: PathBuf::new(),
            listen: "127.0.0.1:7101".into(),
            advertise: "127.0.0.1:7101".into(),
            http: Some("127.0.0.1:8101".into()),
            worker_threads: 0,
            max_connections: limits::MAX_CONNECTIONS,
            disk_reserve_bytes: limits::DISK_RESERVE_BYTES,
            log: LogConfig {
                format: LogFormat::Text,
                level: "info".into(),
            },
            raft: RaftConfig {
                preset: TimingPreset::Fast,
                timing: Timing::FAST,
                keep_log: limits::KEEP_LOG_BYTES,
            },
            memory: MemoryConfig {
                limit: limits::MEMORY_LIMIT_BYTES,
                block_cache: limits::ROCKS_BLOCK_CACHE_BYTES,
                write_buffer: limits::BUFFER_BYTES,
                memtables: limits::ROCKS_MEMTABLE_BYTES,
                row_cache: limits::ROW_CACHE_BYTES,
                wal_cache: limits::WAL_CACHE_BYTES,
                watch_ring: limits::HUB_RING_BYTES,
            },
            wal: WalConfig {
                segment: limits::WAL_SEGMENT_BYTES,
                flush: limits::FLUSH_WAL_BYTES,
            },
            history: HistoryConfig {
                revisions: limits::RETAIN_REVISIONS,
                consumer_lag: limits::CONSUMER_MAX_LAG_BYTES,
            },
        }
    }
}

/// The part of a [`Config`] that decides how a node behaves, without addresses, files and the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Heartbeats and elections.
    pub timing: Timing,
    /// Bytes of recent events that each shard keeps for watches.
    pub hub_bytes: usize,
    /// Bytes of rows that are applied and not flushed.
    pub write_buffer_bytes: usize,
    /// Bytes of the row cache; 0: none.
    pub row_cache_bytes: usize,
    /// Bytes written to the WAL after which the engine is flushed.
    pub flush_bytes: u64,
    /// Bytes of applied log that each shard keeps for followers that are behind.
    pub keep_log_bytes: u64,
    /// Revisions of history that each shard keeps.
    pub keep_revisions: u64,
    /// Bytes of events by which a consumer may be behind before compaction passes it.
    pub consumer_max_lag_bytes: u64,
    /// Free bytes below which writes are refused.
    pub disk_reserve_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Config::default().settings()
    }
}

/// A configuration that cannot be used. Each message names the setting, what is wrong and what is possible.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("BAD_CONFIG: {}", .0.join("\n  and "))]
pub struct ConfigError(pub Vec<String>);

impl Config {
    /// Checks what must hold between settings; all that is wrong is in the error.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut wrong = Vec::new();
        self.check_addresses(&mut wrong);
        self.check_times(&mut wrong);
        self.check_sizes(&mut wrong);
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(ConfigError(wrong))
        }
    }

    fn check_addresses(&self, wrong: &mut Vec<String>) {
        if self.data.as_os_str().is_empty() {
            wrong.push("data is not set: name the directory for this node's files with --data DIR".into());
        }
        let addresses = [
            ("listen", Some(&self.listen)),
            ("advertise", Some(&self.advertise)),
            ("http", self.http.as_ref()),
        ];
        for (key, address) in addresses
            .into_iter()
            .filter_map(|(key, address)| Some((key, address?)))
        {
            if split_address(address).is_none() {
                wrong.push(format!(
                    "{key} = \"{address}\" is not HOST:PORT, e.g. 10.0.0.1:7101 or [::1]:7101"
                ));
            }
        }
        if let Some((host, port)) = split_address(&self.advertise) {
            if matches!(host, "0.0.0.0" | "[::]" | "") {
                wrong.push(format!(
                    "advertise = \"{}\" is not an address that another machine can connect to: set --advertise HOST:PORT to \
                     how peers and clients reach this node",
                    self.advertise
                ));
            }
            if port == 0 {
                wrong.push(format!(
                    "advertise = \"{}\" has port 0, which nobody can connect to: give listen a fixed port, or set --advertise",
                    self.advertise
                ));
            }
        }
        let port = |address: &str| {
            split_address(address)
                .map(|(_, port)| port)
                .filter(|port| *port != 0)
        };
        if let Some(http) = &self.http
            && port(http).is_some()
            && port(http) == port(&self.listen)
        {
            wrong.push(format!(
                "http = \"{http}\" and listen = \"{}\" have the same port: choose another",
                self.listen
            ));
        }
    }

    fn check_times(&self, wrong: &mut Vec<String>) {
        let Timing {
            heartbeat_ms,
            election_min_ms,
            election_max_ms,
        } = self.raft.timing;
        if heartbeat_ms < limits::MIN_HEARTBEAT_MS {
            let least = limits::MIN_HEARTBEAT_MS;
            wrong.push(format!(
                "raft.heartbeat = {heartbeat_ms}ms is below {least}ms: heartbeats would crowd out work"
            ));
        }
        if election_min_ms < heartbeat_ms.saturating_mul(2) {
            wrong.push(format!(
                "raft.election_min = {election_min_ms}ms is less than twice raft.heartbeat ({heartbeat_ms}ms): one late \
                 heartbeat would start an election"
            ));
        }
        if election_max_ms <= election_min_ms {
            wrong.push(format!(
                "raft.election_max = {election_max_ms}ms must be greater than raft.election_min ({election_min_ms}ms): the \
                 difference is what keeps candidates from splitting the vote"
            ));
        }
        if self.max_connections == 0 {
            wrong.push("max_connections = 0 would refuse every connection".into());
        }
    }

    fn check_sizes(&self, wrong: &mut Vec<String>) {
        let sum = self
            .budgets()
            .iter()
            .fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        if sum > self.memory.limit as u64 {
            let list: Vec<_> = self
                .budgets()
                .iter()
                .map(|(name, bytes)| format!("{name} {}", units::bytes(*bytes)))
                .collect();
            wrong.push(format!(
                "the memory budgets need {}, memory.limit is {}: lower one of them ({}), or raise the limit",
                units::bytes(sum),
                units::bytes(self.memory.limit as u64),
                list.join(", ")
            ));
        }
        if self.wal.segment < limits::MIN_CONFIGURED_SEGMENT_BYTES || self.wal.segment > self.wal.flush {
            wrong.push(format!(
                "wal.segment = {} must be between {} and wal.flush ({})",
                units::bytes(self.wal.segment),
                units::bytes(limits::MIN_CONFIGURED_SEGMENT_BYTES),
                units::bytes(self.wal.flush)
            ));
        }
        if self.history.revisions == 0 {
            wrong.push(
                "history.revisions = 0 would compact what watches are about to read: keep at least 1".into(),
            );
        }
    }

    /// What counts towards `memory.limit`, in bytes.
    fn budgets(&self) -> [(&'static str, u64); 8] {
        let memory = &self.memory;
        let each_shard = |bytes: usize| bytes.saturating_mul(limits::BUDGET_SHARDS) as u64;
        [
            ("memory.block_cache", memory.block_cache as u64),
            ("memory.write_buffer", memory.write_buffer as u64),
            ("memory.memtables", memory.memtables as u64),
            ("memory.row_cache", memory.row_cache as u64),
            ("memory.wal_cache", memory.wal_cache as u64),
            ("memory.watch_ring of 4 shards", each_shard(memory.watch_ring)),
            ("queued writes of 4 shards", each_shard(limits::MAX_QUEUED_BYTES)),
            ("incomplete messages", limits::MAX_INTAKE_BYTES as u64),
        ]
    }

    /// How the node behaves.
    pub fn settings(&self) -> Settings {
        Settings {
            timing: self.raft.timing,
            hub_bytes: self.memory.watch_ring,
            write_buffer_bytes: self.memory.write_buffer,
            row_cache_bytes: self.memory.row_cache,
            flush_bytes: self.wal.flush,
            keep_log_bytes: self.raft.keep_log,
            keep_revisions: self.history.revisions,
            consumer_max_lag_bytes: self.history.consumer_lag,
            disk_reserve_bytes: self.disk_reserve_bytes,
        }
    }
}

/// The host and the port of HOST:PORT; an IPv6 host keeps its brackets.
pub(crate) fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.contains(':') && !bracketed {
        return None;
    }
    let clean = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if !bracketed && !host.chars().all(clean) {
        return None;
    }
    if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((host, port.parse().ok()?))
}
