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
/// Keys in one range answer.
pub const MAX_RANGE_KEYS: u32 = 10_000;
/// Bytes of keys and values in one range answer; the last pair may pass it.
pub const MAX_RANGE_BYTES: usize = 4 << 20;
/// Keys that one DeleteRange may delete.
pub const MAX_DELETE_RANGE_KEYS: usize = 10_000;
/// Keys and leases removed by one Expire; the leader proposes the next at once.
pub const MAX_EXPIRE: usize = 1_000;
/// Milliseconds of the shortest TTL of a lease: keep-alives go through the log.
pub const MIN_LEASE_TTL_MS: u64 = 500;
/// Milliseconds of the longest TTL of a key or a lease: ten years.
pub const MAX_TTL_MS: u64 = 10 * 365 * 24 * 3600 * 1000;
/// Keys attached to one lease.
pub const MAX_LEASE_KEYS: usize = 10_000;
/// Outcomes remembered for one session; a client keeps fewer writes in flight.
pub const MAX_SESSION_WINDOW: usize = 4_096;
/// Sessions of one shard; the longest unused is closed when one more is opened.
pub const MAX_SESSIONS: usize = 16_384;
/// Milliseconds after which an unused session is closed.
pub const SESSION_IDLE_MS: u64 = 24 * 3600 * 1000;
/// Consumers of one shard.
pub const MAX_CONSUMERS: usize = 1_024;
/// Bytes of a consumer's name, at least one.
pub const MAX_CONSUMER_NAME: usize = 256;

const _: () = assert!(MAX_VALUE + MAX_KEY < MAX_COMMAND);
const _: () = assert!(MAX_VALUE <= MAX_RANGE_BYTES);
const _: () = assert!(MAX_DELETE_RANGE_KEYS <= MAX_LEASE_KEYS);
