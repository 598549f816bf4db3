//! The search for an order of one key's operations.
//!
//! Wing and Gong, "Testing and verifying concurrent objects" (1993), in the form of Lowe, "Testing for linearizability" (2017): the calls
//! and returns not yet placed are a linked list, placing an operation unlinks it, and configurations (what is placed, state) that were
//! seen before are not entered again. On top of that:
//! - An operation that changes no state whatever the state is, and that fits now, is placed at once and for good: in any order in which
//!   it comes later it can be moved here.
//! - An operation of unknown outcome has a call and no return. It is tried only when nothing else can go on, only if it changes the state,
//!   and of equal ones the oldest first.
//! - Values that nobody observed are taken for one and the same.
//! - A value is not overwritten as long as somebody must still observe it and nobody is left to write it again.
//! - A configuration is stored from its first operation that is not placed to its last one that is, so its size follows the concurrency,
//!   not the length of the history.
//!
//! Deterministic; time is bounded by the memory, since each step forward enters a new configuration.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    hash::{BuildHasherDefault, Hasher},
};

/// A key: a value (a counter's number as two's complement), or absent.
pub(super) type State = Option<u64>;

/// An operation with what it returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// Read this.
    Read(State),
    /// Wrote it.
    Write(u64),
    /// Found the first, wrote the second.
    Cas(u64, u64),
    /// Did not find this.
    Mismatch(u64),
    /// Deleted; whether it was there, if that is known.
    Delete(Option<bool>),
    /// Added; the sum, if that is known.
    Add(i64, Option<i64>),
    /// Read this number; an absent one is 0.
    Count(i64),
}

impl Op {
    /// The state after it; `None` if it does not fit.
    pub(super) fn step(self, state: State) -> Option<State> {
        let number = state.unwrap_or(0) as i64;
        match self {
            Op::Read(value) => (state == value).then_some(state),
            Op::Write(value) => Some(Some(value)),
            Op::Cas(from, to) => (state == Some(from)).then_some(Some(to)),
            Op::Mismatch(from) => (state != Some(from)).then_some(state),
            Op::Delete(None) => Some(None),
            Op::Delete(Some(existed)) => (state.is_some() == existed).then_some(None),
            Op::Add(delta, sum) => {
                let after = number.wrapping_add(delta);
                (sum.is_none_or(|sum| sum == after)).then_some(Some(after as u64))
            }
            Op::Count(value) => (number == value).then_some(state),
        }
    }

    /// The one state that it fits, if there is one, and the state that it leaves, if it is not the same. Not of numbers.
    fn compares_and_leaves(self) -> (Option<State>, Option<State>) {
        match self {
            Op::Read(state) => (Some(state), None),
            Op::Write(value) => (None, Some(Some(value))),
            Op::Cas(from, to) => (Some(Some(from)), Some(Some(to))),
            Op::Delete(Some(false)) => (Some(None), None),
            Op::Delete(_) => (None, Some(None)),
            Op::Mismatch(_) | Op::Add(..) | Op::Count(_) => (None, None),
        }
    }

    /// Leaves every state that it fits as it is.
    fn is_pure(self) -> bool {
        matches!(
            self,
            Op::Read(_) | Op::Mismatch(_) | Op::Count(_) | Op::Delete(Some(false))
        )
    }
}

/// An operation and the places of its call and return in the history.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) id: usize,
    pub(super) op: Op,
    pub(super) first: usize,
    /// `usize::MAX` if it never returned.
    pub(super) last: usize,
}

/// What the search found.
#[derive(Debug)]
pub(super) enum Found {
    /// There is an order.
    Order,
    /// There is none.
    Stuck(Stuck),
    /// The memory did not suffice.
    Exhausted,
}

/// The first return in the history up to which there is no order.
#[derive(Debug)]
pub(super) struct Stuck {
    /// The operation that returned.
    pub(super) culprit: usize,
    /// An order up to just before; `None` if the memory did not suffice to find it.
    pub(super) order: Option<(Vec<usize>, State)>,
    /// What else had begun by then and is not in the order.
    pub(super) unplaced: Vec<usize>,
}

