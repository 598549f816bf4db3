//! Round trips, and what damaged or arbitrary bytes decode to: nothing.

use bytes::Bytes;
use kvsvr_core::types::{LogPosition, ShardId};
use proptest::prelude::*;

use super::{block::COPY_BELOW, *};
use crate::wal::{EntryKind, EntryRecord, VoteRecord};

fn segment() -> SegmentHeader {
    SegmentHeader {
        store_id: StoreId([7; 16]),
        number: 3,
        epoch: 9,
        capacity: 1 << 20,
    }
}

fn position() -> impl Strategy<Value = LogPosition> {
    (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(index, term, node)| LogPosition {
        index,
        term,
        node,
    })
}

fn vote() -> impl Strategy<Value = VoteRecord> {
    (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(term, node, committed)| VoteRecord {
        term,
        node,
        committed,
    })
}

fn record() -> impl Strategy<Value = Record> {
    let kind = prop_oneof![
        Just(EntryKind::Blank),
        Just(EntryKind::Batch),
        Just(EntryKind::Membership)
    ];
    let len = prop_oneof![0..200_usize, Just(COPY_BELOW - 1), Just(COPY_BELOW + 5)];
    let entry = (position(), kind, len, any::<u8>()).prop_map(|(position, kind, len, byte)| {
        Record::Entry(EntryRecord {
            position,
            kind,
            payload: Bytes::from(vec![byte; len]),
        })
    });
    let maybe = || proptest::option::of(position());
    let state = (proptest::option::of(vote()), maybe(), maybe(), maybe()).prop_map(
        |(vote, committed, purged, last)| {
            Record::State(ShardState {
                vote,
                committed,
                purged,
                last,
            })
        },
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
    block
        .finish(segment().epoch, offset, 5, FLAG_STATE)
        .concat()
        .into()
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
    assert_eq!(
        SegmentHeader::decode(&bytes[..SECTOR - 1]),
        Err(HeaderFault::Magic)
    );
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

#[test]
fn records_of_two_blocks_do_not_pass_as_one() {
    let (segment, vote) = (segment(), |term| {
        Record::Vote(VoteRecord {
            term,
            node: 1,
            committed: false,
        })
    });
    let first = encode(&[(1, vote(1)), (1, vote(2))], 512);
    let second = encode(&[(1, vote(3)), (1, vote(4))], 512);
    let header = BlockHeader::decode(&first, &segment, segment.salt(), 512).unwrap();
    let seam = BLOCK_HEADER + RECORD_HEADER;
    let mixed = Bytes::from([&first[..seam], &second[seam..]].concat());
    assert!(decode_body(&header, &first, segment.salt()).is_ok());
    assert!(decode_body(&header, &mixed, segment.salt()).is_err());
}
