//! What the checkers need to know besides a history, kept beside it, so that a history can be checked again later.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufReader},
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    check::{Commit, Context, Replica, Verdict, WrongClock, check_all, service},
    history::{Event, Nanos, Process, jsonl, paired},
    workload::Spec,
};

/// The file beside `history.jsonl`.
pub const FILE: &str = "context.json";
/// Another one, if the committed log is known.
pub const LOG: &str = "log.jsonl";

/// Longer than elsewhere: disks and processors are shared with who knows whom.
const EXPIRY_DELAY: Nanos = 4_000_000_000;

/// While no fault is under way, no shard may serve nobody for so long.
const UNSERVED: Duration = Duration::from_secs(8);
/// The checker of that.
pub const SERVICE: &str = "service";

/// What was true of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// What clients did.
    pub workload: Spec,
    /// The shard of each partition.
    pub shards: BTreeMap<u32, u32>,
    /// See [`Context::final_from`].
    pub final_from: Option<Nanos>,
    /// See [`Context::drained`].
    pub drained: bool,
    /// See [`Context::monotonic`].
    pub monotonic: BTreeSet<Process>,
    /// See [`Context::clock_error`].
    pub clock_error: Nanos,
    /// See [`Context::wrong_clocks`].
    pub wrong_clocks: Vec<WrongClock>,
    /// See [`Context::disturbed`].
    #[serde(default)]
    pub disturbed: Option<Vec<(Nanos, Nanos)>>,
    /// When faults were under way; `None`: it is not known, and whether everything was served in other times is not judged.
    #[serde(default)]
    pub faults: Option<Vec<(Nanos, Nanos)>>,
    /// See [`Context::keep_revisions`].
    #[serde(default)]
    pub keep_revisions: Option<u64>,
    /// See [`Context::demanding`].
    pub demanding: bool,
    /// Node, shard, index and hash of replicas at the end.
    pub replicas: Vec<(u64, u32, u64, u64)>,
    /// See [`Context::placement`].
    #[serde(default)]
    pub placement: Option<Vec<(u64, u32)>>,
}

impl Facts {
    /// Reads them.
    ///
    /// # Errors
    /// There is no such file, or it is another one.
    pub fn read(path: &Path) -> io::Result<Self> {
        let file = File::open(path).map_err(|error| at(path, &error))?;
        serde_json::from_reader(BufReader::new(file)).map_err(|error| at(path, &error.into()))
    }

    /// Runs all checkers on a history, whose unknown outcomes are resolved from the committed log first if that is known.
    pub fn check(&self, events: &[Event], log: Option<&[Commit]>) -> BTreeMap<String, Verdict> {
        let shard_of = |partition: u32| self.shards.get(&partition).copied().unwrap_or(0);
        let replicas: Vec<Replica> = self
            .replicas
            .iter()
            .map(|&(node, shard, applied, hash)| Replica {
                node,
                shard,
                applied,
                hash,
            })
            .collect();
        let context = Context {
            final_from: self.final_from,
            drained: self.drained,
            accounts: self.workload.accounts(),
            monotonic: self.monotonic.clone(),
            clock_error: self.clock_error,
            wrong_clocks: &self.wrong_clocks,
            disturbed: self.disturbed.as_deref(),
            expiry_delay: EXPIRY_DELAY,
            keep_revisions: self.keep_revisions,
            demanding: self.demanding,
            replicas: &replicas,
            placement: self.placement.as_deref(),
            committed: log,
            ..Context::new(&shard_of)
        };
        let mut verdicts = check_all(&self.workload.checks(), events, &context);
        let served = self
            .faults
            .as_ref()
            .map(|faults| service::check(&paired(events), faults, &shard_of, UNSERVED));
        // Faults may have left no time to judge.
        verdicts.extend(
            served
                .filter(|verdict| !verdict.is_empty())
                .map(|verdict| (SERVICE, verdict)),
        );
        verdicts
            .into_iter()
            .map(|(name, verdict)| (name.to_owned(), verdict))
            .collect()
    }
}

/// Checks a history again, with the facts beside it.
///
/// # Errors
/// One of the files is not there, or cannot be read.
pub fn recheck(history: &Path) -> io::Result<BTreeMap<String, Verdict>> {
    if history.is_dir() {
        return Err(unexpected(history, "is a directory"));
    }
    let file = match File::open(history) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(unexpected(history, "there is no such file"));
        }
        other => other.map_err(|error| at(history, &error))?,
    };
    let beside = history.with_file_name(FILE);
    if !beside.exists() {
        let why = format!("there is no {FILE} beside it");
        return Err(unexpected(history, &why));
    }
    let facts = Facts::read(&beside)?;
    let events = jsonl::read(BufReader::new(file)).map_err(|error| at(history, &error))?;
    let log = log(&history.with_file_name(LOG))?;
    Ok(facts.check(&events, log.as_deref()))
}

