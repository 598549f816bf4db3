//! Every bound and default of the node, and the relations between them.

use std::time::Duration;

// Row cache.

/// Parts of the row cache with a lock of their own.
pub const ROW_CACHE_SHARDS: usize = 16;
/// Bytes of key and row of the largest entry: a larger one would push out thousands of others.
pub const ROW_CACHE_MAX_ROW: usize = 128 << 10;
/// Bytes by which the number of entries is estimated; right within a factor of ten is enough.
pub const ROW_CACHE_TYPICAL_ROW: usize = 512;
/// Bytes that an entry costs besides its key and its row: handles, links, hash slot, allocator headers, its share of remembered keys.
pub const ROW_CACHE_ENTRY_OVERHEAD: usize = 224;

// Watch hub and watch streams.

/// Bytes of recent events that a shard's hub holds for its subscribers.
pub const HUB_RING_BYTES: usize = 16 << 20;
/// Bytes that an event costs in the ring besides its key, value and partition name.
pub const HUB_EVENT_OVERHEAD: usize = 192;
/// Publications that a subscriber takes from the ring at once; it holds the ring's lock for that long.
pub const HUB_READ_CHUNKS: usize = 64;
/// Subscribers of one shard on one node.
pub const HUB_MAX_SUBSCRIBERS: usize = 10_000;
/// Milliseconds after which a subscriber that found no place may try again.
pub const HUB_FULL_RETRY_MS: u32 = 1_000;
/// Bytes of events in one message of a watch stream; the last revision may pass it.
pub const WATCH_MESSAGE_BYTES: usize = 256 << 10;
/// Messages that a watch stream has waiting for its client before it stops reading events.
pub const WATCH_UNSENT_MESSAGES: usize = 2;
/// A replica without a leader goes on serving watches until its state is this old.
pub const WATCH_MAX_AGE: Duration = Duration::from_secs(5);
/// Time without a message after which a watch stream says how far it is.
pub const WATCH_HEARTBEAT: Duration = Duration::from_secs(1);
/// Time between two looks at what may end a watch stream: a lost leader, a fenced consumer.
pub const WATCH_CHECK: Duration = Duration::from_millis(500);
/// Time after which a watch stream whose client reads nothing is ended; the client can resume it.
pub const WATCH_STALL: Duration = Duration::from_secs(60);
/// Time that a consumer stream waits for this replica to apply the command that opened the consumer.
pub const CONSUMER_OPEN_WAIT: Duration = Duration::from_secs(2);
/// Time between two looks during that wait.
pub const CONSUMER_OPEN_POLL: Duration = Duration::from_millis(20);

const _: () = assert!(WATCH_CHECK.as_millis() <= WATCH_HEARTBEAT.as_millis());
const _: () = assert!(WATCH_HEARTBEAT.as_millis() < WATCH_STALL.as_millis());
const _: () = assert!(WATCH_MESSAGE_BYTES <= HUB_RING_BYTES && WATCH_UNSENT_MESSAGES > 0);

// ---- durable storage (wal, store, rocks) ----

