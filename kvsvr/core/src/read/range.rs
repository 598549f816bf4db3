//! Range reads.
//!
//! At the newest revision a range is one scan of `data`; at an older one it is a merge, see [`older`](super::older). A page also ends when
//! it has looked at too much, see [`ScanBudget`]: it may then be short, or even empty, though there is more.
//!
//! A continuation is `version byte 1, revision u64, last key`: the page has all that is visible up to that key, which may itself not be
//! visible. It pins the revision of the first page, so that all pages are of one state;
//! when that revision is compacted meanwhile, the next page is refused with `Compacted` and the range must be read anew.

use std::ops::ControlFlow;

use bytes::{BufMut, Bytes, BytesMut};

use super::{View, key_value};
use crate::{
    command::{KeyValue, Range, RangeResult},
    engine::{Cf, Scan},
    error::{Corrupt, Failure, Rejection},
    keys::{self, place},
    limits::{MAX_RANGE_KEYS, MAX_RANGE_SCAN_BYTES, MAX_RANGE_SKIPS, RANGE_SEEK_VERSIONS},
    rows::DataRef,
    types::{Partition, Revision},
    wire::Reader,
};

const CONTINUATION_VERSION: u8 = 1;
/// Bytes of a continuation before the last key.
const CONTINUATION_HEAD: usize = 9;

/// What to scan: data keys in [lower, upper), at a revision.
pub(super) struct Bounds {
    /// Bytes of the data key before the key.
    pub(super) prefix: usize,
    pub(super) lower: Bytes,
    pub(super) upper: Bytes,
    pub(super) at: Revision,
}

/// What a range, or all ranges of a transaction, may look at: an answer of few bytes can be much work. A page looks at one key at least.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScanBudget {
    /// Bytes of stored rows.
    pub(crate) bytes: usize,
    /// Rows that are not visible.
    pub(crate) skips: usize,
    /// Versions of one key that are stepped over before the scan seeks.
    pub(crate) versions: usize,
}

impl ScanBudget {
    pub(crate) const fn new() -> Self {
        Self {
            bytes: MAX_RANGE_SCAN_BYTES,
            skips: MAX_RANGE_SKIPS,
            versions: RANGE_SEEK_VERSIONS,
        }
    }

    pub(crate) fn is_spent(&self) -> bool {
        self.bytes == 0 || self.skips == 0
    }

    /// Counts a row that was looked at.
    pub(super) fn spend(&mut self, stored: &[u8], visible: bool) {
        self.bytes = self.bytes.saturating_sub(stored.len());
        if !visible {
            self.skips = self.skips.saturating_sub(1);
        }
    }
}

/// An answer in the making.
pub(super) struct Page {
    limit: usize,
    max_bytes: usize,
    keys_only: bool,
    kvs: Vec<KeyValue>,
    bytes: usize,
    /// If there is more: the key after which the next page goes on.
    pub(super) more: Option<Bytes>,
}

impl Page {
    fn new(range: &Range, max_bytes: usize) -> Self {
        let limit = if range.limit == 0 {
            MAX_RANGE_KEYS
        } else {
            range.limit.min(MAX_RANGE_KEYS)
        };
        let keys_only = range.keys_only;
        Self {
            limit: limit as usize,
            max_bytes,
            keys_only,
            kvs: Vec::new(),
            bytes: 0,
            more: None,
        }
    }

    /// Takes the next pair, unless the page is full: then there is more.
    pub(super) fn add(&mut self, key: &[u8], row: DataRef<'_>) -> ControlFlow<()> {
        if self.kvs.len() >= self.limit || (self.bytes >= self.max_bytes && !self.kvs.is_empty()) {
            return self.end();
        }
        let value = if self.keys_only {
            Bytes::new()
        } else {
            Bytes::copy_from_slice(row.value)
        };
        let kv = key_value(Bytes::copy_from_slice(key), row.with_value(value));
        self.bytes += kv.bytes();
        self.kvs.push(kv);
        ControlFlow::Continue(())
    }

    /// Ends the page after its last pair.
    fn end(&mut self) -> ControlFlow<()> {
        self.more = self.kvs.last().map(|kv| kv.key.clone());
        ControlFlow::Break(())
    }
}