/// Looks for an order of a key's operations, which must be in the order of their calls.
///
/// Any beginning of a history that has an order has one, too; so if there is none, the shortest beginning without one is looked for by
/// bisection.
pub(super) fn search(entries: &[Entry], cache_bytes: usize) -> Found {
    match search_once(entries, cache_bytes) {
        Outcome::Order(..) => return Found::Order,
        Outcome::Exhausted => return Found::Exhausted,
        Outcome::Nothing => {}
    }
    let mut returned: Vec<&Entry> = entries.iter().filter(|entry| entry.last != usize::MAX).collect();
    returned.sort_unstable_by_key(|entry| entry.last);
    let search_through = |last: usize| search_once(&beginning(entries, last), cache_bytes);
    // Up to `bad` there is no order.
    let (mut good, mut bad) = (0, returned.len() - 1);
    while good < bad {
        let middle = (good + bad) / 2;
        match search_through(returned[middle].last) {
            Outcome::Nothing => bad = middle,
            _ => good = middle + 1,
        }
    }
    let culprit = returned[bad];
    let order = match search_through(culprit.last - 1) {
        Outcome::Order(order, state) => Some((order, state)),
        _ => None,
    };
    let is_placed = |id| order.as_ref().is_some_and(|(order, _)| order.contains(&id));
    let unplaced = entries
        .iter()
        .filter(|e| e.first < culprit.last && e.last >= culprit.last);
    let unplaced = unplaced.map(|entry| entry.id).filter(|id| !is_placed(*id));
    Found::Stuck(Stuck {
        culprit: culprit.id,
        unplaced: unplaced.collect(),
        order,
    })
}

/// What had happened up to a place in the history. What had not returned by then may have taken effect or not.
pub(super) fn beginning(entries: &[Entry], through: usize) -> Vec<Entry> {
    let begun = entries.iter().take_while(|entry| entry.first <= through);
    let cut = |entry: &Entry| Entry {
        last: if entry.last <= through {
            entry.last
        } else {
            usize::MAX
        },
        ..*entry
    };
    begun.map(cut).collect()
}

enum Outcome {
    /// By [`Entry::id`], and the state after it.
    Order(Vec<usize>, State),
    Nothing,
    Exhausted,
}

fn search_once(entries: &[Entry], cache_bytes: usize) -> Outcome {
    let entries = unify_unobserved(entries);
    let (pending, done): (Vec<_>, Vec<_>) = entries.into_iter().partition(|e| e.last == usize::MAX);
    let pending = pending.into_iter().filter(|e| !e.op.is_pure()).collect();
    Search::new(done, pending, cache_bytes).run()
}

/// Replaces all written values that no operation compares with by one of them. Not where numbers are added up.
fn unify_unobserved(entries: &[Entry]) -> Vec<Entry> {
    let mut entries = entries.to_vec();
    let mut observed = BTreeSet::new();
    for entry in &entries {
        match entry.op {
            Op::Read(Some(value)) | Op::Cas(value, _) | Op::Mismatch(value) => {
                observed.insert(value);
            }
            Op::Add(..) | Op::Count(_) => return entries,
            Op::Read(None) | Op::Write(_) | Op::Delete(_) => {}
        }
    }
    let mut token = None;
    for entry in &mut entries {
        if let Op::Write(value) | Op::Cas(_, value) = &mut entry.op
            && !observed.contains(value)
        {
            *value = *token.get_or_insert(*value);
        }
    }
    entries
}

/// Where the search looks for the next operation.
#[derive(Clone, Copy)]
enum Cursor {
    /// At this node of the list.
    Node(usize),
    /// At this pending operation; those that began after the place `limit` are out.
    Pending { at: usize, limit: usize },
}

/// A placed operation, with what undoes it.
struct Frame {
    choice: Cursor,
    state: State,
    high: usize,
    pure: bool,
}

struct Search {
    done: Vec<Entry>,
    pending: Vec<Entry>,
    /// The pending operation before it that does the same.
    twin: Vec<Option<usize>>,
    /// The list: node `i` is the call of `done[i]`, node `n + i` its return, node `2n` head and end.
    next: Vec<usize>,
    prev: Vec<usize>,
    placed: Vec<u64>,
    placed_pending: Vec<u64>,
    /// One more than the greatest index in `placed`.
    high: usize,
    state: State,
    frames: Vec<Frame>,
    seen: HashSet<Box<[u64]>, BuildHasherDefault<WordHasher>>,
    seen_bytes: usize,
    cache_bytes: usize,
    /// States that somebody observes; nothing where numbers are added up, which bring about states that no operation names.
    demand: BTreeMap<State, Demand>,
}