/// The committed log, if there is one.
fn log(path: &Path) -> io::Result<Option<Vec<Commit>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| at(path, &error))?,
    };
    let lines = serde_json::Deserializer::from_reader(BufReader::new(file)).into_iter();
    let commits: Result<Vec<Commit>, _> = lines.collect();
    commits.map(Some).map_err(|error| at(path, &error.into()))
}

/// It is not the history of a report.
fn unexpected(history: &Path, why: &str) -> io::Error {
    let path = history.display();
    let text = format!(
        "{path}: {why}; give the history.jsonl of a report, as `jepsen run --report DIR` writes it, with the {FILE} beside it"
    );
    io::Error::new(io::ErrorKind::NotFound, text)
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::check::testing::{Script, k, read, write};

    fn facts() -> Facts {
        Facts {
            workload: Spec::named(&["register"]).unwrap(),
            shards: BTreeMap::from([(0, 1)]),
            final_from: None,
            drained: false,
            monotonic: BTreeSet::new(),
            clock_error: 0,
            wrong_clocks: Vec::new(),
            disturbed: None,
            faults: None,
            keep_revisions: None,
            demanding: false,
            replicas: vec![(1, 1, 7, 5), (2, 1, 7, 5)],
            placement: Some(vec![(1, 1), (2, 1)]),
        }
    }

    fn save(dir: &Path, events: &[Event]) {
        fs::write(dir.join(FILE), serde_json::to_vec(&facts()).unwrap()).unwrap();
        let mut lines = Vec::new();
        jsonl::write(&mut lines, events).unwrap();
        fs::write(dir.join("history.jsonl"), lines).unwrap();
    }

    #[test]
    fn a_history_is_checked_again_with_what_was_known_of_its_run() {
        let dir = tempfile::tempdir().unwrap();
        let history = dir.path().join("history.jsonl");
        let good = Script::new().ok(1, (0, 1), write(k(0), 5, 1, 1)).ok(
            1,
            (2, 3),
            read(k(0), 1, Some((5, 1, 1, 1))),
        );
        save(dir.path(), &good.events());
        let verdicts = recheck(&history).unwrap();
        assert!(
            verdicts["linear"].is_valid() && verdicts["convergence"].is_valid(),
            "{verdicts:?}"
        );
        let stale = Script::new()
            .ok(1, (0, 1), write(k(0), 5, 1, 1))
            .ok(1, (2, 3), read(k(0), 1, None));
        save(dir.path(), &stale.events());
        let verdicts = recheck(&history).unwrap();
        assert!(
            matches!(verdicts["linear"], Verdict::Invalid { .. }),
            "{verdicts:?}"
        );
    }

    #[test]
    fn service_is_judged_where_the_faults_are_known() {
        let second = |n: u64| n * 1_000_000_000;
        let script = (0..20).fold(Script::new(), |script, at| {
            script.ok(
                at,
                (second(at), second(at) + 1),
                write(k(at as u32), at, at + 1, 1),
            )
        });
        let events = script.events();
        let told = |faults: Option<Vec<(Nanos, Nanos)>>| {
            let facts = Facts { faults, ..facts() };
            facts.check(&events, None).get(SERVICE).map(Verdict::to_string)
        };
        assert_eq!(told(None), None);
        assert_eq!(told(Some(Vec::new())).as_deref(), Some("valid quiet times=1"));
        let busy = vec![(second(7), second(12))];
        assert_eq!(told(Some(busy)), None, "7 s before it, and 7 after");
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let history = dir.path().join("nope.jsonl");
        let told = |path: &Path| recheck(path).unwrap_err().to_string();
        let text = told(&history);
        assert!(text.contains("nope.jsonl: there is no such file"), "{text}");
        assert!(text.contains("give the history.jsonl of a report"), "{text}");
        let text = told(dir.path());
        assert!(text.contains("is a directory; give the history.jsonl"), "{text}");
        fs::write(&history, "").unwrap();
        let text = told(&history);
        assert!(text.contains(&format!("there is no {FILE} beside it")), "{text}");
    }
}
