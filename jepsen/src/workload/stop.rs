//! Tells running workloads that they are to end.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};

/// A flag that can be waited for. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    is_set: AtomicBool,
    notify: Notify,
}

impl Stop {
    /// Not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets it, for ever.
    pub fn set(&self) {
        self.0.is_set.store(true, Ordering::SeqCst);
        self.0.notify.notify_waiters();
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.0.is_set.load(Ordering::SeqCst)
    }

    /// Waits until it is set.
    pub async fn wait(&self) {
        loop {
            // Made before the flag is looked at: what is set from here on wakes it.
            let notified = self.0.notify.notified();
            if self.is_set() {
                return;
            }
            notified.await;
        }
    }

    /// What the future gives, or `None` if it is not ready when this is set.
    pub async fn or<F: Future>(&self, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.wait() => None,
            output = future => Some(output),
        }
    }

    /// Sleeps, and wakes early if it is set. True if it may go on.
    pub async fn pause(&self, time: Duration) -> bool {
        self.or(sleep(time)).await.is_some()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn wakes_all_who_wait() {
        let stop = Stop::new();
        let (one, two) = (stop.clone(), stop.clone());
        let mut waiting = Box::pin(async move { futures::join!(one.wait(), two.wait()) });
        assert!((&mut waiting).now_or_never().is_none());
        stop.set();
        assert!(waiting.now_or_never().is_some());
        assert_eq!(stop.or(std::future::ready(1)).now_or_never(), Some(None));
    }

    #[test]
    fn does_not_disturb_what_is_ready() {
        let stop = Stop::new();
        assert_eq!(stop.or(std::future::ready(1)).now_or_never(), Some(Some(1)));
    }
}
