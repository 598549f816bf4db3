//! Every stored value.
//!
//! A value begins with a format version byte ([`FORMAT`]); numbers are varints unless said otherwise. The keys are in
//! [`keys`]. Decoding shares the buffer where the row is owned; nothing here reads or writes an engine.

use bytes::Bytes;

use crate::{
    engine::Cf,
    error::Corrupt,
    keys::{self, place},
    types::{LogPosition, Revision, StampMs},
    wire::{Reader, put_bytes, put_varint},
};

mod log;

pub use log::{LogItem, LogRow};
pub(crate) use log::{LogRowBuilder, last_revision};

/// The version of all row formats.
pub const FORMAT: u8 = 1;

/// The value of rows whose key says everything.
pub(crate) const MARK: Bytes = Bytes::from_static(&[FORMAT]);

fn corrupt(cf: Cf, key: &[u8]) -> Corrupt {
    Corrupt::new(place(cf, key), "the value does not decode")
}

fn body(value: &[u8]) -> Option<Reader<'_>> {
    let mut reader = Reader(value);
    (reader.u8()? == FORMAT).then_some(reader)
}

/// Starts a row with its first numbers.
fn start<const N: usize>(numbers: [u64; N], more: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(NUMBERS_LEN + more);
    put_start(&mut out, numbers);
    out
}

/// Bytes of the numbers that a row starts with, usually; a row with longer ones grows.
const NUMBERS_LEN: usize = 26;

fn put_start<const N: usize>(out: &mut Vec<u8>, numbers: [u64; N]) {
    out.push(FORMAT);
    numbers.into_iter().for_each(|number| put_varint(out, number));
}

/// A key and its row in one buffer. They are looked at together, so they share a place in the processor's caches, and the cost of an allocation.
fn split_row(key_len: usize, joined: Vec<u8>) -> (Bytes, Bytes) {
    let mut key = Bytes::from(joined);
    let row = key.split_off(key_len);
    (key, row)
}

/// A version of a key: `format, create_rev, mod_rev - create_rev, version, expires_at, lease, value (to the end)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataRow {
    /// Revision of the put that created the key.
    pub create_rev: Revision,
    /// Revision of the put that wrote this version.
    pub mod_rev: Revision,
    /// Puts since the creation, that one counted.
    pub version: u64,
    /// When the key expires; 0 = never.
    pub expires_at: StampMs,
    /// The lease the key is attached to; 0 = none.
    pub lease: u64,
    /// The value.
    pub value: Bytes,
}

/// A [`DataRow`] in a borrowed buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DataRef<'a> {
    pub(crate) create_rev: Revision,
    pub(crate) mod_rev: Revision,
    pub(crate) version: u64,
    pub(crate) expires_at: StampMs,
    pub(crate) lease: u64,
    pub(crate) value: &'a [u8],
}

impl<'a> DataRef<'a> {
    pub(crate) fn read(stored: &'a [u8]) -> Option<Self> {
        let mut reader = body(stored)?;
        let create_rev = reader.varint()?;
        Some(Self {
            create_rev,
            mod_rev: create_rev.checked_add(reader.varint()?)?,
            version: reader.varint()?,
            expires_at: reader.varint()?,
            lease: reader.varint()?,
            value: reader.0,
        })
    }

    /// The row with this value, which the caller makes from [`DataRef::value`].
    pub(crate) fn with_value(self, value: Bytes) -> DataRow {
        let Self {
            create_rev,
            mod_rev,
            version,
            expires_at,
            lease,
            value: _,
        } = self;
        DataRow {
            create_rev,
            mod_rev,
            version,
            expires_at,
            lease,
            value,
        }
    }
}

impl DataRow {
    /// The stored form.
    pub fn encode(&self) -> Bytes {
        self.encode_at(&[]).1
    }

    /// The data key and the stored form, in one buffer.
    pub(crate) fn encode_at(&self, data_key: &[u8]) -> (Bytes, Bytes) {
        let Self {
            create_rev,
            mod_rev,
            version,
            expires_at,
            lease,
            value,
        } = self;
        let mut out = Vec::with_capacity(data_key.len() + NUMBERS_LEN + value.len());
        out.extend_from_slice(data_key);
        let numbers = [*create_rev, mod_rev - create_rev, *version, *expires_at, *lease];
        put_start(&mut out, numbers);
        out.extend_from_slice(value);
        split_row(data_key.len(), out)
    }

    /// Decodes the stored form; the value shares its buffer.
    pub fn decode(stored: &Bytes) -> Result<Self, Corrupt> {
        Self::read(stored).ok_or_else(|| Corrupt::new("a data row", "the value does not decode"))
    }

    /// Like [`DataRow::decode`], naming the key when it fails.
    pub(crate) fn decode_at(key: &[u8], stored: &Bytes) -> Result<Self, Corrupt> {
        Self::read(stored).ok_or_else(|| corrupt(Cf::Data, key))
    }

    fn read(stored: &Bytes) -> Option<Self> {
        let row = DataRef::read(stored)?;
        Some(row.with_value(stored.slice_ref(row.value)))
    }
}

