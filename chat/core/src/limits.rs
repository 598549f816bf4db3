//! Every bound of the chat backend's rules, and the relations between them.

/// Letters of the shortest user name.
pub const MIN_NAME: usize = 3;
/// Letters of the longest one.
pub const MAX_NAME: usize = 32;
/// Bytes of the shortest and the longest password.
pub const MIN_PASSWORD: usize = 8;
/// See [`MIN_PASSWORD`]: argon2id reads all of it, for anybody who asks.
pub const MAX_PASSWORD: usize = 256;
/// Members of a group.
pub const MAX_MEMBERS: u32 = 500;
/// Bytes of a client's id of a message.
pub const CLIENT_ID_BYTES: usize = 16;
/// Milliseconds after which a message can no longer be recalled or edited.
pub const REVISION_WINDOW_MS: u64 = 24 * 3600 * 1000;
/// Edits of one message.
pub const MAX_EDITS: u32 = 64;
/// Messages that are sent in one transaction.
pub const MAX_SEND_BATCH: usize = 128;
/// Bits of an id that count; those above are the region.
pub const COUNTER_BITS: u32 = 48;
/// Bytes of the authentication code of a token.
pub const MAC_BYTES: usize = 16;
/// Bytes of the shortest secret key.
pub const MIN_SECRET_BYTES: usize = 16;
/// Milliseconds that an access token is good for.
pub const ACCESS_MS: u64 = 15 * 60 * 1000;
/// Seconds that an invitation to a group may be good for.
pub const MAX_INVITATION_SECONDS: u32 = 7 * 24 * 3600;
/// Devices of a user: with one more, the one that was seen least recently is logged out.
pub const MAX_DEVICES: usize = 16;
/// Bytes of a display name, an alias, a device's label, a group's title.
pub const MAX_LINE: usize = 128;
/// Bytes of what somebody says of themselves, and of a greeting.
pub const MAX_ABOUT: usize = 512;
/// Bytes of a text message.
pub const MAX_TEXT: usize = 16 * 1024;
/// Bytes of a medium.
pub const MAX_MEDIUM: u64 = 16 * 1024 * 1024;
/// Change entries of one kind that are kept for a user: a device that has missed more gets everything anew.
pub const KEPT_CHANGES: u64 = 4_096;

const _: () = assert!(MIN_NAME > 0 && MIN_NAME < MAX_NAME);
// All that one transaction stores must fit into a kvsvr request (4 MiB).
const _: () = assert!(MAX_SEND_BATCH * (MAX_TEXT + 512) < 4 * 1024 * 1024);
