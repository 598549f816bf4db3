//! Every setting of the node: its name, what it means, how it is read and how it is printed.
//!
//! A setting `a.b` is `b` in the table `[a]` of the file, `KVSVR_A_B` in the environment, and `--set a.b=VALUE` on the command line.

use std::{fmt::Display, path::PathBuf, str::FromStr};

use super::{Config, LogFormat, TimingPreset, units};

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Its name, e.g. `wal.segment`.
    pub key: &'static str,
    /// One sentence or two for people.
    pub help: &'static str,
    /// Reads a value; the error says what is possible.
    pub set: fn(&mut Config, &str) -> Result<(), String>,
    /// The value as a TOML literal, which `set` understands without its quotes.
    pub get: fn(&Config) -> String,
}

impl Setting {
    /// The environment variable, e.g. `KVSVR_WAL_SEGMENT`.
    pub fn variable(&self) -> String {
        format!("KVSVR_{}", self.key.replace('.', "_").to_uppercase())
    }
}

/// The setting with this name.
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// The name that is closest to `key`, if one is close.
pub fn nearest(key: &str) -> Option<&'static str> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let candidates = SETTINGS.iter().map(|setting| {
        // A key in the wrong table is as close as its last part.
        let distance = distance(key, setting.key).min(distance(&last(key), &last(setting.key)) + 1);
        (distance, setting.key)
    });
    candidates
        .min()
        .filter(|(distance, found)| *distance <= found.len().max(4) / 2)
        .map(|(_, found)| found)
}

