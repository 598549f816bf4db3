//! Outcomes <-> protobuf.

use bytes::Bytes;
use kvsvr_proto::v1::{
    self as pb, ErrorCode, outcome::Result as PbResult, txn_op_result::Result as PbOpResult,
};
use prost::Message;

use crate::{
    command::{KeyValue, Outcome, OutcomeResult, RangeResult, TxnOpResult, TxnResult},
    error::{Corrupt, Rejection},
};

/// Encodes an outcome.
pub fn encode_outcome(outcome: &Outcome) -> Bytes {
    to_pb_outcome(outcome).encode_to_vec().into()
}

/// Appends the encoded outcome.
pub(crate) fn encode_outcome_to(outcome: &Outcome, out: &mut Vec<u8>) {
    to_pb_outcome(outcome).encode_raw(out);
}

/// An outcome as a message. Keys and values are shared.
pub fn to_pb_outcome(outcome: &Outcome) -> pb::Outcome {
    pb::Outcome {
        revision: outcome.revision,
        result: Some(to_pb_result(&outcome.result)),
    }
}

fn to_pb_result(result: &OutcomeResult) -> PbResult {
    match *result {
        OutcomeResult::Put { version } => PbResult::Put(pb::PutResult { version }),
        OutcomeResult::Delete { deleted } => PbResult::Delete(pb::DeleteResult { deleted }),
        OutcomeResult::Increment { value } => PbResult::Increment(pb::IncrementResult { value }),
        OutcomeResult::Append { seq } => PbResult::Append(pb::AppendResult { seq }),
        OutcomeResult::Txn(ref txn) => PbResult::Txn(to_pb_txn_result(txn)),
        OutcomeResult::Lease { id, ttl_ms, deleted } => {
            PbResult::Lease(pb::LeaseResult { id, ttl_ms, deleted })
        }
        OutcomeResult::Session { id } => PbResult::Session(pb::SessionResult { id }),
        OutcomeResult::Consumer { epoch, cursor } => PbResult::Consumer(pb::ConsumerResult { epoch, cursor }),
        OutcomeResult::Compact { floor } => PbResult::Compact(pb::CompactResult { floor }),
        OutcomeResult::Restore { next } => PbResult::Restore(pb::RestoreResult { next }),
        OutcomeResult::Expire { keys, leases, more } => {
            PbResult::Expire(pb::ExpireResult { keys, leases, more })
        }
        OutcomeResult::Rejected(ref rejection) => PbResult::Rejected(pb::Rejection {
            code: rejection.code.into(),
            message: rejection.message.clone(),
            revision: rejection.revision,
        }),
    }
}

/// A transaction's result as a message.
pub fn to_pb_txn_result(txn: &TxnResult) -> pb::TxnResult {
    let result = |result: &TxnOpResult| pb::TxnOpResult {
        result: Some(to_pb_op_result(result)),
    };
    pb::TxnResult {
        succeeded: txn.succeeded,
        results: txn.results.iter().map(result).collect(),
    }
}

fn to_pb_op_result(result: &TxnOpResult) -> PbOpResult {
    match *result {
        TxnOpResult::Get(ref kv) => PbOpResult::Get(pb::GetResult {
            kv: kv.as_ref().map(to_pb_key_value),
        }),
        TxnOpResult::Range(ref range) => PbOpResult::Range(to_pb_range_result(range)),
        TxnOpResult::Put { version } => PbOpResult::Put(pb::PutResult { version }),
        TxnOpResult::Delete { deleted } => PbOpResult::Delete(pb::DeleteResult { deleted }),
        TxnOpResult::Increment { value } => PbOpResult::Increment(pb::IncrementResult { value }),
        TxnOpResult::Append { seq } => PbOpResult::Append(pb::AppendResult { seq }),
    }
}

/// A range's result as a message.
pub fn to_pb_range_result(range: &RangeResult) -> pb::RangeResult {
    let kvs = range.kvs.iter().map(to_pb_key_value).collect();
    pb::RangeResult {
        kvs,
        continuation: range.continuation.clone(),
    }
}

