//! The async runtime as openraft wants it, over the workspace's `tokio`; and the node's only source of randomness.
//!
//! `tokio` is the package madsim-tokio: real tokio normally, the simulator's under `--cfg madsim`. This is one of the two product files
//! that know of that cfg (the other is [`time`]), for two reasons: tokio's `watch` wakes its receivers in an order that is not repeatable across seeds
//! of one process, and the random generator must be the simulator's. openraft-rt's conformance suite runs on it in both modes.

use std::{
    fmt,
    future::Future,
    io,
    ops::{Add, AddAssign, Sub, SubAssign},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::TryFutureExt;
use openraft_rt::{self as ort, AsyncRuntime, OptionalSend, OptionalSync};
use tokio::sync::{mpsc, oneshot};

use crate::time;

/// Random bytes from the runtime's generator.
pub fn random_u64() -> u64 {
    let Ok(value) = rand::TryRng::try_next_u64(&mut RuntimeRng);
    value
}

/// A point of the monotonic clock.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct RuntimeInstant(time::Instant);

impl Add<Duration> for RuntimeInstant {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0 + rhs)
    }
}
impl AddAssign<Duration> for RuntimeInstant {
    fn add_assign(&mut self, rhs: Duration) {
        self.0 += rhs;
    }
}
impl Sub<Duration> for RuntimeInstant {
    type Output = Self;
    fn sub(self, rhs: Duration) -> Self {
        Self(self.0 - rhs)
    }
}
impl Sub<Self> for RuntimeInstant {
    type Output = Duration;
    fn sub(self, rhs: Self) -> Duration {
        self.0.saturating_duration_since(rhs.0)
    }
}
impl SubAssign<Duration> for RuntimeInstant {
    fn sub_assign(&mut self, rhs: Duration) {
        self.0 -= rhs;
    }
}
impl ort::Instant for RuntimeInstant {
    fn now() -> Self {
        Self(time::Instant::now())
    }
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A timeout passed.
#[derive(Debug)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("deadline has elapsed")
    }
}

pin_project_lite::pin_project! {
    /// A future with a deadline.
    pub struct Timeout<T> {
        #[pin]
        future: T,
        #[pin]
        sleep: time::Sleep,
    }
}

impl<T: Future> Future for Timeout<T> {
    type Output = Result<T::Output, Elapsed>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(value) = this.future.poll(cx) {
            return Poll::Ready(Ok(value));
        }
        this.sleep.poll(cx).map(|()| Err(Elapsed))
    }
}

/// The runtime's random generator behind the rand 0.10 interface.
#[derive(Debug)]
pub struct RuntimeRng;

impl rand::TryRng for RuntimeRng {
    type Error = std::convert::Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        #[cfg(madsim)]
        {
            use madsim::rand::RngCore;
            madsim::rand::thread_rng().fill_bytes(bytes);
        }
        #[cfg(not(madsim))]
        {
            use rand::Rng;
            rand::rng().fill_bytes(bytes);
        }
        Ok(())
    }
}

/// The runtime.
pub struct Runtime {
    #[cfg(madsim)]
    runtime: madsim::runtime::Runtime,
    #[cfg(not(madsim))]
    runtime: tokio::runtime::Runtime,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runtime")
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = time::Sleep;
    type Instant = RuntimeInstant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = RuntimeRng;
    type Mpsc = RuntimeMpsc;
    type Watch = RuntimeWatch;
    type Oneshot = RuntimeOneshot;
    type Mutex<T: OptionalSend + 'static> = RuntimeMutex<T>;

