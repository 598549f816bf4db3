//! Bugs that are planted on purpose, to prove that the checkers of the simulator and of the fault harness find such bugs.
//!
//! Each has a name and stands where the bug would: `mutant!("name")`, which is false unless that one is [chosen](choose), and the
//! constant `false` without the feature `mutants`. One is chosen at a time, for the whole process. They are taken from bugs that
//! other systems had, and from some that this one had ([`Mutant::origin`]).
//!
//! Not for anything but tests: a process with one chosen loses data.

use std::{
    fmt,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// What it is chosen by.
    pub name: &'static str,
    /// What it does.
    pub breaks: &'static str,
    /// Where such a bug was, or which rule it breaks.
    pub origin: &'static str,
    /// Checkers of histories and invariants of the simulator of which one must be among those that find it; `process`: a process ends by itself;
    /// `service`: the cluster does not serve when it should. These two, and `convergence` (at the end replicas differ, or do not come to be alike), stand
    /// only where a bug must show so: else an assertion that nobody wrote for it would do. None: only unit tests look there.
    pub expected: &'static [&'static str],
}

impl Mutant {
    /// Whether only nodes whose rows are in RocksDB can have it.
    pub fn needs_rocks(&self) -> bool {
        matches!(self.name, "engine-directory-not-synced" | "flush-not-atomic")
    }

    /// Whether only a cluster whose members change can have it.
    pub fn needs_churn(&self) -> bool {
        matches!(
            self.name,
            "incarnation-not-checked"
                | "joint-left-alone"
                | "learner-votes-at-once"
                | "replace-removes-first"
                | "replica-destroyed-with-its-vote"
                | "reseed-without-the-others"
                | "watch-ends-with-its-replica"
        )
    }

    /// Whether only nodes whose log is in the files of an operating system can have it: the fault harness looks for it.
    pub fn needs_files(&self) -> bool {
        self.name == "direct-write-not-synced"
    }
}

