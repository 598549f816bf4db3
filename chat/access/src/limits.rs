//! Every bound of the gateway.

use std::time::Duration;

/// Bytes of the largest frame from a client: a message's text in JSON, where each byte may become six.
pub const MAX_FRAME: usize = 128 * 1024;
/// Requests of one connection that are under way.
pub const MAX_REQUESTS: usize = 64;
/// Frames that wait for a slow client, besides answers. With more it is *lagging*: they are dropped, and it is told to sync.
pub const MAX_QUEUED: usize = 256;
/// Bytes of these.
pub const MAX_QUEUED_BYTES: usize = 512 * 1024;
/// Time in which a connection must say who it is.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a client that has nothing to say says Ping.
pub const HEARTBEAT: Duration = Duration::from_secs(30);
/// Who is silent for so long is gone.
pub const DEAD_AFTER: Duration = Duration::from_secs(75);
/// A client that takes nothing for so long is gone.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Hints of changes are gathered for so long.
pub const COALESCE: Duration = Duration::from_millis(50);
/// A session whose connection broke is kept for so long.
pub const RESUME: Duration = Duration::from_secs(30);
/// Sessions of one user.
pub const MAX_SESSIONS: usize = 32;
/// Users whose presence one connection may watch.
pub const MAX_WATCHED: usize = 200;
/// Bytes of a WebSocket's buffers. One of each for each connection, so small.
pub const SOCKET_BUFFER: usize = 4 * 1024;
/// Connections at a time.
pub const MAX_CONNECTIONS: usize = 100_000;
/// Connections that have not said yet who they are.
pub const MAX_STRANGERS: usize = 2_000;
/// On a drain clients are told to come back at a random time within this.
pub const RECONNECT_WITHIN: Duration = Duration::from_secs(5);
/// The same user says that they are typing no more often.
pub const TYPING_EVERY: Duration = Duration::from_secs(1);
/// A service answers within this, or the outcome is not known.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// When a client is to try again, if a service is not there.
pub const RETRY_AFTER: Duration = Duration::from_millis(300);
/// Time to connect to a process of services.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// A connection to one that is silent is probed so often,
pub const PROBE_EVERY: Duration = Duration::from_secs(2);
/// and is broken if that is not answered within this.
pub const PROBE_WITHIN: Duration = Duration::from_secs(3);
/// Pauses between tries to link to one, the shortest and the longest.
pub const LINK_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Bytes that a process of services may have sent and that are not read yet.
pub const WINDOW: u32 = 4 * 1024 * 1024;
/// Bytes of the largest message between processes.
pub const MAX_INTERNAL: usize = 16 * 1024 * 1024;

const _: () = assert!(DEAD_AFTER.as_millis() == 5 * HEARTBEAT.as_millis() / 2);
const _: () = assert!(MAX_QUEUED_BYTES >= MAX_FRAME);
