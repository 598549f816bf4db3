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
use kvsvr_core::types::{LogPosition, ShardId};

use super::{EntryKind, EntryRecord, VoteRecord};
use crate::{limits::WAL_MAX_PAYLOAD, store::StoreId};

/// Blocks start at multiples of this, which a disk writes as a whole or not at all.
pub(crate) const SECTOR: usize = 512;
pub(crate) const BLOCK_HEADER: usize = 64;
pub(crate) const RECORD_HEADER: usize = 40;
pub(crate) const VERSION: u32 = 1;

/// First block of a segment: the state of every shard, and no shard that is not listed.
pub(crate) const FLAG_STATE: u32 = 1;
/// Last block of a segment.
pub(crate) const FLAG_CLOSE: u32 = 2;

const SEGMENT_MAGIC: &[u8; 8] = b"KVSVRWAL";
const BLOCK_MAGIC: u32 = u32::from_le_bytes(*b"KVBK");
/// Payloads from this size on are handed to the disk as they are, smaller ones are copied together.
const COPY_BELOW: usize = 32 << 10;

const KIND_BLANK: u8 = 1;
const KIND_BATCH: u8 = 2;
const KIND_MEMBERSHIP: u8 = 3;
const KIND_VOTE: u8 = 4;
const KIND_COMMITTED: u8 = 5;
const KIND_PURGED: u8 = 6;
const KIND_TRUNCATE: u8 = 7;
const KIND_FORGET: u8 = 8;
const KIND_STATE: u8 = 9;
/// The record holds a position (or a committed vote).
const SOME: u8 = 1;

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
        Ok(Self { store_id, number, epoch, capacity })
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

/// What the WAL knows of a shard besides its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShardState {
    pub(crate) vote: Option<VoteRecord>,
    pub(crate) committed: Option<LogPosition>,
    pub(crate) purged: Option<LogPosition>,
    /// The last entry, or what was purged last.
    pub(crate) last: Option<LogPosition>,
}

/// One record, without its shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Entry(EntryRecord),
    Vote(VoteRecord),
    Committed(Option<LogPosition>),
    /// Entries up to this one are gone.
    Purged(LogPosition),
    /// Entries after this one are gone.
    Truncate(Option<LogPosition>),
    /// The shard is gone.
    Forget,
    /// The shard at the start of a segment.
    State(ShardState),
}

const STATE_LEN: usize = 1 + 16 + 3 * 24;

impl Record {
    /// Bytes in a block.
    pub(crate) fn len(&self) -> usize {
        RECORD_HEADER
            + match self {
                Self::Entry(entry) => entry.payload.len(),
                Self::State(_) => STATE_LEN,
                _ => 0,
            }
    }

    /// Kind, flags, position and payload.
    fn parts(&self) -> (u8, u8, LogPosition, Bytes) {
        let optional = |position: &Option<LogPosition>| match position {
            Some(position) => (SOME, *position),
            None => (0, LogPosition::default()),
        };
        match self {
            Self::Entry(entry) => {
                let kind = match entry.kind {
                    EntryKind::Blank => KIND_BLANK,
                    EntryKind::Batch => KIND_BATCH,
                    EntryKind::Membership => KIND_MEMBERSHIP,
                };
                (kind, 0, entry.position, entry.payload.clone())
            }
            Self::Vote(vote) => {
                let position = LogPosition { index: 0, term: vote.term, node: vote.node };
                (KIND_VOTE, u8::from(vote.committed), position, Bytes::new())
            }
            Self::Committed(position) => {
                let (flags, position) = optional(position);
                (KIND_COMMITTED, flags, position, Bytes::new())
            }
            Self::Purged(position) => (KIND_PURGED, SOME, *position, Bytes::new()),
            Self::Truncate(position) => {
                let (flags, position) = optional(position);
                (KIND_TRUNCATE, flags, position, Bytes::new())
            }
            Self::Forget => (KIND_FORGET, 0, LogPosition::default(), Bytes::new()),
            Self::State(state) => (KIND_STATE, 0, LogPosition::default(), encode_state(state)),
        }
    }

