//! Every bound of the state machine, and the relations between them.

pub use kvsvr_proto::{MAX_PARTITION_NAME, SLOTS};

/// Bytes of a key, at least one.
pub const MAX_KEY: usize = 4096;
/// Bytes of a value.
pub const MAX_VALUE: usize = 1 << 20;
/// Compares and operations of a transaction, each branch counted.
pub const MAX_TXN_OPS: usize = 1024;
/// Bytes of keys and values of a command.
pub const MAX_COMMAND: usize = 4 << 20;
/// Bytes of an encoded command: [`MAX_COMMAND`] and what the encoding adds for the largest number of operations.
pub const MAX_ENCODED_COMMAND: usize = MAX_COMMAND + (256 << 10);
/// Bytes of pairs in the answers of one transaction, each with its overhead.
pub const MAX_TXN_RESULT_BYTES: usize = MAX_RANGE_BYTES;
/// Keys in one range answer.
pub const MAX_RANGE_KEYS: u32 = 10_000;
/// Bytes that a pair costs in an answer besides its key and value: its numbers and the encoding.
pub const PAIR_OVERHEAD: usize = 64;
/// Bytes of pairs in one range answer, each with its overhead; the last pair may pass it.
pub const MAX_RANGE_BYTES: usize = 4 << 20;
/// Bytes of stored rows that one page of a range, or all ranges of a transaction, may look at; the last row may pass it.
pub const MAX_RANGE_SCAN_BYTES: usize = 32 << 20;
/// Rows that are not visible at the revision that one page, or all ranges of a transaction, may look at; those of one key may pass it.
pub const MAX_RANGE_SKIPS: usize = 65_536;
/// Versions of one key that a range of an older state steps over before it seeks.
pub const RANGE_SEEK_VERSIONS: usize = 16;
/// Rows that a range of an older state reads ahead from one column family.
pub const RANGE_CHUNK_ROWS: usize = 128;
/// Bytes of rows that it reads ahead; the last row may pass it.
pub const RANGE_CHUNK_BYTES: usize = 1 << 20;
/// Keys that one DeleteRange may delete.
pub const MAX_DELETE_RANGE_KEYS: usize = 10_000;
/// Bytes of keys, partitions' names counted, that one DeleteRange or the end of one lease may delete: a revision is one message to a watch.
pub const MAX_DELETED_KEY_BYTES: usize = 4 << 20;
/// Bytes of stored rows that one command may replace or delete: each becomes a row of the history. `Expire` may pass it by one row.
pub const MAX_OLD_ROW_BYTES: usize = 32 << 20;
/// Bytes that the commands of one log entry may gather in memory: rows that they replace or delete, outcomes. Once they have, further
/// commands on keys in the entry are answered Overloaded; one command may pass it.
pub const MAX_ENTRY_BYTES: usize = 64 << 20;
/// Bytes gathered by one call of apply after which it leaves the further entries for the next call.
pub const APPLY_STOP_BYTES: usize = 64 << 20;
/// Bytes that a changed key costs in these two besides the row before: its key in five places, its event, its new row's overhead.
pub const TOUCHED_OVERHEAD: usize = 512;
/// Bytes that the result of an operation in a transaction costs in these two besides the pairs in it.
pub const RESULT_OVERHEAD: usize = 128;
/// Keys and leases removed by one Expire; the leader proposes the next at once.
pub const MAX_EXPIRE: usize = 1_000;
/// Milliseconds of the shortest TTL of a lease: keep-alives go through the log.
pub const MIN_LEASE_TTL_MS: u64 = 500;
/// Milliseconds of the longest TTL of a key or a lease: ten years.
pub const MAX_TTL_MS: u64 = 10 * 365 * 24 * 3600 * 1000;
/// Keys attached to one lease.
pub const MAX_LEASE_KEYS: usize = 10_000;
/// Bytes of stored rows attached to one lease: they are deleted together.
pub const MAX_LEASE_ROW_BYTES: usize = MAX_OLD_ROW_BYTES;
/// Rows of leases that are read at a time when a shard is loaded.
pub const LEASE_LOAD_ROWS: usize = 1_024;
/// Leases of one shard.
pub const MAX_LEASES: usize = 65_536;
/// Outcomes remembered for one session; a client keeps fewer writes in flight.
pub const MAX_SESSION_WINDOW: usize = 4_096;
/// Bytes of an outcome that a session remembers; of a longer one it only remembers that the command was applied.
pub const MAX_REMEMBERED_OUTCOME: usize = 4 << 10;
/// Bytes of what a session remembers instead of an outcome that it does not keep.
pub const MAX_STUB: usize = 80;
/// Bytes of outcomes remembered for one session, each with its overhead. There is always room for a whole window of stubs, so bytes alone
/// never refuse a command.
pub const MAX_SESSION_BYTES: usize = 1 << 20;
/// Bytes of outcomes remembered by one shard; past it the longest unused sessions are closed.
pub const MAX_SESSIONS_BYTES: usize = 64 << 20;
/// Bytes that one remembered outcome is counted for besides its encoding.
pub const REMEMBERED_OVERHEAD: usize = 64;
/// Bytes of memory that a session keeps between two log entries for the outcomes of the next one.
pub const FRESH_KEPT: usize = 256;
/// Sessions of one shard; the longest unused is closed when one more is opened.
pub const MAX_SESSIONS: usize = 16_384;
/// Milliseconds after which an unused session is closed.
pub const SESSION_IDLE_MS: u64 = 24 * 3600 * 1000;
/// How many sessions a shard has, and for how long one may be unused, if a simulation wants less than [`MAX_SESSIONS`] and
/// [`SESSION_IDLE_MS`].
pub mod sessions {
    #[cfg(feature = "mutants")]
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{MAX_SESSIONS, SESSION_IDLE_MS};

