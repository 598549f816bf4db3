//! Every bound of the client library, and the relations between them. Bounds of the data itself (lengths of keys, values,
//! transactions) are the server's; it names them in its answers.

use std::time::Duration;

/// Time that a call may take, all its tries together.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Time that one try may take before another node is asked. Only for calls that may be tried again.
pub const TRY_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest timeout that a request carries to the server.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
/// Time for making a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection without traffic is probed this often.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// A probe that is not answered within this time breaks the connection.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// HTTP/2 window of one stream in bytes: what a reader that stopped reading makes this side hold.
pub const STREAM_WINDOW: u32 = 4 << 20;
/// HTTP/2 window of one connection in bytes. So large that a stream nobody reads never holds up its neighbours.
pub const CONNECTION_WINDOW: u32 = 1 << 30;
/// Bytes of one message.
pub const MAX_MESSAGE: usize = 16 << 20;
/// Bytes that the gRPC codec allocates for a stream, and that it gathers before it hands them to the socket.
pub const CODEC_BUFFER: usize = 64 << 10;
/// Requests in one frame.
pub const MAX_FRAME_REQUESTS: usize = 512;
/// Bytes of requests in one frame; one request that is larger travels alone.
pub const MAX_FRAME_BYTES: usize = 1 << 20;
/// Requests that wait for a node's answer or for its socket.
pub const MAX_PENDING: usize = 16_384;
/// Bytes of requests that wait for a node's socket.
pub const MAX_QUEUED_BYTES: usize = 64 << 20;
/// How often the deadlines of waiting requests are looked at while there are any. A deadline is kept to within this.
pub const SWEEP: Duration = Duration::from_millis(25);
/// The same while no request waits.
pub const SWEEP_IDLE: Duration = Duration::from_millis(100);
/// First pause after a failed connection attempt; doubles up to [`MAX_RECONNECT_PAUSE`].
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause between connection attempts to a node.
pub const MAX_RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// First pause before a request is tried again; doubles up to [`MAX_RETRY_PAUSE`].
pub const RETRY_PAUSE: Duration = Duration::from_millis(4);
/// Longest pause between tries of a request.
pub const MAX_RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Redirects to another leader that are followed at once; later ones wait like other retries.
pub const MAX_FAST_REDIRECTS: u32 = 3;
/// How long a node that could not be reached is asked last.
pub const NODE_PENALTY: Duration = Duration::from_millis(500);
/// Age at which the shard map, and with it the knowledge who leads, is fetched anew in the background.
pub const MAP_MAX_AGE: Duration = Duration::from_secs(10);
/// Time for one node to answer with its shard map.
pub const MAP_TIMEOUT: Duration = Duration::from_secs(1);
/// Distance between the oldest write in flight and the newest in one session. The server remembers twice as many outcomes
/// (4096), so a retry always finds its own.
pub const MAX_SESSION_SPAN: usize = 2048;
/// A watch that hears nothing for so long asks another node. Servers say every second how far a watch is.
pub const WATCH_IDLE: Duration = Duration::from_secs(5);
/// First pause before a broken watch is opened again; doubles up to [`MAX_WATCH_PAUSE`].
pub const WATCH_PAUSE: Duration = Duration::from_millis(10);
/// Longest pause before a broken watch is opened again.
pub const MAX_WATCH_PAUSE: Duration = Duration::from_secs(1);
/// Bytes of keys and values in a near-cache, unless its options say otherwise.
pub const NEAR_CACHE_BYTES: usize = 16 << 20;
/// Bytes that a cached entry counts beside its key and value.
pub const NEAR_CACHE_ENTRY: usize = 128;
/// Age up to which a near-cache answers, unless its options say otherwise. While other keys of the shard change, a watch hears
/// of its progress once a second, so that a shorter age makes for misses.
pub const NEAR_CACHE_AGE: Duration = Duration::from_secs(2);
/// The shortest pause between two confirmations of a near-cache's age.
pub const MIN_CONFIRM_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause between two confirmations of the age of a near-cache that is being used.
pub const MAX_CONFIRM_PAUSE: Duration = Duration::from_millis(250);

const _: () = assert!(MAX_FRAME_BYTES < MAX_MESSAGE);
const _: () = assert!(MAX_FRAME_REQUESTS <= MAX_PENDING);
const _: () = assert!(MAX_SESSION_SPAN * 2 <= 4096);
const _: () = assert!(MIN_CONFIRM_PAUSE.as_millis() < MAX_CONFIRM_PAUSE.as_millis());
const _: () = assert!(SWEEP.as_millis() <= SWEEP_IDLE.as_millis());
const _: () = assert!(STREAM_WINDOW < CONNECTION_WINDOW && CONNECTION_WINDOW < 1 << 31);
