//! What the numbers in a verdict count, in words, for who reads a report.
//!
//! Checkers count what they look at where a rule could have been broken ([`Stats`](super::Stats)). A number without a line here fails a test.

/// What an invariant of the simulator counts.
pub const MOMENTS: &str =
    "moments that had something of what it looks at, so that it could have been seen broken";

/// Checker, number, and what is counted.
const COUNTED: [(&str, &str, &str); 89] = [
    ("answers", "answers", "ends of calls, whatever they were"),
    (
        "answers",
        "seen",
        "messages that watches and consumers were shown",
    ),
    (
        "bank",
        "arrivals",
        "receptions that were carried out: each once, and of what was sent",
    ),
    (
        "bank",
        "balances",
        "balances of single accounts, each held against all payments up to its revision",
    ),
    (
        "bank",
        "balances shown",
        "of these, balances that watches, consumers or the committed log show",
    ),
    (
        "bank",
        "payments",
        "answered payments and sends: who paid had enough, who was refused had not",
    ),
    (
        "bank",
        "reads of all accounts",
        "reads of a partition's accounts at one revision, whose sum must be right",
    ),
    (
        "bank",
        "sends",
        "sends from one partition to another, with all tries of both steps",
    ),
    ("bank", "totals", "sums over all partitions at the end"),
    (
        "committed",
        "acknowledged",
        "acknowledged changes, each of which must be in the committed log",
    ),
    (
        "committed",
        "commits",
        "commands of the committed log that changed something",
    ),
    (
        "committed",
        "resolved",
        "calls of unknown outcome that the committed log shows to be carried out",
    ),
    ("consumer", "acks", "acknowledgements that were not refused"),
    (
        "consumer",
        "changes seen",
        "changes that owners were shown, each held against what was changed",
    ),
    (
        "consumer",
        "compactions",
        "times that an owner was told of a compaction, which must have been allowed",
    ),
    (
        "consumer",
        "cursors",
        "owners that began after somebody else's acknowledgement, and must not begin before it",
    ),
    (
        "consumer",
        "fenced",
        "owners that were told of a newer one, which there must be",
    ),
    (
        "consumer",
        "kept for consumers",
        "of these, those where no consumer of the shard may have needed what is gone",
    ),
    (
        "consumer",
        "owners",
        "times that somebody became the owner of a consumer",
    ),
    (
        "consumer",
        "refused acks",
        "acknowledgements that were refused after another owner had begun",
    ),
    (
        "consumer",
        "shown of unknown outcome",
        "changes shown that nobody acknowledged: as many calls of unknown outcome must explain them",
    ),
    (
        "consumer",
        "starts",
        "consumers whose first owner must not begin beyond what the shard had then",
    ),
    (
        "consumer",
        "successions",
        "owners after another one: the cursor went neither back nor too far",
    ),
    (
        "convergence",
        "compared",
        "replicas whose state was compared with another one's at the same index",
    ),
    ("counter", "counts", "reads of counters"),
    (
        "counter",
        "finals",
        "counters that were read at the end, and must have all that was acknowledged",
    ),
    ("counter", "increments", "acknowledged increments"),
    (
        "lease",
        "absences",
        "reads that found nothing of a key whose time is known: it must have been up",
    ),
    (
        "lease",
        "after revocations",
        "calls after the end of their lease's revocation: all must have been refused",
    ),
    (
        "lease",
        "expiries",
        "events that say that a key expired: its time must have been up",
    ),
    (
        "lease",
        "late",
        "reads in quiet times of keys whose time was up: none may be there",
    ),
    ("lease", "late at the end", "the same after the final recovery"),
    (
        "lease",
        "late calls",
        "calls in quiet times with leases whose time was up: all must have been refused",
    ),
    (
        "lease",
        "reads",
        "linearizable reads of keys that have had a TTL or a lease",
    ),
    (
        "lease",
        "reads after revocations",
        "reads of keys put with a lease that had been revoked: that value must be gone",
    ),
    (
        "lease",
        "refusals",
        "calls that were refused because their lease had ended: its time must have been up",
    ),
    (
        "linear",
        "keys",
        "keys, for each of which all operations must have an order that explains them",
    ),
    ("linear", "operations", "operations on these keys"),
    (
        "list",
        "appends",
        "acknowledged appends, each with a place of its own",
    ),
    (
        "list",
        "list reads",
        "reads of lists, each held against all appends",
    ),
    (
        "pages",
        "backwards",
        "of the ranges in several pages, those read from the last key to the first",
    ),
    (
        "pages",
        "compared",
        "pairs of reads at one revision, of which one came in pages: both must have found the same",
    ),
    ("pages", "continued", "ranges that came in several pages"),
    (
        "pages",
        "ranges",
        "ranges that were read page by page, in order and none twice",
    ),
    (
        "pages",
        "states",
        "of the ranges, those whose state is known, and must have been found",
    ),
    (
        "resets",
        "after deletions",
        "consumers that began after another one of the shard was deleted: their epochs must be greater",
    ),
    (
        "resets",
        "acks",
        "acknowledgements of owners, from which the consumer goes on",
    ),
    (
        "resets",
        "begun",
        "consumers that began at a revision, and must be right before it",
    ),
    (
        "resets",
        "changes seen",
        "changes that owners were shown, each held against what was changed",
    ),
    (
        "resets",
        "compactions",
        "times that an owner was told of a compaction, which must have been allowed",
    ),
    (
        "resets",
        "deletions",
        "consumers that were deleted, and must not be there after it",
    ),
    (
        "resets",
        "fenced",
        "owners that were told of a newer one or of a reset, which there must be",
    ),
    (
        "resets",
        "not found",
        "calls that were refused because there is no consumer: there must be none",
    ),
    (
        "resets",
        "refused acks",
        "acknowledgements that were refused to who is not the owner: it must be another one",
    ),
    (
        "resets",
        "resets",
        "resets: cursor and epoch must be those that follow",
    ),
    (
        "resets",
        "taken over",
        "consumers that were taken over: cursor and epoch must be those that follow",
    ),
    (
        "revisions",
        "absences",
        "of the values, those where no call of unknown outcome could have deleted the key",
    ),
    (
        "revisions",
        "after absences",
        "reads that found a key again which was gone: it must be a newer version",
    ),
    (
        "revisions",
        "answers",
        "answers that say something of a key: reads, conditions, each key of a scan",
    ),
    (
        "revisions",
        "chained",
        "changes of keys, each held against the one before it",
    ),
    (
        "revisions",
        "changes",
        "revisions at which a change was acknowledged",
    ),
    ("revisions", "older", "reads at an older revision"),
    (
        "revisions",
        "read at the end",
        "keys with an acknowledged change that were read at the end",
    ),
    (
        "revisions",
        "real time",
        "answers with a revision, each held against all that was told before the call",
    ),
    (
        "revisions",
        "states",
        "states of keys at a revision that answers showed, each held against the one before",
    ),
    (
        "revisions",
        "values",
        "of the answers, those where a change of the key is known that they must not miss",
    ),
    (
        "service",
        "quiet times",
        "times without a fault of at least 8 s in which every shard was asked: none may serve nobody for so long",
    ),
    (
        "session",
        "ages",
        "ages that reads told, where something older had been acknowledged that they must show",
    ),
    ("session", "at least", "reads at least at a revision"),
    ("session", "bounded", "reads that may be so and so old"),
    (
        "session",
        "bounds",
        "of the bounded reads, those before which something was acknowledged that they must show",
    ),
    ("session", "local", "reads of whatever a replica has"),
    (
        "session",
        "monotonic",
        "answers to who must never see an older revision than before",
    ),
    (
        "set_list",
        "appends",
        "acknowledged appends, each with a place of its own",
    ),
    (
        "set_list",
        "list reads",
        "reads of lists, each held against all appends",
    ),
    (
        "set_list",
        "scans",
        "linearizable scans, each of which must show all elements acknowledged before",
    ),
    (
        "txns",
        "of unknown outcome",
        "changes that no acknowledged transaction made: one of unknown outcome must have, and once",
    ),
    (
        "txns",
        "ran",
        "transactions whose conditions hold on a known state: answers and effect must be those",
    ),
    (
        "txns",
        "refused",
        "the same of those whose conditions do not hold, and whose other list ran",
    ),
    (
        "txns",
        "transactions",
        "answered transactions of several operations",
    ),
    (
        "watch",
        "changes seen",
        "changes that watches were shown, each held against what was changed",
    ),
    (
        "watch",
        "compactions",
        "times that a watch was told of a compaction, which must have been allowed",
    ),
    (
        "watch",
        "gone at the end",
        "keys gone at the end, whose removal a watch must have been shown",
    ),
    (
        "watch",
        "kept for consumers",
        "of these, those where no consumer of the shard may have needed what is gone",
    ),
    (
        "watch",
        "shown of unknown outcome",
        "changes shown that nobody acknowledged: as many calls of unknown outcome must explain them",
    ),
    (
        "watch",
        "watches",
        "watches, each followed from its start to its end",
    ),
    (
        "watch_keys",
        "bare changes",
        "changes that watches without values were shown",
    ),
    (
        "watch_keys",
        "bare watches",
        "watches of whole shards without values, each followed from its start to its end",
    ),
    (
        "watch_keys",
        "held against others",
        "of these changes, those that the log or another subscription has, and must be the same",
    ),
];

