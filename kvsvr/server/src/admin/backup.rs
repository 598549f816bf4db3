//! Backups of shards: one state of each, in parts, and the way back into a shard that was never used.
//!
//! A part on its way back is a command of the shard's log, so that all replicas are restored alike, and whoever joins meanwhile too.

use std::sync::Arc;

use bytes::Bytes;
use kvsvr_client::transport::StreamSender;
use kvsvr_core::{
    command::Op, engine::EngineError, limits::MAX_ENCODED_COMMAND, read::shard_head, restore::Parts,
};
use kvsvr_proto::v1::{self as pb, ErrorCode};
use openraft_rt::AsyncRuntime;
use prost::Message;

use super::{internal, invalid, propose_within};
use crate::{
    api::failed,
    limits::{BACKUP_PART_BYTES, RESTORE_DEADLINE},
    node::Node,
    raft::runtime::Runtime,
    service::CallError,
    shard::{Shard, error},
};

/// Bytes that a command has besides the rows in it.
const COMMAND_OVERHEAD: usize = 4 << 10;

/// Streams one state of a shard.
pub async fn save(
    node: &Arc<Node>,
    request: pb::BackupRequest,
    output: StreamSender,
) -> Result<(), CallError> {
    let shard = node.replica(request.shard).map_err(failed)?;
    shard.reads().barrier().await.map_err(failed)?;
    let sending = move || send_parts(&shard, &output);
    let sent = Runtime::spawn_blocking(sending).await.map_err(internal)?;
    sent.map_err(|error| {
        let code = match error {
            EngineError::Corrupt(_) => ErrorCode::Corrupt,
            EngineError::Io(_) => ErrorCode::Internal,
        };
        failed(error::definite(code, error.to_string()))
    })
}

/// Reads the present state and sends it. Blocks while the receiver does not take the parts.
fn send_parts(shard: &Shard, output: &StreamSender) -> Result<(), EngineError> {
    let installs = shard.head().installs();
    let state = shard.engine().snapshot();
    if installs % 2 == 1 || installs != shard.head().installs() {
        let text = "this replica is installing a snapshot, or being restored: ask another one, or later";
        return Err(EngineError::Io(text.to_owned()));
    }
    let head = shard_head(&*state, shard.id()).map_err(|e| EngineError::Corrupt(e.to_string()))?;
    let mut parts = Parts::new(&*state, shard.id());
    for number in 0.. {
        let rows = parts.next_part(BACKUP_PART_BYTES)?;
        if rows.len() + COMMAND_OVERHEAD > MAX_ENCODED_COMMAND {
            let text = format!("a row of {} bytes is too large for a backup", rows.len());
            return Err(EngineError::Io(text));
        }
        let last = rows.is_empty();
        let part = pb::BackupPart {
            number,
            crc32c: crc32c::crc32c(&rows),
            rows,
            head: if last { head.encode() } else { Bytes::new() },
            revision: head.revision,
        };
        // Who does not listen any more is not told.
        if output.blocking_send(part.encode_to_vec().into()).is_err() || last {
            return Ok(());
        }
    }
    Ok(())
}

/// Takes a part back.
pub async fn restore(
    node: &Arc<Node>,
    request: pb::RestorePart,
) -> Result<pb::RestorePartResponse, CallError> {
    let part = request.part.ok_or_else(|| invalid("no part"))?;
    if crc32c::crc32c(&part.rows) != part.crc32c {
        return Err(invalid(format!(
            "part {} of the backup of shard {} does not match its checksum",
            part.number, request.shard
        )));
    }
    let shard = node.replica(request.shard).map_err(failed)?;
    let restore = Op::Restore {
        backup: request.backup,
        number: part.number,
        rows: part.rows,
        head: Some(part.head).filter(|head| !head.is_empty()),
    };
    match propose_within(&shard, restore, RESTORE_DEADLINE)
        .await
        .map_err(failed)?
    {
        Some(pb::outcome::Result::Restore(done)) => Ok(pb::RestorePartResponse { next: done.next }),
        other => Err(internal(format!(
            "a part of a backup was answered with {other:?}"
        ))),
    }
}
