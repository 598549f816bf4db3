//! Those planted bugs (see [`kvsvr_core::mutants`]) that take more than a line or two. Only with the feature `mutants`.

use std::time::Duration;

use bytes::Bytes;
use kvsvr_core::{
    codec::{decode_batch, encode_batch},
    engine::{Cf, Engine, WriteBatch},
    keys,
    machine::Entry,
    mutant,
    read::{Head, shard_head},
    types::ShardId,
};

use crate::time::{sleep, wall_clock_ms};

/// Between the applied position and the rows: long enough for a flush to fall in between now and then.
const GAP: Duration = Duration::from_millis(1);

/// The shard's head says that the entries are applied before they are.
pub(crate) async fn claim_applied(engine: &dyn Engine, shard: ShardId, entries: &[Entry]) {
    let Some(last) = entries.last().filter(|_| mutant!("applied-index-not-atomic")) else {
        return;
    };
    let Ok(mut head) = shard_head(engine, shard) else {
        return;
    };
    head.applied = Some(last.position);
    let mut batch = WriteBatch::default();
    batch.put(Cf::State, keys::head_key(shard), head.encode());
    if engine.write(batch).is_ok() {
        sleep(GAP).await;
    }
}

/// A row of a snapshot; of the head one that says one entry more.
pub(crate) fn one_ahead(shard: ShardId, cf: Cf, key: &[u8], row: &[u8]) -> Bytes {
    let row = Bytes::copy_from_slice(row);
    if cf != Cf::State || key != keys::head_key(shard) || !mutant!("snapshot-one-ahead") {
        return row;
    }
    let Ok(mut head) = Head::decode(key, &row) else {
        return row;
    };
    if let Some(applied) = &mut head.applied {
        applied.index += 1;
    }
    head.encode()
}

/// The commands of an entry with the time of this node.
pub(crate) fn stamped_here(entry: Bytes) -> Bytes {
    if !mutant!("ttl-by-own-clock") {
        return entry;
    }
    match decode_batch(&entry) {
        Ok(batch) => encode_batch(wall_clock_ms(), &batch.commands),
        Err(_) => entry,
    }
}
