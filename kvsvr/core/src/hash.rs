//! One number for a shard's logical content, to compare replicas by.
//!
//! It covers every row but garbage, which engines drop when they like, so it is equal on any two replicas at the same applied
//! position, whatever the engine and however the entries were batched. It reads the whole shard.

use std::{hash::Hasher, ops::ControlFlow};

use twox_hash::XxHash3_64;

use crate::{
    engine::{Cf, EngineRead, Scan},
    error::Corrupt,
    keys,
    read::shard_head,
    types::{LogPosition, ShardId},
};

/// The applied position and the xxh3_64 of all rows of the shard that are not garbage, each with its lengths, in the order of column
/// families and keys. The engine must be a snapshot.
pub fn state_hash(engine: &dyn EngineRead, shard: ShardId) -> Result<(Option<LogPosition>, u64), Corrupt> {
    let head = shard_head(engine, shard)?;
    let (start, end) = keys::shard_range(shard);
    let mut hasher = XxHash3_64::new();
    for cf in Cf::ALL {
        hasher.write(cf.name().as_bytes());
        engine.scan(
            cf,
            Scan {
                start: &start,
                end: &end,
                reverse: false,
            },
            &mut |key, value| {
                if !keys::is_garbage(cf, key, value, head.floor) {
                    for part in [key, value] {
                        hasher.write(&(part.len() as u64).to_le_bytes());
                        hasher.write(part);
                    }
                }
                ControlFlow::Continue(())
            },
        )?;
    }
    Ok((head.applied, hasher.finish()))
}