/// Bytes of one WAL segment file, allocated when the file is created.
pub const WAL_SEGMENT_BYTES: u64 = 64 << 20;
/// Bytes of the smallest segment that may be configured.
pub const WAL_MIN_SEGMENT_BYTES: u64 = 4 << 10;
/// Bytes of records after which one write to the WAL is closed; the last record may pass it.
pub const WAL_WRITE_BYTES: usize = 4 << 20;
/// Bytes of one log entry's payload.
pub const WAL_MAX_PAYLOAD: usize = 32 << 20;
/// Bytes of log entries kept in memory for reads, all shards together.
pub const WAL_CACHE_BYTES: usize = 32 << 20;
/// Bytes of one read from a segment that serves several entries.
pub const WAL_READ_SPAN: usize = 1 << 20;
/// Segment files kept allocated for later use.
pub const WAL_SPARES: usize = 2;
/// Milliseconds without work after which the WAL seals its last write.
pub const WAL_SEAL_MS: u64 = 200;
/// Bytes written between two looks at the free space.
pub const WAL_SPACE_CHECK_BYTES: u64 = 16 << 20;
/// Bytes that one write past the page cache has at most: they are gathered in a buffer of this size.
pub const DIRECT_WRITE_BYTES: usize = 1 << 20;
/// Bytes of free space below which the node refuses writes.
pub const DISK_RESERVE_BYTES: u64 = 256 << 20;
/// Bytes of RocksDB's block cache, index and filter blocks included.
pub const ROCKS_BLOCK_CACHE_BYTES: usize = 128 << 20;
/// Bytes of all memtables together.
pub const ROCKS_MEMTABLE_BYTES: usize = 96 << 20;
/// Bytes of the write buffer: what is written to and what is being flushed.
pub const BUFFER_BYTES: usize = 128 << 20;
/// How long the state machine waits for room in the write buffer before it has room made, on a blocking thread.
pub const BUFFER_ROOM_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes that a row of the write buffer costs besides its key and its value: handles, hash slot, allocator headers.
pub const BUFFER_ROW_OVERHEAD: usize = 192;
/// Bytes that an older version of a row costs besides its value.
pub const BUFFER_VERSION_OVERHEAD: usize = 64;
/// Bytes that a retired version in the write buffer costs besides its key and its row.
pub const BUFFER_FORMER_OVERHEAD: usize = 160;
/// Retired versions of one key that a look-up in the history steps over before it has them sorted.
pub const BUFFER_FORMER_STEPS: usize = 64;
/// Rows of the write buffer that a scan looks at while it holds the buffer's locks.
pub const BUFFER_SCAN_ROWS: usize = 256;
/// Threads of RocksDB for flushes and compactions.
pub const ROCKS_BACKGROUND_JOBS: i32 = 2;
/// Files that RocksDB keeps open.
pub const ROCKS_OPEN_FILES: i32 = 1024;

const _: () = assert!(BUFFER_SCAN_ROWS > 0);
const _: () = assert!(WAL_WRITE_BYTES as u64 * 4 <= WAL_SEGMENT_BYTES);
const _: () = assert!(kvsvr_core::limits::MAX_COMMAND + (1 << 20) <= WAL_MAX_PAYLOAD);
const _: () = assert!(WAL_MAX_PAYLOAD + WAL_WRITE_BYTES < u32::MAX as usize / 4);

// ---- edges (gRPC, HTTP, configuration) ----

/// Milliseconds that the runtime's threads get to end when the process stops.
pub const RUNTIME_STOP_MS: u64 = 5_000;

