//! Every stored key.
//!
//! All integers are big-endian, so that keys sort by number. A key begins with the shard (u32), so that a shard is one range of each
//! column family, and, where it belongs to a partition, goes on with the partition's slot, so that a range of slots is one too.
//! [`Key`] documents all kinds; the functions beside it build the hot ones without going through it. The values are in
//! [`rows`].
//!
//! `DATA-KEY` below is `slot u16, region u16, name_len u16, name, key (raw, to the end)`.
//!
//! | column family | key after the shard | value |
//! |---|---|---|
//! | data  | DATA-KEY | [`DataRow`]: the newest version |
//! | hist  | slot u16, region u16, name_len u16, name, key (escaped), !mod_rev u64 | [`HistRow`](crate::rows::HistRow): an older version |
//! | log   | first revision u64 | [`LogRow`](crate::rows::LogRow): the changes of one log entry, or a part of them |
//! | ttl   | expires_at u64, 1, DATA-KEY | format byte |
//! | ttl   | expires_at u64, 2, lease u64 | format byte |
//! | state | 1 | [`Head`](crate::rows::Head) |
//! | state | 2, lease u64 | [`LeaseRow`](crate::rows::LeaseRow) |
//! | state | 3, lease u64, DATA-KEY | format byte: the key is attached to the lease |
//! | state | 4, session u64 | [`SessionRow`](crate::rows::SessionRow) |
//! | state | 5, session u64, log index u64 | [`WindowRow`](crate::rows::WindowRow) |
//! | state | 6, name | [`ConsumerRow`](crate::rows::ConsumerRow); without a name: the greatest epoch of one that was deleted |
//! | state | 7 | [`RestoreRow`](crate::rows::RestoreRow): how far the shard is restored from a backup |
//!
//! Escaped means 0x00 -> 0x00 0xFF, end = 0x00 0x01: it keeps the order and lets a revision follow.

use bytes::Bytes;

use crate::{
    engine::Cf,
    error::Corrupt,
    rows,
    types::{Partition, Revision, ShardId, StampMs},
    wire::Reader,
};

pub use crate::rows::DataRow;

/// Bytes of the shard at the front of each key.
pub const SHARD_LEN: usize = 4;
/// Bytes before a partition's name: shard, slot, region, name length.
const NAME_AT: usize = SHARD_LEN + 6;

const TTL_KEY: u8 = 1;
const TTL_LEASE: u8 = 2;

const HEAD: u8 = 1;
const LEASE: u8 = 2;
const LEASE_KEY: u8 = 3;
const SESSION: u8 = 4;
const WINDOW: u8 = 5;
const CONSUMER: u8 = 6;
const RESTORE: u8 = 7;

/// A stored key, taken apart. See the module's table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// data: the newest version of a key.
    Data {
        /// The key's partition.
        partition: Partition,
        /// The key.
        key: Bytes,
    },
    /// hist: an older version.
    Hist {
        /// The key's partition.
        partition: Partition,
        /// The key.
        key: Bytes,
        /// The revision that wrote this version.
        mod_rev: Revision,
    },
    /// log: the changes from this revision on.
    Log {
        /// Revision of the first change.
        first: Revision,
    },
    /// ttl: a key that expires.
    TtlKey {
        /// When.
        expires_at: StampMs,
        /// The key's partition.
        partition: Partition,
        /// The key.
        key: Bytes,
    },
    /// ttl: a lease that expires.
    TtlLease {
        /// When.
        expires_at: StampMs,
        /// The lease.
        lease: u64,
    },
    /// state: applied position, membership, revision, floor, stamp, counters.
    Head,
    /// state: a lease.
    Lease(u64),
    /// state: a key attached to a lease.
    LeaseKey {
        /// The lease.
        lease: u64,
        /// The key's partition.
        partition: Partition,
        /// The key.
        key: Bytes,
    },
    /// state: a session.
    Session(u64),
    /// state: the outcomes that a session remembers of one log entry.
    Window {
        /// The session.
        session: u64,
        /// Index of the log entry.
        index: u64,
    },
    /// state: a consumer, by name.
    Consumer(Bytes),
    /// state: how far the shard is restored from a backup.
    Restore,
}

