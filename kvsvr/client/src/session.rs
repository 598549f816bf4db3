//! One server session for each shard: the identity under which retried writes are applied once.
//!
//! A [`Ticket`] is the right to one write: a sequence number. `acked_below` tells the server which outcomes it may forget: all
//! below the lowest number still in flight. The distance between the lowest and the newest number in flight is bounded, so that the
//! server always remembers what a retry asks for. A session that the server does not know any more is replaced; what to do with the
//! writes that were in flight under it is decided in [`retry`](crate::retry).

use std::{collections::VecDeque, future::Future, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use crate::{
    error::{Code, Error, Result},
    limits::MAX_SESSION_SPAN,
};

/// The session of one shard, opened by the first write.
#[derive(Debug, Default)]
pub(crate) struct ShardSession {
    state: Mutex<State>,
    /// Held by the caller who opens a session.
    opening: tokio::sync::Mutex<()>,
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// 0 = there is none.
    id: u64,
    /// The lowest number in flight, or the next one.
    first: u64,
    /// For each number from `first` on: is it still in flight?
    in_flight: VecDeque<bool>,
}

impl State {
    fn begin(&mut self, owner: &Arc<ShardSession>) -> Option<Ticket> {
        if self.id == 0 || self.in_flight.len() >= MAX_SESSION_SPAN {
            return None;
        }
        let seq = self.first + self.in_flight.len() as u64;
        self.in_flight.push_back(true);
        Some(Ticket {
            owner: owner.clone(),
            session: self.id,
            seq,
        })
    }
}

/// One write of a session. Its number counts as in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    owner: Arc<ShardSession>,
    /// The session's id.
    pub(crate) session: u64,
    /// The write's number.
    pub(crate) seq: u64,
}

impl Ticket {
    /// The outcomes of all numbers below have arrived, or nobody waits for them: as of now, so each try asks anew. At most the write's own
    /// number. 0 if the session has been replaced.
    pub(crate) fn acked_below(&self) -> u64 {
        let state = self.owner.state.lock();
        if state.id == self.session { state.first } else { 0 }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.owner.finish(self.session, self.seq);
    }
}

impl ShardSession {
    /// The right to one write, if there is a session and room in it.
    pub(crate) fn try_begin(self: &Arc<Self>) -> Option<Ticket> {
        self.state.lock().begin(self)
    }

    /// The right to one write. Opens a session with `open` if there is none; waits when too many writes are in flight.
    ///
    /// # Errors
    /// What `open` returns, or `Overloaded` if there is no room until the deadline. Nothing was sent then.
    pub(crate) async fn begin<F>(self: &Arc<Self>, deadline: Instant, open: impl Fn() -> F) -> Result<Ticket>
    where
        F: Future<Output = Result<u64>>,
    {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let exists = {
                let mut state = self.state.lock();
                if let Some(ticket) = state.begin(self) {
                    return Ok(ticket);
                }
                state.id != 0
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let full = || Error::definite(Code::Overloaded, "too many writes of this client are in flight");
            if exists {
                timeout(left, room).await.map_err(|_| full())?;
            } else {
                let _opening = timeout(left, self.opening.lock()).await.map_err(|_| full())?;
                if self.state.lock().id == 0 {
                    let id = open().await?;
                    *self.state.lock() = State {
                        id,
                        first: 1,
                        in_flight: VecDeque::new(),
                    };
                }
            }
        }
    }

    /// The server does not know this session: the next write opens a new one.
    pub(crate) fn expired(&self, session: u64) {
        let mut state = self.state.lock();
        if state.id == session {
            *state = State::default();
        }
        drop(state);
        self.room.notify_waiters();
    }

