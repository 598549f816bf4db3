//! Which trouble with a disk is why a process ended, by the reason that it told.
//!
//! A process that ends for its disk names what it met there: the errors of the simulated disk and engine, and the damage that the log and the
//! snapshots find, all have words of their own. So a reason says what must have come to the machine ([`Reason::of`]), and where in its life
//! the process met it. A reason that names nothing of the kind is explained by no fault.

use std::fmt;

use crate::{damage::Target, failpoint::Point};

/// What came to a machine that may end a process there. An empty disk is none: who has nothing waits until it is told what to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// The disk, or the engine on it, had no room for something.
    NoSpace,
    /// An operation of the disk, or of the engine on it, failed with EIO.
    Error,
    /// The same at a failpoint.
    Failpoint(Point),
    /// Something on the disk was damaged.
    Damage(Target),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSpace => "no space",
            Self::Error => "an error",
            Self::Failpoint(_) => "an error at a failpoint",
            Self::Damage(Target::Log) => "a damaged log",
            Self::Damage(Target::Staging) => "a damaged snapshot",
            Self::Damage(Target::Engine) => "a damaged row",
        })
    }
}

/// Where in its life a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// At its start.
    Start,
    /// The log could not be written.
    Log,
    /// The engine could not be made durable, or not be written.
    Engine,
    /// A replica could not go on, or not begin.
    Replica,
    /// What the shard map says of the node's replicas could not be carried out.
    Map,
    /// At its orderly stop.
    Stop,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "cannot start",
            Self::Log => "the log failed",
            Self::Engine => "the engine failed",
            Self::Replica => "a replica stopped",
            Self::Map => "the shard map cannot be followed",
            Self::Stop => "could not stop in order",
        })
    }
}

/// What reasons begin with.
const STAGES: [(&str, Stage); 8] = [
    ("cannot start: ", Stage::Start),
    ("the log failed: ", Stage::Log),
    ("the engine cannot flush: ", Stage::Engine),
    ("the engine cannot take rows: ", Stage::Engine),
    ("could not stop in order: ", Stage::Stop),
    ("shard ", Stage::Replica),
    ("the meta shard does not start: ", Stage::Replica),
    ("the shard map cannot be followed: ", Stage::Map),
];

/// What they say of no room.
const NO_SPACE: [&str; 2] = ["no space left on device", "the disk is full"];
/// Of EIO: of the system, and of syncs and flushes.
const ERRORS: [&str; 2] = ["input/output error", "injected sync failure"];
/// Of damage.
const DAMAGE: [(&str, Target); 4] = [
    ("the log is corrupt: wal/", Target::Log),
    ("is damaged; stop the node and run `kvsvr check`", Target::Log),
    ("is incomplete or damaged", Target::Staging),
    ("injected checksum mismatch", Target::Engine),
];
/// Who reads what is damaged. What is only written is not looked at.
const READS: [Stage; 4] = [Stage::Start, Stage::Replica, Stage::Map, Stage::Stop];

/// Why a process ended, as far as its disk is why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Where.
    pub stage: Stage,
    /// What it met.
    pub trouble: Trouble,
}

impl Reason {
    /// What a process has told. `None`: it names no trouble of a disk, or one that cannot come there.
    pub fn of(told: &str) -> Option<Self> {
        let (_, stage) = *STAGES.iter().find(|(begin, _)| told.starts_with(begin))?;
        let trouble = trouble(told)?;
        let can_come = !matches!(trouble, Trouble::Damage(_)) || READS.contains(&stage);
        can_come.then_some(Self { stage, trouble })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.stage, self.trouble)
    }
}

