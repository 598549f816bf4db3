//! Bodies of the fuzz targets in `kvsvr/server/fuzz` (feature `testing`). Each takes any bytes, and panics if what reads them panics
//! or accepts what it cannot give back. The tests beside them run the bodies on random bytes and on damaged encodings, for builds
//! without a fuzzer.
//!
//! Not for production code: panics are its way to report.

use bytes::{Bytes, BytesMut};
use kvsvr_core::types::ShardId;
use kvsvr_proto::v1 as pb;
use openraft::async_runtime::AsyncRuntime;
use parking_lot::Mutex;
use prost::Message;

use crate::raft::{
    convert,
    runtime::Runtime,
    snapshot::chunk::{pairs, put_pair},
};

mod node;
#[cfg(test)]
mod tests;
mod wal;

pub use node::api_message;
pub use wal::{wal_bytes, wal_damage, wal_records};

/// Runs a future on the one runtime of the process.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);
    RUNTIME
        .lock()
        .get_or_insert_with(|| Runtime::new(1))
        .block_on(future)
}

/// The rows of a snapshot chunk. There is one encoding of each.
pub fn snapshot_chunk(data: &[u8]) {
    let mut again = BytesMut::new();
    let read = pairs(Bytes::copy_from_slice(data), |cf, key, value| {
        put_pair(&mut again, cf as u8, &key, &value);
    });
    assert!(data.starts_with(&again));
    assert_eq!(
        read.is_ok(),
        again.len() == data.len(),
        "read as a whole or refused"
    );
}

/// A message of another node; the first byte chooses its kind. What converts is the same after it was sent again.
pub fn peer_message(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    match choice % 6 {
        0 => again(data, convert::from_pb_append, convert::pb_append),
        1 => again(
            data,
            |message: pb::VoteRequest| convert::from_pb_vote_request(&message),
            |request| convert::pb_vote_request(&request, pb::Envelope::default()),
        ),
        2 => again(
            data,
            |message: pb::VoteResponse| convert::from_pb_vote_response(&message),
            |response| convert::pb_vote_response(&response),
        ),
        3 => again(
            data,
            |message| match convert::from_pb_append_result(message) {
                Ok(result) => result,
                Err(malformed) => Err(malformed.to_string()),
            },
            |result| convert::pb_append_result(&result),
        ),
        4 => again(data, convert::from_pb_stored_membership, |stored| {
            convert::pb_stored_membership(&stored)
        }),
        // As the state machine keeps it.
        _ => drop(convert::decode_stored_membership(data)),
    }
}

/// openraft's messages cannot be compared, so their texts are.
fn again<M: Message + Default, T: std::fmt::Debug, E: std::fmt::Debug>(
    data: &[u8],
    receive: impl Fn(M) -> Result<T, E>,
    send: impl Fn(T) -> M,
) {
    let received = || receive(M::decode(data).ok()?).ok();
    if let (Some(first), Some(same)) = (received(), received()) {
        let sent = send(first).encode_to_vec();
        let second = receive(M::decode(&sent[..]).expect("an encoded message decodes"));
        let second = second.expect("what converts, converts again");
        assert_eq!(format!("{second:?}"), format!("{same:?}"));
    }
}

const SHARD: ShardId = ShardId(3);
