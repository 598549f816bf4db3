//! Named points around everything that makes something durable, at which a plan can hurt a machine.
//!
//! A point is before or after a [`Step`]; `wal_sync.before` is when a block of the log is written and not synced. They are in the
//! simulator's disk and engine, where the node's calls arrive, so that the product has none. A machine keeps its points when its process
//! ends; what is armed fires once.

use std::{collections::BTreeMap, fmt, future::pending, io, str::FromStr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::clock::sleep_exactly;

/// What makes something durable, or is a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A block is written to the log, not synced.
    WalWrite,
    /// The block is synced. After it, and before anybody is told: acknowledgements that are lost.
    WalSync,
    /// A segment gets its name.
    WalBegin,
    /// A segment that is purged loses it.
    WalRecycle,
    /// Chunks of a snapshot are written, not synced.
    SnapshotWrite,
    /// Chunks are synced.
    SnapshotSync,
    /// A snapshot that is complete is marked to be installed.
    SnapshotMark,
    /// What was staged is removed, because it is installed or of no use.
    SnapshotRemove,
    /// The engine's rows of a shard are removed, for a snapshot.
    EngineClear,
    /// Applied rows are given to the engine.
    EngineWrite,
    /// The engine makes them durable.
    EngineFlush,
    /// A checkpoint for a snapshot is made.
    CheckpointCreate,
    /// One of the small files of the data directory gets its new content.
    StoreReplace,
}

impl Step {
    /// All of them, in the order of their definition.
    pub const ALL: [(Step, &'static str); 13] = [
        (Step::WalWrite, "wal_write"),
        (Step::WalSync, "wal_sync"),
        (Step::WalBegin, "wal_begin"),
        (Step::WalRecycle, "wal_recycle"),
        (Step::SnapshotWrite, "snapshot_write"),
        (Step::SnapshotSync, "snapshot_sync"),
        (Step::SnapshotMark, "snapshot_mark"),
        (Step::SnapshotRemove, "snapshot_remove"),
        (Step::EngineClear, "engine_clear"),
        (Step::EngineWrite, "engine_write"),
        (Step::EngineFlush, "engine_flush"),
        (Step::CheckpointCreate, "checkpoint_create"),
        (Step::StoreReplace, "store_replace"),
    ];

    /// Before it.
    pub fn before(self) -> Point {
        Point {
            step: self,
            after: false,
        }
    }

    /// After it.
    pub fn after(self) -> Point {
        Point {
            step: self,
            after: true,
        }
    }

    /// It happens in the engine, whose calls cannot wait.
    pub fn is_of_engine(self) -> bool {
        matches!(
            self,
            Step::EngineClear | Step::EngineWrite | Step::EngineFlush | Step::CheckpointCreate
        )
    }
}

/// Before or after a step. In words `STEP.before` or `STEP.after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Point {
    /// Which step.
    pub step: Step,
    /// When it has been carried out.
    pub after: bool,
}

impl Point {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Point> {
        Step::ALL
            .into_iter()
            .flat_map(|(step, _)| [step.before(), step.after()])
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Step::ALL
            .iter()
            .find(|(step, _)| *step == self.step)
            .map_or("", |(_, name)| name);
        write!(f, "{name}.{}", if self.after { "after" } else { "before" })
    }
}

impl From<Point> for String {
    fn from(point: Point) -> Self {
        point.to_string()
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Point::all().find(|point| point.to_string() == text);
        found.ok_or_else(|| format!("there is no failpoint {text:?}"))
    }
}

impl TryFrom<String> for Point {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The process is killed.
    Kill,
    /// The machine loses power.
    PowerLoss,
    /// The operation fails with EIO: before the step without being carried out, after it although it was.
    Error,
    /// It takes so many milliseconds more. In the engine it does nothing.
    Delay(u64),
}

/// What is armed and what has fired on one machine.
#[derive(Debug, Default)]
pub struct Failpoints(Mutex<State>);

#[derive(Debug)]
struct Armed {
    /// Who has armed it.
    by: usize,
    point: Point,
    /// Hits until it fires.
    left: u64,
    action: Action,
}

#[derive(Debug, Default)]
struct State {
    armed: Vec<Armed>,
    hits: BTreeMap<Point, u64>,
    fired: Vec<(Point, Action)>,
}