impl Key {
    /// The column family and the stored form.
    pub fn encode(&self, shard: ShardId) -> (Cf, Bytes) {
        match self {
            Key::Data { partition, key } => (Cf::Data, data_key(shard, partition, key)),
            Key::Hist {
                partition,
                key,
                mod_rev,
            } => (Cf::Hist, hist_key(&data_key(shard, partition, key), *mod_rev)),
            Key::Log { first } => (Cf::Log, log_key(shard, *first)),
            Key::TtlKey {
                expires_at,
                partition,
                key,
            } => (Cf::Ttl, ttl_key(&data_key(shard, partition, key), *expires_at)),
            Key::TtlLease { expires_at, lease } => (Cf::Ttl, ttl_lease_key(shard, *expires_at, *lease)),
            Key::Head => (Cf::State, head_key(shard)),
            Key::Lease(lease) => (Cf::State, lease_key(shard, *lease)),
            Key::LeaseKey {
                lease,
                partition,
                key,
            } => (Cf::State, attached_key(&data_key(shard, partition, key), *lease)),
            Key::Session(session) => (Cf::State, session_key(shard, *session)),
            Key::Window { session, index } => (Cf::State, window_key(shard, *session, *index)),
            Key::Consumer(name) => (Cf::State, consumer_key(shard, name)),
            Key::Restore => (Cf::State, restore_key(shard)),
        }
    }

    /// Takes a stored key apart.
    pub fn decode(cf: Cf, stored: &[u8]) -> Result<(ShardId, Key), Corrupt> {
        decode(cf, stored).ok_or_else(|| Corrupt::new(place(cf, stored), "not a key of this column family"))
    }
}

fn decode(cf: Cf, stored: &[u8]) -> Option<(ShardId, Key)> {
    let mut reader = Reader(stored);
    let shard = ShardId(reader.u32()?);
    let key = match cf {
        Cf::Data => {
            let (partition, key) = split_suffix(reader.0)?;
            Key::Data { partition, key }
        }
        Cf::Hist => {
            let (name, mod_rev) = split_hist_key(stored)?;
            let (partition, key) = split_suffix(&name[SHARD_LEN..])?;
            Key::Hist {
                partition,
                key,
                mod_rev,
            }
        }
        Cf::Log => Key::Log {
            first: last_u64(reader)?,
        },
        Cf::Ttl => {
            let expires_at = reader.u64()?;
            match reader.u8()? {
                TTL_KEY => {
                    let (partition, key) = split_suffix(reader.0)?;
                    Key::TtlKey {
                        expires_at,
                        partition,
                        key,
                    }
                }
                TTL_LEASE => Key::TtlLease {
                    expires_at,
                    lease: last_u64(reader)?,
                },
                _ => return None,
            }
        }
        Cf::State => decode_state(reader)?,
    };
    Some((shard, key))
}

fn decode_state(mut reader: Reader<'_>) -> Option<Key> {
    Some(match reader.u8()? {
        HEAD if reader.is_empty() => Key::Head,
        LEASE => Key::Lease(last_u64(reader)?),
        LEASE_KEY => {
            let lease = reader.u64()?;
            let (partition, key) = split_suffix(reader.0)?;
            Key::LeaseKey {
                lease,
                partition,
                key,
            }
        }
        SESSION => Key::Session(last_u64(reader)?),
        WINDOW => Key::Window {
            session: reader.u64()?,
            index: last_u64(reader)?,
        },
        CONSUMER => Key::Consumer(Bytes::copy_from_slice(reader.0)),
        RESTORE if reader.is_empty() => Key::Restore,
        _ => return None,
    })
}

fn last_u64(mut reader: Reader<'_>) -> Option<u64> {
    let number = reader.u64()?;
    reader.is_empty().then_some(number)
}

/// Partition and key of a DATA-KEY (a data key without its shard).
fn split_suffix(suffix: &[u8]) -> Option<(Partition, Bytes)> {
    let mut reader = Reader(suffix);
    let slot = reader.u16()?;
    let region = reader.u16()?;
    let len = reader.u16()?;
    let partition = Partition {
        region,
        name: Bytes::copy_from_slice(reader.take(usize::from(len))?),
    };
    (partition.slot() == slot).then(|| (partition, Bytes::copy_from_slice(reader.0)))
}

/// Names a row in messages.
pub(crate) fn place(cf: Cf, stored: &[u8]) -> String {
    format!("{} row {}", cf.name(), stored.escape_ascii())
}

/// The range [start, end) of a shard in every column family; an empty end means to the end.
pub fn shard_range(shard: ShardId) -> (Bytes, Bytes) {
    let start = shard.0.to_be_bytes();
    (Bytes::copy_from_slice(&start), prefix_end(&start))
}

/// The first key after all keys that begin with `prefix`; empty = there is none.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let keep = prefix.iter().rposition(|byte| *byte != 0xff).map_or(0, |i| i + 1);
    let mut end = prefix[..keep].to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

fn start_data_key(shard: ShardId, partition: &Partition, key_len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(NAME_AT + partition.name.len() + key_len);
    out.extend_from_slice(&shard.0.to_be_bytes());
    out.extend_from_slice(&partition.slot().to_be_bytes());
    out.extend_from_slice(&partition.region.to_be_bytes());
    out.extend_from_slice(&(partition.name.len() as u16).to_be_bytes());
    out.extend_from_slice(&partition.name);
    out
}