    fn finish(&self, session: u64, seq: u64) {
        let mut state = self.state.lock();
        if state.id != session {
            return;
        }
        let was_full = state.in_flight.len() >= MAX_SESSION_SPAN;
        if let Some(flag) = seq
            .checked_sub(state.first)
            .and_then(|i| state.in_flight.get_mut(i as usize))
        {
            *flag = false;
        }
        while state.in_flight.front() == Some(&false) {
            state.in_flight.pop_front();
            state.first += 1;
        }
        let has_room = state.in_flight.len() < MAX_SESSION_SPAN;
        drop(state);
        if was_full && has_room {
            self.room.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures::FutureExt as _;
    use proptest::prelude::*;
    use tokio::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    async fn begin(session: &Arc<ShardSession>) -> Ticket {
        session.begin(soon(), || async { Ok(7) }).await.unwrap()
    }

    #[tokio::test]
    async fn acked_below_is_the_lowest_in_flight() {
        let session = Arc::new(ShardSession::default());
        let (a, b) = (begin(&session).await, begin(&session).await);
        assert_eq!((a.session, a.seq, a.acked_below()), (7, 1, 1));
        assert_eq!((b.seq, b.acked_below()), (2, 1));
        drop(b);
        let c = begin(&session).await;
        assert_eq!((c.seq, c.acked_below()), (3, 1), "1 is still in flight");
        drop(a);
        let d = begin(&session).await;
        assert_eq!((d.seq, d.acked_below()), (4, 3));
        assert_eq!(c.acked_below(), 3, "also for what is in flight already");
    }

    #[tokio::test]
    async fn one_caller_opens_for_all() {
        let session = Arc::new(ShardSession::default());
        let opened = AtomicU64::new(0);
        let tickets = futures::future::join_all((0..20).map(|_| {
            session.begin(soon(), || async {
                tokio::task::yield_now().await;
                Ok(opened.fetch_add(1, Ordering::Relaxed) + 1)
            })
        }))
        .await;
        assert_eq!(opened.load(Ordering::Relaxed), 1);
        let seqs: Vec<u64> = tickets.iter().map(|t| t.as_ref().unwrap().seq).collect();
        assert_eq!(seqs, (1..=20).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn expiry_concerns_the_session_that_expired_only() {
        let session = Arc::new(ShardSession::default());
        let old = begin(&session).await;
        session.expired(7);
        let new = session.begin(soon(), || async { Ok(8) }).await.unwrap();
        assert_eq!((new.session, new.seq), (8, 1));
        session.expired(7); // another write of the old session says the same
        assert_eq!(old.acked_below(), 0, "acknowledges nothing of the new one");
        drop(old); // and does not count in the new one
        let next = begin(&session).await;
        assert_eq!((next.session, next.seq, next.acked_below()), (8, 2, 1));
    }

    #[tokio::test]
    async fn the_span_is_bounded() {
        let session = Arc::new(ShardSession::default());
        let mut tickets = Vec::new();
        for _ in 0..MAX_SESSION_SPAN {
            tickets.push(begin(&session).await);
        }
        let next = begin(&session);
        let mut next = std::pin::pin!(next);
        assert!((&mut next).now_or_never().is_none());
        tickets.pop();
        assert!(
            (&mut next).now_or_never().is_none(),
            "the oldest is still in flight"
        );
        tickets.remove(0);
        let next = next.now_or_never().unwrap();
        assert_eq!((next.seq, next.acked_below()), (MAX_SESSION_SPAN as u64 + 1, 2));
        let error = session
            .begin(Instant::now(), || async { Ok(1) })
            .await
            .unwrap_err();
        assert_eq!((error.code, error.is_unknown()), (Code::Overloaded, false));
    }

    proptest! {
        /// Whatever the order of ends: numbers are dense, and acked_below is exactly the lowest in flight.
        #[test]
        fn any_order_of_ends(ends in proptest::collection::vec(0usize..8, 0..60)) {
            let session = Arc::new(ShardSession::default());
            session.state.lock().id = 1;
            session.state.lock().first = 1;
            let mut open: Vec<Ticket> = Vec::new();
            for (n, end) in ends.into_iter().enumerate() {
                let ticket = session.state.lock().begin(&session).unwrap();
                prop_assert_eq!(ticket.seq, n as u64 + 1);
                let lowest = open.iter().map(|t| t.seq).min().unwrap_or(ticket.seq);
                open.push(ticket);
                for ticket in &open {
                    prop_assert_eq!(ticket.acked_below(), lowest);
                }
                if end < open.len() {
                    open.remove(end);
                }
            }
        }
    }
}
