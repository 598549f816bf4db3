//! The bodies on random bytes and on damaged encodings.

use kvsvr_client::transport::Method;
use kvsvr_core::{
    codec::encode_command,
    testing::{any_command, cases},
};
use openraft::raft::StreamAppendError;
use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;
use crate::raft::types::{LogId, Membership, PeerNode, StoredMembership, Vote};

/// What a fuzzer does to an input: bytes change, go and come.
fn damage(bytes: &[u8], changes: &[(Index, u8, u8)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, kind, byte) in changes {
        let at = at.index(bytes.len() + 1);
        match kind % 4 {
            0 => bytes.insert(at, *byte),
            1 => bytes.truncate(at),
            _ if at == bytes.len() => bytes.push(*byte),
            2 => drop(bytes.remove(at)),
            _ => bytes[at] ^= byte,
        }
    }
    bytes
}

fn changes() -> impl Strategy<Value = Vec<(Index, u8, u8)>> {
    vec(any::<(Index, u8, u8)>(), 0..4)
}

fn log_id() -> LogId {
    convert::from_pb_log_id(&pb::PbLogId {
        term: 3,
        node_id: 2,
        index: 300,
    })
}

fn stored_membership() -> pb::PbStoredMembership {
    let node = PeerNode {
        address: "n1:1".into(),
        store_id: "s".into(),
        incarnation: 2,
    };
    let nodes: std::collections::BTreeMap<u64, PeerNode> =
        [(1, node.clone()), (2, node)].into_iter().collect();
    let membership = Membership::new(vec![[1].into(), [1, 2].into()], nodes).unwrap();
    convert::pb_stored_membership(&StoredMembership::new(Some(log_id()), membership))
}

/// Sound messages of each kind of [`peer_message`], in its order.
fn peer_messages() -> Vec<Vec<u8>> {
    let (vote, id) = (convert::pb_vote(&Vote::new(3, 2)), convert::pb_log_id(&log_id()));
    let append = pb::AppendRequest {
        vote: Some(vote),
        prev_log_id: Some(id),
        entries: vec![pb::PbEntry {
            log_id: Some(id),
            payload: Some(pb::pb_entry::Payload::Membership(
                stored_membership().membership.unwrap(),
            )),
        }],
        ..Default::default()
    };
    let request = pb::VoteRequest {
        vote: Some(vote),
        last_log_id: Some(id),
        ..Default::default()
    };
    let response = pb::VoteResponse {
        vote: Some(vote),
        granted: true,
        last_log_id: None,
    };
    let conflict = convert::pb_append_result(&Err(StreamAppendError::Conflict(log_id())));
    vec![
        append.encode_to_vec(),
        request.encode_to_vec(),
        response.encode_to_vec(),
        conflict.encode_to_vec(),
        stored_membership().encode_to_vec(),
        stored_membership().encode_to_vec(),
    ]
}

/// Sound messages of the methods that people and clients use.
fn api_messages(command: Bytes) -> Vec<(Method, Vec<u8>)> {
    let partition = Some(pb::Partition {
        region: 0,
        name: Bytes::from_static(b"alice"),
    });
    let range = pb::RangeRequest {
        partition: partition.clone(),
        range: Some(pb::Range::default()),
        ..Default::default()
    };
    let get = pb::GetRequest {
        partition: partition.clone(),
        key: Bytes::from_static(b"key"),
        ..Default::default()
    };
    let watch = pb::WatchRequest {
        partition: partition.clone(),
        ..Default::default()
    };
    let read = pb::ReadRequest {
        partition,
        mode: None,
        op: Some(pb::read_request::Op::Range(pb::Range::default())),
    };
    let request = |id, op| pb::ExecRequest {
        id,
        op: Some(op),
        ..Default::default()
    };
    let frame = pb::ExecFrame {
        requests: vec![
            request(1, pb::exec_request::Op::Command(command.clone())),
            request(2, pb::exec_request::Op::Read(read)),
        ],
    };
    let execute = pb::ExecuteRequest {
        command: pb::Command::decode(command).ok(),
        ..Default::default()
    };
    vec![
        (Method::KvRange, range.encode_to_vec()),
        (Method::KvGet, get.encode_to_vec()),
        (Method::WatchWatch, watch.encode_to_vec()),
        (Method::KvExec, frame.encode_to_vec()),
        (Method::KvExecute, execute.encode_to_vec()),
    ]
}

fn number(method: Method) -> u8 {
    let at = Method::ALL.into_iter().position(|other| other == method);
    u8::try_from(at.unwrap()).unwrap()
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn any_bytes(data in vec(any::<u8>(), 0..300)) {
        for body in [wal_bytes, wal_damage, wal_records, snapshot_chunk, peer_message] {
            body(&data);
        }
    }

    #[test]
    fn any_records(data in vec((0..12u8, 0..3u8, 0..6u8, 0..3u8), 0..20)) {
        let data: Vec<u8> = data.into_iter().flat_map(|(a, b, c, d)| [a, b, c, d]).collect();
        wal_records(&data);
    }

    /// Few changes each, so that most of the log is sound.
    #[test]
    fn any_damage(changes in vec((any::<u8>(), any::<u16>(), 1..=255u8), 1..4)) {
        let data: Vec<u8> = changes
            .into_iter()
            .flat_map(|(file, at, mask)| [file, at.to_le_bytes()[0], at.to_le_bytes()[1], mask])
            .collect();
        wal_damage(&data);
    }

    #[test]
    fn damaged_chunks(rows in vec((0..5u8, vec(any::<u8>(), 0..9), vec(any::<u8>(), 0..9)), 0..4), changes in changes()) {
        let mut data = BytesMut::new();
        for (cf, key, value) in &rows {
            put_pair(&mut data, *cf, key, value);
        }
        let mut count = 0;
        prop_assert!(pairs(data.clone().freeze(), |_, _, _| count += 1).is_ok());
        prop_assert_eq!(count, rows.len());
        snapshot_chunk(&damage(&data, &changes));
    }

    #[test]
    fn damaged_peer_messages(changes in changes()) {
        for (kind, message) in peer_messages().iter().enumerate() {
            peer_message(&[&[kind as u8], &damage(message, &changes)[..]].concat());
        }
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn any_calls(data in vec(any::<u8>(), 1..100)) {
        api_message(&data);
    }

    #[test]
    fn damaged_calls(command in any_command(), changes in changes()) {
        for (method, message) in api_messages(encode_command(&command)) {
            api_message(&[&[number(method)], &damage(&message, &changes)[..]].concat());
        }
    }
}

/// A body that accepts nothing tests nothing.
#[test]
fn sound_peer_messages_convert() {
    let messages = peer_messages();
    let append = pb::AppendRequest::decode(&messages[0][..]).unwrap();
    assert_eq!(convert::from_pb_append(append).unwrap().entries.len(), 1);
    assert!(convert::decode_stored_membership(&messages[5]).is_ok());
}
