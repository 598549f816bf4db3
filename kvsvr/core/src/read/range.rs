//! Range reads.
//!
//! At the newest revision a range is one scan of `data`. At an older one it is a merge of `data` and `hist`, which both are ordered by
//! key; each is read in bounded chunks. The cost of the latter grows with the versions kept in the range.
//!
//! A continuation is `version byte 1, revision u64, last key`. It pins the revision of the first page, so that all pages are of one state;
//! when that revision is compacted meanwhile, the next page is refused with `Compacted` and the range must be read anew.

use std::{collections::VecDeque, ops::ControlFlow};

use bytes::{BufMut, Bytes, BytesMut};

use super::{View, key_value};
use crate::{
    command::{KeyValue, Range, RangeResult},
    engine::{Cf, Scan},
    error::{Corrupt, Failure, Rejection},
    keys::{self, place},
    limits::MAX_RANGE_KEYS,
    rows::{DataRef, HistRow},
    types::{Partition, Revision},
    wire::Reader,
};

const CONTINUATION_VERSION: u8 = 1;
/// Rows and bytes that a merge reads ahead from one column family.
const CHUNK_ROWS: usize = 128;
const CHUNK_BYTES: usize = 1 << 20;

/// What to scan: data keys in [lower, upper), at a revision.
struct Bounds {
    /// Bytes of the data key before the key.
    prefix: usize,
    lower: Bytes,
    upper: Bytes,
    at: Revision,
}

