//! Blocks: built from records, and taken apart.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kvsvr_core::types::ShardId;

use super::{
    BLOCK_HEADER, BlockHeader, SECTOR, block_len,
    record::{RECORD_HEADER, Record, record_crc},
};
use crate::limits::WAL_MAX_PAYLOAD;

/// Payloads from this size on are handed to the disk as they are, smaller ones are copied together.
pub(super) const COPY_BELOW: usize = 32 << 10;

enum Part {
    Copied(BytesMut),
    Shared(Bytes),
}

/// Encodes one block.
pub(crate) struct BlockBuilder {
    salt: u32,
    /// The first is a copied one, and begins with the room for the block's header.
    parts: Vec<Part>,
    body_len: usize,
    body_crc: u32,
    records: u32,
}

impl BlockBuilder {
    /// `body_len` is a hint.
    pub(crate) fn new(salt: u32, body_len: usize) -> Self {
        let mut head = BytesMut::with_capacity(block_len(body_len.min(1 << 20)));
        head.put_bytes(0, BLOCK_HEADER);
        Self {
            salt,
            parts: vec![Part::Copied(head)],
            body_len: 0,
            body_crc: salt,
            records: 0,
        }
    }

    /// Adds a record and returns its offset in the block.
    pub(crate) fn push(&mut self, shard: ShardId, record: &Record) -> usize {
        let (kind, flags, position, payload) = record.parts();
        assert!(
            payload.len() <= WAL_MAX_PAYLOAD,
            "a record of {} bytes",
            payload.len()
        );
        let mut header = [0; RECORD_HEADER];
        let mut fields = &mut header[8..];
        fields.put_u8(kind);
        fields.put_u8(flags);
        fields.put_u16_le(0);
        fields.put_u32_le(shard.0);
        fields.put_u64_le(position.term);
        fields.put_u64_le(position.index);
        fields.put_u64_le(position.node);
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let crc = crc32c::crc32c_append(record_crc(self.salt, len, &header[8..]), &payload);
        header[..4].copy_from_slice(&len.to_le_bytes());
        header[4..8].copy_from_slice(&crc.to_le_bytes());
        self.body_crc = crc32c::crc32c_append(self.body_crc, &header);
        let offset = BLOCK_HEADER + self.body_len;
        self.copy(&header);
        if payload.len() < COPY_BELOW {
            self.copy(&payload);
        } else {
            self.body_len += payload.len();
            self.parts.push(Part::Shared(payload));
        }
        self.records += 1;
        offset
    }

    fn copy(&mut self, bytes: &[u8]) {
        if !matches!(self.parts.last(), Some(Part::Copied(_))) {
            self.parts.push(Part::Copied(BytesMut::with_capacity(SECTOR)));
        }
        if let Some(Part::Copied(part)) = self.parts.last_mut() {
            part.put_slice(bytes);
        }
        self.body_len += bytes.len();
    }

    /// The block's bytes, padded to whole sectors.
    pub(crate) fn finish(mut self, epoch: u64, offset: u64, seq: u64, flags: u32) -> Vec<Bytes> {
        let len = self.body_len;
        let body_len = u32::try_from(len).unwrap_or(u32::MAX);
        let (records, body_crc) = (self.records, self.body_crc);
        let header = BlockHeader {
            epoch,
            offset,
            seq,
            body_len,
            records,
            body_crc,
            flags,
        };
        if let Some(Part::Copied(head)) = self.parts.first_mut() {
            head[..BLOCK_HEADER].copy_from_slice(&header.encode(self.salt));
        }
        let padding = block_len(len) - BLOCK_HEADER - len;
        self.copy(&[0; SECTOR][..padding]);
        let bytes = |part| match part {
            Part::Copied(bytes) => bytes.freeze(),
            Part::Shared(bytes) => bytes,
        };
        self.parts.into_iter().map(bytes).collect()
    }
}

/// A record that was found in a block.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// From the start of the block.
    pub(crate) offset: u32,
    /// Bytes, header included.
    pub(crate) len: u32,
    pub(crate) shard: ShardId,
    pub(crate) record: Record,
}

/// The first bad place of a block's body.
#[derive(Clone, Debug)]
pub(crate) struct BodyFault {
    /// From the start of the block.
    pub(crate) offset: usize,
    /// The shards of the records before it.
    pub(crate) shards: Vec<ShardId>,
}

/// The records of a block. `block` begins with the header.
pub(crate) fn decode_body(header: &BlockHeader, block: &Bytes, salt: u32) -> Result<Vec<Found>, BodyFault> {
    let end = BLOCK_HEADER + header.body_len as usize;
    let mut records: Vec<Found> = Vec::new();
    let mut at = BLOCK_HEADER;
    let mut body_crc = salt;
    let fault = |offset, records: &[Found]| {
        let mut shards: Vec<ShardId> = records.iter().map(|found| found.shard).collect();
        shards.sort_unstable();
        shards.dedup();
        BodyFault { offset, shards }
    };
    if block.len() < end {
        return Err(fault(block.len(), &records));
    }
    while at < end {
        let mut rest = &block[at..end];
        if rest.len() < RECORD_HEADER {
            return Err(fault(at, &records));
        }
        body_crc = crc32c::crc32c_append(body_crc, &rest[..RECORD_HEADER]);
        let len = RECORD_HEADER + rest.get_u32_le() as usize;
        if at + len > end {
            return Err(fault(at, &records));
        }
        let Some((shard, record)) = Record::decode(&block.slice(at..at + len), salt) else {
            return Err(fault(at, &records));
        };
        let (offset, len32) = (at as u32, len as u32);
        records.push(Found {
            offset,
            len: len32,
            shard,
            record,
        });
        at += len;
    }
    let sound = body_crc == header.body_crc || kvsvr_core::mutant!("checksum-ignored");
    if records.len() != header.records as usize || !sound {
        return Err(fault(BLOCK_HEADER, &records));
    }
    Ok(records)
}