/// Bytes of a stored configuration besides its words: pointer, length, the table's slot at its load, the allocator's header.
const CONFIG_OVERHEAD: usize = 48;

impl Search {
    fn new(done: Vec<Entry>, pending: Vec<Entry>, cache_bytes: usize) -> Self {
        let n = done.len();
        let mut nodes: Vec<(usize, usize)> = Vec::with_capacity(2 * n);
        for (i, entry) in done.iter().enumerate() {
            nodes.push((entry.first, i));
            nodes.push((entry.last, n + i));
        }
        nodes.sort_unstable();
        let (mut next, mut prev) = (vec![2 * n; 2 * n + 1], vec![2 * n; 2 * n + 1]);
        let mut before = 2 * n;
        for (_, node) in nodes {
            next[before] = node;
            prev[node] = before;
            before = node;
        }
        prev[2 * n] = before;
        let twin = (0..pending.len()).map(|j| (0..j).rev().find(|i| pending[*i].op == pending[j].op));
        Self {
            twin: twin.collect(),
            next,
            prev,
            placed: vec![0; n.div_ceil(64)],
            placed_pending: vec![0; pending.len().div_ceil(64)],
            high: 0,
            state: None,
            frames: Vec::new(),
            seen: HashSet::default(),
            seen_bytes: 0,
            cache_bytes,
            demand: BTreeMap::new(),
            done,
            pending,
        }
        .with_demand()
    }

    fn with_demand(mut self) -> Self {
        let all = || self.done.iter().chain(&self.pending).map(|entry| entry.op);
        if all().any(|op| matches!(op, Op::Add(..) | Op::Count(_))) {
            return self;
        }
        let observed = all().filter_map(|op| op.compares_and_leaves().0);
        self.demand = observed.map(|state| (state, Demand::default())).collect();
        for at in 0..self.done.len() {
            self.count(self.done[at].op, false, 1);
        }
        for at in 0..self.pending.len() {
            self.count(self.pending[at].op, true, 1);
        }
        self
    }

    fn run(mut self) -> Outcome {
        let n = self.done.len();
        let head = 2 * n;
        let mut cursor = Cursor::Node(self.next[head]);
        loop {
            if self.seen_bytes > self.cache_bytes {
                return Outcome::Exhausted;
            }
            cursor = match cursor {
                Cursor::Node(node) if node == head => return Outcome::Order(self.order(), self.state),
                Cursor::Node(node) if node < n => self.try_done(node),
                Cursor::Node(node) => {
                    let limit = self.done[node - n].last;
                    Cursor::Pending { at: 0, limit }
                }
                Cursor::Pending { at, limit }
                    if at < self.pending.len() && self.pending[at].first < limit =>
                {
                    self.try_pending(at, limit)
                }
                Cursor::Pending { .. } => match self.undo() {
                    Some(cursor) => cursor,
                    None => return Outcome::Nothing,
                },
            };
        }
    }

    /// Places a returned operation if it fits and leads to something new.
    fn try_done(&mut self, at: usize) -> Cursor {
        let Entry { op, .. } = self.done[at];
        let after = Cursor::Node(self.next[at]);
        let Some(state) = op.step(self.state) else {
            return after;
        };
        let frame = Frame {
            choice: Cursor::Node(at),
            state: self.state,
            high: self.high,
            pure: op.is_pure(),
        };
        self.lift(at);
        self.placed[at / 64] |= 1 << (at % 64);
        self.high = self.high.max(at + 1);
        self.state = state;
        self.count(op, false, -1);
        if frame.pure || (!self.is_lost(frame.state) && self.is_new()) {
            self.frames.push(frame);
            return Cursor::Node(self.next[2 * self.done.len()]);
        }
        self.restore(&frame);
        after
    }