/// Bytes of one gRPC message in either direction.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// Bytes of request messages that are still being received, all connections together; beyond it calls are refused.
pub const MAX_INTAKE_BYTES: usize = 128 << 20;
/// Connections to the gRPC port unless configured; the next one is closed at once.
pub const MAX_CONNECTIONS: usize = 10_000;
/// Connections to the HTTP port.
pub const MAX_HTTP_CONNECTIONS: usize = 256;
/// Calls and streams that one connection has open at a time.
pub const MAX_STREAMS_PER_CONNECTION: u32 = 1_024;
/// Bytes that a peer may send ahead of the reader on one stream.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes that a peer may send ahead of the readers on one connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Bytes of one HTTP/2 frame that a peer may send.
pub const MAX_HTTP2_FRAME_BYTES: u32 = 128 << 10;
/// Bytes of the headers of one call.
pub const MAX_HEADER_BYTES: u32 = 16 << 10;
/// Bytes of encoded messages after which they are handed to the socket together.
pub const ENCODE_BATCH_BYTES: usize = 64 << 10;
/// Bytes with which a call's buffers begin.
pub const CALL_BUFFER_BYTES: usize = 8 << 10;
/// Milliseconds in which a new connection must have sent its HTTP/2 preface, or its HTTP/1 headers.
pub const GREETING_MS: u64 = 5_000;
/// Milliseconds between pings on a connection.
pub const KEEPALIVE_INTERVAL_MS: u64 = 10_000;
/// Milliseconds in which a ping must be answered.
pub const KEEPALIVE_TIMEOUT_MS: u64 = 5_000;
/// Milliseconds before connections are accepted again after the system refused one (out of file handles).
pub const ACCEPT_RETRY_MS: u64 = 100;
/// Milliseconds between two log lines about refused connections.
pub const REFUSAL_LOG_MS: u64 = 10_000;
/// Milliseconds for one answer on the HTTP port.
pub const HTTP_ANSWER_MS: u64 = 5_000;
/// The HTTP port is this far above the gRPC port unless configured.
pub const HTTP_PORT_OFFSET: u16 = 1_000;
/// Bytes of the row cache.
pub const ROW_CACHE_BYTES: usize = 128 << 20;
/// Bytes that a node may use for its budgets unless configured: a 1 GiB node.
pub const MEMORY_LIMIT_BYTES: usize = 1 << 30;
/// Shards for which the memory budgets of a node are checked; a node with more needs a larger limit.
pub const BUDGET_SHARDS: usize = 4;
/// Bytes of WAL that are not flushed into the engine after which a flush is forced.
pub const FLUSH_WAL_BYTES: u64 = 128 << 20;
/// Bytes of the smallest WAL segment that an operator may ask for: a segment holds the largest command.
pub const MIN_CONFIGURED_SEGMENT_BYTES: u64 = 8 << 20;
/// Revisions of history that each shard keeps.
pub const RETAIN_REVISIONS: u64 = 1_000_000;
/// Bytes of events by which a consumer may be behind before compaction passes it.
pub const CONSUMER_MAX_LAG_BYTES: u64 = 1 << 30;
/// Bytes of applied log entries that each shard keeps for followers that are behind.
pub const KEEP_LOG_BYTES: u64 = 64 << 20;
/// Milliseconds of the shortest heartbeat that may be configured.
pub const MIN_HEARTBEAT_MS: u64 = 10;

const _: () = assert!(STREAM_WINDOW_BYTES <= CONNECTION_WINDOW_BYTES);
const _: () = assert!(kvsvr_core::limits::MAX_COMMAND + (1 << 20) <= MAX_MESSAGE_BYTES);
const _: () =
    assert!(kvsvr_core::limits::MAX_RANGE_BYTES + kvsvr_core::limits::MAX_VALUE < MAX_MESSAGE_BYTES);
const _: () = assert!(MAX_MESSAGE_BYTES * 4 <= MAX_INTAKE_BYTES);
const _: () = assert!(
    ROCKS_BLOCK_CACHE_BYTES
        + ROCKS_MEMTABLE_BYTES
        + ROW_CACHE_BYTES
        + WAL_CACHE_BYTES
        + MAX_INTAKE_BYTES
        + BUDGET_SHARDS * (HUB_RING_BYTES + MAX_QUEUED_BYTES)
        <= MEMORY_LIMIT_BYTES
);
const _: () = assert!(MIN_CONFIGURED_SEGMENT_BYTES <= WAL_SEGMENT_BYTES);
const _: () = assert!(WAL_SEGMENT_BYTES <= FLUSH_WAL_BYTES);

// Requests.

