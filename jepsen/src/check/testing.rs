//! Builds histories for the checkers' tests.

use crate::history::{Call, Change, Event, Key, Mode, Nanos, Process, Reply, Revision, Row, Seen, Step};

use super::{Checker, Context, History, Verdict, Witness};

/// All partitions of less than 10 are in shard 1, others in shard 2.
pub(crate) fn shard_of(partition: u32) -> u32 {
    if partition < 10 { 1 } else { 2 }
}

/// A history in the making. Times are small numbers and all different.
#[derive(Default)]
pub(crate) struct Script {
    events: Vec<Event>,
}

impl Script {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn push(&mut self, time: Nanos, process: Process, step: Step) {
        self.events.push(Event { time, process, step });
    }

    /// A call that was carried out between two times.
    pub(crate) fn ok(
        mut self,
        process: Process,
        (begin, end): (Nanos, Nanos),
        (call, reply): (Call, Reply),
    ) -> Self {
        self.push(begin, process, Step::Invoke { call });
        self.push(end, process, Step::Ok { reply });
        self
    }

    /// A call that was not carried out.
    pub(crate) fn fail(self, process: Process, span: (Nanos, Nanos), call: Call) -> Self {
        self.fail_as("REFUSED", process, span, call)
    }

    /// The same, with the error's text.
    pub(crate) fn fail_as(
        mut self,
        error: &str,
        process: Process,
        (begin, end): (Nanos, Nanos),
        call: Call,
    ) -> Self {
        let error = error.to_owned();
        self.push(begin, process, Step::Invoke { call });
        self.push(end, process, Step::Fail { error });
        self
    }

    /// A call of unknown outcome.
    pub(crate) fn unknown(mut self, process: Process, (begin, end): (Nanos, Nanos), call: Call) -> Self {
        let error = "TIMEOUT".to_owned();
        self.push(begin, process, Step::Invoke { call });
        self.push(end, process, Step::Info { error });
        self
    }

    /// A call that was answered with what no workload makes.
    pub(crate) fn strange(mut self, process: Process, (begin, end): (Nanos, Nanos), call: Call) -> Self {
        let what = "a value that is not a number".to_owned();
        self.push(begin, process, Step::Invoke { call });
        self.push(end, process, Step::Strange { what });
        self
    }

    /// What a watch or consumer saw.
    pub(crate) fn seen(mut self, process: Process, time: Nanos, seen: Seen) -> Self {
        self.push(time, process, Step::Seen { seen });
        self
    }

    /// The events, by time.
    pub(crate) fn events(mut self) -> Vec<Event> {
        self.events.sort_by_key(|event| event.time);
        self.events
    }

    /// What a checker says, with two shards.
    pub(crate) fn check(self, checker: Checker) -> Verdict {
        self.check_with(checker, |_| {})
    }

    /// What a checker says, with more known.
    pub(crate) fn check_with(self, checker: Checker, more: impl FnOnce(&mut Context<'_>)) -> Verdict {
        let events = self.events();
        let mut context = Context::new(&shard_of);
        more(&mut context);
        checker(&History::new(&events), &context)
    }
}

/// The verdict must be valid.
#[track_caller]
pub(crate) fn valid(verdict: Verdict) {
    assert!(verdict.is_valid(), "{verdict}");
}

/// The verdict must be invalid by this rule.
#[track_caller]
pub(crate) fn broken(rule: &str, verdict: Verdict) -> Witness {
    match verdict {
        Verdict::Invalid { witness, .. } if witness.rule == rule => witness,
        verdict => panic!("not a broken {rule}: {verdict}"),
    }
}

/// The verdict must be unknown.
#[track_caller]
pub(crate) fn unknown(verdict: Verdict) {
    assert!(matches!(verdict, Verdict::Unknown { .. }), "{verdict}");
}

/// A key of partition 0.
pub(crate) fn k(key: u32) -> Key {
    Key { partition: 0, key }
}

pub(crate) fn call_write(key: Key, value: u64) -> Call {
    Call::Write {
        key,
        value,
        ttl_ms: 0,
        lease: 0,
    }
}

pub(crate) fn written(revision: Revision, version: u64) -> Reply {
    Reply::Written { revision, version }
}

/// A write that got this revision and version.
pub(crate) fn write(key: Key, value: u64, revision: Revision, version: u64) -> (Call, Reply) {
    (call_write(key, value), written(revision, version))
}

pub(crate) fn call_read(key: Key) -> Call {
    let mode = Mode::Linearizable;
    Call::Read { key, mode }
}

/// A read that found a value with its creation, revision and version.
pub(crate) fn read(
    key: Key,
    revision: Revision,
    found: Option<(u64, Revision, Revision, u64)>,
) -> (Call, Reply) {
    read_as(Mode::Linearizable, key, revision, found)
}

/// A read of some mode.
pub(crate) fn read_as(
    mode: Mode,
    key: Key,
    revision: Revision,
    found: Option<(u64, Revision, Revision, u64)>,
) -> (Call, Reply) {
    let row = found.map(|(value, create_rev, mod_rev, version)| Row {
        value,
        create_rev,
        mod_rev,
        version,
    });
    let reply = Reply::Row {
        revision,
        row,
        age_ms: 0,
    };
    (Call::Read { key, mode }, reply)
}

pub(crate) fn delete(key: Key, revision: Revision, existed: bool) -> (Call, Reply) {
    (Call::Delete { key }, Reply::Deleted { revision, existed })
}

/// A scan of partition 0.
pub(crate) fn scan(revision: Revision, items: &[(u64, u64)]) -> (Call, Reply) {
    let (partition, mode) = (0, Mode::Linearizable);
    let items = items.to_vec();
    (Call::Scan { partition, mode }, Reply::Items { revision, items })
}

/// A change that a watch shows.
pub(crate) fn change(revision: Revision, key: Key, value: Option<u64>) -> Change {
    Change {
        revision,
        key,
        value,
        expired: false,
        create_rev: 0,
        version: 0,
        lease: 0,
    }
}

pub(crate) fn changes(changes: &[Change], through: Revision) -> Seen {
    Seen::Changes {
        changes: changes.to_vec(),
        through,
    }
}
