//! A stripe of the row cache: excludes fills by readers while keys are being written. The argument is in [`cache`](super).

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// One write's hold on a stripe.
pub(super) struct Claim {
    pub(super) stripe: usize,
    /// How many of the write's keys are on the stripe.
    pub(super) keys: usize,
    /// No other write was in flight on the stripe at the claim.
    pub(super) alone: bool,
    /// The stripe's version since the claim.
    pub(super) version: u64,
}

/// Writes in flight (low [`Stripe::COUNT_BITS`] bits) and version (the others) of the keys with one hash prefix.
#[derive(Default)]
pub(super) struct Stripe {
    /// Changes only under `lock`; read without it to note it.
    state: AtomicU64,
    lock: Mutex<()>,
}

/// A stripe's state while nothing was in flight on it.
#[derive(Clone, Copy)]
pub(super) struct Quiet(u64);

impl Stripe {
    /// More than the threads that can be in `write` at once.
    const COUNT_BITS: u32 = 16;
    const COUNT_MASK: u64 = (1 << Self::COUNT_BITS) - 1;

    /// What a reader notes before it reads the engine; `None` while a write is in flight.
    pub(super) fn note(&self) -> Option<Quiet> {
        // Acquire pairs with the release store at the end of the last write: the engine read that follows sees that write.
        let state = self.state.load(Ordering::Acquire);
        (state & Self::COUNT_MASK == 0).then_some(Quiet(state))
    }

    /// Runs `put` if no write has begun since the note was taken; none begins while it runs.
    pub(super) fn fill(&self, noted: Quiet, put: impl FnOnce()) {
        let _held = self.lock.lock();
        if self.state.load(Ordering::Relaxed) == noted.0 {
            put();
        }
    }

    /// Begins a write: (no other one was in flight, the new version).
    pub(super) fn claim(&self) -> (bool, u64) {
        let _held = self.lock.lock();
        let state = self.state.load(Ordering::Relaxed);
        assert!(
            state & Self::COUNT_MASK < Self::COUNT_MASK,
            "65535 engine writes at once on one stripe"
        );
        let claimed = state + (1 << Self::COUNT_BITS) + 1;
        self.state.store(claimed, Ordering::Release);
        (state & Self::COUNT_MASK == 0, claimed >> Self::COUNT_BITS)
    }

    /// Ends a write. `finish` runs first, under the lock; it is told whether the write was alone on the stripe all the time.
    pub(super) fn release(&self, claim: &Claim, finish: impl FnOnce(bool)) {
        let _held = self.lock.lock();
        let state = self.state.load(Ordering::Relaxed);
        assert!(state & Self::COUNT_MASK > 0, "a claim is released once");
        finish(claim.alone && state >> Self::COUNT_BITS == claim.version);
        self.state.store(state - 1, Ordering::Release);
    }
}
