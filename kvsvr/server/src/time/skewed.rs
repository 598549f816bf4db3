//! The clocks of simulated nodes (only under `--cfg madsim`).
//!
//! A node has one oscillator, which runs at a rate of its own. Its monotonic clock is that, its wall clock that and an offset. The simulator sets them with [`adjust`]; a node that was never adjusted has the simulation's own time. Whose
//! clock counts is decided by the task that asks: a [`Sleep`] belongs to the node that made it.
//!
//! The table is kept for each thread, as the simulation's context is. It relies on that one simulation runs on a thread; [`forget_all`]
//! begins another one. The monotonic clock never goes back: the methods of [`Clock`] cannot make it.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    future::Future,
    ops::{Add, AddAssign, Sub, SubAssign},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use madsim::{task::NodeId, time as real};

/// The clocks of one node. Times are of the simulation, counted from its begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clock {
    /// Time of the oscillator for one of the simulation.
    rate: f64,
    /// When the rate was set, and what the oscillator said then.
    since: Duration,
    counted: Duration,
    /// Added to the oscillator by the wall clock, in nanoseconds.
    wall: i128,
}

impl Default for Clock {
    /// The simulation's own time.
    fn default() -> Self {
        Self::TRUE
    }
}

impl Clock {
    /// The simulation's own time.
    const TRUE: Clock = Clock {
        rate: 1.0,
        since: Duration::ZERO,
        counted: Duration::ZERO,
        wall: 0,
    };

    fn oscillator(&self, now: Duration) -> Duration {
        self.counted + now.saturating_sub(self.since).mul_f64(self.rate)
    }

    /// Not before this much of the simulation's time will the monotonic clock reach `at`.
    fn until(&self, at: Duration, now: Duration) -> Duration {
        let left = at.saturating_sub(self.oscillator(now));
        // Rounding must not make a timer fire before its time, over and over.
        left.div_f64(self.rate) + Duration::from_nanos(1)
    }

    /// Sets how fast the clocks run from now on. 1.0 is right, and the least is 0.01.
    pub fn set_rate(&mut self, rate: f64) {
        let now = now();
        self.counted = self.oscillator(now);
        self.since = now;
        self.rate = rate.max(0.01);
    }

    /// Sets how far the wall clock is before (or behind) the oscillator, in milliseconds. It may jump either way.
    pub fn set_wall_offset_ms(&mut self, offset: i64) {
        self.wall = i128::from(offset) * 1_000_000;
    }
}

#[derive(Default)]
struct Table {
    clocks: BTreeMap<NodeId, Clock>,
    /// Who sleeps until a time of a node's clock, to be woken when that is adjusted.
    sleepers: BTreeMap<(NodeId, u64), Waker>,
    next_sleeper: u64,
}

thread_local! {
    static TABLE: RefCell<Table> = RefCell::default();
    /// Whose clocks count instead of those of the task's node.
    static ACTING: Cell<Option<NodeId>> = const { Cell::new(None) };
}

/// Whose clocks count.
fn asking() -> NodeId {
    ACTING.get().unwrap_or_else(madsim::plugin::node)
}

/// Runs `look` with the clocks of a node: for who looks at it from outside.
pub fn as_node<T>(node: NodeId, look: impl FnOnce() -> T) -> T {
    let before = ACTING.replace(Some(node));
    let result = look();
    ACTING.set(before);
    result
}

/// Nothing while the thread ends: what is dropped then has no use for a clock.
fn with_table<T>(use_it: impl FnOnce(&mut Table) -> T) -> Option<T> {
    TABLE.try_with(|table| use_it(&mut table.borrow_mut())).ok()
}

fn now() -> Duration {
    real::TimeHandle::current().elapsed()
}

/// The clocks of a node.
pub fn clock(node: NodeId) -> Clock {
    with_table(|table| table.clocks.get(&node).copied())
        .flatten()
        .unwrap_or(Clock::TRUE)
}

/// Changes the clocks of a node. Who sleeps by them looks at them again.
pub fn adjust(node: NodeId, change: impl FnOnce(&mut Clock)) {
    let mut clock = clock(node);
    change(&mut clock);
    let sleepers = with_table(|table| {
        table.clocks.insert(node, clock);
        let of_node = table.sleepers.range((node, 0)..=(node, u64::MAX));
        of_node.map(|(_, waker)| waker.clone()).collect::<Vec<_>>()
    });
    // Waking may drop tasks, and with them sleeps.
    sleepers.into_iter().flatten().for_each(Waker::wake);
}

/// Every node has the simulation's own time again.
pub fn forget_all() {
    with_table(|table| table.clocks.clear());
}

/// A point of a node's monotonic clock. Comparing those of different nodes says nothing.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Instant(Duration);