    #[track_caller]
    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        tokio::task::spawn(future)
    }
    fn sleep(duration: Duration) -> Self::Sleep {
        time::sleep(duration)
    }
    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        time::sleep_until(deadline.0)
    }
    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Timeout<F> {
        Timeout {
            future,
            sleep: time::sleep(duration),
        }
    }
    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: RuntimeInstant,
        future: F,
    ) -> Timeout<F> {
        Timeout {
            future,
            sleep: time::sleep_until(deadline.0),
        }
    }
    fn is_panic(error: &Self::JoinError) -> bool {
        error.is_panic()
    }
    fn thread_rng() -> RuntimeRng {
        RuntimeRng
    }
    #[cfg_attr(
        not(madsim),
        expect(
            clippy::expect_used,
            reason = "the trait cannot fail; without a runtime nothing can go on"
        )
    )]
    fn new(_threads: usize) -> Self {
        #[cfg(madsim)]
        {
            Self {
                runtime: madsim::runtime::Runtime::with_seed_and_config(1, Default::default()),
            }
        }
        #[cfg(not(madsim))]
        {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(_threads)
                .enable_all()
                .build()
                .expect("the operating system gives threads to the runtime");
            Self { runtime }
        }
    }
    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.runtime.block_on(future)
    }
    // The trait's default spawns an OS thread, which the simulator refuses.
    fn spawn_blocking<F, T>(f: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        #[allow(
            deprecated,
            reason = "deprecated in madsim-tokio only to point out that it runs inline there"
        )]
        let handle = tokio::task::spawn_blocking(f);
        async move { handle.await.map_err(io::Error::other) }
    }
}

/// Bounded channels.
#[derive(Debug)]
pub struct RuntimeMpsc;
/// Sending half of a bounded channel.
#[derive(Debug)]
pub struct MpscSender<T>(mpsc::Sender<T>);
/// Receiving half of a bounded channel.
#[derive(Debug)]
pub struct MpscReceiver<T>(mpsc::Receiver<T>);
/// A sender that does not keep the channel open.
#[derive(Debug)]
pub struct MpscWeakSender<T>(mpsc::WeakSender<T>);

impl<T> Clone for MpscSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
impl<T> Clone for MpscWeakSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
impl ort::Mpsc for RuntimeMpsc {
    type Sender<T: OptionalSend> = MpscSender<T>;
    type Receiver<T: OptionalSend> = MpscReceiver<T>;
    type WeakSender<T: OptionalSend> = MpscWeakSender<T>;
    fn channel<T: OptionalSend>(capacity: usize) -> (MpscSender<T>, MpscReceiver<T>) {
        let (sender, receiver) = mpsc::channel(capacity);
        (MpscSender(sender), MpscReceiver(receiver))
    }
}
impl<T: OptionalSend> ort::MpscSender<RuntimeMpsc, T> for MpscSender<T> {
    fn send(&self, message: T) -> impl Future<Output = Result<(), ort::SendError<T>>> + OptionalSend {
        self.0.send(message).map_err(|e| ort::SendError(e.0))
    }
    fn downgrade(&self) -> MpscWeakSender<T> {
        MpscWeakSender(self.0.downgrade())
    }
}
impl<T: OptionalSend> ort::MpscReceiver<T> for MpscReceiver<T> {
    fn recv(&mut self) -> impl Future<Output = Option<T>> + OptionalSend {
        self.0.recv()
    }
    fn try_recv(&mut self) -> Result<T, ort::TryRecvError> {
        self.0.try_recv().map_err(|e| match e {
            mpsc::error::TryRecvError::Empty => ort::TryRecvError::Empty,
            mpsc::error::TryRecvError::Disconnected => ort::TryRecvError::Disconnected,
        })
    }
}
impl<T: OptionalSend> ort::MpscWeakSender<RuntimeMpsc, T> for MpscWeakSender<T> {
    fn upgrade(&self) -> Option<MpscSender<T>> {
        self.0.upgrade().map(MpscSender)
    }
}

/// A fair async mutex.
#[derive(Debug)]
pub struct RuntimeMutex<T>(tokio::sync::Mutex<T>);

impl<T: OptionalSend + 'static> ort::Mutex<T> for RuntimeMutex<T> {
    type Guard<'a> = tokio::sync::MutexGuard<'a, T>;
    fn new(value: T) -> Self {
        Self(tokio::sync::Mutex::new(value))
    }
    fn lock(&self) -> impl Future<Output = Self::Guard<'_>> + OptionalSend {
        self.0.lock()
    }
}

