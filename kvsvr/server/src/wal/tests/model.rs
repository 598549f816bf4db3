//! Random histories of several shards with crashes in between, against a model.
//!
//! After a crash the log must be what it was after some prefix of the work handed in, and that prefix must hold everything that
//! was acknowledged.

use proptest::prelude::*;

use super::*;

/// What a test does next; numbers are reduced to what is possible.
#[derive(Clone, Debug)]
enum Action {
    Append {
        shard: u32,
        count: usize,
        len: usize,
    },
    Vote {
        shard: u32,
    },
    Commit {
        shard: u32,
        part: u64,
    },
    Truncate {
        shard: u32,
        part: u64,
    },
    Purge {
        shard: u32,
        part: u64,
    },
    /// As after a snapshot from the leader.
    PurgeBeyond {
        shard: u32,
    },
    Forget {
        shard: u32,
    },
    /// Waits for everything so far.
    Settle,
    Read {
        shard: u32,
    },
}

fn action() -> impl Strategy<Value = Action> {
    let shard = || 0..3_u32;
    prop_oneof![
        10 => (shard(), 1..5_usize, prop_oneof![8 => 0..900_usize, 1 => 3000..9000_usize])
            .prop_map(|(shard, count, len)| Action::Append { shard, count, len }),
        2 => shard().prop_map(|shard| Action::Vote { shard }),
        3 => (shard(), any::<u64>()).prop_map(|(shard, part)| Action::Commit { shard, part }),
        2 => (shard(), any::<u64>()).prop_map(|(shard, part)| Action::Truncate { shard, part }),
        3 => (shard(), any::<u64>()).prop_map(|(shard, part)| Action::Purge { shard, part }),
        1 => shard().prop_map(|shard| Action::PurgeBeyond { shard }),
        1 => shard().prop_map(|shard| Action::Forget { shard }),
        4 => Just(Action::Settle),
        2 => shard().prop_map(|shard| Action::Read { shard }),
    ]
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Shard {
    vote: Option<VoteRecord>,
    purged: Option<LogPosition>,
    entries: Vec<EntryRecord>,
}

impl Shard {
    fn last(&self) -> Option<LogPosition> {
        self.entries.last().map(|entry| entry.position).or(self.purged)
    }
}

type Shards = BTreeMap<u32, Shard>;

/// One run between two crashes.
struct Run {
    wal: Wal,
    /// The shards after each piece of work; the first is what recovery found.
    states: Vec<Shards>,
    /// The latest state that was acknowledged.
    acknowledged: Arc<AtomicUsize>,
    /// What is committed now.
    committed: BTreeMap<u32, LogPosition>,
    /// What was ever saved as committed.
    saved: Vec<(u32, LogPosition)>,
    term: u64,
}

impl Run {
    fn now(&self) -> Shards {
        self.states.last().unwrap().clone()
    }

    fn shard(&self, shard: u32) -> Shard {
        self.now().remove(&shard).unwrap_or_default()
    }

    /// Adds a state.
    fn set(&mut self, shard: u32, to: Shard) {
        let mut states = self.now();
        if to == Shard::default() {
            states.remove(&shard);
        } else {
            states.insert(shard, to);
        }
        self.states.push(states);
    }

    /// Acknowledges the present state when called.
    fn done(&self) -> Done {
        let (state, acknowledged) = (self.states.len() - 1, self.acknowledged.clone());
        Box::new(move |result| {
            if result.is_ok() {
                assert!(
                    acknowledged.load(Ordering::SeqCst) <= state,
                    "acknowledged out of order"
                );
                acknowledged.store(state, Ordering::SeqCst);
            }
        })
    }

    fn last_committed(&self, shard: u32) -> Option<LogPosition> {
        self.committed.get(&shard).copied()
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Append { shard, count, len } => self.append(shard, count, len),
            Action::Vote { shard } => {
                self.term += 1;
                let vote = VoteRecord {
                    term: self.term,
                    node: 3,
                    committed: self.term.is_multiple_of(2),
                };
                self.set(
                    shard,
                    Shard {
                        vote: Some(vote),
                        ..self.shard(shard)
                    },
                );
                self.wal.save_vote(ShardId(shard), vote, self.done());
            }
            Action::Commit { shard, part } => self.commit(shard, part),
            Action::Truncate { shard, part } => self.truncate(shard, part),
            Action::Purge { shard, part } => {
                let mut to = self.shard(shard);
                let committed = self
                    .last_committed(shard)
                    .map_or(0, |committed| committed.index + 1);
                let purgeable = to
                    .entries
                    .iter()
                    .filter(|entry| entry.position.index < committed)
                    .count();
                if purgeable > 0 {
                    let count = 1 + part as usize % purgeable;
                    let upto = to.entries[count - 1].position;
                    to.entries.drain(..count);
                    self.purge(shard, upto, to);
                }
            }
            Action::PurgeBeyond { shard } => {
                let mut to = self.shard(shard);
                let index = to.last().map_or(5, |last| last.index + 5);
                to.entries.clear();
                let upto = LogPosition {
                    index,
                    term: self.term,
                    node: 3,
                };
                self.committed.insert(shard, upto);
                self.purge(shard, upto, to);
            }
            Action::Forget { shard } => {
                self.committed.remove(&shard);
                self.set(shard, Shard::default());
                self.wal.forget(ShardId(shard), self.done());
            }
            Action::Settle => {
                let (done, result) = waiter();
                self.wal.truncate_after(ShardId(9), None, done);
                let settled = result.await.unwrap().is_ok();
                let acknowledged = self.acknowledged.load(Ordering::SeqCst);
                assert!(!settled || acknowledged + 1 >= self.states.len() || self.ends_lazily(acknowledged));
            }
            Action::Read { shard } => self.check_read(shard).await,
        }
    }

    /// Only purges, which nobody waits for, came after this state.
    fn ends_lazily(&self, state: usize) -> bool {
        self.states[state..].windows(2).all(|pair| {
            pair[0].iter().all(|(shard, before)| {
                pair[1]
                    .get(shard)
                    .is_some_and(|after| after == before || after.purged > before.purged)
            })
        })
    }

    fn append(&mut self, shard: u32, count: usize, len: usize) {
        let (mut to, mut entries) = (self.shard(shard), Vec::new());
        for _ in 0..count {
            let index = to.last().map_or(0, |last| last.index + 1);
            let entry = entry(index, self.term, len);
            to.entries.push(entry.clone());
            entries.push(entry);
            self.set(shard, to.clone());
        }
        self.wal.append(ShardId(shard), entries, self.done());
    }

    fn commit(&mut self, shard: u32, part: u64) {
        let from = self
            .last_committed(shard)
            .map_or(0, |committed| committed.index + 1);
        let entries = self.shard(shard).entries;
        let open: Vec<_> = entries
            .iter()
            .filter(|entry| entry.position.index >= from)
            .collect();
        if !open.is_empty() {
            let position = open[part as usize % open.len()].position;
            self.committed.insert(shard, position);
            self.saved.push((shard, position));
            self.wal.save_committed(ShardId(shard), Some(position));
        }
    }

    fn truncate(&mut self, shard: u32, part: u64) {
        let mut to = self.shard(shard);
        let from = self
            .last_committed(shard)
            .map_or(0, |committed| committed.index + 1);
        let open = to
            .entries
            .iter()
            .filter(|entry| entry.position.index >= from)
            .count();
        if open > 0 {
            to.entries.truncate(to.entries.len() - 1 - part as usize % open);
            let last_kept = to.last().map(|last| last.index);
            self.term += 1;
            self.set(shard, to);
            self.wal.truncate_after(ShardId(shard), last_kept, self.done());
        }
    }

    fn purge(&mut self, shard: u32, upto: LogPosition, to: Shard) {
        self.set(
            shard,
            Shard {
                purged: Some(upto),
                ..to
            },
        );
        self.wal.purge(ShardId(shard), upto);
    }

    async fn check_read(&self, shard: u32) {
        let expected = self.shard(shard);
        let log = self.wal.shard(ShardId(shard));
        assert_eq!(
            (log.vote, log.purged, log.last),
            (expected.vote, expected.purged, expected.last())
        );
        // The power may have gone.
        if let Ok(read) = self.wal.read(ShardId(shard), 0..u64::MAX, usize::MAX).await {
            assert_eq!(read, expected.entries);
        }
    }
}