/// All of them, by name.
pub const MUTANTS: [Mutant; 62] = [
    Mutant {
        name: "ack-before-fsync",
        breaks: "The log acknowledges blocks that are in the page cache only.",
        origin: "NATS 2.12.1 (Jepsen 2025): acknowledged before it synced; etcd issue 14370: a single \
                 node lost a write in a crash.",
        expected: &[
            "append_durability",
            "vote_durability",
            "order_of_indexes",
            "leader_completeness",
            "committed_immutable",
            "monotonic",
            "revisions",
            "committed",
        ],
    },
    Mutant {
        name: "age-of-last-try",
        breaks: "A replica's state is called as young as the last confirmation that was tried, not the \
                 last that succeeded.",
        origin: "The rule of bounded reads: a state is as old as the last confirmation that came.",
        expected: &["session"],
    },
    Mutant {
        name: "append-acked-when-queued",
        breaks: "Entries count as stored before they are handed to the disk.",
        origin: "d-engine issue 329: committed before the fsync.",
        expected: &[
            "append_durability",
            "leader_completeness",
            "committed_immutable",
            "monotonic",
            "revisions",
            "committed",
        ],
    },
    Mutant {
        name: "applied-index-not-atomic",
        breaks: "The applied position is stored ahead of the rows: a flush in between loses them.",
        origin: "etcd issue 13766 (3.5.0 to 3.5.2): the consistent index was committed without its \
                 data.",
        expected: &[
            "order_of_indexes",
            "state_machine_safety",
            "revisions",
            "linear",
            "counter",
            "bank",
            "set_list",
        ],
    },
    Mutant {
        name: "at-least-not-waited",
        breaks: "A read at a revision or later is answered before the replica has that revision.",
        origin: "etcd issue 13464: a follower that is behind answers with an old value.",
        expected: &["session"],
    },
    Mutant {
        name: "checksum-ignored",
        breaks: "Log records are taken whether their checksum is right or not.",
        origin: "Protocol-Aware Recovery (FAST 2018), table 1: corrupt entries served.",
        expected: &[
            "log_matching",
            "append_durability",
            "state_machine_safety",
            "committed_immutable",
            "revisions",
            "committed",
        ],
    },
    Mutant {
        name: "commit-by-hash-order",
        breaks: "The keys of one command are committed in the order of a random hash, another on each \
                 replica.",
        origin: "rabbitmq-server pull request 14100, CCF issue 2814: the order of a map in the state \
                 machine.",
        // `convergence`: replicas whose rows differ, with the same revisions.
        expected: &["convergence", "watch", "consumer"],
    },
    Mutant {
        name: "commit-without-quorum",
        breaks: "A leader counts entries as stored by a follower when it has sent them.",
        origin: "openraft issue 1802: a commit without a quorum.",
        expected: &[
            "commit_quorum",
            "leader_completeness",
            "committed_immutable",
            "state_machine_safety",
            "revisions",
            "committed",
            "linear",
        ],
    },
    Mutant {
        name: "compaction-drops-visible",
        breaks: "Once a shard has a floor, versions above it are dropped too.",
        origin: "etcd issues 18089 and 19179: compaction dropped events that could still be watched.",
        // `service`: who follows a shard waits for events that are gone, and shows nothing wrong.
        expected: &["service", "watch", "consumer", "revisions"],
    },
    Mutant {
        name: "compaction-ignores-consumers",
        breaks: "History is compacted though a consumer has not acknowledged it.",
        origin: "The rule of retention: what a consumer has not acknowledged is kept for it.",
        expected: &["consumer"],
    },
    Mutant {
        name: "compare-on-stale-state",
        breaks: "A transaction compares with the state before its log entry, not before itself.",
        origin: "d-engine issue 371: a compare-and-swap read what an earlier one of its batch had \
                 replaced.",
        expected: &["state_machine_safety", "linear", "revisions", "bank", "committed"],
    },
    Mutant {
        name: "consumer-cursor-jumps",
        breaks: "Acknowledging one event acknowledges everything.",
        origin: "KAFKA-5716: a position was committed before all that came before it had been sent.",
        expected: &["consumer", "bank"],
    },
    Mutant {
        name: "dedup-by-client-only",
        breaks: "A number below the newest of its session is taken for a repetition.",
        origin: "Viewstamped Replication Revisited (2012), section 4.1: the client table expects one \
                 request at a time; RIFL (SOSP 2015), section 3.",
        expected: &["linear", "revisions", "counter", "set_list", "bank", "committed"],
    },
    Mutant {
        name: "direct-write-not-synced",
        breaks: "A write of the log past the page cache is taken for durable without a sync: it may be in the \
                 cache of the disk.",
        origin: "open(2): O_DIRECT does not give the guarantees of O_SYNC; etcd issue 14370: a single node lost \
                 a write in a crash.",
        expected: &[
            "service",
            "convergence",
            "revisions",
            "linear",
            "committed",
            "process",
        ],
    },
    Mutant {
        name: "directory-not-synced",
        breaks: "The log's directory is not synced when a new segment gets its name: after a power failure the \
                 segment is not found.",
        origin: "All File Systems Are Not Created Equal (OSDI 2014): systems that sync a new file and not the \
                 directory that has its name.",
        expected: &[
            "append_durability",
            "vote_durability",
            "order_of_indexes",
            "leader_completeness",
            "committed_immutable",
            "monotonic",
            "revisions",
            "committed",
        ],
    },
    Mutant {
        name: "engine-directory-not-synced",
        breaks: "The directories that hold RocksDB's are not synced when they are made: after a power failure \
                 all that it has flushed is gone.",
        origin: "This project, before version 0.1: seen when the simulated disks learned that each directory \
                 keeps its own names.",
        // `process`: the log was purged of what the engine had, so a node without it must not start.
        expected: &[
            "process",
            "order_of_indexes",
            "monotonic",
            "leader_completeness",
            "committed_immutable",
            "revisions",
        ],
    },
    Mutant {
        name: "expire-without-event",
        breaks: "Of the keys that expire at once, and of those of a lease that ends, only the first has an event.",
        origin: "The rule that a watch shows every change.",
        expected: &["watch"],
    },
    Mutant {
        name: "expired-key-stays",
        breaks: "A key that expires has an event, and its row stays where it is.",
        origin: "The rule of expiry: what has ended is gone for every read that shows a later revision, and a put \
                 after it begins anew.",
        expected: &["revisions", "lease"],
    },
    Mutant {
        name: "flush-not-atomic",
        breaks: "RocksDB flushes one column family after the other: a process that ends in between leaves \
                 them at different ages.",
        origin: "RocksDB, Atomic flush: without a WAL only that keeps column families consistent; etcd issue \
                 13766 is the same between two of its buckets.",
        expected: &[
            "state_machine_safety",
            "order_of_indexes",
            "session_window",
            "consumer_cursor",
            "revisions",
            "linear",
            "committed",
        ],
    },
    Mutant {
        name: "follower-read-without-wait",
        breaks: "A confirmed read is answered before the confirmed index is applied.",
        origin: "etcd issues 13464 and 7331: stale reads through the read index.",
        expected: &["linear", "revisions", "set_list", "counter", "bank"],
    },
    Mutant {
        name: "fsync-error-ignored",
        breaks: "A write of the log that failed counts as done.",
        origin: "PostgreSQL 2018 (fsyncgate); Can Applications Recover from fsync Failures? (ATC \
                 2020).",
        // `process`: the log goes on behind the write that is missing, and a node refuses a log with a hole.
        expected: &[
            "process",
            "append_durability",
            "vote_durability",
            "order_of_indexes",
            "leader_completeness",
            "committed_immutable",
            "monotonic",
            "revisions",
            "committed",
        ],
    },
    Mutant {
        name: "incarnation-not-checked",
        breaks: "A node answers for a replica that it has destroyed as soon as it has another one of the shard: who counts on the old one's vote gets the new one's.",
        origin: "etcd's documentation: a member that lost its data must not come back under its old identity; decision 0015.",
        expected: &[
            "append_durability",
            "leader_completeness",
            "committed_immutable",
            "log_matching",
            "revisions",
            "committed",
        ],
    },
    Mutant {
        name: "joint-left-alone",
        breaks: "A joint configuration whose leader is gone is not ended by the next one.",
        origin: "Raft dissertation, section 4.3: who leads goes on with the change.",
        // Nothing wrong is ever said: what was begun does not come to its end, and a shard may not serve.
        expected: &["convergence", "service"],
    },
    Mutant {
        name: "learner-votes-at-once",
        breaks: "Who is added to a shard votes before it has caught up, and counts in its majorities.",
        origin: "Raft dissertation, section 4.2.1: a new server first catches up without a vote.",
        expected: &["membership"],
    },
    Mutant {
        name: "lease-longer-than-promised",
        breaks: "A leader trusts its lease ten times as long as the members promised.",
        origin: "Raft dissertation, section 6.4.1: a lease is shorter than the election timeout, by what \
                 clocks may drift.",
        expected: &[
            "lease_disjointness",
            "linear",
            "revisions",
            "set_list",
            "counter",
            "bank",
        ],
    },
    Mutant {
        name: "lease-renewal-not-stored",
        breaks: "A kept-alive lease is prolonged in memory and in the order of ends, not in its row.",
        origin: "etcd issues 2660 and 12651: keys lost at a change of leader, leases missing on one \
                 member after a restart.",
        // `convergence`: a replica that has started again has another order of ends than those that have not.
        expected: &["state_machine_safety", "convergence", "lease"],
    },
    Mutant {
        name: "log-cut-at-bad-checksum",
        breaks: "Damage in the middle of the log is taken for a torn end: all after it is cut.",
        origin: "Protocol-Aware Recovery (FAST 2018): ZooKeeper, LogCabin; NATS 2.12.1 (Jepsen 2025).",
        expected: &[
            "append_durability",
            "order_of_indexes",
            "leader_completeness",
            "committed_immutable",
            "monotonic",
            "revisions",
            "committed",
        ],
    },
    Mutant {
        name: "near-cache-ignores-changes",
        breaks: "A client's near-cache keeps values that its watch says are changed.",
        origin: "Scaling Memcache at Facebook (NSDI 2013), section 3.2: stale sets.",
        expected: &["revisions", "session"],
    },
    Mutant {
        name: "promise-not-outlasted",
        breaks: "A replica votes at once after a restart, though a leader may trust its promise.",
        origin: "Raft dissertation, section 6.4.1: the lease needs voters that keep their word. This \
                 project, a review before version 0.1.",
        expected: &["lease_disjointness", "linear", "revisions"],
    },
    Mutant {
        name: "purge-beyond-flushed",
        breaks: "The log is purged up to what is applied, though that is in memory only.",
        origin: "Raft dissertation, chapter 5: the log may go when the snapshot is durable.",
        expected: &["order_of_indexes"],
    },
    Mutant {
        name: "read-during-install",
        breaks: "A replica answers reads while a snapshot replaces its rows.",
        origin: "TiKV pull request 10224: stale reads while a snapshot is applied.",
        expected: &["session", "revisions", "linear", "set_list", "bank", "counter"],
    },
    Mutant {
        name: "read-index-reused",
        breaks: "Reads that arrive after a confirmation are served with it.",
        origin: "etcd issue 20418: stale reads after a pause.",
        expected: &["linear", "revisions", "set_list", "counter", "bank"],
    },
    Mutant {
        name: "read-without-quorum",
        breaks: "A leader answers linearizable reads without asking anybody.",
        origin: "etcd and Consul (Jepsen 2014); d-engine issue 381.",
        expected: &["linear", "revisions", "set_list", "counter", "bank"],
    },
    Mutant {
        name: "replace-removes-first",
        breaks: "A replica that moves leaves its old node before the new one has it: meanwhile there is one fewer.",
        origin: "TiKV and CockroachDB replace through a joint configuration for this reason.",
        expected: &["membership"],
    },
    Mutant {
        name: "replica-destroyed-with-its-vote",
        breaks: "A node destroys a replica as soon as the shard map says that it is to go, when it still votes.",
        origin: "Raft dissertation, section 4.2.2: a server that is removed serves until the change is committed.",
        expected: &[
            "membership",
            "append_durability",
            "vote_durability",
            "leader_completeness",
            "committed_immutable",
        ],
    },
    Mutant {
        name: "reseed-without-the-others",
        breaks: "The vote of a replica that is to be made anew is taken though another voter is silent or behind: too few are \
                 left that have everything.",
        origin: "Decision 0018: it may be taken with nobody in its place, so all others are needed.",
        expected: &["membership"],
    },
    Mutant {
        name: "retry-without-session",
        breaks: "A second try is sent as a write of its own.",
        origin: "jetcd 0.8.2 (Jepsen 2024), etcd issue 14890: a retried write was applied twice.",
        expected: &["counter", "linear", "revisions", "set_list", "bank", "committed"],
    },
    Mutant {
        name: "revoke-leaves-keys",
        breaks: "A lease that is revoked is gone, and its keys stay as if they had none.",
        origin: "The rule that a lease takes its keys with it, whoever ends it.",
        expected: &["lease"],
    },
    Mutant {
        name: "row-cache-ignores-deletes",
        breaks: "A deleted key stays in the row cache.",
        origin: "RocksDB issue 4122: DeleteRange and the row cache.",
        expected: &["state_machine_safety", "revisions", "linear", "session", "lease"],
    },
    Mutant {
        name: "row-cache-survives-snapshot",
        breaks: "Rows that a snapshot does not have stay in the row cache.",
        origin: "CockroachDB issue 37056: a cache kept its entries over a snapshot.",
        expected: &[
            "state_machine_safety",
            "consumer_cursor",
            "revisions",
            "linear",
            "session",
            "lease",
        ],
    },
    Mutant {
        name: "session-forgets-in-flight",
        breaks: "A session forgets one outcome more than its client has acknowledged.",
        origin: "RATIS-1873: the retry cache forgot a request before the client's last try of it.",
        expected: &[
            "session_window",
            "counter",
            "linear",
            "revisions",
            "set_list",
            "bank",
            "committed",
        ],
    },
    Mutant {
        name: "session-renewed-blindly",
        breaks: "A write whose session has ended is sent again in a new one, though an earlier try may have been \
                 carried out.",
        origin: "The rule that a session's end makes the outcome unknown (Ongaro 2014, section 6.3).",
        expected: &[
            "committed",
            "counter",
            "bank",
            "set_list",
            "linear",
            "revisions",
            "answers",
        ],
    },
    Mutant {
        name: "sessions-lost-in-snapshot",
        breaks: "A snapshot has sessions without the outcomes that they remember.",
        origin: "Raft dissertation, section 6.3: sessions are part of the snapshot.",
        expected: &[
            "session_window",
            "counter",
            "linear",
            "revisions",
            "set_list",
            "bank",
            "committed",
        ],
    },
    Mutant {
        name: "silence-grants-vote",
        breaks: "A node that does not answer a request for its vote has granted it.",
        origin: "MongoDB 2.4 and Redis Sentinel (Jepsen 2013): primaries on the minority's side of a \
                 partition.",
        expected: &[
            "election_safety",
            "leader_completeness",
            "committed_immutable",
            "log_matching",
            "revisions",
            "committed",
        ],
    },
    Mutant {
        name: "snapshot-checked-once",
        breaks: "A snapshot is checked before it is installed, and what turns out to be damaged while it is \
                 installed ends it early.",
        origin: "This project, found by the simulator before version 0.1.",
        // `process`: the replica lacks rows, and can never be started again.
        expected: &["process", "state_machine_safety", "revisions"],
    },
    Mutant {
        name: "snapshot-one-ahead",
        breaks: "A snapshot says that it has one entry more than it has.",
        origin: "d-engine issue 418: a snapshot's label and its content did not agree.",
        expected: &["state_machine_safety", "revisions"],
    },
    Mutant {
        name: "snapshot-over-old-rows",
        breaks: "A snapshot is installed without clearing what was there.",
        origin: "keystone pull request 1331: an installation cleared one keyspace and left the keys of the \
                 others.",
        expected: &[
            "state_machine_safety",
            "revisions",
            "linear",
            "session",
            "set_list",
        ],
    },
    Mutant {
        name: "stamps-from-own-past",
        breaks: "A leader that led before goes on from the last stamp that it gave then, as if nothing had \
                 happened since: keys end before their TTL.",
        origin: "This project, found by the simulator before version 0.1.",
        expected: &["lease"],
    },
    Mutant {
        name: "stamps-jump-ahead",
        breaks: "The first stamp that a replica gives when it leads is three seconds ahead.",
        origin: "The rule that nothing ends before its TTL, by clocks that are right.",
        expected: &["lease"],
    },
    Mutant {
        name: "stamps-stand-still",
        breaks: "A leader whose wall clock is behind the shard's time gives the same stamp until it has \
                 caught up: nothing expires meanwhile.",
        origin: "This project, a review before version 0.1.",
        expected: &["lease"],
    },
    Mutant {
        name: "ttl-by-own-clock",
        breaks: "Each replica stamps an entry by its own clock.",
        origin: "databend pull request 7325: expiry by the time of applying.",
        // `convergence`: replicas whose rows have other stamps, with the same revisions.
        expected: &["state_machine_safety", "convergence", "lease"],
    },
    Mutant {
        name: "unknown-told-as-failed",
        breaks: "A write of unknown outcome is told to have failed.",
        origin: "Redpanda 21.10 (Jepsen 2022): aborted writes that were read.",
        expected: &["committed", "revisions", "linear", "counter", "set_list", "bank"],
    },
    Mutant {
        name: "vote-for-any-log",
        breaks: "A vote is granted to a candidate that lacks entries.",
        origin: "Raft dissertation, section 3.6.1: the election restriction.",
        expected: &[
            "leader_completeness",
            "committed_immutable",
            "log_matching",
            "state_machine_safety",
            "revisions",
            "committed",
        ],
    },
    Mutant {
        name: "vote-forgotten-at-restart",
        breaks: "A restarted replica does not know whom it voted for.",
        origin: "nodedb issue 161, PySyncObj pull request 202: term and vote were not persisted.",
        expected: &[
            "vote_durability",
            "monotonic",
            "election_safety",
            "leader_completeness",
        ],
    },
    Mutant {
        name: "vote-not-synced",
        breaks: "A vote is answered before it is durable.",
        origin: "nodedb issue 161: answers left before the state was persisted; Raft dissertation, \
                 section 3.8.",
        expected: &[
            "vote_durability",
            "monotonic",
            "election_safety",
            "leader_completeness",
        ],
    },
    Mutant {
        name: "watch-compacted-too-far",
        breaks: "A subscriber that is behind the events in memory is told that all of them are compacted.",
        origin: "The rule of watches: only what retention lets go is compacted, the rest is shown.",
        expected: &["watch", "consumer"],
    },
    Mutant {
        name: "watch-drops-what-left-the-ring",
        breaks: "A subscriber that is behind the events in memory goes on with the oldest of those.",
        origin: "d-engine issue 294: events dropped silently; etcd issue 17529: events lost by a slow \
                 watcher.",
        expected: &["watch", "consumer", "bank"],
    },
    Mutant {
        name: "watch-ends-with-its-replica",
        breaks: "A node whose replica of a shard was moved away says that there is none: a watch by an old shard map \
                 ends for good. Only where members change.",
        origin: "This project, found by the simulator before version 0.1.",
        // `service`: a watch that has ended shows nothing wrong; it does not come to the end of what is there.
        expected: &["service", "watch", "consumer"],
    },
    Mutant {
        name: "watch-gap-at-snapshot",
        breaks: "The subscribers of a replica are not told that a snapshot replaced its state.",
        origin: "etcd issue 8411: a member caught up by a snapshot, and its watchers were not told what \
                 had changed.",
        expected: &["watch", "consumer", "bank"],
    },
    Mutant {
        name: "watch-orders-by-key",
        breaks: "The events of a message are in the order of their keys.",
        origin: "etcd issue 15220: progress and events out of order.",
        expected: &["watch", "consumer"],
    },
    Mutant {
        name: "watch-resumes-one-late",
        breaks: "A watch that reconnects begins one revision too late.",
        origin: "etcd issue 19179: an event missing where a watch begins.",
        expected: &["watch"],
    },
    Mutant {
        name: "watch-splits-revision",
        breaks: "The events of one revision may come in two messages.",
        origin: "python-etcd3 issue 729: a watch stopped inside a revision, resumed after it, and missed \
                 the rest.",
        expected: &["watch", "consumer"],
    },
];