/// An answer in the making.
struct Page {
    limit: usize,
    max_bytes: usize,
    keys_only: bool,
    kvs: Vec<KeyValue>,
    bytes: usize,
    more: bool,
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
            more: false,
        }
    }

    /// Takes the next pair, unless the page is full: then there is more.
    fn add(&mut self, key: &[u8], row: DataRef<'_>) -> ControlFlow<()> {
        if self.kvs.len() >= self.limit || (self.bytes >= self.max_bytes && !self.kvs.is_empty()) {
            self.more = true;
            return ControlFlow::Break(());
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
}

impl View<'_> {
    /// Reads a range, at most `max_bytes` of keys and values (but one pair at least). Keys are in ascending order, or descending
    /// with `reverse`. If there is more, the answer has a continuation.
    pub fn range(
        &self,
        partition: &Partition,
        range: &Range,
        max_bytes: usize,
    ) -> Result<RangeResult, Failure> {
        let bounds = self.bounds(partition, range)?;
        let mut page = Page::new(range, max_bytes);
        if bounds.lower < bounds.upper || bounds.upper.is_empty() {
            if bounds.at == self.revision {
                self.scan_newest(&bounds, range.reverse, &mut page)?;
            } else {
                self.scan_older(&bounds, range.reverse, &mut page)?;
            }
        }
        let continuation = match page.kvs.last() {
            Some(last) if page.more => encode_continuation(bounds.at, &last.key),
            _ => Bytes::new(),
        };
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

    fn scan_newest(&self, bounds: &Bounds, reverse: bool, page: &mut Page) -> Result<(), Corrupt> {
        let mut bad = None;
        let scan = Scan {
            start: &bounds.lower,
            end: &bounds.upper,
            reverse,
        };
        self.engine
            .scan(Cf::Data, scan, &mut |key, value| match DataRef::read(value) {
                Some(row) => page.add(&key[bounds.prefix..], row),
                None => {
                    bad = Some(undecodable(Cf::Data, key));
                    ControlFlow::Break(())
                }
            })?;
        bad.map_or(Ok(()), Err)
    }

    fn scan_older(&self, bounds: &Bounds, reverse: bool, page: &mut Page) -> Result<(), Corrupt> {
        let mut data = Chunks::new(Cf::Data, bounds.lower.clone(), bounds.upper.clone(), reverse);
        let (first, end) = hist_bounds(bounds);
        let mut hist = Chunks::new(Cf::Hist, first, end, reverse);
        loop {
            data.fill(self, bounds)?;
            hist.fill(self, bounds)?;
            let from_data = match (data.rows.front(), hist.rows.front()) {
                (None, None) => return Ok(()),
                (Some(_), None) => true,
                (None, Some(_)) => false,
                // A key is visible in one of them only: its versions do not overlap.
                (Some((a, _)), Some((b, _))) => (a < b) != reverse,
            };
            let rows = if from_data { &mut data.rows } else { &mut hist.rows };
            let Some((key, stored)) = rows.pop_front() else {
                return Ok(());
            };
            let row = DataRef::read(&stored).ok_or_else(|| undecodable(Cf::Hist, &key))?;
            if page.add(&key[bounds.prefix..], row).is_break() {
                return Ok(());
            }
        }
    }
}

fn hist_bounds(bounds: &Bounds) -> (Bytes, Bytes) {
    let upper = &bounds.upper;
    // The end of the partition is no data key, but is the same in both column families.
    let inside = upper.starts_with(&bounds.lower[..bounds.prefix]);
    (
        keys::hist_bound(&bounds.lower),
        if inside {
            keys::hist_bound(upper)
        } else {
            upper.clone()
        },
    )
}

fn undecodable(cf: Cf, key: &[u8]) -> Corrupt {
    Corrupt::new(place(cf, key), "the value does not decode")
}

/// The visible rows of a column family, a chunk at a time: data key and stored data row.
struct Chunks {
    cf: Cf,
    lower: Bytes,
    upper: Bytes,
    reverse: bool,
    rows: VecDeque<(Bytes, Bytes)>,
    done: bool,
}

impl Chunks {
    fn new(cf: Cf, lower: Bytes, upper: Bytes, reverse: bool) -> Self {
        Self {
            cf,
            lower,
            upper,
            reverse,
            rows: VecDeque::new(),
            done: false,
        }
    }

    fn fill(&mut self, view: &View<'_>, bounds: &Bounds) -> Result<(), Corrupt> {
        if self.done || !self.rows.is_empty() {
            return Ok(());
        }
        let (rows, cf, at) = (&mut self.rows, self.cf, bounds.at);
        let mut bytes = 0;
        let mut last = None;
        let mut bad = None;
        let scan = Scan {
            start: &self.lower,
            end: &self.upper,
            reverse: self.reverse,
        };
        view.engine.scan(cf, scan, &mut |key, value| {
            match visible(cf, key, value, at) {
                Some(Some((data_key, row))) => {
                    bytes += row.len();
                    rows.push_back((data_key, Bytes::copy_from_slice(row)));
                }
                Some(None) => {}
                None => {
                    bad = Some(undecodable(cf, key));
                    return ControlFlow::Break(());
                }
            }
            if rows.len() >= CHUNK_ROWS || bytes >= CHUNK_BYTES {
                last = Some(Bytes::copy_from_slice(key));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        if let Some(bad) = bad {
            return Err(bad);
        }
        match last {
            None => self.done = true,
            Some(last) if self.reverse => self.upper = last,
            Some(last) => self.lower = [&last[..], &[0]].concat().into(),
        }
        Ok(())
    }
}

/// Data key and stored data row, if the version is visible at the revision. The outer `None`: it does not decode.
#[expect(
    clippy::option_option,
    reason = "the outer is the decoder's, the inner the answer"
)]
fn visible<'v>(cf: Cf, key: &[u8], value: &'v [u8], at: Revision) -> Option<Option<(Bytes, &'v [u8])>> {
    if cf == Cf::Data {
        let row = DataRef::read(value)?;
        return Some((row.mod_rev <= at).then(|| (Bytes::copy_from_slice(key), value)));
    }
    let (data_key, mod_rev) = keys::split_hist_key(key)?;
    let (superseded_at, stored) = HistRow::split(value)?;
    Some((mod_rev <= at && at < superseded_at).then(|| (data_key.into(), stored)))
}

fn encode_continuation(revision: Revision, last: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(9 + last.len());
    out.put_u8(CONTINUATION_VERSION);
    out.put_u64(revision);
    out.put_slice(last);
    out.freeze()
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