    fn from_parts(kind: u8, flags: u8, position: LogPosition, payload: Bytes) -> Option<Self> {
        let optional = || (flags & SOME != 0).then_some(position);
        let entry = |kind, payload| Some(Self::Entry(EntryRecord { position, kind, payload }));
        match kind {
            KIND_BLANK => entry(EntryKind::Blank, payload),
            KIND_BATCH => entry(EntryKind::Batch, payload),
            KIND_MEMBERSHIP => entry(EntryKind::Membership, payload),
            KIND_STATE => decode_state(&payload).map(Self::State),
            _ if !payload.is_empty() => None,
            KIND_VOTE => {
                let committed = flags & SOME != 0;
                Some(Self::Vote(VoteRecord { term: position.term, node: position.node, committed }))
            }
            KIND_COMMITTED => Some(Self::Committed(optional())),
            KIND_PURGED => Some(Self::Purged(position)),
            KIND_TRUNCATE => Some(Self::Truncate(optional())),
            KIND_FORGET => Some(Self::Forget),
            _ => None,
        }
    }

    /// The record that `bytes` are, no more and no less.
    pub(crate) fn decode(bytes: &Bytes, salt: u32) -> Option<(ShardId, Self)> {
        if bytes.len() < RECORD_HEADER {
            return None;
        }
        let mut rest = &bytes[..RECORD_HEADER];
        let (len, crc) = (rest.get_u32_le(), rest.get_u32_le());
        if bytes.len() - RECORD_HEADER != len as usize || crc != record_crc(salt, len, &bytes[8..]) {
            return None;
        }
        let (kind, flags, _) = (rest.get_u8(), rest.get_u8(), rest.get_u16_le());
        let shard = ShardId(rest.get_u32_le());
        let (term, index, node) = (rest.get_u64_le(), rest.get_u64_le(), rest.get_u64_le());
        let position = LogPosition { index, term, node };
        Some((shard, Self::from_parts(kind, flags, position, bytes.slice(RECORD_HEADER..))?))
    }
}

fn record_crc(salt: u32, len: u32, rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(salt, &len.to_le_bytes()), rest)
}

fn encode_state(state: &ShardState) -> Bytes {
    let mut bytes = BytesMut::with_capacity(STATE_LEN);
    let vote = state.vote.unwrap_or(VoteRecord { term: 0, node: 0, committed: false });
    let positions = [state.committed, state.purged, state.last];
    let mut flags = u8::from(state.vote.is_some()) | (u8::from(vote.committed) << 1);
    for (bit, position) in positions.iter().enumerate() {
        flags |= u8::from(position.is_some()) << (bit + 2);
    }
    bytes.put_u8(flags);
    bytes.put_u64_le(vote.term);
    bytes.put_u64_le(vote.node);
    for position in positions.map(Option::unwrap_or_default) {
        bytes.put_u64_le(position.term);
        bytes.put_u64_le(position.index);
        bytes.put_u64_le(position.node);
    }
    bytes.freeze()
}