impl Failpoints {
    /// The `hit`-th time from now on that this point is come by, this happens, once. `by` is who arms it, see [`Failpoints::disarm`].
    pub fn arm(&self, by: usize, point: Point, hit: u64, action: Action) {
        let left = hit.max(1);
        self.0.lock().armed.push(Armed {
            by,
            point,
            left,
            action,
        });
    }

    /// What `by` has armed is armed no more.
    pub fn disarm(&self, by: usize) {
        self.0.lock().armed.retain(|armed| armed.by != by);
    }

    /// The machine has come by a point. What is to happen: one thing at a time.
    fn pass(&self, point: Point) -> Option<Action> {
        let mut state = self.0.lock();
        let state = &mut *state;
        *state.hits.entry(point).or_default() += 1;
        for armed in state.armed.iter_mut().filter(|armed| armed.point == point) {
            armed.left = armed.left.saturating_sub(1);
        }
        let due = |armed: &Armed| armed.point == point && armed.left == 0;
        let action = state.armed.remove(state.armed.iter().position(due)?).action;
        state.fired.push((point, action));
        Some(action)
    }

    /// How often each point was come by.
    pub fn hits(&self) -> BTreeMap<Point, u64> {
        self.0.lock().hits.clone()
    }

    /// What has happened, oldest first.
    pub fn fired(&self) -> Vec<(Point, Action)> {
        self.0.lock().fired.clone()
    }
}

/// Ends the process, and at a power loss the machine's.
pub type Crash = Arc<dyn Fn(Action, Point) + Send + Sync>;

/// The points as one process comes by them.
#[derive(Clone)]
pub struct Gate {
    points: Arc<Failpoints>,
    crash: Crash,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

impl Gate {
    /// For a process that `crash` ends.
    pub fn new(points: Arc<Failpoints>, crash: Crash) -> Self {
        Self { points, crash }
    }

    /// Comes by a point and cannot wait there.
    ///
    /// # Errors
    /// The operation is to fail, or the process has ended.
    pub(crate) fn pass_at_once(&self, point: Point) -> io::Result<()> {
        match self.points.pass(point) {
            None | Some(Action::Delay(_)) => Ok(()),
            Some(Action::Error) => Err(failure(point)),
            Some(action) => {
                (self.crash)(action, point);
                Err(io::Error::other(format!("the process has ended at {point}")))
            }
        }
    }

    /// Comes by a point. Does not return when the process ends there.
    ///
    /// # Errors
    /// The operation is to fail.
    pub(crate) async fn pass(&self, point: Point) -> io::Result<()> {
        match self.points.pass(point) {
            None => Ok(()),
            Some(Action::Delay(ms)) => {
                sleep_exactly(Instant::now() + Duration::from_millis(ms)).await;
                Ok(())
            }
            Some(Action::Error) => Err(failure(point)),
            Some(action) => {
                (self.crash)(action, point);
                pending().await
            }
        }
    }
}

fn failure(point: Point) -> io::Error {
    io::Error::other(format!("injected input/output error at {point}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_have_names() {
        assert_eq!(Step::WalSync.before().to_string(), "wal_sync.before");
        assert_eq!(Point::all().count(), 26);
        for point in Point::all() {
            assert_eq!(point.to_string().parse(), Ok(point));
        }
        assert!("wal_sync".parse::<Point>().is_err());
    }

    #[test]
    fn what_is_armed_fires_once_at_its_hit() {
        let points = Failpoints::default();
        let (sync, write) = (Step::WalSync.after(), Step::WalWrite.before());
        points.arm(1, sync, 2, Action::Kill);
        points.arm(2, sync, 2, Action::Error);
        let passed = [sync, write, sync, sync, sync].map(|point| points.pass(point));
        assert_eq!(
            passed,
            [None, None, Some(Action::Kill), Some(Action::Error), None]
        );
        assert_eq!(points.hits()[&sync], 4);
        assert_eq!(points.fired(), [(sync, Action::Kill), (sync, Action::Error)]);
        points.arm(3, write, 1, Action::Delay(5));
        points.arm(4, write, 2, Action::Delay(6));
        points.disarm(3);
        assert_eq!(
            [write, write].map(|point| points.pass(point)),
            [None, Some(Action::Delay(6))]
        );
    }
}
