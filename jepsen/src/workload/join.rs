//! Runs futures side by side within one task.

use std::future::Future;

use futures::stream::{FuturesOrdered, StreamExt as _};

/// Runs futures until all are done. Their outputs are in their order.
///
/// Each is polled only when it was woken itself. `futures::future::join_all` polls a small set as a whole whenever one of it wakes; a
/// sleep that is polled sets a timer in the simulator, which wakes the set again: with n sleeps n timers for each that was meant.
pub(super) async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    futures.into_iter().collect::<FuturesOrdered<F>>().collect().await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::{FutureExt as _, channel::oneshot};

    use super::*;

    #[test]
    fn polls_only_what_was_woken_and_keeps_the_order() {
        let polls = AtomicUsize::new(0);
        let (sends, waits): (Vec<_>, Vec<_>) = (0..3).map(|_| oneshot::channel::<usize>()).unzip();
        let counted = waits.into_iter().map(|mut wait| {
            let polls = &polls;
            std::future::poll_fn(move |context| {
                polls.fetch_add(1, Ordering::SeqCst);
                wait.poll_unpin(context).map(Result::unwrap)
            })
        });
        let mut joined = Box::pin(join_all(counted));
        assert!((&mut joined).now_or_never().is_none());
        assert_eq!(polls.load(Ordering::SeqCst), 3);
        for (number, send) in sends.into_iter().enumerate().rev() {
            send.send(number).unwrap();
            let ended = (&mut joined).now_or_never();
            let expected = (number == 0).then(|| vec![0, 1, 2]);
            assert_eq!(ended, expected);
        }
        assert_eq!(polls.load(Ordering::SeqCst), 6);
        let none = join_all(std::iter::empty::<std::future::Ready<()>>());
        assert_eq!(none.now_or_never(), Some(Vec::new()));
    }
}