/// What a log holds, without the shard that only serves to wait. `None` if the power is off.
async fn found(wal: &Wal) -> Option<Shards> {
    let mut shards = Shards::new();
    for id in wal.shards() {
        let log = wal.shard(id);
        let entries = match wal.read(id, 0..u64::MAX, usize::MAX).await {
            Ok(entries) => entries,
            Err(error) => {
                assert!(error.to_string().contains("power is off"), "{error}");
                return None;
            }
        };
        let shard = Shard {
            vote: log.vote,
            purged: log.purged,
            entries,
        };
        assert_eq!(shard.last(), log.last);
        if shard != Shard::default() {
            shards.insert(id.0, shard);
        }
    }
    Some(shards)
}

#[derive(Clone, Debug)]
struct Round {
    actions: Vec<Action>,
    /// The disk operation at which the power goes, if it goes before the actions end.
    power: Option<u64>,
    /// The process ends, but not the machine.
    killed: bool,
    seed: u64,
}

fn round() -> impl Strategy<Value = Round> {
    let actions = proptest::collection::vec(action(), 1..60);
    (
        actions,
        proptest::option::of(1..150_u64),
        proptest::bool::weighted(0.2),
        any::<u64>(),
    )
        .prop_map(|(actions, power, killed, seed)| Round {
            actions,
            power,
            killed,
            seed,
        })
}