/// What the data keys of a partition begin with.
pub fn partition_prefix(shard: ShardId, partition: &Partition) -> Bytes {
    start_data_key(shard, partition, 0).into()
}

/// The data key of a key.
pub fn data_key(shard: ShardId, partition: &Partition, key: &[u8]) -> Bytes {
    let mut out = start_data_key(shard, partition, key.len());
    out.extend_from_slice(key);
    out.into()
}

/// Partition and key of a stored data key; they share its buffer.
pub fn split_data_key(data_key: &Bytes) -> Result<(Partition, Bytes), Corrupt> {
    match data_key.get(SHARD_LEN..).and_then(split_suffix) {
        Some(_) => Ok(data_key_parts(data_key)),
        None => Err(Corrupt::new(place(Cf::Data, data_key), "not a data key")),
    }
}

/// Partition and key of a data key, which it must be; they share its buffer. Events live long: they must not hold a whole log entry.
pub(crate) fn data_key_parts(data_key: &Bytes) -> (Partition, Bytes) {
    let at = key_at(data_key);
    let region = [data_key[NAME_AT - 4], data_key[NAME_AT - 3]];
    let partition = Partition {
        region: u16::from_be_bytes(region),
        name: data_key.slice(NAME_AT..at),
    };
    (partition, data_key.slice(at..))
}

/// Bytes before the key in a data key. The data key must be one.
fn key_at(data_key: &[u8]) -> usize {
    NAME_AT + usize::from(u16::from_be_bytes([data_key[NAME_AT - 2], data_key[NAME_AT - 1]]))
}

fn escape(out: &mut Vec<u8>, key: &[u8]) {
    let mut rest = key;
    while let Some(zero) = rest.iter().position(|byte| *byte == 0) {
        out.extend_from_slice(&rest[..=zero]);
        out.push(0xff);
        rest = &rest[zero + 1..];
    }
    out.extend_from_slice(rest);
}

/// What a history key has more than a data key: end and revision, and room for a few escaped zeros.
pub(crate) const HIST_KEY_MORE: usize = 2 + 8 + 8;

/// What the history keys of one key begin with, given its data key.
pub fn hist_prefix(data_key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data_key.len() + HIST_KEY_MORE);
    put_hist_prefix(&mut out, data_key);
    out
}

fn put_hist_prefix(out: &mut Vec<u8>, data_key: &[u8]) {
    let at = key_at(data_key);
    out.extend_from_slice(&data_key[..at]);
    escape(out, &data_key[at..]);
    out.extend_from_slice(&[0, 1]);
}

/// The history key of a version, given the key's data key.
pub fn hist_key(data_key: &[u8], mod_rev: Revision) -> Bytes {
    let mut out = Vec::with_capacity(data_key.len() + HIST_KEY_MORE);
    put_hist_key(&mut out, data_key, mod_rev);
    out.into()
}

/// Appends the [`hist_key`] of a version.
pub(crate) fn put_hist_key(out: &mut Vec<u8>, data_key: &[u8], mod_rev: Revision) {
    put_hist_prefix(out, data_key);
    out.extend_from_slice(&(!mod_rev).to_be_bytes());
}

/// Where the history of keys from `data_key` on begins: the bound of a scan over many keys.
pub(crate) fn hist_bound(data_key: &[u8]) -> Bytes {
    let at = key_at(data_key);
    let mut out = Vec::with_capacity(data_key.len() + 8);
    out.extend_from_slice(&data_key[..at]);
    escape(&mut out, &data_key[at..]);
    out.into()
}

/// The data key and the revision of a history key.
pub fn split_hist_key(stored: &[u8]) -> Option<(Vec<u8>, Revision)> {
    let len = usize::from(Reader(stored.get(NAME_AT - 2..)?).u16()?);
    let at = NAME_AT + len;
    let (escaped, revision) = stored.split_at_checked(stored.len().checked_sub(8)?)?;
    let mut data_key = Vec::with_capacity(escaped.len());
    data_key.extend_from_slice(escaped.get(..at)?);
    let mut rest = &escaped[at..];
    loop {
        let zero = rest.iter().position(|byte| *byte == 0)?;
        data_key.extend_from_slice(&rest[..zero]);
        match rest.get(zero + 1)? {
            0xff => data_key.push(0),
            1 if zero + 2 == rest.len() => return Some((data_key, !Reader(revision).u64()?)),
            _ => return None,
        }
        rest = &rest[zero + 2..];
    }
}

