//! The clocks of simulated machines.
//!
//! The node's code reads and waits by the clocks of [`kvsvr::time::skewed`], which are kept by the simulation's node. A machine has a new
//! one for each of its processes, and one [`MachineClock`] that all of them have.

use std::pin::pin;

use kvsvr::time::skewed::{self, Clock};
use madsim::task::NodeId;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// The clock of one machine.
#[derive(Debug, Default)]
pub struct MachineClock(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    clock: Clock,
    process: Option<NodeId>,
}

impl MachineClock {
    /// The machine's process is this one from now on.
    pub fn attach(&self, process: NodeId) {
        let mut state = self.0.lock();
        state.process = Some(process);
        let clock = state.clock;
        drop(state);
        skewed::adjust(process, |it| *it = clock);
    }

    /// How fast the clocks run from now on; 1.0 is right. Real ones stay within 0.0005 of that, broken ones do not.
    pub fn set_rate(&self, rate: f64) {
        self.change(|clock| clock.set_rate(rate));
    }

    /// Sets how far the wall clock is from the right time, in milliseconds.
    pub fn set_wall_offset_ms(&self, offset: i64) {
        self.change(|clock| clock.set_wall_offset_ms(offset));
    }

    fn change(&self, change: impl FnOnce(&mut Clock)) {
        let mut state = self.0.lock();
        change(&mut state.clock);
        let (clock, process) = (state.clock, state.process);
        drop(state);
        if let Some(process) = process {
            skewed::adjust(process, |it| *it = clock);
        }
    }
}

/// Waits, by the simulation's own time, to the nanosecond: the simulation's sleep is a millisecond at least.
pub(crate) async fn sleep_exactly(until: Instant) {
    let mut sleep = pin!(sleep_until(until));
    sleep.as_mut().reset(until);
    sleep.await;
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use kvsvr::time;
    use madsim::runtime::{Handle, Runtime};

    use super::*;

    /// Runs the test on a machine with the clock that `set` gives it.
    fn on_machine<T, F>(set: impl FnOnce(&MachineClock), test: impl FnOnce(Arc<MachineClock>) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(async {
            skewed::forget_all();
            let node = Handle::current().create_node().build();
            let clock = Arc::new(MachineClock::default());
            set(&clock);
            clock.attach(node.id());
            node.spawn(test(clock)).await.unwrap()
        })
    }

    fn about(value: Duration, ms: u64) -> bool {
        value.abs_diff(Duration::from_millis(ms)) < Duration::from_millis(2)
    }

    #[test]
    fn a_fast_clock_shortens_sleeps_and_timeouts() {
        let waits = on_machine(
            |clock| clock.set_rate(1.25),
            |_| async {
                let (real, own) = (Instant::now(), time::Instant::now());
                time::sleep(Duration::from_secs(1)).await;
                let slept = (real.elapsed(), own.elapsed());
                let real = Instant::now();
                let ended = time::timeout(Duration::from_secs(1), std::future::pending::<()>()).await;
                (slept, ended.is_err(), real.elapsed())
            },
        );
        let ((real, own), ended, timeout) = waits;
        assert!(about(real, 800) && about(own, 1000), "{real:?} {own:?}");
        assert!(ended && about(timeout, 800), "{timeout:?}");
    }

    #[test]
    fn a_faster_rate_wakes_who_sleeps() {
        let real = on_machine(
            |_| {},
            |clock| async move {
                let real = Instant::now();
                let sleeping = tokio::spawn(time::sleep(Duration::from_secs(10)));
                tokio::time::sleep(Duration::from_secs(1)).await;
                clock.set_rate(9.0);
                sleeping.await.unwrap();
                real.elapsed()
            },
        );
        assert!(about(real, 2000), "{real:?}");
    }

    #[test]
    fn a_slower_rate_prolongs_a_sleep_under_way() {
        let real = on_machine(
            |_| {},
            |clock| async move {
                let real = Instant::now();
                let sleeping = tokio::spawn(time::sleep(Duration::from_secs(2)));
                tokio::time::sleep(Duration::from_secs(1)).await;
                clock.set_rate(0.5);
                sleeping.await.unwrap();
                real.elapsed()
            },
        );
        assert!(about(real, 3000), "{real:?}");
    }

    #[test]
    fn the_wall_clock_jumps_and_drifts_and_the_monotonic_one_does_not_jump() {
        let (before, jumped, drifted, monotonic) = on_machine(
            |_| {},
            |clock| async move {
                let (before, own) = (time::wall_clock_ms(), time::Instant::now());
                clock.set_wall_offset_ms(-3_600_000);
                let jumped = time::wall_clock_ms();
                let monotonic = own.elapsed();
                clock.set_rate(1.1);
                tokio::time::sleep(Duration::from_secs(10)).await;
                (before, jumped, time::wall_clock_ms(), monotonic)
            },
        );
        assert!(before.abs_diff(jumped + 3_600_000) <= 1, "{before} {jumped}");
        assert!(drifted.abs_diff(jumped + 11_000) <= 2, "{drifted} {jumped}");
        assert!(monotonic < Duration::from_millis(1));
    }

    #[test]
    fn nodes_have_clocks_of_their_own_that_outlive_their_processes() {
        let elapsed = Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(async {
            skewed::forget_all();
            let clock = MachineClock::default();
            clock.set_rate(2.0);
            let mut elapsed = Vec::new();
            for skewed in [true, false, true] {
                let node = Handle::current().create_node().build();
                if skewed {
                    clock.attach(node.id());
                }
                let measuring = node.spawn(async {
                    let own = time::Instant::now();
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    own.elapsed()
                });
                elapsed.push(measuring.await.unwrap());
            }
            elapsed
        });
        assert!(
            about(elapsed[0], 2000) && about(elapsed[1], 1000) && about(elapsed[2], 2000),
            "{elapsed:?}"
        );
    }
}
