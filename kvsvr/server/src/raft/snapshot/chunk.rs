//! What a chunk holds: rows of a shard in the order of their keys.

use std::ops::ControlFlow;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kvsvr_core::{
    engine::{Cf, EngineRead, Scan},
    keys::{self, Key},
    types::ShardId,
};

use super::{TransferError, peer};

/// Where a chunk ends: the last pair in it. The default is the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::raft) struct Position {
    /// Number of the column family; `key` is empty before its first pair.
    pub(super) cf: u8,
    pub(super) key: Bytes,
}

impl Position {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(1 + self.key.len());
        out.put_u8(self.cf);
        out.put_slice(&self.key);
        out.freeze()
    }
    pub(super) fn decode(bytes: &Bytes) -> Result<Self, TransferError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        if usize::from(bytes[0]) >= Cf::ALL.len() {
            return Err(peer("the resume position is malformed"));
        }
        Ok(Self {
            cf: bytes[0],
            key: bytes.slice(1..),
        })
    }
}

pub(in crate::raft) struct Chunk {
    pub(in crate::raft) data: Bytes,
    /// Where the next one starts; `None` after the last.
    pub(in crate::raft) next: Option<Position>,
}

/// The pairs after a position, up to about `bytes`: (cf u8, key length u32, value length u32, key, value)*.
pub(in crate::raft) fn next_chunk(
    source: &dyn EngineRead,
    shard: ShardId,
    after: &Position,
    bytes: usize,
) -> Result<Chunk, TransferError> {
    let mut data = BytesMut::new();
    let mut position = after.clone();
    let (first, end) = keys::shard_range(shard);
    while let Some(cf) = Cf::ALL.get(usize::from(position.cf)).copied() {
        let mut start = BytesMut::from(if position.key.is_empty() {
            &first[..]
        } else {
            &position.key[..]
        });
        if !position.key.is_empty() {
            start.put_u8(0); // the smallest key after it
        }
        let mut last = None;
        let scan = Scan {
            start: &start,
            end: &end,
            reverse: false,
        };
        source.scan(cf, scan, &mut |key, value| {
            if kvsvr_core::mutant!("sessions-lost-in-snapshot")
                && matches!(Key::decode(cf, key), Ok((_, Key::Window { .. })))
            {
                return ControlFlow::Continue(());
            }
            #[cfg(feature = "mutants")]
            let value = &crate::mutants::one_ahead(shard, cf, key, value)[..];
            put_pair(&mut data, position.cf, key, value);
            if data.len() < bytes {
                return ControlFlow::Continue(());
            }
            last = Some(Bytes::copy_from_slice(key));
            ControlFlow::Break(())
        })?;
        if let Some(key) = last {
            let next = Some(Position { cf: position.cf, key });
            return Ok(Chunk {
                data: data.freeze(),
                next,
            });
        }
        position = Position {
            cf: position.cf + 1,
            key: Bytes::new(),
        };
    }
    Ok(Chunk {
        data: data.freeze(),
        next: None,
    })
}

pub(crate) fn put_pair(out: &mut BytesMut, cf: u8, key: &[u8], value: &[u8]) {
    out.put_u8(cf);
    out.put_u32_le(key.len() as u32);
    out.put_u32_le(value.len() as u32);
    out.put_slice(key);
    out.put_slice(value);
}

/// Calls `each` for the pairs of a chunk; an error if it is malformed.
pub(crate) fn pairs(mut data: Bytes, mut each: impl FnMut(Cf, Bytes, Bytes)) -> Result<(), TransferError> {
    while data.has_remaining() {
        let malformed = || peer("a chunk is malformed");
        if data.remaining() < 9 {
            return Err(malformed());
        }
        let cf = Cf::ALL
            .get(usize::from(data.get_u8()))
            .copied()
            .ok_or_else(malformed)?;
        let (key_len, value_len) = (data.get_u32_le() as usize, data.get_u32_le() as usize);
        if data.remaining() < key_len + value_len {
            return Err(malformed());
        }
        let key = data.split_to(key_len);
        each(cf, key, data.split_to(value_len));
    }
    Ok(())
}