/// What a checker counts by this name; `None`: it has no such number.
pub fn counted(checker: &str, name: &str) -> Option<&'static str> {
    let mut all = COUNTED.iter();
    let found = all.find(|(of, called, _)| (*of, *called) == (checker, name));
    found.map(|(_, _, text)| *text)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;
    use crate::check::{needs, wants};

    /// The names in all calls of `count` in the sources.
    fn names_in(path: &Path, names: &mut BTreeSet<String>) {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                names_in(&path, names);
                continue;
            }
            // What is here is no call.
            if path.ends_with("counts.rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for call in text.split("findings.count(").skip(1) {
                let (name, _) = call.split_once(',').unwrap();
                // One may be chosen among two.
                names.extend(name.split('"').skip(1).step_by(2).map(str::to_owned));
            }
        }
    }

    #[test]
    fn every_number_is_explained_and_no_other() {
        let mut names = BTreeSet::new();
        names_in(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src/check"),
            &mut names,
        );
        names.retain(|name| name != "age");
        let explained: BTreeSet<String> = COUNTED.iter().map(|(_, name, _)| (*name).to_owned()).collect();
        assert_eq!(names, explained);
        let checkers: BTreeSet<&str> = COUNTED.iter().map(|(checker, ..)| *checker).collect();
        for checker in checkers {
            let all = [needs(checker), wants(checker)].concat();
            for name in all {
                assert!(counted(checker, name).is_some(), "{checker}: {name}");
            }
        }
    }
}
