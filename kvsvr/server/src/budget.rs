//! A bound on bytes that many tasks hold at a time.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// How many bytes are held, of how many.
#[derive(Debug)]
pub struct Budget {
    held: AtomicUsize,
    max: usize,
}

/// Bytes that are given back when this is dropped.
#[derive(Debug)]
pub struct Held {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// Nothing is held yet.
    pub fn new(max: usize) -> Self {
        Self {
            held: AtomicUsize::new(0),
            max,
        }
    }

    /// Takes bytes; `None` if there are not so many.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        let take = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= self.max);
        self.held
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take)
            .ok()?;
        Some(Held {
            budget: self.clone(),
            bytes,
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_held_than_there_is() {
        let budget = Arc::new(Budget::new(10));
        let six = budget.hold(6).unwrap();
        assert!(budget.hold(5).is_none());
        let four = budget.hold(4).unwrap();
        assert!(budget.hold(usize::MAX).is_none());
        drop((six, four));
        assert!(budget.hold(10).is_some());
    }
}
