//! The bytes of the WAL: segment header, blocks, records. Version 1, little-endian.
//!
//! ```text
//! segment  = header (one sector) block block ... rest (zeros, or leftovers of an earlier use)
//! header   = magic[8] version u32 crc u32 store_id[16] number u64 epoch u64 capacity u64 0...
//! block    = magic[4] crc u32 epoch u64 offset u64 seq u64 body_len u32 records u32 body_crc u32 flags u32 0[16]
//!            record record ... 0... to the next sector                    one block = one write
//! record   = length u32 crc u32 kind u8 flags u8 0[2] shard u32 term u64 index u64 node u64 payload[length]
//! ```
//!
//! Checksums are CRC-32C. A record's covers its header after the checksum, its length and its payload; a block's covers its header;
//! `body_crc` covers the headers of all its records, so that records of two blocks never pass as one. All but the segment
//! header's start from a salt made of store id, segment number and epoch, so that leftovers in a file that is used again never
//! pass. This module is pure: no I/O, no panic on any input.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::store::StoreId;

mod block;
mod record;
#[cfg(test)]
mod tests;

pub(crate) use block::{BlockBuilder, Found, decode_body};
pub(crate) use record::{RECORD_HEADER, Record, ShardState};

/// Blocks start at multiples of this, which a disk writes as a whole or not at all.
pub(crate) const SECTOR: usize = 512;
pub(crate) const BLOCK_HEADER: usize = 64;
pub(crate) const VERSION: u32 = 1;

/// First block of a segment: the state of every shard, and no shard that is not listed.
pub(crate) const FLAG_STATE: u32 = 1;
/// Last block of a segment.
pub(crate) const FLAG_CLOSE: u32 = 2;

const SEGMENT_MAGIC: &[u8; 8] = b"KVSVRWAL";
const BLOCK_MAGIC: u32 = u32::from_le_bytes(*b"KVBK");
/// Rounds up to whole sectors.
pub(crate) fn sectors(len: usize) -> usize {
    len.next_multiple_of(SECTOR)
}

/// Bytes on disk of a block with `body` bytes of records.
pub(crate) fn block_len(body: usize) -> usize {
    sectors(BLOCK_HEADER + body)
}

/// What a segment file says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) store_id: StoreId,
    pub(crate) number: u64,
    /// Differs each time a file is put to use.
    pub(crate) epoch: u64,
    pub(crate) capacity: u64,
}

/// Why a segment header was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    Magic,
    Checksum,
    Version(u32),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Bytes {
        let mut fields = BytesMut::with_capacity(SECTOR);
        fields.put_slice(&self.store_id.0);
        fields.put_u64_le(self.number);
        fields.put_u64_le(self.epoch);
        fields.put_u64_le(self.capacity);
        fields.resize(SECTOR - 16, 0);
        let mut bytes = BytesMut::with_capacity(SECTOR);
        bytes.put_slice(SEGMENT_MAGIC);
        bytes.put_u32_le(VERSION);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), &fields);
        bytes.put_u32_le(crc);
        bytes.put_slice(&fields);
        bytes.freeze()
    }

    /// The checksum is looked at before the version, so its place and kind are the same in all versions.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        if bytes.len() < SECTOR || !bytes.starts_with(SEGMENT_MAGIC) {
            return Err(HeaderFault::Magic);
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..SECTOR]);
        let mut rest = &bytes[8..];
        let version = rest.get_u32_le();
        if rest.get_u32_le() != crc {
            return Err(HeaderFault::Checksum);
        }
        if version != VERSION {
            return Err(HeaderFault::Version(version));
        }
        let mut store_id = StoreId([0; 16]);
        rest.copy_to_slice(&mut store_id.0);
        let (number, epoch, capacity) = (rest.get_u64_le(), rest.get_u64_le(), rest.get_u64_le());
        Ok(Self {
            store_id,
            number,
            epoch,
            capacity,
        })
    }

    /// What the checksums of this segment start from.
    pub(crate) fn salt(&self) -> u32 {
        let crc = crc32c::crc32c(&self.store_id.0);
        let crc = crc32c::crc32c_append(crc, &self.number.to_le_bytes());
        crc32c::crc32c_append(crc, &self.epoch.to_le_bytes())
    }
}

/// The header of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    pub(crate) epoch: u64,
    /// The block's place in the segment.
    pub(crate) offset: u64,
    /// Counts the blocks of the WAL.
    pub(crate) seq: u64,
    pub(crate) body_len: u32,
    pub(crate) records: u32,
    pub(crate) body_crc: u32,
    pub(crate) flags: u32,
}

impl BlockHeader {
    fn encode(&self, salt: u32) -> [u8; BLOCK_HEADER] {
        let mut bytes = [0; BLOCK_HEADER];
        let mut fields = &mut bytes[8..];
        fields.put_u64_le(self.epoch);
        fields.put_u64_le(self.offset);
        fields.put_u64_le(self.seq);
        fields.put_u32_le(self.body_len);
        fields.put_u32_le(self.records);
        fields.put_u32_le(self.body_crc);
        fields.put_u32_le(self.flags);
        let crc = crc32c::crc32c_append(salt, &bytes[8..]);
        bytes[..4].copy_from_slice(&BLOCK_MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`, if there is one of this segment that belongs at `offset`.
    pub(crate) fn decode(bytes: &[u8], segment: &SegmentHeader, salt: u32, offset: u64) -> Option<Self> {
        let bytes = bytes.get(..BLOCK_HEADER)?;
        let mut rest = bytes;
        if rest.get_u32_le() != BLOCK_MAGIC {
            return None;
        }
        if rest.get_u32_le() != crc32c::crc32c_append(salt, &bytes[8..]) {
            return None;
        }
        let header = Self {
            epoch: rest.get_u64_le(),
            offset: rest.get_u64_le(),
            seq: rest.get_u64_le(),
            body_len: rest.get_u32_le(),
            records: rest.get_u32_le(),
            body_crc: rest.get_u32_le(),
            flags: rest.get_u32_le(),
        };
        (header.epoch == segment.epoch && header.offset == offset).then_some(header)
    }

    /// Bytes on disk.
    pub(crate) fn len(&self) -> usize {
        block_len(self.body_len as usize)
    }
}