async fn run_round(disk: &MemDisk, last: Option<&Run>, round: Round) -> (MemDisk, Option<Run>) {
    if let Some(power) = round.power {
        disk.fail_power_after(power);
    }
    let failed = Arc::new(AtomicUsize::new(0));
    let flag = failed.clone();
    let on_fatal = Arc::new(move |_: &io::Error| flag.store(1, Ordering::SeqCst));
    let opened = WalOptions {
        seed: round.seed,
        on_fatal,
        ..options()
    };
    let run = match Wal::open(shared(disk), opened).await {
        Ok((wal, _)) => begin(wal, last).await,
        // Only because the power went off.
        Err(error) => {
            assert!(
                matches!(error, WalError::Io { .. }) && round.power.is_some(),
                "{error}"
            );
            None
        }
    };
    let Some(mut run) = run else {
        return (
            if round.killed {
                disk.kill(round.seed)
            } else {
                disk.crash(round.seed)
            },
            None,
        );
    };
    for action in round.actions {
        // Work that a failed log refuses is not part of the history.
        if failed.load(Ordering::SeqCst) == 1 {
            break;
        }
        run.act(action).await;
    }
    (
        if round.killed {
            disk.kill(round.seed)
        } else {
            disk.crash(round.seed)
        },
        Some(run),
    )
}

/// Compares what recovery found with the run before it, and starts the next.
async fn begin(wal: Wal, last: Option<&Run>) -> Option<Run> {
    let (mut committed, mut saved, mut term) = (BTreeMap::new(), Vec::new(), 1);
    let shards = found(&wal).await?;
    if let Some(last) = last {
        let acknowledged = last.acknowledged.load(Ordering::SeqCst);
        let matches = last.states[acknowledged..].contains(&shards);
        assert!(
            matches,
            "found {shards:?}\nwanted one of {:?}",
            &last.states[acknowledged..]
        );
        term = last.term + 1;
        saved.clone_from(&last.saved);
    }
    for shard in shards.keys() {
        let log = wal.shard(ShardId(*shard));
        if let Some(found) = log.committed {
            let known = saved.contains(&(*shard, found)) || log.last == Some(found);
            assert!(known, "committed {found:?} was never saved");
            saved.push((*shard, found));
        }
        // What was purged was committed.
        committed.extend(log.committed.max(log.purged).map(|newest| (*shard, newest)));
    }
    let (states, acknowledged) = (vec![shards], Arc::new(AtomicUsize::new(0)));
    Some(Run {
        wal,
        states,
        acknowledged,
        committed,
        saved,
        term,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn crashes_lose_nothing_acknowledged(rounds in proptest::collection::vec(round(), 1..5), seed: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut disk = MemDisk::new(seed);
            let mut last: Option<Run> = None;
            for round in rounds {
                let (after, run) = run_round(&disk, last.as_ref(), round).await;
                disk = after;
                // If the log did not even open, what was there before must still be.
                last = run.or(last);
            }
            let (wal, _) = open(&disk).await;
            assert!(begin(wal, last.as_ref()).await.is_some());
        });
    }
}
