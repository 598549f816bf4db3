//! Round trips of openraft's types through our messages and records, and messages that lack something.

use std::collections::BTreeSet;

use kvsvr_proto::v1 as pb;
use openraft::{
    EntryPayload,
    entry::RaftEntry,
    raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse},
};
use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::raft::{
    convert::Malformed,
    types::{Batch, Entry, LogId, TypeConfig, Vote},
};

fn any_position() -> impl Strategy<Value = LogPosition> {
    any::<[u64; 3]>().prop_map(|[index, term, node]| LogPosition { index, term, node })
}

fn any_id() -> impl Strategy<Value = LogId> {
    any_position().prop_map(convert::log_id)
}

fn any_vote() -> impl Strategy<Value = Vote> {
    (any::<[u64; 2]>(), any::<bool>()).prop_map(|([term, node], committed)| {
        if committed {
            Vote::new_committed(term, node)
        } else {
            Vote::new(term, node)
        }
    })
}

/// One configuration or a joint one; nodes that are in none are learners.
fn any_membership() -> impl Strategy<Value = Membership> {
    let nodes = proptest::collection::btree_map(0..9u64, (".{0,9}", ".{0,9}", 0..3u64), 1..6);
    (nodes, vec(vec(any::<prop::sample::Index>(), 1..4), 1..3)).prop_map(|(nodes, picks)| {
        let nodes: BTreeMap<u64, PeerNode> = nodes
            .into_iter()
            .map(|(id, (address, store_id, incarnation))| {
                let node = PeerNode {
                    address,
                    store_id,
                    incarnation,
                };
                (id, node)
            })
            .collect();
        let ids: Vec<u64> = nodes.keys().copied().collect();
        let configs = picks
            .iter()
            .map(|set| set.iter().map(|pick| *pick.get(&ids)).collect::<BTreeSet<u64>>())
            .collect();
        Membership::new(configs, nodes).unwrap()
    })
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let payload = prop_oneof![
        Just(EntryPayload::Blank),
        vec(any::<u8>(), 0..20).prop_map(|bytes| EntryPayload::Normal(Batch(bytes.into()))),
        any_membership().prop_map(EntryPayload::Membership),
    ];
    (any_id(), payload).prop_map(|(id, payload)| Entry::new(id, payload))
}

fn any_request() -> impl Strategy<Value = AppendEntriesRequest<TypeConfig>> {
    let parts = (
        any_vote(),
        option::of(any_id()),
        vec(any_entry(), 0..4),
        option::of(any_id()),
    );
    parts.prop_map(
        |(vote, prev_log_id, entries, leader_commit)| AppendEntriesRequest {
            vote,
            prev_log_id,
            entries,
            leader_commit,
        },
    )
}

fn any_result() -> impl Strategy<Value = StreamAppendResult<TypeConfig>> {
    prop_oneof![
        option::of(any_id()).prop_map(Ok),
        any_id().prop_map(|id| Err(StreamAppendError::Conflict(id))),
        any_vote().prop_map(|vote| Err(StreamAppendError::HigherVote(vote))),
    ]
}

/// What the other side decodes.
fn sent<M: Message + Default>(message: &M) -> M {
    M::decode(&message.encode_to_vec()[..]).unwrap()
}

/// openraft's messages cannot be compared.
fn text(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}")
}

proptest! {
    #[test]
    fn log_ids_and_votes_round_trip(position in any_position(), id in any_id(), vote in any_vote()) {
        prop_assert_eq!(convert::position(&convert::log_id(position)), position);
        prop_assert_eq!(convert::from_pb_log_id(&sent(&convert::pb_log_id(&id))), id);
        prop_assert_eq!(convert::from_pb_vote(Some(&sent(&convert::pb_vote(&vote)))), Ok(vote));
        prop_assert_eq!(convert::vote(convert::vote_record(&vote)), vote);
    }

    #[test]
    fn memberships_round_trip(membership in any_membership(), id in option::of(any_id())) {
        let message = sent(&convert::pb_membership(&membership));
        prop_assert_eq!(convert::from_pb_membership(message), Ok(membership.clone()));
        let stored = StoredMembership::new(id, membership);
        let bytes = convert::pb_stored_membership(&stored).encode_to_vec();
        prop_assert_eq!(convert::decode_stored_membership(&bytes), Ok(stored));
    }

    #[test]
    fn entries_round_trip(entry in any_entry(), request in any_request()) {
        prop_assert_eq!(convert::entry(convert::record(entry.clone())), Ok(entry));
        let back = convert::from_pb_append(sent(&convert::pb_append(request.clone())));
        prop_assert_eq!(text(&back), text(&Ok::<_, Malformed>(request)));
    }

    #[test]
    fn answers_round_trip(result in any_result(), vote in any_vote(), last_log_id in option::of(any_id()), yes: bool) {
        let back = convert::from_pb_append_result(sent(&convert::pb_append_result(&result)));
        prop_assert_eq!(text(&back), text(&Ok::<_, Malformed>(Ok::<_, String>(result))));

        let request = VoteRequest::<TypeConfig> { vote, last_log_id, leadership_transfer: yes };
        let message = sent(&convert::pb_vote_request(&request, pb::Envelope::default()));
        let back = convert::from_pb_vote_request(&message).unwrap();
        prop_assert_eq!(text(&back), text(&request));

        let response = VoteResponse::<TypeConfig> { vote, vote_granted: yes, last_log_id };
        let back = convert::from_pb_vote_response(&sent(&convert::pb_vote_response(&response))).unwrap();
        prop_assert_eq!(text(&back), text(&response));
    }
}

#[test]
fn an_empty_state_has_no_membership() {
    assert_eq!(
        convert::decode_stored_membership(b""),
        Ok(StoredMembership::default())
    );
}

#[test]
fn what_is_missing_is_named() {
    let vote = convert::pb_vote(&Vote::new(1, 2));
    let append = pb::AppendRequest::default();
    let error = convert::from_pb_append(append.clone()).unwrap_err();
    assert_eq!(error, Malformed("no vote"));
    let with = |entry| pb::AppendRequest {
        vote: Some(vote),
        entries: vec![entry],
        ..append.clone()
    };
    let error = convert::from_pb_append(with(pb::PbEntry::default())).unwrap_err();
    assert_eq!(error, Malformed("entry without log id"));
    let bare = pb::PbEntry {
        log_id: Some(pb::PbLogId::default()),
        payload: None,
    };
    let error = convert::from_pb_append(with(bare)).unwrap_err();
    assert_eq!(error, Malformed("entry without payload"));
    let stored = pb::PbStoredMembership::default();
    assert_eq!(
        convert::from_pb_stored_membership(stored),
        Err(Malformed("no membership"))
    );
    let voter = pb::PbMembership {
        configs: vec![pb::PbNodeSet { ids: vec![1] }],
        nodes: Vec::new(),
    };
    assert_eq!(
        convert::from_pb_membership(voter),
        Err(Malformed("a voter without a node"))
    );
}
