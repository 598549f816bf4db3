//! Ranges of an older state.
//!
//! A merge of `data` and `hist`, which both are ordered by key; each is read in bounded chunks. The versions of a key are ordered from the
//! newest to the oldest, and at most one of them is visible, so a key with many versions costs a few seeks: the work grows with the
//! keys in the range, visible or not, and is bounded by the [`ScanBudget`].

use std::{collections::VecDeque, ops::ControlFlow};

use bytes::Bytes;

use super::{
    View,
    range::{Bounds, Page, ScanBudget, undecodable},
};
use crate::{
    engine::{Cf, Scan},
    error::Corrupt,
    keys,
    limits::{RANGE_CHUNK_BYTES, RANGE_CHUNK_ROWS},
    rows::{DataRef, HistRow},
    types::Revision,
};

impl View<'_> {
    pub(super) fn scan_older(
        &self,
        bounds: &Bounds,
        reverse: bool,
        page: &mut Page,
        budget: &mut ScanBudget,
    ) -> Result<(), Corrupt> {
        let before = |a: &Bytes, b: &Bytes| if reverse { a > b } else { a < b };
        let mut data = Chunks::new(Cf::Data, bounds.lower.clone(), bounds.upper.clone(), reverse);
        let (first, end) = hist_bounds(bounds);
        let mut hist = Chunks::new(Cf::Hist, first, end, reverse);
        loop {
            data.fill(self, bounds.at, budget)?;
            hist.fill(self, bounds.at, budget)?;
            let from_data = match (data.rows.front(), hist.rows.front()) {
                (data, None) => data.is_some(),
                (None, Some(_)) => false,
                // A key is visible in one of them only: its versions do not overlap.
                (Some((a, _)), Some((b, _))) => before(a, b),
            };
            let rows = if from_data { &mut data.rows } else { &mut hist.rows };
            let next = rows.pop_front();
            // Up to here both have been searched.
            let ends = data.searched_to.iter().chain(&hist.searched_to);
            let end = ends.reduce(|a, b| if before(b, a) { b } else { a });
            match (next, end) {
                (Some((key, _)), Some(end)) if before(end, &key) => {
                    page.more = Some(end.slice(bounds.prefix..));
                    return Ok(());
                }
                (Some((key, stored)), _) => {
                    let row = DataRef::read(&stored).ok_or_else(|| undecodable(Cf::Hist, &key))?;
                    if page.add(&key[bounds.prefix..], row).is_break() {
                        return Ok(());
                    }
                }
                (None, end) => {
                    page.more = end.map(|end| end.slice(bounds.prefix..));
                    return Ok(());
                }
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

/// The visible rows of a column family, a chunk at a time: data key and stored data row.
struct Chunks {
    cf: Cf,
    lower: Bytes,
    upper: Bytes,
    reverse: bool,
    rows: VecDeque<(Bytes, Bytes)>,
    done: bool,
    /// Once the budget is spent: the data key up to which everything visible is in `rows` or was taken from it.
    searched_to: Option<Bytes>,
    /// The key that is looked at, as its stored keys begin; empty = none yet.
    current: Vec<u8>,
    /// How many versions of it were looked at since the last seek.
    versions: usize,
}

/// Why a scan stopped before its end.
enum Stop {
    /// There are enough rows; the stored key of the last one.
    Chunk(Bytes),
    /// Many versions of one key; the stored key of the last one, and whether it is visible.
    Versions(Bytes, bool),
    /// The budget is spent, and another key begins.
    Budget,
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
            searched_to: None,
            current: Vec::new(),
            versions: 0,
        }
    }

    /// Reads on if there are no rows, until there are some, or the range or the budget ends.
    fn fill(&mut self, view: &View<'_>, at: Revision, budget: &mut ScanBudget) -> Result<(), Corrupt> {
        while self.rows.is_empty() && !self.done && self.searched_to.is_none() {
            match self.scan(view, at, budget)? {
                None => self.done = true,
                Some(Stop::Chunk(last)) => self.go_on_after(&last),
                Some(Stop::Versions(last, visible)) => self.seek(view, at, &last, visible, budget)?,
                Some(Stop::Budget) => self.searched_to = Some(self.current_data_key()?),
            }
        }
        Ok(())
    }

    fn scan(
        &mut self,
        view: &View<'_>,
        at: Revision,
        budget: &mut ScanBudget,
    ) -> Result<Option<Stop>, Corrupt> {
        let (cf, rows, current, versions) = (self.cf, &mut self.rows, &mut self.current, &mut self.versions);
        let (mut stop, mut bad) = (None, None);
        let mut bytes = 0;
        let scan = Scan {
            start: &self.lower,
            end: &self.upper,
            reverse: self.reverse,
        };
        view.engine.scan(cf, scan, &mut |key, value| {
            let of_key = key_part(cf, key);
            if current[..] != *of_key {
                if budget.is_spent() && !current.is_empty() {
                    stop = Some(Stop::Budget);
                    return ControlFlow::Break(());
                }
                current.clear();
                current.extend_from_slice(of_key);
                *versions = 0;
            }
            let Some(row) = visible(cf, key, value, at) else {
                bad = Some(undecodable(cf, key));
                return ControlFlow::Break(());
            };
            let is_visible = row.is_some();
            budget.spend(value, is_visible);
            if let Some((data_key, row)) = row {
                bytes += row.len();
                rows.push_back((data_key, Bytes::copy_from_slice(row)));
            }
            *versions += 1;
            if cf == Cf::Hist && *versions >= budget.versions {
                stop = Some(Stop::Versions(Bytes::copy_from_slice(key), is_visible));
            } else if rows.len() >= RANGE_CHUNK_ROWS || bytes >= RANGE_CHUNK_BYTES {
                stop = Some(Stop::Chunk(Bytes::copy_from_slice(key)));
            } else {
                return ControlFlow::Continue(());
            }
            ControlFlow::Break(())
        })?;
        bad.map_or(Ok(stop), Err)
    }

    fn go_on_after(&mut self, last: &Bytes) {
        if self.reverse {
            self.upper = last.clone();
        } else {
            self.lower = [last, &[0][..]].concat().into();
        }
    }

    /// Passes over the versions of a key that cannot be visible. `last` is the one that was looked at last.
    fn seek(
        &mut self,
        view: &View<'_>,
        at: Revision,
        last: &[u8],
        visible_last: bool,
        budget: &mut ScanBudget,
    ) -> Result<(), Corrupt> {
        let (data_key, mod_rev) = keys::split_hist_key(last).ok_or_else(|| undecodable(Cf::Hist, last))?;
        let prefix = keys::hist_prefix(&data_key);
        if self.reverse {
            // From the oldest to the newest, and the visible one is not older than this: it is the first from `at` on, or there is none.
            if mod_rev <= at && !visible_last {
                let newest = view.older_stored(&data_key, at)?;
                if let Some((key, stored)) = newest {
                    let row =
                        visible(Cf::Hist, &key, &stored, at).ok_or_else(|| undecodable(Cf::Hist, &key))?;
                    budget.spend(&stored, row.is_some());
                    let row = row.map(|(data_key, row)| (data_key, stored.slice_ref(row)));
                    self.rows.extend(row);
                }
            }
            self.upper = prefix.into();
        } else if mod_rev > at {
            self.lower = keys::hist_key(&data_key, at);
        } else {
            // From the newest to the oldest: those that follow were superseded before this one was written.
            self.lower = keys::prefix_end(&prefix);
        }
        self.versions = 0;
        self.done = self.lower >= self.upper && !self.upper.is_empty();
        Ok(())
    }

    fn current_data_key(&self) -> Result<Bytes, Corrupt> {
        if self.cf == Cf::Data {
            return Ok(Bytes::copy_from_slice(&self.current));
        }
        let stored = [&self.current, &[0; REVISION_LEN][..]].concat();
        let split = keys::split_hist_key(&stored);
        let (data_key, _) = split.ok_or_else(|| undecodable(Cf::Hist, &stored))?;
        Ok(data_key.into())
    }
}

/// Bytes of the revision at the end of a history key.
const REVISION_LEN: usize = 8;

/// What all versions of one key have in common.
fn key_part(cf: Cf, stored: &[u8]) -> &[u8] {
    match cf {
        Cf::Hist => &stored[..stored.len().saturating_sub(REVISION_LEN)],
        _ => stored,
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