fn shard_key<const N: usize>(shard: ShardId, parts: [&[u8]; N]) -> Bytes {
    let len = parts.iter().map(|p| p.len()).sum::<usize>();
    let mut out = Vec::with_capacity(SHARD_LEN + len);
    out.extend_from_slice(&shard.0.to_be_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out.into()
}

fn shard_of(data_key: &[u8]) -> ShardId {
    ShardId(u32::from_be_bytes([
        data_key[0],
        data_key[1],
        data_key[2],
        data_key[3],
    ]))
}

/// The key of a change log row.
pub fn log_key(shard: ShardId, first: Revision) -> Bytes {
    shard_key(shard, [&first.to_be_bytes()])
}

/// The ttl key of a key, given its data key.
pub(crate) fn ttl_key(data_key: &[u8], expires_at: StampMs) -> Bytes {
    shard_key(
        shard_of(data_key),
        [&expires_at.to_be_bytes(), &[TTL_KEY], &data_key[SHARD_LEN..]],
    )
}

/// The ttl key of a lease.
pub(crate) fn ttl_lease_key(shard: ShardId, expires_at: StampMs, lease: u64) -> Bytes {
    shard_key(
        shard,
        [&expires_at.to_be_bytes(), &[TTL_LEASE], &lease.to_be_bytes()],
    )
}

/// The first ttl key that expires later than `stamp`; empty if there is none.
pub(crate) fn ttl_end(shard: ShardId, stamp: StampMs) -> Bytes {
    prefix_end(&shard_key(shard, [&stamp.to_be_bytes()]))
}

/// What a ttl row stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// The key with this data key.
    Key(Bytes),
    /// This lease.
    Lease(u64),
}

/// Takes a ttl key apart. Does not look into the data key.
pub(crate) fn split_ttl_key(stored: &[u8]) -> Option<(StampMs, Due)> {
    let mut reader = Reader(stored);
    let shard = reader.take(SHARD_LEN)?;
    let expires_at = reader.u64()?;
    let due = match reader.u8()? {
        TTL_KEY => Due::Key([shard, reader.0].concat().into()),
        TTL_LEASE => Due::Lease(last_u64(reader)?),
        _ => return None,
    };
    Some((expires_at, due))
}

/// The key of the row that tells how far the shard is restored.
pub(crate) fn restore_key(shard: ShardId) -> Bytes {
    shard_key(shard, [&[RESTORE]])
}

/// The head row's key.
pub fn head_key(shard: ShardId) -> Bytes {
    shard_key(shard, [&[HEAD]])
}

/// A lease's key.
pub(crate) fn lease_key(shard: ShardId, lease: u64) -> Bytes {
    shard_key(shard, [&[LEASE], &lease.to_be_bytes()])
}

/// The key that says that the key with this data key is attached to the lease.
pub(crate) fn attached_key(data_key: &[u8], lease: u64) -> Bytes {
    shard_key(
        shard_of(data_key),
        [&[LEASE_KEY], &lease.to_be_bytes(), &data_key[SHARD_LEN..]],
    )
}

/// What the keys of a lease's attachments begin with.
pub(crate) fn attached_prefix(shard: ShardId, lease: u64) -> Bytes {
    shard_key(shard, [&[LEASE_KEY], &lease.to_be_bytes()])
}

/// The data key of an attachment's key.
pub(crate) fn attached_data_key(stored: &[u8]) -> Option<Bytes> {
    let shard = stored.get(..SHARD_LEN)?;
    Some([shard, stored.get(SHARD_LEN + 9..)?].concat().into())
}

/// A session's key.
pub(crate) fn session_key(shard: ShardId, session: u64) -> Bytes {
    shard_key(shard, [&[SESSION], &session.to_be_bytes()])
}

/// The key of what a session remembers of a log entry.
pub(crate) fn window_key(shard: ShardId, session: u64, index: u64) -> Bytes {
    shard_key(shard, [&[WINDOW], &session.to_be_bytes(), &index.to_be_bytes()])
}

/// A consumer's key.
pub(crate) fn consumer_key(shard: ShardId, name: &[u8]) -> Bytes {
    shard_key(shard, [&[CONSUMER], name])
}

/// True if the row can be dropped at any time because no read at or above the floor sees it: a version that was superseded at or
/// before the floor, or a change log row that ends at or before it. Nothing that is applied depends on whether such rows are there.
///
/// A row that does not decode is kept, so that whoever reads it next finds it.
pub fn is_garbage(cf: Cf, _key: &[u8], value: &[u8], floor: Revision) -> bool {
    match cf {
        Cf::Hist => rows::superseded_at(value)
            .is_some_and(|revision| revision <= floor || crate::mutant!("compaction-drops-visible")),
        Cf::Log => rows::last_revision(value).is_some_and(|revision| revision <= floor),
        Cf::Data | Cf::Ttl | Cf::State => false,
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