/// A key and its version as a message.
pub fn to_pb_key_value(kv: &KeyValue) -> pb::KeyValue {
    pb::KeyValue {
        key: kv.key.clone(),
        value: kv.value.clone(),
        create_rev: kv.create_rev,
        mod_rev: kv.mod_rev,
        version: kv.version,
        lease: kv.lease,
        expires_at_ms: kv.expires_at,
    }
}

/// Decodes an outcome; keys and values share the buffer. Unknown fields are ignored, an unknown result is not.
pub fn decode_outcome(encoded: &Bytes) -> Result<Outcome, Corrupt> {
    let corrupt = |what: String| Corrupt::new("an outcome", what);
    let message = pb::Outcome::decode(encoded.clone()).map_err(|error| corrupt(error.to_string()))?;
    let result = message.result.and_then(from_pb_result);
    let result = result.ok_or_else(|| corrupt("no result, or one that this version does not know".into()))?;
    Ok(Outcome {
        revision: message.revision,
        result,
    })
}

fn from_pb_result(result: PbResult) -> Option<OutcomeResult> {
    Some(match result {
        PbResult::Put(pb::PutResult { version }) => OutcomeResult::Put { version },
        PbResult::Delete(pb::DeleteResult { deleted }) => OutcomeResult::Delete { deleted },
        PbResult::Increment(pb::IncrementResult { value }) => OutcomeResult::Increment { value },
        PbResult::Append(pb::AppendResult { seq }) => OutcomeResult::Append { seq },
        PbResult::Txn(txn) => OutcomeResult::Txn(TxnResult {
            succeeded: txn.succeeded,
            results: txn
                .results
                .into_iter()
                .map(|r| from_pb_op_result(r.result?))
                .collect::<Option<_>>()?,
        }),
        PbResult::Lease(pb::LeaseResult { id, ttl_ms, deleted }) => {
            OutcomeResult::Lease { id, ttl_ms, deleted }
        }
        PbResult::Session(pb::SessionResult { id }) => OutcomeResult::Session { id },
        PbResult::Consumer(pb::ConsumerResult { epoch, cursor }) => OutcomeResult::Consumer { epoch, cursor },
        PbResult::Compact(pb::CompactResult { floor }) => OutcomeResult::Compact { floor },
        PbResult::Restore(pb::RestoreResult { next }) => OutcomeResult::Restore { next },
        PbResult::Expire(pb::ExpireResult { keys, leases, more }) => {
            OutcomeResult::Expire { keys, leases, more }
        }
        PbResult::Rejected(pb::Rejection {
            code,
            message,
            revision,
        }) => {
            // A code of a later version is at least known to be a refusal.
            let code = ErrorCode::try_from(code).unwrap_or(ErrorCode::Unspecified);
            OutcomeResult::Rejected(Rejection {
                code,
                message,
                revision,
            })
        }
    })
}

fn from_pb_op_result(result: PbOpResult) -> Option<TxnOpResult> {
    Some(match result {
        PbOpResult::Get(get) => TxnOpResult::Get(get.kv.map(from_pb_key_value)),
        PbOpResult::Range(range) => TxnOpResult::Range(RangeResult {
            kvs: range.kvs.into_iter().map(from_pb_key_value).collect(),
            continuation: range.continuation,
        }),
        PbOpResult::Put(pb::PutResult { version }) => TxnOpResult::Put { version },
        PbOpResult::Delete(pb::DeleteResult { deleted }) => TxnOpResult::Delete { deleted },
        PbOpResult::Increment(pb::IncrementResult { value }) => TxnOpResult::Increment { value },
        PbOpResult::Append(pb::AppendResult { seq }) => TxnOpResult::Append { seq },
    })
}

fn from_pb_key_value(kv: pb::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key,
        value: kv.value,
        create_rev: kv.create_rev,
        mod_rev: kv.mod_rev,
        version: kv.version,
        lease: kv.lease,
        expires_at: kv.expires_at_ms,
    }
}
