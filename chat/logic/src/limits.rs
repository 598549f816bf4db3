//! Every bound of the services.

use std::time::Duration;

/// Looks before a change gives up: each time somebody else was quicker.
pub const TRIES: usize = 16;
/// Conversations whose rows are kept in mind.
pub const CACHED_ROOMS: usize = 4_096;
/// Messages that wait for one conversation's transaction.
pub const MAX_WAITING_SENDS: usize = 4_096;
/// Conversations in one answer to a sync, at most.
pub const SYNC_CONVERSATIONS: u32 = 50;
/// Contacts in one answer to a sync, at most.
pub const SYNC_CONTACTS: u32 = 200;
/// Messages of each conversation in an answer to a sync, at most.
pub const SYNC_MESSAGES: u32 = 20;
/// Changes that are looked at for one answer.
pub const SYNC_CHANGES: u32 = 500;
/// Messages of one page of history.
pub const PAGE: u32 = 200;
/// Users whose profiles are asked for at once.
pub const MAX_PROFILES: usize = 100;
/// Passwords that are hashed at a time: each takes 19 MiB and tens of milliseconds of a core.
pub const HASHES_AT_A_TIME: usize = 2;
/// Callers that wait for that.
pub const HASHES_WAITING: usize = 64;
/// Failed logins of one account in a row, and after how long one more is allowed.
pub const LOGIN_BURST: u32 = 10;
/// See [`LOGIN_BURST`].
pub const LOGIN_EVERY: Duration = Duration::from_secs(6);
/// Messages that a user sends in a row, and after how long one more is allowed.
pub const SEND_BURST: u32 = 200;
/// See [`SEND_BURST`].
pub const SEND_EVERY: Duration = Duration::from_millis(20);
/// What somebody asks of strangers, in a row: requests, searches; and after how long one more is allowed.
pub const ASK_BURST: u32 = 60;
/// See [`ASK_BURST`].
pub const ASK_EVERY: Duration = Duration::from_secs(2);
/// Buckets of one kind that are kept in mind.
pub const CACHED_BUCKETS: usize = 65_536;
/// A device's time of last use is stored when it is older than this.
pub const SEEN_EVERY: Duration = Duration::from_secs(60);
/// Changes that a delivery worker tells at once, about.
pub const MAX_BATCH: usize = 2_000;
/// Tells under way of one delivery worker.
pub const TELLS_AT_A_TIME: usize = 256;

const _: () = assert!(SYNC_CONVERSATIONS * SYNC_MESSAGES <= 1_000);