fn trouble(told: &str) -> Option<Trouble> {
    let lower = told.to_lowercase();
    let has = |words: &str| lower.contains(words);
    if let Some((_, target)) = DAMAGE.iter().find(|(words, _)| has(words)) {
        return Some(Trouble::Damage(*target));
    }
    if let Some((_, point)) = lower.split_once("injected input/output error at ") {
        let is_of_name = |c: char| c.is_ascii_lowercase() || c == '_' || c == '.';
        let end = point.find(|c| !is_of_name(c)).unwrap_or(point.len());
        return point[..end]
            .trim_end_matches('.')
            .parse()
            .ok()
            .map(Trouble::Failpoint);
    }
    if NO_SPACE.iter().any(|words| has(words)) {
        return Some(Trouble::NoSpace);
    }
    ERRORS.iter().any(|words| has(words)).then_some(Trouble::Error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failpoint::Step;

    fn told(reason: &str) -> Option<String> {
        Reason::of(reason).map(|reason| reason.to_string())
    }

    #[test]
    fn a_reason_names_what_came() {
        for (reason, is) in [
            (
                "the engine cannot flush: storage: no space left on device",
                "the engine failed, no space",
            ),
            (
                "the log failed: the disk is full, the log cannot be written (no space). Free some",
                "the log failed, no space",
            ),
            (
                "the log failed: the log cannot be written (other error: injected sync failure). What",
                "the log failed, an error",
            ),
            (
                "cannot start: cannot read wal/1.wal: Input/output error (os error 5)",
                "cannot start, an error",
            ),
            (
                "could not stop in order: storage: injected input/output error",
                "could not stop in order, an error",
            ),
            (
                "shard 2: when Read Logs: std::io::error::Error: Input/output error (os error 5)",
                "a replica stopped, an error",
            ),
            (
                "the shard map cannot be followed: cannot use the data directory REPLICAS: Input/output error (os error 5)",
                "the shard map cannot be followed, an error",
            ),
            (
                "the meta shard does not start: storage: no space left on device",
                "a replica stopped, no space",
            ),
            (
                "cannot start: the log is corrupt: wal/1.wal at byte 9: a block is damaged or missing",
                "cannot start, a damaged log",
            ),
            (
                "shard 2: when Read Logs: std::io::error::Error: wal/1.wal at byte 9: entry 5 of shard 2 is damaged; stop the node and run `kvsvr check`",
                "a replica stopped, a damaged log",
            ),
            (
                "shard 1: when Write Snapshot(None): snapshot staging: staging/1/chunks is incomplete or damaged at byte 3",
                "a replica stopped, a damaged snapshot",
            ),
            (
                "shard 1: when Write Apply(..): corrupt data: injected checksum mismatch in Ttl; stop",
                "a replica stopped, a damaged row",
            ),
        ] {
            assert_eq!(told(reason).as_deref(), Some(is), "{reason}");
        }
    }

    #[test]
    fn an_error_at_a_failpoint_says_which() {
        for point in [Step::WalSync.after(), Step::EngineWrite.before()] {
            for end in ["", ". What has reached the disk", "). What"] {
                let reason = format!("the log failed: injected input/output error at {point}{end}");
                let of = Reason::of(&reason).map(|reason| reason.trouble);
                assert_eq!(of, Some(Trouble::Failpoint(point)), "{reason}");
            }
        }
        assert_eq!(told("the log failed: injected input/output error at noon"), None);
    }

    #[test]
    fn what_names_no_trouble_of_a_disk_is_not_explained() {
        for reason in [
            "shard 1: a row does not decode",
            "shard 1: corrupt state in the engine: corrupt data: a row of a session that does not exist",
            "the log failed: entries do not follow",
            "the node was dropped",
            "its task has ended",
            "cannot start: the node is a member and has no log any more",
            "cannot start: entry 5 of shard 1 is not in the log",
            // Nobody says so.
            "because of an input/output error",
            // Nothing damaged is read there.
            "the log failed: injected checksum mismatch",
            "the engine cannot flush: the log is corrupt: wal/1.wal",
        ] {
            assert_eq!(told(reason), None, "{reason}");
        }
    }
}
