//! Records: their types, and the 40 bytes of header and the payload that each is on disk.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kvsvr_core::types::{LogPosition, ShardId};

use super::super::{EntryKind, EntryRecord, VoteRecord};

pub(crate) const RECORD_HEADER: usize = 40;

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
    pub(super) fn parts(&self) -> (u8, u8, LogPosition, Bytes) {
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
                let position = LogPosition {
                    index: 0,
                    term: vote.term,
                    node: vote.node,
                };
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
        let entry = |kind, payload| {
            Some(Self::Entry(EntryRecord {
                position,
                kind,
                payload,
            }))
        };
        match kind {
            KIND_BLANK => entry(EntryKind::Blank, payload),
            KIND_BATCH => entry(EntryKind::Batch, payload),
            KIND_MEMBERSHIP => entry(EntryKind::Membership, payload),
            KIND_STATE => decode_state(&payload).map(Self::State),
            _ if !payload.is_empty() => None,
            KIND_VOTE => {
                let committed = flags & SOME != 0;
                Some(Self::Vote(VoteRecord {
                    term: position.term,
                    node: position.node,
                    committed,
                }))
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
        let sound = crc == record_crc(salt, len, &bytes[8..]) || kvsvr_core::mutant!("checksum-ignored");
        if bytes.len() - RECORD_HEADER != len as usize || !sound {
            return None;
        }
        let (kind, flags, _) = (rest.get_u8(), rest.get_u8(), rest.get_u16_le());
        let shard = ShardId(rest.get_u32_le());
        let (term, index, node) = (rest.get_u64_le(), rest.get_u64_le(), rest.get_u64_le());
        let position = LogPosition { index, term, node };
        Some((
            shard,
            Self::from_parts(kind, flags, position, bytes.slice(RECORD_HEADER..))?,
        ))
    }
}

/// The checksum of a record up to a part of its bytes after the checksum.
pub(super) fn record_crc(salt: u32, len: u32, rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(salt, &len.to_le_bytes()), rest)
}

fn encode_state(state: &ShardState) -> Bytes {
    let mut bytes = BytesMut::with_capacity(STATE_LEN);
    let vote = state.vote.unwrap_or(VoteRecord {
        term: 0,
        node: 0,
        committed: false,
    });
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
    let vote = set(0).then_some(VoteRecord {
        term,
        node,
        committed: set(1),
    });
    let mut position = |bit: u8| {
        let (term, index, node) = (bytes.get_u64_le(), bytes.get_u64_le(), bytes.get_u64_le());
        set(bit).then_some(LogPosition { index, term, node })
    };
    Some(ShardState {
        vote,
        committed: position(2),
        purged: position(3),
        last: position(4),
    })
}