/// Levenshtein distance (one row of the table at a time).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// All settings. The order is that of the file; a preset comes before what it presets.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "data",
        help: "Directory for this node's files. Required. Use one directory for one node, on a local disk.",
        set: |c, v| text(v).map(|v| c.data = PathBuf::from(v)),
        get: |c| quoted(&c.data.to_string_lossy()),
    },
    Setting {
        key: "listen",
        help: "HOST:PORT of the gRPC port, for clients, tools and peers. 0.0.0.0 listens on all addresses.",
        set: |c, v| text(v).map(|v| c.listen = v),
        get: |c| quoted(&c.listen),
    },
    Setting {
        key: "advertise",
        help: "HOST:PORT under which peers and clients reach this node. Default: listen.",
        set: |c, v| text(v).map(|v| c.advertise = v),
        get: |c| quoted(&c.advertise),
    },
    Setting {
        key: "http",
        help: "HOST:PORT of the HTTP port with /metrics, /healthz, /readyz and /status, or \"off\". Default: the host of \
               listen, its port + 1000.",
        set: |c, v| text(v).map(|v| c.http = Some(v).filter(|v| v != "off")),
        get: |c| quoted(c.http.as_deref().unwrap_or("off")),
    },
    Setting {
        key: "worker_threads",
        help: "Threads of the async runtime; 0 is one for each core.",
        set: |c, v| number(v).map(|v| c.worker_threads = v),
        get: |c| c.worker_threads.to_string(),
    },
    Setting {
        key: "max_connections",
        help: "Connections to the gRPC port at a time; one more is closed at once. Needs as many file handles.",
        set: |c, v| number(v).map(|v| c.max_connections = v),
        get: |c| c.max_connections.to_string(),
    },
    Setting {
        key: "disk_reserve",
        help: "Free disk space below which writes are refused, so that the node can still be repaired.",
        set: |c, v| units::parse_bytes(v).map(|v| c.disk_reserve_bytes = v),
        get: |c| quoted(&units::bytes(c.disk_reserve_bytes)),
    },
    Setting {
        key: "log.format",
        help: "\"text\" for people, \"json\" for a log collector. Logs go to standard error.",
        set: |c, v| {
            choice(v, &[("text", LogFormat::Text), ("json", LogFormat::Json)]).map(|v| c.log.format = v)
        },
        get: |c| {
            quoted(if c.log.format == LogFormat::Json {
                "json"
            } else {
                "text"
            })
        },
    },
    Setting {
        key: "log.level",
        help: "error: an operator must act now; warn: should look; info: state changes; debug, trace: for developers. Or a \
               filter, e.g. \"info,kvsvr::raft=debug\".",
        set: |c, v| text(v).map(|v| c.log.level = v),
        get: |c| quoted(&c.log.level),
    },
    Setting {
        key: "raft.timing",
        help: "\"fast\" within a data centre (heartbeat 100ms, election 300..500ms); \"slow\" for slow disks and long links \
               (200ms, 1..2s). The same on all nodes.",
        set: |c, v| {
            c.raft.preset = choice(v, &[("fast", TimingPreset::Fast), ("slow", TimingPreset::Slow)])?;
            c.raft.timing = c.raft.preset.timing();
            Ok(())
        },
        get: |c| {
            quoted(if c.raft.preset == TimingPreset::Slow {
                "slow"
            } else {
                "fast"
            })
        },
    },
    Setting {
        key: "raft.heartbeat",
        help: "Between two heartbeats of a leader. Default: by raft.timing.",
        set: |c, v| units::parse_millis(v).map(|v| c.raft.timing.heartbeat_ms = v),
        get: |c| quoted(&units::millis(c.raft.timing.heartbeat_ms)),
    },
    Setting {
        key: "raft.election_min",
        help: "The shortest time without a leader before an election. Default: by raft.timing.",
        set: |c, v| units::parse_millis(v).map(|v| c.raft.timing.election_min_ms = v),
        get: |c| quoted(&units::millis(c.raft.timing.election_min_ms)),
    },
    Setting {
        key: "raft.election_max",
        help: "The longest time without a leader before an election. Default: by raft.timing.",
        set: |c, v| units::parse_millis(v).map(|v| c.raft.timing.election_max_ms = v),
        get: |c| quoted(&units::millis(c.raft.timing.election_max_ms)),
    },
    Setting {
        key: "raft.keep_log",
        help: "Applied log that each shard keeps for followers that are behind; beyond it they get a snapshot.",
        set: |c, v| units::parse_bytes(v).map(|v| c.raft.keep_log = v),
        get: |c| quoted(&units::bytes(c.raft.keep_log)),
    },
    Setting {
        key: "memory.limit",
        help: "What the budgets below must fit in, for four shards and with what is fixed (64MiB of queued writes for each \
               shard, 128MiB of incomplete messages). It is checked, not enforced.",
        set: |c, v| size(v).map(|v| c.memory.limit = v),
        get: |c| quoted(&units::bytes(c.memory.limit as u64)),
    },
    Setting {
        key: "memory.block_cache",
        help: "RocksDB's cache of file blocks, indexes and filters.",
        set: |c, v| size(v).map(|v| c.memory.block_cache = v),
        get: |c| quoted(&units::bytes(c.memory.block_cache as u64)),
    },
    Setting {
        key: "memory.write_buffer",
        help: "Rows that are applied and not flushed: those being written to and those on their way to RocksDB. A flush starts at nine twentieths.",
        set: |c, v| size(v).map(|v| c.memory.write_buffer = v),
        get: |c| quoted(&units::bytes(c.memory.write_buffer as u64)),
    },
    Setting {
        key: "memory.memtables",
        help: "RocksDB's memtables, which the write buffer is flushed through, all column families together.",
        set: |c, v| size(v).map(|v| c.memory.memtables = v),
        get: |c| quoted(&units::bytes(c.memory.memtables as u64)),
    },
    Setting {
        key: "memory.row_cache",
        help: "The row cache that answers point reads; 0 turns it off.",
        set: |c, v| size(v).map(|v| c.memory.row_cache = v),
        get: |c| quoted(&units::bytes(c.memory.row_cache as u64)),
    },
    Setting {
        key: "memory.wal_cache",
        help: "Recent log entries kept in memory for followers.",
        set: |c, v| size(v).map(|v| c.memory.wal_cache = v),
        get: |c| quoted(&units::bytes(c.memory.wal_cache as u64)),
    },
    Setting {
        key: "memory.watch_ring",
        help: "Recent events of one shard kept in memory for watches and consumers.",
        set: |c, v| size(v).map(|v| c.memory.watch_ring = v),
        get: |c| quoted(&units::bytes(c.memory.watch_ring as u64)),
    },
    Setting {
        key: "wal.segment",
        help: "One file of the write-ahead log.",
        set: |c, v| units::parse_bytes(v).map(|v| c.wal.segment = v),
        get: |c| quoted(&units::bytes(c.wal.segment)),
    },
    Setting {
        key: "wal.flush",
        help: "Unflushed write-ahead log after which the engine is flushed; bounds the time of a restart.",
        set: |c, v| units::parse_bytes(v).map(|v| c.wal.flush = v),
        get: |c| quoted(&units::bytes(c.wal.flush)),
    },
    Setting {
        key: "history.revisions",
        help: "Revisions that each shard keeps for reads of the past, watches and consumers.",
        set: |c, v| number(v).map(|v| c.history.revisions = v),
        get: |c| c.history.revisions.to_string(),
    },
    Setting {
        key: "history.consumer_lag",
        help: "Events by which a consumer may be behind before it is cut off, in bytes. Until then compaction waits for it.",
        set: |c, v| units::parse_bytes(v).map(|v| c.history.consumer_lag = v),
        get: |c| quoted(&units::bytes(c.history.consumer_lag)),
    },
];

fn text(value: &str) -> Result<String, String> {
    match value.trim() {
        "" => Err("it must not be empty".into()),
        value => Ok(value.to_owned()),
    }
}

fn number<T: FromStr<Err: Display>>(value: &str) -> Result<T, String> {
    value
        .trim()
        .replace('_', "")
        .parse()
        .map_err(|_| format!("\"{value}\" is not a whole number in range"))
}

fn size(value: &str) -> Result<usize, String> {
    let bytes = units::parse_bytes(value)?;
    usize::try_from(bytes).map_err(|_| format!("\"{value}\" does not fit this machine"))
}

fn choice<T: Copy>(value: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices
        .iter()
        .find(|(name, _)| *name == value.trim())
        .map(|(_, choice)| *choice)
        .ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            format!("\"{value}\" is not one of {}", names.join(", "))
        })
}

/// A TOML basic string.
fn quoted(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