/// Deadline of a request that names none.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest deadline that a request may name.
pub const MAX_REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests of one Exec stream that may be unanswered; then its socket is not read.
pub const MAX_EXEC_IN_FLIGHT: usize = 8_192;
/// Requests in one frame.
pub const MAX_REQUESTS_PER_FRAME: usize = 8_192;
/// Answers in one frame.
pub const MAX_REPLIES_PER_FRAME: usize = 512;
/// Bytes of the answers in one frame; one answer may pass it.
pub const MAX_REPLY_FRAME_BYTES: usize = 1 << 20;
/// Bytes of answers that may wait for the client of one Exec stream; further reads are answered OVERLOADED.
pub const MAX_UNREAD_REPLY_BYTES: usize = 32 << 20;
/// When a client is told to come again after the shard had no leader.
pub const NO_LEADER_RETRY_MS: u32 = 30;
/// When a client is told to come again after the queue was full.
pub const OVERLOADED_RETRY_MS: u32 = 50;

// Proposals.

/// Commands of one log entry.
pub const MAX_BATCH_COMMANDS: usize = 1_024;
/// Bytes of the commands of one log entry; one command may pass it.
pub const MAX_BATCH_BYTES: usize = 1 << 20;
/// Bytes of one answer on an Exec stream.
pub const MAX_ANSWER_BYTES: usize = MAX_MESSAGE_BYTES - (1 << 20);
/// Reads of a shard, other than of single keys, that are carried out at a time.
pub const MAX_SCANS: usize = 4;
/// Bytes of requests that wait for other nodes, which this node forwarded them to.
pub const MAX_FORWARDED_BYTES: usize = 64 << 20;
/// No append request is sent to a peer later than this after the oldest one that the peer has not answered.
pub const MAX_APPEND_SPREAD: Duration = Duration::from_millis(50);
/// Entries of a shard that may be uncommitted.
pub const MAX_ENTRIES_IN_FLIGHT: usize = 2;
/// Bytes of commands of a shard that may wait or be uncommitted; more are answered OVERLOADED.
pub const MAX_QUEUED_BYTES: usize = 64 << 20;
/// Entries of one apply batch.
pub const MAX_APPLY_ENTRIES: usize = 256;
/// Bytes of the entries of one apply batch; one entry may pass it.
pub const MAX_APPLY_BYTES: usize = 4 << 20;

const _: () = assert!(kvsvr_core::limits::MAX_COMMAND < MAX_QUEUED_BYTES);
const _: () = assert!(MAX_BATCH_BYTES <= MAX_APPLY_BYTES);
const _: () = assert!(
    MAX_REPLY_FRAME_BYTES + kvsvr_core::limits::MAX_RANGE_BYTES + kvsvr_core::limits::MAX_VALUE
        < MAX_MESSAGE_BYTES
);
const _: () = assert!(MAX_REPLY_FRAME_BYTES < MAX_UNREAD_REPLY_BYTES);

// Reads.

/// Frames of reads that one confirmation of leadership serves.
pub const MAX_READS_PER_ROUND: usize = 1_024;
/// How long a confirmation, and the applied state after it, are waited for. Less than clients wait for one try, so that they hear why.
pub const READ_CONFIRM_TIMEOUT: Duration = Duration::from_millis(750);
/// Percent of the leader's lease that are not used, because clocks run at different speeds.
pub const LEASE_DRIFT_PERCENT: u32 = 20;
/// How often a replica without linearizable reads asks the leader, to know the age of its state.
pub const FRESHNESS_PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// A replica that no quorum has confirmed for so long says so in the status and is not ready.
pub const UNCONFIRMED_WARNING: Duration = Duration::from_secs(4);

// Replication.

/// Entries of one append request.
pub const MAX_APPEND_ENTRIES: u64 = 256;
/// Bytes of the entries of one append request; one entry may pass it.
pub const MAX_APPEND_BYTES: usize = 2 << 20;
/// Bytes of a read of the log that must be whole: recovery reads it in such steps.
pub const MAX_READ_ALL_BYTES: usize = usize::MAX;
/// Append requests of a stream that may be unanswered.
pub const MAX_APPENDS_IN_FLIGHT: usize = 64;
/// Bytes of append requests of a stream that may be unanswered; one may pass it.
pub const MAX_APPEND_BYTES_IN_FLIGHT: usize = 16 << 20;
/// Shortest time that a peer gets to answer an append request: its disk may be slow.
pub const MIN_APPEND_DEADLINE: Duration = Duration::from_millis(1_000);
/// Time that a peer gets to accept leadership.
pub const TRANSFER_DEADLINE: Duration = Duration::from_millis(1_000);