/// A version that is no longer the newest: `format, superseded_at, the data row as it was stored`. The key had this version at the
/// revisions in mod_rev..superseded_at. A deletion supersedes like a put, so there are no tombstones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistRow {
    /// The revision that replaced or deleted this version.
    pub superseded_at: Revision,
    /// The version.
    pub row: DataRow,
}

/// A version that is no longer the newest, as it was stored when it was: what its history row is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// The key, as a data key.
    pub data_key: Bytes,
    /// The stored [`DataRow`]. It may share the buffer of others.
    pub row: Bytes,
    /// The revision that wrote it.
    pub mod_rev: Revision,
    /// The revision that replaced or deleted it.
    pub superseded_at: Revision,
}

impl Retired {
    /// The history key and the stored [`HistRow`], in one buffer.
    pub fn encode(&self) -> (Bytes, Bytes) {
        let mut out =
            Vec::with_capacity(self.data_key.len() + self.row.len() + keys::HIST_KEY_MORE + NUMBERS_LEN);
        let key_len = encode_retired(
            &mut out,
            &self.data_key,
            self.mod_rev,
            self.superseded_at,
            &self.row,
        );
        split_row(key_len, out)
    }
}

/// Appends the history key and the stored [`HistRow`] of a retired version, and returns how long the key is. `data_key`: its data key.
pub fn encode_retired(
    out: &mut Vec<u8>,
    data_key: &[u8],
    mod_rev: Revision,
    superseded_at: Revision,
    row: &[u8],
) -> usize {
    let start = out.len();
    keys::put_hist_key(out, data_key, mod_rev);
    let key_len = out.len() - start;
    put_start(out, [superseded_at]);
    out.extend_from_slice(row);
    key_len
}

impl HistRow {
    /// The stored form.
    pub fn encode(&self) -> Bytes {
        let mut out = start([self.superseded_at], self.row.value.len() + NUMBERS_LEN);
        out.extend_from_slice(&self.row.encode());
        out.into()
    }

    /// Decodes the stored form; the value shares its buffer.
    pub fn decode(key: &[u8], stored: &Bytes) -> Result<Self, Corrupt> {
        let read = || {
            let (superseded_at, row) = Self::split(stored)?;
            let row = DataRef::read(row)?;
            Some(Self {
                superseded_at,
                row: row.with_value(stored.slice_ref(row.value)),
            })
        };
        read().ok_or_else(|| corrupt(Cf::Hist, key))
    }

    /// superseded_at and the stored data row.
    pub(crate) fn split(stored: &[u8]) -> Option<(Revision, &[u8])> {
        let mut reader = body(stored)?;
        Some((reader.varint()?, reader.0))
    }
}

/// When the stored history row was superseded.
pub(crate) fn superseded_at(stored: &[u8]) -> Option<Revision> {
    body(stored)?.varint()
}

/// What a shard's state is at: `format, applied + 1 if any (0 = none), [index, term, node], membership (bytes with length),
/// revision, floor, stamp, event_bytes, last_lease, last_session`. Written with every batch, so that it is of the same state as
/// everything else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The last applied log entry; `None` = nothing was applied yet.
    pub applied: Option<LogPosition>,
    /// The last applied membership, opaque; empty = none yet.
    pub membership: Bytes,
    /// Changes so far: the newest revision that can be read.
    pub revision: Revision,
    /// The oldest revision that can be read.
    pub floor: Revision,
    /// The newest stamp: the shard's time.
    pub stamp: StampMs,
    /// Bytes of all events so far.
    pub event_bytes: u64,
    /// The last lease id that the shard chose.
    pub last_lease: u64,
    /// The last session id.
    pub last_session: u64,
}

impl Head {
    /// The stored form.
    pub fn encode(&self) -> Bytes {
        let mut out = start([u64::from(self.applied.is_some())], self.membership.len() + 40);
        if let Some(LogPosition { index, term, node }) = self.applied {
            [index, term, node]
                .into_iter()
                .for_each(|number| put_varint(&mut out, number));
        }
        put_bytes(&mut out, &self.membership);
        let Self {
            revision,
            floor,
            stamp,
            event_bytes,
            last_lease,
            last_session,
            ..
        } = self;
        for number in [revision, floor, stamp, event_bytes, last_lease, last_session] {
            put_varint(&mut out, *number);
        }
        out.into()
    }

    /// Decodes the stored form.
    pub fn decode(key: &[u8], stored: &Bytes) -> Result<Self, Corrupt> {
        Self::read(stored).ok_or_else(|| corrupt(Cf::State, key))
    }

    fn read(stored: &Bytes) -> Option<Self> {
        let mut reader = body(stored)?;
        let applied = match reader.varint()? {
            0 => None,
            1 => Some(LogPosition {
                index: reader.varint()?,
                term: reader.varint()?,
                node: reader.varint()?,
            }),
            _ => return None,
        };
        let head = Self {
            applied,
            membership: stored.slice_ref(reader.bytes()?),
            revision: reader.varint()?,
            floor: reader.varint()?,
            stamp: reader.varint()?,
            event_bytes: reader.varint()?,
            last_lease: reader.varint()?,
            last_session: reader.varint()?,
        };
        (reader.is_empty() && head.floor <= head.revision).then_some(head)
    }
}