const _: () = assert!(is_sorted(), "the names are in order, each once");

/// Whether the bug of this name is chosen. A name that is not in [`MUTANTS`](crate::mutants::MUTANTS) does not compile.
#[macro_export]
macro_rules! mutant {
    ($name:literal) => {{
        const INDEX: usize = $crate::mutants::index_of($name);
        $crate::mutants::is_chosen(INDEX)
    }};
}

/// What [`CHOSEN`] is when none is.
const NONE: usize = usize::MAX;

static CHOSEN: AtomicUsize = AtomicUsize::new(NONE);
static REACHED: AtomicU64 = AtomicU64::new(0);

/// A name that no planted bug has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown(pub String);

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no mutant {:?}; there are:", self.0)?;
        MUTANTS
            .iter()
            .try_for_each(|mutant| write!(f, " {}", mutant.name))
    }
}

impl std::error::Error for Unknown {}

/// Chooses the bug of this name for the whole process, instead of the one before.
///
/// # Errors
/// There is none of this name; the one before stays.
pub fn choose(name: &str) -> Result<&'static Mutant, Unknown> {
    let index = MUTANTS.iter().position(|mutant| mutant.name == name);
    let index = index.ok_or_else(|| Unknown(name.to_owned()))?;
    CHOSEN.store(index, Ordering::Relaxed);
    REACHED.store(0, Ordering::Relaxed);
    Ok(&MUTANTS[index])
}

