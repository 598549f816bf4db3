//! The payload of a log entry.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{error::Corrupt, limits::MAX_BATCH_COMMANDS, types::StampMs};

const VERSION: u8 = 1;
/// Version, stamp, count.
const HEADER: usize = 1 + 8 + 4;

/// A log entry's commands and the time at which the leader proposed them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryBatch {
    /// The leader's clock.
    pub stamp: StampMs,
    /// Encoded commands.
    pub commands: Vec<Bytes>,
}

/// Encodes a log entry: version byte 1, stamp u64 LE, count u32 LE, then for each command its length u32 LE and its bytes.
/// At most [`MAX_BATCH_COMMANDS`] commands, each below 4 GiB.
pub fn encode_batch(stamp: StampMs, commands: &[Bytes]) -> Bytes {
    debug_assert!(
        commands.len() <= MAX_BATCH_COMMANDS,
        "too many commands for one entry"
    );
    let len = commands.iter().map(|command| 4 + command.len()).sum::<usize>();
    let mut out = BytesMut::with_capacity(HEADER + len);
    out.put_u8(VERSION);
    out.put_u64_le(stamp);
    out.put_u32_le(commands.len() as u32);
    for command in commands {
        out.put_u32_le(command.len() as u32);
        out.put_slice(command);
    }
    out.freeze()
}

/// Decodes a log entry; the commands share its buffer.
pub fn decode_batch(entry: &Bytes) -> Result<EntryBatch, Corrupt> {
    read(entry.clone()).ok_or_else(|| {
        Corrupt::new(
            "a log entry",
            format!("{} bytes that are not a batch of version {VERSION}", entry.len()),
        )
    })
}

fn read(mut rest: Bytes) -> Option<EntryBatch> {
    if rest.len() < HEADER || rest.get_u8() != VERSION {
        return None;
    }
    let stamp = rest.get_u64_le();
    let count = rest.get_u32_le() as usize;
    if count > MAX_BATCH_COMMANDS {
        return None;
    }
    let mut commands = Vec::with_capacity(count);
    for _ in 0..count {
        let len = rest.try_get_u32_le().ok()? as usize;
        if len > rest.len() {
            return None;
        }
        commands.push(rest.split_to(len));
    }
    rest.is_empty().then_some(EntryBatch { stamp, commands })
}