impl Instant {
    /// Now, by the clock of the node whose task asks.
    pub fn now() -> Self {
        Self(clock(asking()).oscillator(now()))
    }

    /// Time since then; zero if it is to come.
    pub fn elapsed(&self) -> Duration {
        Self::now().saturating_duration_since(*self)
    }

    /// Time since an earlier point; zero if it is later.
    pub fn saturating_duration_since(&self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Time since an earlier point; zero if it is later.
    pub fn duration_since(&self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0 + rhs)
    }
}
impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, rhs: Duration) {
        self.0 += rhs;
    }
}
impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(rhs))
    }
}
impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, rhs: Duration) {
        self.0 = self.0.saturating_sub(rhs);
    }
}
impl Sub for Instant {
    type Output = Duration;
    fn sub(self, rhs: Self) -> Duration {
        self.saturating_duration_since(rhs)
    }
}

/// Unix milliseconds by this node's wall clock. Only for stamps on entries and for people.
pub fn wall_clock_ms() -> u64 {
    let (clock, now) = (clock(madsim::plugin::node()), now());
    let right = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let begin = right.saturating_sub(now);
    let nanos = (begin + clock.oscillator(now)).as_nanos() as i128 + clock.wall;
    u64::try_from(nanos / 1_000_000).unwrap_or(0)
}

/// A point of this node's clock as the libraries beside this crate count time.
pub fn outside(at: Instant) -> tokio::time::Instant {
    let now = now();
    tokio::time::Instant::now() + clock(madsim::plugin::node()).until(at.0, now)
}

/// Waits for a point of a node's clock.
#[must_use = "futures do nothing unless you `.await` or poll them"]
pub struct Sleep {
    node: NodeId,
    until: Instant,
    /// Its key in the table; the table has its waker while it waits.
    key: u64,
    /// A timer of the simulation that wakes this waker no later than the clock, as it runs now, gets there.
    timer: Option<(Pin<Box<real::Sleep>>, Clock, Waker)>,
}

impl Sleep {
    fn new(until: Instant) -> Self {
        let key = with_table(|table| {
            table.next_sleeper += 1;
            table.next_sleeper
        });
        Self {
            node: madsim::plugin::node(),
            until,
            key: key.unwrap_or(0),
            timer: None,
        }
    }

    fn stop(&mut self) {
        self.timer = None;
        // The waker is dropped outside: it may be the last that holds a task.
        drop(with_table(|table| table.sleepers.remove(&(self.node, self.key))));
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let (clock, now) = (clock(self.node), now());
        if clock.oscillator(now) >= self.until.0 {
            self.stop();
            return Poll::Ready(());
        }
        // The simulation's timers are not taken back: a new one only if the old one does not serve.
        let fits = matches!(&self.timer, Some((timer, set, waker))
            if *set == clock && waker.will_wake(context.waker()) && !timer.is_elapsed());
        if !fits {
            let waker = context.waker().clone();
            let wait = clock.until(self.until.0, now);
            let mut timer = Box::pin(real::sleep(wait));
            let waits = timer.as_mut().poll(context).is_pending();
            debug_assert!(waits, "the least sleep of the simulation is a millisecond");
            self.timer = Some((timer, clock, waker.clone()));
            let key = (self.node, self.key);
            drop(with_table(|table| table.sleepers.insert(key, waker)));
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sleep({:?})", self.until)
    }
}

/// Waits. As with tokio, a millisecond at least.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(Instant::now() + duration)
}

/// Waits until a point of this node's clock.
pub fn sleep_until(until: Instant) -> Sleep {
    Sleep::new(until.max(Instant::now() + Duration::from_millis(1)))
}

/// A deadline passed.
#[derive(Debug, PartialEq, Eq)]
pub struct Elapsed(());

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("deadline has elapsed")
    }
}

impl std::error::Error for Elapsed {}

/// Runs a future for a time.
///
/// # Errors
/// The time passed first.
pub fn timeout<F: Future>(duration: Duration, future: F) -> impl Future<Output = Result<F::Output, Elapsed>> {
    limit(sleep(duration), future)
}

/// Runs a future until a point of this node's clock.
///
/// # Errors
/// That came first.
pub fn timeout_at<F: Future>(
    deadline: Instant,
    future: F,
) -> impl Future<Output = Result<F::Output, Elapsed>> {
    limit(sleep_until(deadline), future)
}

async fn limit<F: Future>(sleep: Sleep, future: F) -> Result<F::Output, Elapsed> {
    let (mut sleep, mut future) = (pin!(sleep), pin!(future));
    std::future::poll_fn(|context| {
        if let Poll::Ready(value) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(value));
        }
        sleep.as_mut().poll(context).map(|()| Err(Elapsed(())))
    })
    .await
}