/// From now on none is chosen, as in the beginning.
pub fn choose_none() {
    CHOSEN.store(NONE, Ordering::Relaxed);
}

/// The one that is chosen.
pub fn chosen() -> Option<&'static Mutant> {
    MUTANTS.get(CHOSEN.load(Ordering::Relaxed))
}

/// How often the chosen one's place was passed since it was chosen: what was never reached was not tested.
pub fn reached() -> u64 {
    REACHED.load(Ordering::Relaxed)
}

/// For the macro: whether [`MUTANTS`]`[index]` is chosen.
#[doc(hidden)]
pub fn is_chosen(index: usize) -> bool {
    let chosen = CHOSEN.load(Ordering::Relaxed) == index;
    if chosen {
        REACHED.fetch_add(1, Ordering::Relaxed);
    }
    chosen
}

/// For the macro: the place of a name in [`MUTANTS`].
///
/// # Panics
/// It has none. Called at compile time only.
#[doc(hidden)]
pub const fn index_of(name: &str) -> usize {
    let mut index = 0;
    while index < MUTANTS.len() {
        if matches!(order(MUTANTS[index].name, name), Order::Equal) {
            return index;
        }
        index += 1;
    }
    panic!("no mutant has this name")
}

/// [`std::cmp::Ordering`] cannot be compared at compile time.
enum Order {
    Less,
    Equal,
    Greater,
}