// Snapshots.

/// Bytes of a chunk; one pair may pass it.
pub const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;
/// Unacknowledged chunks.
pub const MAX_SNAPSHOT_CHUNKS_IN_FLIGHT: u64 = 8;
/// Chunks that a receiver makes durable, and acknowledges, together.
pub const SNAPSHOT_CHUNKS_PER_SYNC: u64 = 4;
/// Transfers that a node sends at a time.
pub const MAX_SNAPSHOTS_SENDING: usize = 2;
/// Bytes per second of one transfer, so that it leaves disk and network to the service.
pub const SNAPSHOT_BYTES_PER_SECOND: u64 = 128 << 20;
/// How long one side of a transfer waits for a sign of life of the other.
pub const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(60);
/// How often a receiver that installs, or waits for an installation to end, says that it is alive.
pub const SNAPSHOT_BUSY_INTERVAL: Duration = Duration::from_secs(5);
/// Longest time of a whole transfer.
pub const SNAPSHOT_TRANSFER_TIMEOUT: Duration = Duration::from_secs(6 * 3600);

// The sender goes on while the receiver syncs.
const _: () = assert!(SNAPSHOT_CHUNKS_PER_SYNC * 2 <= MAX_SNAPSHOT_CHUNKS_IN_FLIGHT);
const _: () = assert!(SNAPSHOT_BUSY_INTERVAL.as_millis() * 4 <= SNAPSHOT_PATIENCE.as_millis());

// Maintenance and administration.

/// How often flush and purge are looked at.
pub const MAINTENANCE_INTERVAL: Duration = Duration::from_millis(500);
/// How often the leader looks for what has expired.
pub const EXPIRY_INTERVAL: Duration = Duration::from_millis(200);
/// How often grpc.health.v1 is told whether the node is ready; readiness has many causes and no event of its own.
pub const HEALTH_INTERVAL: Duration = Duration::from_secs(1);
/// How often the leader looks for what can be compacted.
pub const COMPACTION_INTERVAL: Duration = Duration::from_secs(5);
/// A checkpoint of an interrupted snapshot transfer that nobody has gone on with for this long, up to twice, is removed.
pub const IDLE_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(3600);
/// Revisions by which the floor moves at least when the leader moves it by itself.
pub const MIN_COMPACTION_STEP: u64 = 1_000;
/// How often a leader looks whether the preferred node can lead.
pub const PREFERRED_LEADER_INTERVAL: Duration = Duration::from_secs(3);
/// Heartbeats within which a node must have been heard of to be handed leadership.
pub const PREFERRED_LEADER_HEARTBEATS: u32 = 3;
/// Entries that a node may lack to be handed leadership.
pub const TRANSFER_MAX_LAG: u64 = 16;
/// A member that lacks up to this many times the log that is kept anyway is still served from the log, not by a snapshot; also one that
/// lacks it behind a snapshot which it is being sent.
pub const PURGE_PATIENCE: u64 = 8;
/// After this time any member starts a new group when the preferred one has not.
pub const INITIALIZE_PATIENCE: Duration = Duration::from_secs(3);
/// Between two tries of a replica of the meta shard that was made anew to learn whether it has caught up.
pub const CATCH_UP_LOOK: Duration = Duration::from_millis(100);
/// Time that one step of administration gets.
pub const ADMIN_DEADLINE: Duration = Duration::from_secs(5);
/// Time that a new cluster gets to elect a leader and store its map.
pub const BOOTSTRAP_DEADLINE: Duration = Duration::from_secs(20);
/// Time that other nodes get to take over leadership when this one stops.
pub const STOP_TRANSFER_DEADLINE: Duration = Duration::from_secs(3);
/// After this long who still leads asks again, and no longer waits for members it has not heard of.
pub const STOP_TRANSFER_RETRY: Duration = Duration::from_millis(500);
/// How often a condition is looked at where nothing tells of its change.
pub const POLL_INTERVAL: Duration = Duration::from_millis(50);