fn decode_state(mut bytes: &[u8]) -> Option<ShardState> {
    if bytes.len() != STATE_LEN {
        return None;
    }
    let flags = bytes.get_u8();
    let set = |bit: u8| flags & (1 << bit) != 0;
    let (term, node) = (bytes.get_u64_le(), bytes.get_u64_le());
    let vote = set(0).then_some(VoteRecord { term, node, committed: set(1) });
    let mut position = |bit: u8| {
        let (term, index, node) = (bytes.get_u64_le(), bytes.get_u64_le(), bytes.get_u64_le());
        set(bit).then_some(LogPosition { index, term, node })
    };
    Some(ShardState { vote, committed: position(2), purged: position(3), last: position(4) })
}

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
        Self { salt, parts: vec![Part::Copied(head)], body_len: 0, body_crc: salt, records: 0 }
    }

    /// Adds a record and returns its offset in the block.
    pub(crate) fn push(&mut self, shard: ShardId, record: &Record) -> usize {
        let (kind, flags, position, payload) = record.parts();
        assert!(payload.len() <= WAL_MAX_PAYLOAD, "a record of {} bytes", payload.len());
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
        let header = BlockHeader { epoch, offset, seq, body_len, records, body_crc, flags };
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
        records.push(Found { offset, len: len32, shard, record });
        at += len;
    }
    if records.len() != header.records as usize || body_crc != header.body_crc {
        return Err(fault(BLOCK_HEADER, &records));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn segment() -> SegmentHeader {
        SegmentHeader { store_id: StoreId([7; 16]), number: 3, epoch: 9, capacity: 1 << 20 }
    }

    fn position() -> impl Strategy<Value = LogPosition> {
        (any::<u64>(), any::<u64>(), any::<u64>())
            .prop_map(|(index, term, node)| LogPosition { index, term, node })
    }

    fn vote() -> impl Strategy<Value = VoteRecord> {
        (any::<u64>(), any::<u64>(), any::<bool>())
            .prop_map(|(term, node, committed)| VoteRecord { term, node, committed })
    }

    fn record() -> impl Strategy<Value = Record> {
        let kind = prop_oneof![Just(EntryKind::Blank), Just(EntryKind::Batch), Just(EntryKind::Membership)];
        let len = prop_oneof![0..200_usize, Just(COPY_BELOW - 1), Just(COPY_BELOW + 5)];
        let entry = (position(), kind, len, any::<u8>()).prop_map(|(position, kind, len, byte)| {
            Record::Entry(EntryRecord { position, kind, payload: Bytes::from(vec![byte; len]) })
        });
        let maybe = || proptest::option::of(position());
        let state = (proptest::option::of(vote()), maybe(), maybe(), maybe()).prop_map(
            |(vote, committed, purged, last)| Record::State(ShardState { vote, committed, purged, last }),
        );
        prop_oneof![
            entry,
            vote().prop_map(Record::Vote),
            maybe().prop_map(Record::Committed),
            position().prop_map(Record::Purged),
            maybe().prop_map(Record::Truncate),
            Just(Record::Forget),
            state,
        ]
    }

    fn encode(records: &[(u32, Record)], offset: u64) -> Bytes {
        let mut block = BlockBuilder::new(segment().salt(), 0);
        for (shard, record) in records {
            block.push(ShardId(*shard), record);
        }
        block.finish(segment().epoch, offset, 5, FLAG_STATE).concat().into()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn blocks_round_trip(records in proptest::collection::vec((any::<u32>(), record()), 0..12)) {
            let (segment, bytes) = (segment(), encode(&records, 1024));
            let salt = segment.salt();
            let header = BlockHeader::decode(&bytes, &segment, salt, 1024).unwrap();
            prop_assert_eq!(header.len(), bytes.len());
            prop_assert_eq!(header.body_len as usize, records.iter().map(|(_, r)| r.len()).sum::<usize>());
            let found = decode_body(&header, &bytes, salt).unwrap();
            let decoded: Vec<_> = found.iter().map(|f| (f.shard.0, f.record.clone())).collect();
            prop_assert_eq!(&decoded, &records);
            for f in &found {
                let one = bytes.slice(f.offset as usize..(f.offset + f.len) as usize);
                prop_assert_eq!(Record::decode(&one, salt).unwrap(), (f.shard, f.record.clone()));
                prop_assert!(Record::decode(&one, salt ^ 1).is_none());
            }
            prop_assert!(BlockHeader::decode(&bytes, &segment, salt, 512).is_none());
        }

        #[test]
        fn a_flipped_bit_is_seen(
            records in proptest::collection::vec((any::<u32>(), record()), 1..6),
            place: proptest::sample::Index,
            bit in 0..8_u8,
        ) {
            let segment = segment();
            let salt = segment.salt();
            let good = encode(&records, 512);
            let used = BlockHeader::decode(&good, &segment, salt, 512).unwrap().body_len as usize + BLOCK_HEADER;
            let mut bad = good.to_vec();
            bad[place.index(used)] ^= 1 << bit;
            let bad = Bytes::from(bad);
            let accepted = BlockHeader::decode(&bad, &segment, salt, 512)
                .is_some_and(|header| decode_body(&header, &bad, salt).is_ok());
            prop_assert!(!accepted);
        }

        #[test]
        fn any_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let bytes = Bytes::from(bytes);
            let header = BlockHeader {
                epoch: 9, offset: 512, seq: 1, body_len: 500, records: 1, body_crc: 0, flags: 0,
            };
            prop_assert!(BlockHeader::decode(&bytes, &segment(), 0, 512).is_none());
            prop_assert!(decode_body(&header, &bytes, 0).is_err());
            prop_assert!(Record::decode(&bytes, 0).is_none());
            prop_assert!(SegmentHeader::decode(&bytes).is_err());
        }
    }

    #[test]
    fn segment_headers() {
        let header = segment();
        let bytes = header.encode();
        assert_eq!(bytes.len(), SECTOR);
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        assert_eq!(SegmentHeader::decode(&bytes[..SECTOR - 1]), Err(HeaderFault::Magic));
        for at in [8, 20, 500] {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1;
            assert_eq!(SegmentHeader::decode(&bad), Err(HeaderFault::Checksum));
        }
        let mut newer = bytes.to_vec();
        newer[8] = 2;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&newer[..12]), &newer[16..]);
        newer[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&newer), Err(HeaderFault::Version(2)));
        let other = SegmentHeader { epoch: 10, ..header };
        assert_ne!(other.salt(), header.salt());
    }
}