    /// Of this process; 0 = what is usual.
    #[cfg(feature = "mutants")]
    static CHOSEN: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

    /// Chooses for the whole process, before it has a state machine; 0 = what is usual. All replicas of a shard must have the same.
    #[cfg(feature = "mutants")]
    pub fn choose(sessions: u64, idle_ms: u64) {
        CHOSEN[0].store(sessions, Ordering::Relaxed);
        CHOSEN[1].store(idle_ms, Ordering::Relaxed);
    }

    /// Whether there are fewer sessions than is usual, and whether they are closed sooner.
    #[cfg(feature = "mutants")]
    pub fn are_chosen() -> (bool, bool) {
        let is = |chosen: &AtomicU64| chosen.load(Ordering::Relaxed) != 0;
        (is(&CHOSEN[0]), is(&CHOSEN[1]))
    }

    fn chosen(which: usize, usual: u64) -> u64 {
        #[cfg(feature = "mutants")]
        if let chosen @ 1.. = CHOSEN[which].load(Ordering::Relaxed) {
            return chosen;
        }
        let _ = which;
        usual
    }

    /// Sessions of one shard.
    pub(crate) fn most() -> usize {
        chosen(0, MAX_SESSIONS as u64) as usize
    }

    /// Milliseconds.
    pub(crate) fn idle_ms() -> u64 {
        chosen(1, SESSION_IDLE_MS)
    }
}

/// By so much the ids that a restored shard gives out to sessions and leases are ahead of the backup's last ones.
pub const RESTORED_IDS_APART: u64 = 1 << 40;
/// Consumers of one shard.
pub const MAX_CONSUMERS: usize = 1_024;
/// Bytes of a consumer's name, at least one.
pub const MAX_CONSUMER_NAME: usize = 256;
/// Commands in one log entry.
pub const MAX_BATCH_COMMANDS: usize = 65_536;
/// Bytes after which a row of the change log is closed; it ends with a whole revision.
pub const LOG_ROW_BYTES: usize = 256 << 10;
/// Bytes of change log that one replay looks through when its filter matches little.
pub const MAX_REPLAY_SCAN: usize = 8 << 20;
/// Bytes that an event is counted for besides its partition's name, key and value, in lags and retention.
pub const EVENT_OVERHEAD: u64 = 32;

const _: () = assert!(MAX_VALUE + MAX_KEY < MAX_COMMAND);
const _: () = assert!(MAX_VALUE <= MAX_RANGE_BYTES);
const _: () = assert!(MAX_VALUE <= MAX_TXN_RESULT_BYTES);
const _: () = assert!(MAX_RANGE_BYTES + MAX_VALUE < MAX_RANGE_SCAN_BYTES && RANGE_SEEK_VERSIONS > 0);
const _: () = assert!(MAX_STUB < MAX_REMEMBERED_OUTCOME);
const _: () = assert!(
    MAX_SESSION_WINDOW * (MAX_STUB + REMEMBERED_OVERHEAD) + MAX_REMEMBERED_OUTCOME < MAX_SESSION_BYTES
);
const _: () = assert!(MAX_SESSION_BYTES < MAX_SESSIONS_BYTES);
const _: () = assert!(MAX_DELETE_RANGE_KEYS <= MAX_LEASE_KEYS);
const _: () = assert!(MAX_VALUE + MAX_COMMAND < MAX_OLD_ROW_BYTES);
const _: () = assert!(MAX_LEASE_ROW_BYTES <= MAX_OLD_ROW_BYTES);
const _: () = assert!(MAX_OLD_ROW_BYTES + MAX_DELETE_RANGE_KEYS * TOUCHED_OVERHEAD < MAX_ENTRY_BYTES);
const _: () = assert!(MAX_EXPIRE * (MAX_KEY + MAX_PARTITION_NAME) < 2 * MAX_DELETED_KEY_BYTES);