/// A lease: `format, ttl_ms, expires_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRow {
    /// Milliseconds that a grant or a keep-alive lasts.
    pub ttl_ms: u64,
    /// When it ends.
    pub expires_at: StampMs,
}

/// A session: `format, opened_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// The stamp of its opening.
    pub opened_at: StampMs,
}

/// A consumer: `format, epoch, cursor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerRow {
    /// Counts its owners; acks of earlier ones are refused.
    pub epoch: u64,
    /// Everything up to and including this revision is done.
    pub cursor: Revision,
}

/// How far a shard is restored from a backup: `format, backup, next, done`. It stays when that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreRow {
    /// Which backup.
    pub backup: u64,
    /// The part that comes next.
    pub next: u64,
    /// There was a last part.
    pub done: bool,
}

fn numbers<const N: usize>(key: &[u8], stored: &[u8]) -> Result<[u64; N], Corrupt> {
    let read = || {
        let mut reader = body(stored)?;
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = reader.varint()?;
        }
        reader.is_empty().then_some(numbers)
    };
    read().ok_or_else(|| corrupt(Cf::State, key))
}

impl LeaseRow {
    /// The stored form.
    pub fn encode(&self) -> Bytes {
        start([self.ttl_ms, self.expires_at], 0).into()
    }

    /// Decodes the stored form.
    pub fn decode(key: &[u8], stored: &[u8]) -> Result<Self, Corrupt> {
        numbers(key, stored).map(|[ttl_ms, expires_at]| Self { ttl_ms, expires_at })
    }
}

impl SessionRow {
    /// The stored form.
    pub fn encode(&self) -> Bytes {
        start([self.opened_at], 0).into()
    }

    /// Decodes the stored form.
    pub fn decode(key: &[u8], stored: &[u8]) -> Result<Self, Corrupt> {
        numbers(key, stored).map(|[opened_at]| Self { opened_at })
    }
}

impl RestoreRow {
    /// The stored form.
    pub fn encode(&self) -> Bytes {
        start([self.backup, self.next, u64::from(self.done)], 0).into()
    }

    /// Decodes the stored form.
    pub fn decode(key: &[u8], stored: &[u8]) -> Result<Self, Corrupt> {
        match numbers(key, stored)? {
            [backup, next, done @ 0..=1] => Ok(Self {
                backup,
                next,
                done: done == 1,
            }),
            _ => Err(corrupt(Cf::State, key)),
        }
    }
}

impl ConsumerRow {
    /// The stored form.
    pub fn encode(&self) -> Bytes {
        start([self.epoch, self.cursor], 0).into()
    }

    /// Decodes the stored form.
    pub fn decode(key: &[u8], stored: &[u8]) -> Result<Self, Corrupt> {
        numbers(key, stored).map(|[epoch, cursor]| Self { epoch, cursor })
    }
}

/// What a session remembers of one log entry: `format, stamp, acked_below, then for each command: seq, encoded outcome`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowRow {
    /// The entry's stamp.
    pub stamp: StampMs,
    /// The session's acked_below after the entry.
    pub acked_below: u64,
    /// Sequence numbers and encoded outcomes, in the order of the commands.
    pub outcomes: Vec<(u64, Bytes)>,
}

/// Appends an encoded outcome as it stands in a [`WindowRow`].
pub(crate) fn put_outcome(out: &mut Vec<u8>, seq: u64, outcome: &[u8]) {
    put_varint(out, seq);
    put_bytes(out, outcome);
}

/// A stored [`WindowRow`] with these outcomes, see [`put_outcome`].
pub(crate) fn encode_window(stamp: StampMs, acked_below: u64, outcomes: &[u8]) -> Bytes {
    let mut out = start([stamp, acked_below], outcomes.len());
    out.extend_from_slice(outcomes);
    out.into()
}

impl WindowRow {
    /// The stored form.
    pub fn encode(&self) -> Bytes {
        let mut outcomes = Vec::new();
        for (seq, outcome) in &self.outcomes {
            put_outcome(&mut outcomes, *seq, outcome);
        }
        encode_window(self.stamp, self.acked_below, &outcomes)
    }

    /// Decodes the stored form; the outcomes share its buffer.
    pub fn decode(key: &[u8], stored: &Bytes) -> Result<Self, Corrupt> {
        Self::read(stored).ok_or_else(|| corrupt(Cf::State, key))
    }

    fn read(stored: &Bytes) -> Option<Self> {
        let mut reader = body(stored)?;
        let (stamp, acked_below) = (reader.varint()?, reader.varint()?);
        let mut outcomes = Vec::new();
        while !reader.is_empty() {
            outcomes.push((reader.varint()?, stored.slice_ref(reader.bytes()?)));
        }
        Some(Self {
            stamp,
            acked_below,
            outcomes,
        })
    }
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
