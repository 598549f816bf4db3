//! Reads entries: from the cache, else from their segments, several with one read where they lie close together.

use std::{collections::BTreeMap, io, ops::Range, sync::Arc};

use bytes::Bytes;
use kvsvr_core::types::{LogPosition, ShardId};

use super::{EntryRecord, Shared, codec::Record, index::Wanted, segment::Segment};
use crate::limits::WAL_READ_SPAN;

/// Bytes of other shards' records that are read along rather than making two reads.
const MAX_GAP: u64 = 16 << 10;

/// Entries of one segment that are read together.
struct Span {
    segment: u64,
    start: u64,
    end: u64,
    entries: Vec<(LogPosition, u64, usize)>,
}

pub(super) async fn read(
    shared: &Shared,
    shard: ShardId,
    range: Range<u64>,
    max_bytes: usize,
) -> io::Result<Vec<EntryRecord>> {
    // The segments are held, so that none of them is recycled under the read.
    let (wanted, segments) = {
        let state = shared.state.lock();
        let wanted = state.index.read(shard, range, max_bytes);
        let mut segments: BTreeMap<u64, Arc<Segment>> = BTreeMap::new();
        for entry in &wanted {
            if let Wanted::Stored { segment, .. } = entry
                && let Some(in_use) = state.segments.get(segment)
            {
                segments.insert(*segment, in_use.segment.clone());
            }
        }
        (wanted, segments)
    };
    fetch(&segments, shard, wanted).await
}

/// Reads what is wanted out of these segments.
pub(super) async fn fetch(
    segments: &BTreeMap<u64, Arc<Segment>>,
    shard: ShardId,
    wanted: Vec<Wanted>,
) -> io::Result<Vec<EntryRecord>> {
    let mut entries = Vec::with_capacity(wanted.len());
    let mut span: Option<Span> = None;
    for entry in wanted {
        match entry {
            Wanted::Here(entry) => {
                read_span(segments, shard, span.take(), &mut entries).await?;
                entries.push(entry);
            }
            Wanted::Stored {
                position,
                segment,
                offset,
                len,
            } => {
                let (offset, len) = (u64::from(offset), len as usize);
                if !span.as_ref().is_some_and(|span| span.takes(segment, offset, len)) {
                    read_span(segments, shard, span.take(), &mut entries).await?;
                }
                let span = span.get_or_insert_with(|| Span {
                    segment,
                    start: offset,
                    end: offset,
                    entries: Vec::new(),
                });
                span.end = offset + len as u64;
                span.entries.push((position, offset, len));
            }
        }
    }
    read_span(segments, shard, span, &mut entries).await?;
    Ok(entries)
}

impl Span {
    fn takes(&self, segment: u64, offset: u64, len: usize) -> bool {
        self.segment == segment
            && (self.end..=self.end + MAX_GAP).contains(&offset)
            && offset + len as u64 - self.start <= WAL_READ_SPAN as u64
    }
}

async fn read_span(
    segments: &BTreeMap<u64, Arc<Segment>>,
    shard: ShardId,
    span: Option<Span>,
    into: &mut Vec<EntryRecord>,
) -> io::Result<()> {
    let Some(span) = span else { return Ok(()) };
    let Some(segment) = segments.get(&span.segment) else {
        return Err(io::Error::other(format!(
            "segment {} of the log is gone",
            span.segment
        )));
    };
    let bytes = segment
        .file
        .read_at(span.start, (span.end - span.start) as usize)
        .await?;
    for (position, offset, len) in span.entries {
        let from = (offset - span.start) as usize;
        let record = bytes
            .len()
            .checked_sub(from + len)
            .map(|_| bytes.slice(from..from + len));
        into.push(entry(segment, shard, position, &record.unwrap_or_default()).ok_or_else(|| {
            let path = segment.path();
            let text = format!(
                "{path} at byte {offset}: entry {} of shard {shard} is damaged; stop the node and run `kvsvr check`",
                position.index
            );
            io::Error::new(io::ErrorKind::InvalidData, text)
        })?);
    }
    Ok(())
}

/// The entry in `bytes`, if it is the right one.
fn entry(segment: &Segment, shard: ShardId, position: LogPosition, bytes: &Bytes) -> Option<EntryRecord> {
    match Record::decode(bytes, segment.salt)? {
        (found, Record::Entry(entry)) if found == shard && entry.position == position => Some(entry),
        _ => None,
    }
}
