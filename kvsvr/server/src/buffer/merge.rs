//! Scans over all layers: the rows of the two buffers, merged, over those of the inner engine.

use std::{cmp::Ordering, collections::VecDeque, iter::Peekable, ops::ControlFlow};

use bytes::Bytes;
use kvsvr_core::engine::{Cf, EngineError, EngineRead, Scan, Visit};

use super::{GO_ON, order::Span, rows::Sequence, table::Buffer};

/// A key and its row in a buffer; no row = deleted.
type Pair = (Bytes, Option<Bytes>);

/// The rows of a range of a buffer at a sequence, read in steps, so that no lock is held between them.
pub(super) struct Cursor<'b> {
    buffer: &'b Buffer,
    cf: Cf,
    span: Span,
    sequence: Sequence,
    ready: VecDeque<Pair>,
}

impl<'b> Cursor<'b> {
    pub(super) fn new(buffer: &'b Buffer, cf: Cf, span: Span, sequence: Sequence) -> Self {
        Self {
            buffer,
            cf,
            span,
            sequence,
            ready: VecDeque::new(),
        }
    }

    fn peek(&mut self) -> Option<&Pair> {
        while self.ready.is_empty() && !self.span.is_exhausted() {
            self.buffer
                .read_on(self.cf, &mut self.span, self.sequence, &mut self.ready);
        }
        self.ready.front()
    }

    fn pop(&mut self) -> Option<Pair> {
        self.ready.pop_front()
    }
}

/// The rows of both buffers in scan order; of a key that both have, the active one's.
pub(super) struct Above<'b> {
    active: Cursor<'b>,
    frozen: Option<Cursor<'b>>,
    reverse: bool,
}

impl<'b> Above<'b> {
    pub(super) fn new(active: Cursor<'b>, frozen: Option<Cursor<'b>>, reverse: bool) -> Self {
        Self {
            active,
            frozen,
            reverse,
        }
    }
}

impl Iterator for Above<'_> {
    type Item = Pair;

    fn next(&mut self) -> Option<Pair> {
        let Some(frozen) = &mut self.frozen else {
            self.active.peek();
            return self.active.pop();
        };
        let first = match (self.active.peek(), frozen.peek()) {
            (Some((active, _)), Some((frozen, _))) => in_scan_order(active, frozen, self.reverse),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        if first != Ordering::Less {
            let hidden = frozen.pop();
            if first == Ordering::Greater {
                return hidden;
            }
        }
        self.active.pop()
    }
}

fn in_scan_order(a: &[u8], b: &[u8], reverse: bool) -> Ordering {
    let order = a.cmp(b);
    if reverse { order.reverse() } else { order }
}

/// Scans `base` with the rows of the buffers over it.
pub(super) fn merged_scan(
    base: &dyn EngineRead,
    cf: Cf,
    range: Scan<'_>,
    above: Above<'_>,
    visit: Visit<'_>,
) -> Result<(), EngineError> {
    let mut above = above.peekable();
    if above.peek().is_none() {
        return base.scan(cf, range, visit);
    }
    let mut stopped = false;
    base.scan(cf, range, &mut |key, value| {
        let step = match merge_before(&mut above, key, range.reverse, visit) {
            ControlFlow::Continue(false) => visit(key, value),
            ControlFlow::Continue(true) => GO_ON,
            ControlFlow::Break(()) => ControlFlow::Break(()),
        };
        stopped = step.is_break();
        step
    })?;
    if !stopped {
        // What is left lies after all keys of the base.
        let _ = above.try_for_each(|pair| show(&pair, visit));
    }
    Ok(())
}

/// Shows the rows of the buffers up to the base's next key. Says whether one of them is of the same key, and so hides the base's.
fn merge_before(
    above: &mut Peekable<Above<'_>>,
    key: &[u8],
    reverse: bool,
    visit: Visit<'_>,
) -> ControlFlow<(), bool> {
    while let Some(pair) = above.next_if(|(above, _)| in_scan_order(above, key, reverse) != Ordering::Greater)
    {
        show(&pair, visit)?;
        if pair.0 == key {
            return ControlFlow::Continue(true);
        }
    }
    ControlFlow::Continue(false)
}

fn show((key, value): &Pair, visit: Visit<'_>) -> ControlFlow<()> {
    match value {
        Some(value) => visit(key, value),
        None => GO_ON,
    }
}