impl View<'_> {
    /// Reads a range, at most `max_bytes` of pairs (the last may pass it). Keys are in ascending order, or descending with `reverse`. If
    /// there is more, the answer has a continuation; it may then have fewer pairs than asked for, even none.
    pub fn range(
        &self,
        partition: &Partition,
        range: &Range,
        max_bytes: usize,
    ) -> Result<RangeResult, Failure> {
        self.range_within(partition, range, max_bytes, &mut ScanBudget::new())
    }

    /// Like [`View::range`], with what it may look at.
    pub(crate) fn range_within(
        &self,
        partition: &Partition,
        range: &Range,
        max_bytes: usize,
        budget: &mut ScanBudget,
    ) -> Result<RangeResult, Failure> {
        let bounds = self.bounds(partition, range)?;
        let mut page = Page::new(range, max_bytes);
        if bounds.lower < bounds.upper || bounds.upper.is_empty() {
            if bounds.at == self.revision {
                self.scan_newest(&bounds, range.reverse, &mut page, budget)?;
            } else {
                self.scan_older(&bounds, range.reverse, &mut page, budget)?;
            }
        }
        let continuation = page
            .more
            .map_or(Bytes::new(), |last| encode_continuation(bounds.at, &last));
        Ok(RangeResult {
            kvs: page.kvs,
            continuation,
        })
    }

    fn bounds(&self, partition: &Partition, range: &Range) -> Result<Bounds, Failure> {
        let prefix = keys::partition_prefix(self.shard, partition);
        let key = |key: &[u8], more: &[u8]| -> Bytes { [&prefix, key, more].concat().into() };
        let mut lower = key(&range.start, &[]);
        let mut upper = match &range.end[..] {
            [] => keys::prefix_end(&prefix),
            end => key(end, &[]),
        };
        let mut wanted = range.revision;
        if !range.continuation.is_empty() {
            let (revision, last) = decode_continuation(&range.continuation, range)?;
            wanted = Some(revision);
            match range.reverse {
                false => lower = key(last, &[0]),
                true => upper = key(last, &[]),
            }
        }
        let at = self.check_revision(wanted)?;
        Ok(Bounds {
            prefix: prefix.len(),
            lower,
            upper,
            at,
        })
    }

    fn scan_newest(
        &self,
        bounds: &Bounds,
        reverse: bool,
        page: &mut Page,
        budget: &mut ScanBudget,
    ) -> Result<(), Corrupt> {
        let mut bad = None;
        let scan = Scan {
            start: &bounds.lower,
            end: &bounds.upper,
            reverse,
        };
        self.engine
            .scan(Cf::Data, scan, &mut |key, value| match DataRef::read(value) {
                Some(_) if budget.is_spent() && !page.kvs.is_empty() => page.end(),
                Some(row) => {
                    budget.spend(value, true);
                    page.add(&key[bounds.prefix..], row)
                }
                None => {
                    bad = Some(undecodable(Cf::Data, key));
                    ControlFlow::Break(())
                }
            })?;
        bad.map_or(Ok(()), Err)
    }
}

pub(super) fn undecodable(cf: Cf, key: &[u8]) -> Corrupt {
    Corrupt::new(place(cf, key), "the value does not decode")
}

fn encode_continuation(revision: Revision, last: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(CONTINUATION_HEAD + last.len());
    out.put_u8(CONTINUATION_VERSION);
    out.put_u64(revision);
    out.put_slice(last);
    out.freeze()
}

impl RangeResult {
    /// Pins another revision, if there is a next page.
    pub(crate) fn pin(&mut self, revision: Revision) {
        if let Some(last) = self.continuation.get(CONTINUATION_HEAD..) {
            self.continuation = encode_continuation(revision, last);
        }
    }
}

fn decode_continuation<'c>(continuation: &'c [u8], range: &Range) -> Result<(Revision, &'c [u8]), Rejection> {
    let mut reader = Reader(continuation);
    let read = reader
        .u8()
        .filter(|version| *version == CONTINUATION_VERSION)
        .and_then(|_| reader.u64());
    let revision = read.ok_or_else(|| Rejection::invalid("the continuation is not one of this server's"))?;
    let last = reader.0;
    let inside = range.start <= last && (range.end.is_empty() || last < range.end);
    if !inside || range.revision.is_some_and(|wanted| wanted != revision) {
        let message = "the continuation is of another range: repeat its start, end and revision";
        return Err(Rejection::invalid(message));
    }
    Ok((revision, last))
}