/// One-shot channels.
#[derive(Debug)]
pub struct RuntimeOneshot;
/// Sending half of a one-shot channel.
#[derive(Debug)]
pub struct OneshotSender<T>(oneshot::Sender<T>);

impl ort::Oneshot for RuntimeOneshot {
    type Sender<T: OptionalSend> = OneshotSender<T>;
    type Receiver<T: OptionalSend> = oneshot::Receiver<T>;
    type ReceiverError = oneshot::error::RecvError;
    fn channel<T: OptionalSend>() -> (OneshotSender<T>, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (OneshotSender(sender), receiver)
    }
}
impl<T: OptionalSend> ort::OneshotSender<T> for OneshotSender<T> {
    fn send(self, value: T) -> Result<(), T> {
        self.0.send(value)
    }
}

/// A value whose changes can be awaited.
#[derive(Debug)]
pub struct RuntimeWatch;

#[cfg(not(madsim))]
mod watch {
    use tokio::sync::watch;

    use super::{OptionalSend, OptionalSync, RuntimeWatch, ort};

    /// Sending half of a watched value.
    #[derive(Debug)]
    pub struct WatchSender<T>(watch::Sender<T>);
    /// Receiving half of a watched value.
    #[derive(Debug)]
    pub struct WatchReceiver<T>(watch::Receiver<T>);

    impl<T> Clone for WatchSender<T> {
        fn clone(&self) -> Self {
            Self(self.0.clone())
        }
    }
    impl<T> Clone for WatchReceiver<T> {
        fn clone(&self) -> Self {
            Self(self.0.clone())
        }
    }
    impl ort::Watch for RuntimeWatch {
        type Sender<T: OptionalSend + OptionalSync> = WatchSender<T>;
        type Receiver<T: OptionalSend + OptionalSync> = WatchReceiver<T>;
        type Ref<'a, T: OptionalSend + 'a> = watch::Ref<'a, T>;
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the runtime's own Watch, outside simulation"
        )]
        fn channel<T: OptionalSend + OptionalSync>(init: T) -> (WatchSender<T>, WatchReceiver<T>) {
            let (sender, receiver) = watch::channel(init);
            (WatchSender(sender), WatchReceiver(receiver))
        }
    }
    impl<T: OptionalSend + OptionalSync> ort::WatchSender<RuntimeWatch, T> for WatchSender<T> {
        fn send(&self, value: T) -> Result<(), ort::watch::SendError<T>> {
            self.0.send(value).map_err(|e| ort::watch::SendError(e.0))
        }
        fn send_if_modified<F>(&self, modify: F) -> bool
        where
            F: FnOnce(&mut T) -> bool,
        {
            self.0.send_if_modified(modify)
        }
        fn borrow_watched(&self) -> watch::Ref<'_, T> {
            self.0.borrow()
        }
        fn subscribe(&self) -> WatchReceiver<T> {
            WatchReceiver(self.0.subscribe())
        }
    }
    impl<T: OptionalSend + OptionalSync> ort::WatchReceiver<RuntimeWatch, T> for WatchReceiver<T> {
        async fn changed(&mut self) -> Result<(), ort::RecvError> {
            self.0.changed().await.map_err(|_| ort::RecvError(()))
        }
        fn borrow_watched(&self) -> watch::Ref<'_, T> {
            self.0.borrow()
        }
        fn borrow_and_update(&mut self) -> watch::Ref<'_, T> {
            self.0.borrow_and_update()
        }
    }
}

#[cfg(madsim)]
mod watch {
    use std::sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use super::{OptionalSend, OptionalSync, RuntimeWatch, ort};

    struct Shared<T> {
        value: RwLock<T>,
        version: AtomicUsize,
        senders: AtomicUsize,
        receivers: AtomicUsize,
        changed: tokio::sync::Notify,
    }
    /// Sending half of a watched value.
    pub struct WatchSender<T>(Arc<Shared<T>>);
    /// Receiving half of a watched value, with the version it has seen.
    pub struct WatchReceiver<T>(Arc<Shared<T>>, usize);

