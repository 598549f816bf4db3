//! The rows of a backup: those of a shard, without what belongs to the cluster that they come from.
//!
//! A backup is of one state of a shard ([`Parts`]), and goes in parts into another shard, one that was never used
//! ([`Op::Restore`](crate::command::Op::Restore)). So it does not have the shard's number, positions of the log, the group's members, nor sessions:
//! those remember outcomes by positions of the log, and the clients that have them do not know the new cluster. Everything else is as it
//! was, revisions and history included.

use std::ops::ControlFlow;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{
    engine::{Cf, EngineError, EngineRead, Scan},
    keys::{self, Key, SHARD_LEN},
    types::ShardId,
};

/// Bytes of a row besides its key and value.
const ROW_HEADER: usize = 9;

/// Whether a row goes into a backup. The head row goes apart.
fn is_kept(key: &Key) -> bool {
    match key {
        Key::Data { .. }
        | Key::Hist { .. }
        | Key::Log { .. }
        | Key::TtlKey { .. }
        | Key::TtlLease { .. }
        | Key::Lease(_)
        | Key::LeaseKey { .. }
        | Key::Consumer(_) => true,
        Key::Head | Key::Session(_) | Key::Window { .. } | Key::Restore => false,
    }
}

/// Reads the rows of a shard's backup, in the order of column families and keys, in parts.
pub struct Parts<'e> {
    engine: &'e dyn EngineRead,
    shard: ShardId,
    /// The number of the column family that is read.
    cf: usize,
    /// Where it goes on there.
    start: Bytes,
}

impl<'e> Parts<'e> {
    /// From the beginning. The engine must be a snapshot.
    pub fn new(engine: &'e dyn EngineRead, shard: ShardId) -> Self {
        let start = keys::shard_range(shard).0;
        Self {
            engine,
            shard,
            cf: 0,
            start,
        }
    }

    /// The next rows, as in [`Op::Restore`](crate::command::Op::Restore): up to `bytes`, or one that is larger. Empty: there are no more. No lock
    /// of the engine is held between two calls.
    ///
    /// # Errors
    /// The engine cannot be read; a row's key is none.
    pub fn next_part(&mut self, bytes: usize) -> Result<Bytes, EngineError> {
        let mut part = BytesMut::new();
        let (first, end) = keys::shard_range(self.shard);
        while let Some(cf) = Cf::ALL.get(self.cf).copied() {
            let scan = Scan {
                start: &self.start,
                end: &end,
                reverse: false,
            };
            let mut result = Ok(());
            let mut next = None;
            self.engine.scan(cf, scan, &mut |key, value| {
                match Key::decode(cf, key) {
                    Ok((_, decoded)) if is_kept(&decoded) => {}
                    Ok(_) => return ControlFlow::Continue(()),
                    Err(corrupt) => {
                        result = Err(EngineError::Corrupt(corrupt.to_string()));
                        return ControlFlow::Break(());
                    }
                }
                let more = ROW_HEADER + key.len() + value.len();
                if !part.is_empty() && part.len() + more > bytes {
                    next = Some(Bytes::copy_from_slice(key));
                    return ControlFlow::Break(());
                }
                put_row(&mut part, cf, &key[SHARD_LEN..], value);
                ControlFlow::Continue(())
            })?;
            result?;
            if let Some(next) = next {
                self.start = next;
                return Ok(part.freeze());
            }
            self.cf += 1;
            self.start = first.clone();
        }
        Ok(part.freeze())
    }
}

/// Appends a row to a part of a backup: (column family u8, key length u32, value length u32, key, value), little-endian.
fn put_row(part: &mut BytesMut, cf: Cf, key: &[u8], value: &[u8]) {
    part.reserve(ROW_HEADER + key.len() + value.len());
    part.put_u8(cf as u8);
    part.put_u32_le(key.len() as u32);
    part.put_u32_le(value.len() as u32);
    part.put_slice(key);
    part.put_slice(value);
}

/// The rows of a part, as they would be stored in a shard: column family, key, value. `None`: it is malformed, or has a row that no backup has.
pub fn rows(shard: ShardId, mut part: Bytes) -> Option<Vec<(Cf, Bytes, Bytes)>> {
    let mut rows = Vec::new();
    while part.has_remaining() {
        if part.remaining() < ROW_HEADER {
            return None;
        }
        let cf = Cf::ALL.get(usize::from(part.get_u8())).copied()?;
        let (key_len, value_len) = (part.get_u32_le() as usize, part.get_u32_le() as usize);
        if part.remaining() < key_len.checked_add(value_len)? {
            return None;
        }
        let mut key = BytesMut::with_capacity(SHARD_LEN + key_len);
        key.put_u32(shard.0);
        key.put_slice(&part.split_to(key_len));
        let key = key.freeze();
        let (_, decoded) = Key::decode(cf, &key).ok()?;
        if !is_kept(&decoded) {
            return None;
        }
        rows.push((cf, key, part.split_to(value_len)));
    }
    Some(rows)
}
