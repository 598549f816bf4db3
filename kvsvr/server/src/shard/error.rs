//! The errors of the API, by code.

use kvsvr_proto::v1::{self as pb, ErrorCode};

/// An error that says that nothing happened.
pub fn definite(code: ErrorCode, message: impl Into<String>) -> pb::Error {
    pb::Error {
        code: code.into(),
        message: message.into(),
        ..Default::default()
    }
}

/// An error that says that it may have happened.
pub fn unknown(code: ErrorCode, message: impl Into<String>) -> pb::Error {
    pb::Error {
        unknown: true,
        ..definite(code, message)
    }
}

/// Come again after `ms` milliseconds.
pub fn retry(code: ErrorCode, message: impl Into<String>, ms: u32) -> pb::Error {
    pb::Error {
        retry_after_ms: ms,
        ..definite(code, message)
    }
}

/// The shard is being restored from a backup.
pub fn restoring(shard: u32) -> pb::Error {
    retry(
        ErrorCode::NotReady,
        format!("shard {shard} is being restored from a backup; it answers when that has ended"),
        crate::limits::NO_LEADER_RETRY_MS,
    )
}

/// This node does not lead the shard.
pub fn not_leader(shard: u32, leader: Option<(u64, String)>) -> pb::Error {
    match leader {
        Some((node, address)) => pb::Error {
            leader_node: node,
            message: format!("shard {shard} is led by node {node} at {address}"),
            leader_address: address,
            code: ErrorCode::NotLeader.into(),
            ..Default::default()
        },
        None => retry(
            ErrorCode::NoLeader,
            format!(
                "shard {shard} has no leader now; a majority of its replicas must be up and reach each other"
            ),
            crate::limits::NO_LEADER_RETRY_MS,
        ),
    }
}