    impl<T> Clone for WatchSender<T> {
        fn clone(&self) -> Self {
            self.0.senders.fetch_add(1, SeqCst);
            Self(self.0.clone())
        }
    }
    impl<T> Drop for WatchSender<T> {
        fn drop(&mut self) {
            if self.0.senders.fetch_sub(1, SeqCst) == 1 {
                self.0.changed.notify_waiters();
            }
        }
    }
    impl<T> Clone for WatchReceiver<T> {
        fn clone(&self) -> Self {
            self.0.receivers.fetch_add(1, SeqCst);
            Self(self.0.clone(), self.1)
        }
    }
    impl<T> Drop for WatchReceiver<T> {
        fn drop(&mut self) {
            self.0.receivers.fetch_sub(1, SeqCst);
        }
    }
    impl ort::Watch for RuntimeWatch {
        type Sender<T: OptionalSend + OptionalSync> = WatchSender<T>;
        type Receiver<T: OptionalSend + OptionalSync> = WatchReceiver<T>;
        type Ref<'a, T: OptionalSend + 'a> = RwLockReadGuard<'a, T>;
        fn channel<T: OptionalSend + OptionalSync>(init: T) -> (WatchSender<T>, WatchReceiver<T>) {
            let shared = Arc::new(Shared {
                value: RwLock::new(init),
                version: 0.into(),
                senders: 1.into(),
                receivers: 1.into(),
                changed: tokio::sync::Notify::new(),
            });
            (WatchSender(shared.clone()), WatchReceiver(shared, 0))
        }
    }
    impl<T: OptionalSend + OptionalSync> ort::WatchSender<RuntimeWatch, T> for WatchSender<T> {
        fn send(&self, value: T) -> Result<(), ort::watch::SendError<T>> {
            if self.0.receivers.load(SeqCst) == 0 {
                return Err(ort::watch::SendError(value));
            }
            self.send_if_modified(|old| {
                *old = value;
                true
            });
            Ok(())
        }
        fn send_if_modified<F>(&self, modify: F) -> bool
        where
            F: FnOnce(&mut T) -> bool,
        {
            let modified = modify(&mut self.0.value.write().unwrap_or_else(PoisonError::into_inner));
            if modified {
                self.0.version.fetch_add(1, SeqCst);
                self.0.changed.notify_waiters();
            }
            modified
        }
        fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
            self.0.value.read().unwrap_or_else(PoisonError::into_inner)
        }
        fn subscribe(&self) -> WatchReceiver<T> {
            self.0.receivers.fetch_add(1, SeqCst);
            WatchReceiver(self.0.clone(), self.0.version.load(SeqCst))
        }
    }
    impl<T: OptionalSend + OptionalSync> ort::WatchReceiver<RuntimeWatch, T> for WatchReceiver<T> {
        async fn changed(&mut self) -> Result<(), ort::RecvError> {
            loop {
                let shared = self.0.clone();
                let mut notified = std::pin::pin!(shared.changed.notified());
                notified.as_mut().enable();
                let version = self.0.version.load(SeqCst);
                if version != self.1 {
                    self.1 = version;
                    return Ok(());
                }
                if self.0.senders.load(SeqCst) == 0 {
                    return Err(ort::RecvError(()));
                }
                notified.await;
            }
        }
        fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
            self.0.value.read().unwrap_or_else(PoisonError::into_inner)
        }
        fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
            let guard = self.0.value.read().unwrap_or_else(PoisonError::into_inner);
            self.1 = self.0.version.load(SeqCst);
            guard
        }
    }
}

pub use watch::{WatchReceiver, WatchSender};

#[cfg(test)]
mod tests {
    #[test]
    fn passes_openrafts_conformance_suite() {
        openraft_rt::testing::Suite::<super::Runtime>::test_all();
    }
}