// Placement.

/// How often the leader of the meta shard compares what is wanted with what is, while something is to be done.
pub const PLACEMENT_INTERVAL: Duration = Duration::from_millis(300);
/// The same after something was done: what comes next can be done then.
pub const PLACEMENT_STEP_INTERVAL: Duration = Duration::from_millis(50);
/// Data shards of which a replica moves at a time.
pub const MAX_REPLICA_MOVES: usize = 2;
/// The least that `repair-after` may be, in milliseconds.
pub const MIN_REPAIR_AFTER_MS: u64 = 5_000;
/// How often the leader of the meta shard looks for nodes that have been silent for too long, or are back.
pub const REPAIR_INTERVAL: Duration = Duration::from_secs(1);
/// How often the leader of the meta shard compares the rows with the members that the shards really have, while nothing is to be done.
pub const COMPARE_INTERVAL: Duration = Duration::from_secs(60);
/// How often the leader of the meta shard asks the nodes how quick their disks are.
pub const DISK_INTERVAL: Duration = Duration::from_secs(5);
/// For the answer: the other work of the controller waits for it.
pub const DISK_DEADLINE: Duration = Duration::from_secs(1);
/// A disk that has been slow for so long is slow.
pub const SLOW_FOR: Duration = Duration::from_secs(10);
/// One that has been quick for so long is quick.
pub const QUICK_FOR: Duration = Duration::from_secs(60);
/// The least that `slow-disk` may be, in milliseconds.
pub const MIN_SLOW_DISK_MS: u64 = 10;
/// A node that was to get a replica and has been silent for so long, in milliseconds, does not get it.
pub const RETARGET_AFTER_MS: u64 = 60_000;
/// A node that the leader of the meta shard has not heard of for so long is down.
pub const NODE_SILENCE: Duration = Duration::from_secs(3);
/// Entries that a learner may lack to become a voter.
pub const LEARNER_MAX_LAG: u64 = 64;
/// By so much a learner may be behind in time to become a voter, in milliseconds.
pub const LEARNER_MAX_LAG_MS: u64 = 1_000;
/// Looks at a leader's log that are remembered to tell how far behind in time a member is.
pub const LAG_SAMPLES: usize = 256;
/// Steps of a plan that is shown.
pub const MAX_PLAN_STEPS: usize = 10_000;
/// Events that an operation remembers.
pub const MAX_OPERATION_EVENTS: usize = 200;
/// Bytes of rows in a part of a backup; a row that is larger goes alone.
pub const BACKUP_PART_BYTES: usize = 256 << 10;
/// Time that a shard gets to take a part of a backup.
pub const RESTORE_DEADLINE: Duration = Duration::from_secs(30);
/// Labels of a node.
pub const MAX_LABELS: usize = 16;
/// Bytes of the name or the value of a label.
pub const MAX_LABEL_BYTES: usize = 64;
/// Operations that are remembered after their end.
pub const MAX_ENDED_OPERATIONS: usize = 50;
/// Time that a shard's leader gets to carry out one step.
pub const STEP_DEADLINE: Duration = Duration::from_secs(10);

const _: () = assert!(NODE_SILENCE.as_millis() < RETARGET_AFTER_MS as u128);

// Recovery of a lost quorum.

/// Terms between the greatest that any survivor has seen and that of the entry which makes one of them the only voter. The lost majority may have
/// gone through more terms unseen; in half a second each it would take almost six days of elections without an end to get there.
pub const RECOVERY_TERMS: u64 = 1_000_000;
