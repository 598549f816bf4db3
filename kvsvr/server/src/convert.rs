//! The API's messages to and from the state machine's types, and its reads.

use bytes::Bytes;
use kvsvr_core::{
    codec,
    engine::EngineRead,
    error::{Failure, Rejection},
    read::{self, View},
    types::{Partition, ShardId},
};
use kvsvr_proto::v1::{self as pb, ErrorCode, read_request::Op, read_result::Result as ReadAnswer};

use crate::{raft::apply::Head, shard::error};

/// A deterministic refusal as an API error.
pub fn rejection(rejection: Rejection) -> pb::Error {
    let Rejection {
        code,
        message,
        revision,
    } = rejection;
    pb::Error {
        code: code.into(),
        message,
        revision,
        ..Default::default()
    }
}

/// The same, from an outcome's message.
pub fn rejection_message(rejection: pb::Rejection) -> pb::Error {
    let pb::Rejection {
        code,
        message,
        revision,
    } = rejection;
    let retry_after_ms = if code == i32::from(ErrorCode::Overloaded) {
        crate::limits::OVERLOADED_RETRY_MS
    } else {
        0
    };
    pb::Error {
        code,
        message,
        revision,
        retry_after_ms,
        ..Default::default()
    }
}

fn failure(failure: Failure) -> pb::Error {
    match failure {
        Failure::Rejected(refused) => rejection(refused),
        Failure::Corrupt(corrupt) => {
            tracing::error!("{corrupt}");
            error::definite(ErrorCode::Corrupt, corrupt.to_string())
        }
    }
}

/// The partition of a request; it must have one.
pub fn partition(partition: Option<&pb::Partition>) -> Result<Partition, pb::Error> {
    optional_partition(partition)?
        .ok_or_else(|| error::definite(ErrorCode::Invalid, "the request names no partition"))
}

/// The partition of a request that may have none.
pub fn optional_partition(partition: Option<&pb::Partition>) -> Result<Option<Partition>, pb::Error> {
    let Some(partition) = partition else {
        return Ok(None);
    };
    let region = u16::try_from(partition.region)
        .map_err(|_| error::definite(ErrorCode::Invalid, "a region is a number below 65536"))?;
    let partition = Partition {
        region,
        name: partition.name.clone(),
    };
    codec::check_partition(&partition).map_err(rejection)?;
    Ok(Some(partition))
}

/// Checks a key's length.
pub fn check_key(key: &[u8]) -> Result<(), pb::Error> {
    codec::check_key(key).map_err(rejection)
}

/// Reads the newest value of a key.
pub fn read_get(
    engine: &dyn EngineRead,
    shard: u32,
    partition: &Partition,
    key: &Bytes,
    head: &Head,
) -> Result<pb::ReadResult, pb::Error> {
    // Before the read: what is read is at least that new.
    let revision = head.revision();
    let kv = read::newest(engine, ShardId(shard), partition, key).map_err(|e| failure(e.into()))?;
    let kv = kv.map(|kv| codec::to_pb_key_value(&kv));
    Ok(pb::ReadResult {
        revision,
        age_ms: 0,
        result: Some(ReadAnswer::Get(pb::GetResult { kv })),
    })
}

/// Any other read, of one unchanging state.
pub fn read_other(
    snapshot: &dyn EngineRead,
    shard: u32,
    request: pb::ReadRequest,
) -> Result<pb::ReadResult, pb::Error> {
    let partition = partition(request.partition.as_ref())?;
    let view = View::load(snapshot, ShardId(shard)).map_err(|e| failure(e.into()))?;
    let op = request
        .op
        .ok_or_else(|| error::definite(ErrorCode::Invalid, "the read has no operation this server knows"))?;
    let result = match op {
        Op::Get(get) => {
            check_key(&get.key)?;
            let revision = (get.revision != 0).then_some(get.revision);
            let kv = view.get(&partition, &get.key, revision).map_err(failure)?;
            ReadAnswer::Get(pb::GetResult {
                kv: kv.map(|kv| codec::to_pb_key_value(&kv)),
            })
        }
        Op::Range(range) => {
            let range = codec::from_pb_range(range).map_err(rejection)?;
            let result = view.range(&partition, &range, kvsvr_core::limits::MAX_RANGE_BYTES);
            ReadAnswer::Range(codec::to_pb_range_result(&result.map_err(failure)?))
        }
        Op::Txn(txn) => {
            let txn = codec::from_pb_txn(txn).map_err(rejection)?;
            let result = view.txn(&partition, &txn).map_err(failure)?;
            ReadAnswer::Txn(codec::to_pb_txn_result(&result))
        }
    };
    Ok(pb::ReadResult {
        revision: view.revision,
        age_ms: 0,
        result: Some(result),
    })
}