    /// Places an operation of unknown outcome.
    fn try_pending(&mut self, at: usize, limit: usize) -> Cursor {
        let after = Cursor::Pending { at: at + 1, limit };
        let is_placed = |at: usize| self.placed_pending[at / 64] & (1 << (at % 64)) != 0;
        if is_placed(at) || self.twin[at].is_some_and(|twin| !is_placed(twin)) {
            return after;
        }
        let state = match self.pending[at].op.step(self.state) {
            Some(state) if state != self.state => state,
            _ => return after,
        };
        let frame = Frame {
            choice: Cursor::Pending { at, limit },
            state: self.state,
            high: self.high,
            pure: false,
        };
        self.placed_pending[at / 64] |= 1 << (at % 64);
        self.state = state;
        self.count(self.pending[at].op, true, -1);
        if !self.is_lost(frame.state) && self.is_new() {
            self.frames.push(frame);
            return Cursor::Node(self.next[2 * self.done.len()]);
        }
        self.restore(&frame);
        after
    }

    /// Takes back the last choice and says where to look for another one.
    fn undo(&mut self) -> Option<Cursor> {
        while let Some(frame) = self.frames.pop() {
            self.restore(&frame);
            // Not placing a pure operation that fits leads nowhere else.
            if !frame.pure {
                return Some(match frame.choice {
                    Cursor::Node(at) => Cursor::Node(self.next[at]),
                    Cursor::Pending { at, limit } => Cursor::Pending { at: at + 1, limit },
                });
            }
        }
        None
    }

    fn restore(&mut self, frame: &Frame) {
        match frame.choice {
            Cursor::Node(at) => {
                self.placed[at / 64] &= !(1 << (at % 64));
                self.unlift(at);
                self.count(self.done[at].op, false, 1);
            }
            Cursor::Pending { at, .. } => {
                self.placed_pending[at / 64] &= !(1 << (at % 64));
                self.count(self.pending[at].op, true, 1);
            }
        }
        self.state = frame.state;
        self.high = frame.high;
    }

    fn lift(&mut self, at: usize) {
        for node in [at, self.done.len() + at] {
            self.next[self.prev[node]] = self.next[node];
            self.prev[self.next[node]] = self.prev[node];
        }
    }

    fn unlift(&mut self, at: usize) {
        for node in [self.done.len() + at, at] {
            self.next[self.prev[node]] = node;
            self.prev[self.next[node]] = node;
        }
    }

    /// Remembers the configuration; false if it was entered before.
    fn is_new(&mut self) -> bool {
        // The first node that is left is a call, or the end.
        let low = self.next[2 * self.done.len()].min(self.done.len()) / 64;
        let window = self
            .placed
            .get(low..self.high.div_ceil(64).max(low))
            .unwrap_or_default();
        let mut words = Vec::with_capacity(window.len() + self.placed_pending.len() + 2);
        words.push((low as u64) << 1 | u64::from(self.state.is_some()));
        words.push(self.state.unwrap_or(0));
        words.extend_from_slice(&self.placed_pending);
        words.extend_from_slice(window);
        let bytes = words.len() * 8 + CONFIG_OVERHEAD;
        let is_new = self.seen.insert(words.into_boxed_slice());
        if is_new {
            self.seen_bytes += bytes;
        }
        is_new
    }

    /// What is placed, in order.
    fn order(&self) -> Vec<usize> {
        let placed = self.frames.iter().map(|frame| match frame.choice {
            Cursor::Node(at) => self.done[at].id,
            Cursor::Pending { at, .. } => self.pending[at].id,
        });
        placed.collect()
    }

    /// Somebody must still observe this state, which is not that of now, and nobody can bring it about again.
    fn is_lost(&self, state: State) -> bool {
        let demand = self.demand.get(&state);
        state != self.state && demand.is_some_and(|demand| demand.observers > 0 && demand.writers == 0)
    }

    /// Counts an operation among those that are left, or not any more.
    fn count(&mut self, op: Op, is_pending: bool, by: isize) {
        let (observed, written) = op.compares_and_leaves();
        if let Some(demand) = observed.and_then(|state| self.demand.get_mut(&state))
            && !is_pending
        {
            demand.observers += by;
        }
        if let Some(demand) = written.and_then(|state| self.demand.get_mut(&state)) {
            demand.writers += by;
        }
    }
}

/// How many operations are left that observe a state and have returned, and that bring it about.
#[derive(Default)]
struct Demand {
    observers: isize,
    writers: isize,
}

/// Hashes words, the same in every run: multiply and rotate, as in FxHash, with a final mix since the table uses the top bits too.
#[derive(Default)]
struct WordHasher(u64);

const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

impl Hasher for WordHasher {
    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(MULTIPLIER);
        mixed ^ (mixed >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(MULTIPLIER);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}
