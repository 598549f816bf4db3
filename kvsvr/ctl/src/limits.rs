//! Every bound and default of kvctl, in one place. The server's own limits (key and value sizes and so on) are in
//! `kvsvr/core/src/limits.rs` and are not repeated here: the server says when one is passed.

use std::time::Duration;

/// Where a command goes when neither `--endpoints` nor `KVCTL_ENDPOINTS` says otherwise.
pub const DEFAULT_ENDPOINT: &str = "127.0.0.1:7101";
/// Deadline of one request unless `--timeout` says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time span that kvctl accepts: ten years, the longest TTL of the server.
pub const MAX_SPAN: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Pairs asked for at a time by `range --all` and `export`.
pub const PAGE_KEYS: u32 = 1_000;
/// Bytes of a transaction script.
pub const MAX_SCRIPT: usize = 8 << 20;
/// Bytes of a value read from standard input: more than the server takes, so that the server's message is seen.
pub const MAX_STDIN_VALUE: usize = 4 << 20;
/// Bytes of one line of an import: a value of 1 MiB in base64 or with every byte escaped, with room for the key.
pub const MAX_IMPORT_LINE: usize = 8 << 20;
/// Writes in flight of an import unless `--in-flight` says otherwise.
pub const IMPORT_IN_FLIGHT: usize = 256;
/// Most writes in flight of an import.
pub const MAX_IN_FLIGHT: usize = 4_096;
/// Partitions whose first page an export fetches at a time.
pub const EXPORT_IN_FLIGHT: usize = 16;
/// Messages about bad lines that an import prints before it only counts them.
pub const MAX_IMPORT_ERRORS: usize = 20;
/// Between two looks at the cluster while waiting for something.
pub const POLL: Duration = Duration::from_millis(250);
/// Deadline for each node's status: a dead node must not hold up the picture of the others.
pub const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// How long `--wait` waits unless `--timeout` says otherwise.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a command waits for the end of an operation on members unless `--timeout` says otherwise: data may have to move.
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(3600);
/// Deadline of a request that begins an operation: the nodes are asked first.
pub const OPERATION_REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Deadline for forming a cluster unless `--timeout` says otherwise: every node writes its first files.
pub const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(60);
/// Revisions that `compact` keeps unless `--keep` says otherwise.
pub const COMPACT_KEEP: u64 = 1_000_000;
/// Free disk space below which `cluster status` and `cluster health` complain, in bytes.
pub const LOW_DISK_BYTES: u64 = 1 << 30;
/// p99 of fsync above which `cluster status` complains, in microseconds.
pub const SLOW_FSYNC_US: u64 = 50_000;
/// Log entries a replica may be behind its leader before `cluster status` complains.
pub const LAG_ENTRIES: u64 = 10_000;
/// Least time between two looks of `top`: each asks every node.
pub const TOP_INTERVAL_LEAST: Duration = Duration::from_millis(100);
/// Deadline of what `top` asks: a node that is silent must not hold up the picture of the others for long.
pub const TOP_TIMEOUT: Duration = Duration::from_secs(1);
/// Columns of a frame of `top` that is printed where there is no terminal.
pub const TOP_WIDTH: u16 = 160;
/// Samples that `top` remembers, for how long replicas are behind.
pub const TOP_HISTORY: usize = 120;

/// Tries for each shard of a backup, each from another replica.
pub const BACKUP_TRIES: usize = 5;
/// Time for each part of a backup on its way back, and how long one may keep a backup waiting: an election fits in.
pub const RESTORE_PART_TIMEOUT: Duration = Duration::from_secs(30);
/// Entries beyond the end of the log at which replicas are compared: more if that was passed before all could be asked.
pub const VERIFY_LEADS: [u64; 4] = [0, 32, 512, 4096];

/// Most logical clients or watchers of a benchmark.
pub const MAX_BENCH_CLIENTS: usize = 65_536;
/// Most keys of a benchmark: each is kept in memory.
pub const MAX_BENCH_KEYS: u64 = 10_000_000;
/// Most operations per second that an open loop can be asked for.
pub const MAX_BENCH_RATE: f64 = 10_000_000.0;
/// Different values that a benchmark writes in turn.
pub const BENCH_VALUES: usize = 64;
/// Writes in flight while a benchmark loads its keys.
pub const BENCH_LOAD_CLIENTS: usize = 128;
/// Tries for each key while a benchmark loads.
pub const BENCH_LOAD_TRIES: u32 = 20;
/// Longest scan of ycsb-e; lengths are uniform from 1 (YCSB's `maxscanlength`).
pub const BENCH_SCAN_MAX: u32 = 100;
/// Step of the pacer of an open loop: by so much an operation may start late without the target's fault.
pub const BENCH_PACE: Duration = Duration::from_micros(200);
/// Pause of a logical client after an error, so that a dead target is not asked in a tight loop.
pub const BENCH_ERROR_PAUSE: Duration = Duration::from_millis(10);
/// How long a watch benchmark waits for the last events after the last write.
pub const BENCH_DRAIN: Duration = Duration::from_secs(10);
/// Latencies are recorded up to this many nanoseconds; longer ones count as this.
pub const BENCH_MAX_NS: u64 = 120_000_000_000;
/// Shards of the histograms: clients of different shards never wait for each other's recording.
pub const BENCH_HISTOGRAM_SHARDS: usize = 8;

const _: () = assert!(IMPORT_IN_FLIGHT <= MAX_IN_FLIGHT);
const _: () = assert!(BENCH_LOAD_CLIENTS <= MAX_BENCH_CLIENTS);
const _: () = assert!(DEFAULT_TIMEOUT.as_nanos() < BENCH_MAX_NS as u128);