const fn order(a: &str, b: &str) -> Order {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut at = 0;
    while at < a.len() && at < b.len() {
        if a[at] != b[at] {
            return if a[at] < b[at] {
                Order::Less
            } else {
                Order::Greater
            };
        }
        at += 1;
    }
    if a.len() == b.len() {
        Order::Equal
    } else if a.len() < b.len() {
        Order::Less
    } else {
        Order::Greater
    }
}

const fn is_sorted() -> bool {
    let mut index = 1;
    while index < MUTANTS.len() {
        if !matches!(order(MUTANTS[index - 1].name, MUTANTS[index].name), Order::Less) {
            return false;
        }
        index += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, since the choice is the process's.
    #[test]
    fn one_is_chosen_at_a_time_and_unknown_names_list_all() {
        assert_eq!((chosen(), mutant!("checksum-ignored")), (None, false));
        let first = choose("checksum-ignored").unwrap();
        assert_eq!(chosen(), Some(first));
        assert!(mutant!("checksum-ignored") && !mutant!("ack-before-fsync"));
        assert_eq!(reached(), 1);

        let error = choose("checksum").unwrap_err().to_string();
        let all = MUTANTS.iter().all(|mutant| error.contains(mutant.name));
        assert!(error.contains("\"checksum\"") && all, "{error}");
        assert_eq!(chosen(), Some(first));

        choose_none();
        assert_eq!((chosen(), mutant!("checksum-ignored")), (None, false));
    }
}
