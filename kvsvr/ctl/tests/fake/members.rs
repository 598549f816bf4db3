//! Members and operations of the fake: every operation ends at once, removing is refused, and so is making a replica anew of which there is one.

use kvsvr_client::proto::{self, change_members_request::Change, operation};

use super::{ADDRESS, NODE, replicas::Replicas};

/// What the leader of the meta shard says.
pub(super) fn members(operations: &[proto::Operation]) -> proto::MembersResponse {
    let info = proto::NodeInfo {
        id: NODE,
        address: ADDRESS.into(),
        store_id: "5107e".into(),
        ..proto::NodeInfo::default()
    };
    proto::MembersResponse {
        members: vec![proto::Member {
            info: Some(info),
            silent_ms: 0,
            replicas: 1,
            preferred: 1,
        }],
        operations: operations.to_vec(),
        now_ms: 9_000,
    }
}

/// Begins an operation, or says why not.
pub(super) fn change(
    request: proto::ChangeMembersRequest,
    operations: &mut Vec<proto::Operation>,
    replicas: &mut Replicas,
) -> Result<proto::ChangeMembersResponse, proto::Error> {
    let refused = |message: &str| proto::Error {
        code: proto::ErrorCode::Refused.into(),
        message: message.into(),
        ..proto::Error::default()
    };
    let change = request.change.unwrap();
    let shard = match &change {
        Change::Reseed(replica) => replica.shard,
        _ => 0,
    };
    let (kind, node) = match change {
        Change::Add(_) => (operation::Kind::Add, 2),
        Change::Drain(node) => (operation::Kind::Drain, node),
        Change::Remove(_) => return Err(refused("without node 1 there are 0 nodes")),
        Change::Reseed(_) if replicas.nodes < 3 => return Err(refused("there is no majority to copy from")),
        Change::Reseed(replica) => {
            if !request.dry_run {
                replicas.reseed(&replica);
            }
            (operation::Kind::Reseed, replica.node)
        }
        other => panic!("the fake does not know {other:?}"),
    };
    let operation = proto::Operation {
        id: operations.len() as u64 + 1,
        kind: kind.into(),
        node,
        shard,
        state: operation::State::Done.into(),
        who: request.who,
        started_ms: 4_000,
        ended_ms: 6_000,
        steps_done: 2,
        events: vec![operation::Event {
            at_ms: 5_000,
            text: "shard 1: change the voters to 2".into(),
            ..operation::Event::default()
        }],
        ..proto::Operation::default()
    };
    if !request.dry_run {
        operations.push(operation.clone());
    }
    Ok(proto::ChangeMembersResponse {
        operation: Some(operation),
        plan: vec!["first".into(), "second".into()],
    })
}
