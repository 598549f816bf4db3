//! Events that must happen in a sweep: a search that never met them has not looked where the faults are.
//!
//! They are counted from outside, from what the simulated parts see and what replicas say of themselves at each look. What lasts counts when it
//! begins. Only those called `looks_at_...` count looks.

use std::collections::{BTreeMap, BTreeSet};

use kvsvr::store::STAGING_DIR;
use kvsvr_jepsen::history::{self, Call, End, Event, Reply, Seen, paired};

use kvsvr_proto::v1::{NodeInfo, Operation, operation};

use crate::{
    engine::EngineKind,
    failpoint::Step,
    invariants::{Moment, Replica, Role},
    net::{Fate, SimNet},
    node::{Found, SimNode},
};

/// Those of every sweep.
pub const EVENTS: [&str; 84] = [
    "leader_changed",
    "two_leaders_of_different_terms",
    "deposed_leader_stepped_down",
    "term_changed_without_a_leader",
    "conflicting_suffix_truncated",
    "log_purged",
    "replica_behind_the_purged_log",
    "snapshot_installed",
    "transfer_interrupted",
    "installation_interrupted",
    "restart_replayed_the_log",
    "torn_log_cut",
    "process_ended_by_itself",
    "log_failed",
    "failpoint_fired",
    "failpoint_around_a_snapshot_fired",
    "disk_error_returned",
    "no_space_returned",
    "name_lost_at_power_loss",
    "damaged_log_read",
    "damaged_snapshot_read",
    "damaged_row_read",
    "damaged_node_refused_to_start",
    "all_nodes_down",
    "quorum_lost_then_regained",
    "power_lost",
    "clock_jumped",
    "message_lost",
    "connection_broken_after_delivery",
    "message_delivered_twice",
    "unknown_outcome",
    "unknown_outcome_was_carried_out",
    "cas_lost",
    "watch_compacted",
    "consumer_fenced",
    "write_refused_for_space",
    "read_from_a_near_cache",
    "request_forwarded",
    "watch_resumed",
    "pre_vote_refused",
    "old_leader_refused",
    "stranger_refused",
    "append_conflicted",
    "follower_read_confirmed",
    "snapshot_resume_offered",
    "refused_without_a_leader",
    "refused_as_too_stale",
    "sent_to_the_leader",
    "retry_committed_twice_applied_once",
    "committed_log_known",
    "session_closed",
    "looks_at_sessions",
    "looks_at_consumers",
    "checked_in_full_answers",
    "checked_in_full_bank",
    "checked_in_full_committed",
    "checked_in_full_consumer",
    "checked_in_full_convergence",
    "checked_in_full_counter",
    "checked_in_full_lease",
    "checked_in_full_linear",
    "checked_in_full_list",
    "checked_in_full_pages",
    "checked_in_full_resets",
    "checked_in_full_revisions",
    "checked_in_full_session",
    "checked_in_full_set_list",
    "checked_in_full_txns",
    "checked_in_full_watch",
    "held_against_append_durability",
    "held_against_commit_quorum",
    "held_against_committed_immutable",
    "held_against_consumer_cursor",
    "held_against_election_safety",
    "held_against_leader_completeness",
    "held_against_lease_disjointness",
    "held_against_log_matching",
    "held_against_map_epochs",
    "held_against_monotonic",
    "held_against_order_of_indexes",
    "held_against_session_window",
    "held_against_state_machine_safety",
    "held_against_vote_durability",
    "checked_in_full_watch_keys",
];

/// Those of sweeps of nodes on RocksDB, besides.
const ROCKS_EVENTS: [&str; 5] = [
    "rocks_ended_within",
    "rocks_flush_failed",
    "rocks_name_lost",
    "rocks_partial_tail_kept",
    "rocks_unsynced_bytes_lost",
];

/// Who begins what the operators of a simulation ask for.
pub const OPERATOR: &str = "simulator";

/// Those of sweeps with operators, besides.
const MEMBER_EVENTS: [&str; 11] = [
    "change_of_members_taken_back",
    "held_against_membership",
    "joint_configuration_inherited",
    "learner_promoted",
    "members_changed",
    "operation_inherited",
    "replica_destroyed",
    "replica_made_anew",
    "reseed_inherited",
    "reseed_taken_back",
    "wiped_machine_replaced",
];

/// What a sweep of nodes on this engine must have met; `churn`: with operators.
pub fn demanded(engine: EngineKind, churn: bool) -> Vec<&'static str> {
    let of_engine: &[&str] = if engine.is_default() { &[] } else { &ROCKS_EVENTS };
    let of_members: &[&str] = if churn { &MEMBER_EVENTS } else { &[] };
    // Where members change nothing is damaged.
    let of_damage = [
        "damaged_log_read",
        "damaged_snapshot_read",
        "damaged_row_read",
        "damaged_node_refused_to_start",
    ];
    EVENTS
        .iter()
        .filter(|event| !(churn && of_damage.contains(event)))
        .chain(of_engine)
        .chain(of_members)
        .copied()
        .collect()
}

/// Counts of events.
#[derive(Debug, Default)]
pub struct Sometimes {
    counts: BTreeMap<&'static str, u64>,
    last: BTreeMap<(u32, usize), Replica>,
    leaders: BTreeMap<u32, (u64, usize)>,
    highest_term: BTreeMap<u32, u64>,
    quorum_lost: bool,
    all_down: bool,
    /// Shards with two leaders.
    two_leaders: BTreeSet<u32>,
    /// Replicas that need a snapshot: shard and machine.
    behind: BTreeSet<(u32, usize)>,
}

impl Sometimes {
    /// Counts an event of the list.
    pub fn count(&mut self, event: &'static str) {
        self.add(event, 1);
    }

    /// How often each happened.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let count = |event: &&'static str| self.counts.get(*event).copied().unwrap_or(0);
        let of_some = ROCKS_EVENTS.iter().chain(&MEMBER_EVENTS);
        let happened = of_some.filter(|event| count(event) > 0);
        EVENTS
            .iter()
            .chain(happened)
            .map(|event| ((*event).to_owned(), count(event)))
            .collect()
    }

    /// A checker looked at all that it [needs](kvsvr_jepsen::check::needs) and [wants](kvsvr_jepsen::check::wants): one that never does in a
    /// sweep is blind. Short runs and those with many faults need not have it all.
    ///
    /// # Panics
    /// Such a checker is not in the list of events.
    pub fn checked_in_full(&mut self, checker: &str) {
        let mut events = EVENTS.iter();
        match events.find(|event| event.strip_prefix("checked_in_full_") == Some(checker)) {
            Some(event) => self.count(event),
            None => panic!("no event says that {checker} is checked in full"),
        }
    }

    /// An invariant had something to look at in this run, so that it could have been seen broken: one that never has in a sweep is blind.
    ///
    /// # Panics
    /// It is not in the lists of events.
    pub fn held_against(&mut self, invariant: &str) {
        let mut events = EVENTS.iter().chain(&MEMBER_EVENTS);
        match events.find(|event| event.strip_prefix("held_against_") == Some(invariant)) {
            Some(event) => self.count(event),
            None => panic!("no event says that {invariant} has seen something"),
        }
    }

    /// Looks at all replicas, of `running` of so many machines.
    pub fn look(&mut self, moment: &Moment<'_>, running: usize, machines: usize) {
        let lost = running <= machines / 2;
        if self.quorum_lost && !lost {
            self.count("quorum_lost_then_regained");
        }
        self.quorum_lost = lost;
        if running == 0 && !self.all_down {
            self.count("all_nodes_down");
        }
        self.all_down = running == 0;
        for (replica, log) in &moment.replicas {
            self.look_at_leader(replica);
            if let Some(before) = self.last.get(&(replica.shard.0, replica.machine)).cloned() {
                let same = before.process == replica.process;
                let truncated = before.log.last.is_some_and(|last| {
                    same && last.index >= replica.log.first_index && log.position(last.index) != Some(last)
                });
                if truncated && before.log.last > before.log.purged {
                    self.count("conflicting_suffix_truncated");
                }
                if same && replica.installs / 2 > before.installs / 2 {
                    self.count("snapshot_installed");
                } else if same && replica.log.purged > before.log.purged {
                    self.count("log_purged");
                }
                // Nothing was flushed since, and what had been applied besides is there again.
                let had_more = !before.unreadable && before.applied > before.flushed;
                if !same && had_more && replica.flushed == before.flushed && replica.applied >= before.applied
                {
                    self.count("restart_replayed_the_log");
                }
                // It has heard of a later term. openraft's leaders do not step down for want of a quorum: they answer nothing.
                if same
                    && before.role == Role::Leader
                    && replica.role == Role::Follower
                    && before.term < replica.term
                {
                    self.count("deposed_leader_stepped_down");
                }
            }
            self.last
                .insert((replica.shard.0, replica.machine), replica.clone());
        }
        self.look_at_shards(moment);
    }

    fn look_at_leader(&mut self, replica: &Replica) {
        let shard = replica.shard.0;
        if replica.role == Role::Leader {
            let before = self.leaders.get(&shard).copied();
            if before.is_some_and(|(term, machine)| replica.term > term && machine != replica.machine) {
                self.count("leader_changed");
            }
            if before.is_none_or(|(term, _)| replica.term > term) {
                self.leaders.insert(shard, (replica.term, replica.machine));
            }
        }
        let highest = self.highest_term.entry(shard).or_default();
        let led = self.leaders.get(&shard).map_or(0, |(term, _)| *term);
        if replica.term > *highest {
            let without_leader = *highest > led;
            *highest = replica.term;
            if without_leader {
                self.count("term_changed_without_a_leader");
            }
        }
    }

    fn look_at_shards(&mut self, moment: &Moment<'_>) {
        let shards: BTreeSet<u32> = moment
            .replicas
            .iter()
            .map(|(replica, _)| replica.shard.0)
            .collect();
        for shard in shards {
            let of_it = || {
                moment
                    .replicas
                    .iter()
                    .map(|(replica, _)| replica)
                    .filter(|r| r.shard.0 == shard)
            };
            let leaders: BTreeSet<u64> = of_it()
                .filter(|r| r.role == Role::Leader)
                .map(|r| r.term)
                .collect();
            if leaders.len() < 2 {
                self.two_leaders.remove(&shard);
            } else if self.two_leaders.insert(shard) {
                self.count("two_leaders_of_different_terms");
            }
            let purged = of_it()
                .filter(|r| r.role == Role::Leader)
                .filter_map(|r| r.log.purged)
                .max();
            // Without a leader nobody is behind it, nor has anybody caught up.
            let Some(purged) = purged else { continue };
            for replica in of_it() {
                let key = (shard, replica.machine);
                let last = replica.log.last.map(|position| position.index);
                if replica.role == Role::Leader || last >= Some(purged.index) {
                    self.behind.remove(&key);
                } else if self.behind.insert(key) {
                    self.count("replica_behind_the_purged_log");
                }
            }
        }
    }

    /// Adds how a machine's processes ended, and what they found and met.
    pub fn add_machine(&mut self, node: &SimNode) {
        for ended in node.ended() {
            if ended.by_itself() {
                self.count("process_ended_by_itself");
            }
            if ended.reason.starts_with("power lost") {
                self.count("power_lost");
            }
            if ended.reason.starts_with("the log failed") {
                self.count("log_failed");
            }
            // The log names its own damage, the engine's is ours.
            let damaged = ["corrupt", "damaged", "injected checksum"];
            if ended.reason.starts_with("cannot start")
                && damaged.iter().any(|word| ended.reason.contains(word))
            {
                self.count("damaged_node_refused_to_start");
            }
        }
        for (found, count) in node.found() {
            let event = match found {
                Found::TornLog => "torn_log_cut",
                Found::Installation => "installation_interrupted",
                Found::Transfer => "transfer_interrupted",
            };
            self.add(event, count);
        }
        let returned = node.disk_control().returned();
        self.add("disk_error_returned", returned.errors);
        self.add("no_space_returned", returned.full);
        let history = node.disk().history();
        self.add("name_lost_at_power_loss", history.lost_names);
        for (path, reads) in history.damaged_reads {
            let event = match path.starts_with(STAGING_DIR) {
                true => "damaged_snapshot_read",
                false => "damaged_log_read",
            };
            self.add(event, reads);
        }
        for (event, count) in node.engine().events() {
            self.add(event, count);
        }
        for (point, _) in node.failpoints().fired() {
            self.count("failpoint_fired");
            let around = [
                Step::SnapshotWrite,
                Step::SnapshotSync,
                Step::SnapshotMark,
                Step::SnapshotRemove,
                Step::EngineClear,
                Step::CheckpointCreate,
            ];
            if around.contains(&point.step) {
                self.count("failpoint_around_a_snapshot_fired");
            }
        }
    }

    /// Adds what became of operations.
    pub fn add_operations(&mut self, operations: &[Operation], members: &[&NodeInfo]) {
        for operation in operations {
            match operation.state() {
                operation::State::Done => {
                    // Not what the cluster has begun by itself.
                    if operation.who == OPERATOR {
                        self.count("members_changed");
                    }
                    if operation.kind() == operation::Kind::Reseed {
                        self.count("replica_made_anew");
                    }
                    // Its address stays: the machine has lost its disk.
                    let of = |id| {
                        members
                            .iter()
                            .find(|info| info.id == id)
                            .map(|info| &info.address)
                    };
                    if operation.kind() == operation::Kind::Replace
                        && of(operation.node) == of(operation.new_node)
                    {
                        self.count("wiped_machine_replaced");
                    }
                }
                operation::State::Aborted => self.count("change_of_members_taken_back"),
                _ => {}
            }
        }
    }

    /// Adds what clients met; `resolved` is the history as far as unknown outcomes are known now.
    pub fn add_history(&mut self, history: &[Event], resolved: &[Event]) {
        let unknown = |events: &[Event]| {
            let is_unknown = |event: &&Event| matches!(event.step, history::Step::Info { .. });
            events.iter().filter(is_unknown).count() as u64
        };
        self.add("unknown_outcome", unknown(history));
        let calls = paired(history).into_iter().zip(paired(resolved));
        let carried_out =
            calls.filter(|(told, known)| told.end == End::Unknown && matches!(known.end, End::Ok(..)));
        self.add("unknown_outcome_was_carried_out", carried_out.count() as u64);
        for operation in paired(history) {
            match (&operation.call, &operation.end) {
                (Call::Cas { .. }, End::Ok(_, Reply::Mismatch { .. })) => self.count("cas_lost"),
                // Only what asks nobody takes no time.
                (Call::Read { .. }, End::Ok(ended, _)) if *ended == operation.invoked => {
                    self.count("read_from_a_near_cache");
                }
                (Call::Ack { .. }, End::Fail(_, error)) if error.contains("not the owner any more") => {
                    self.count("consumer_fenced");
                }
                (_, End::Fail(_, error)) if error.contains("writes are refused") => {
                    self.count("write_refused_for_space");
                }
                _ => {}
            }
        }
        let compacted = |event: &&Event| {
            matches!(
                event.step,
                history::Step::Seen {
                    seen: Seen::Compacted { .. }
                }
            )
        };
        self.add("watch_compacted", history.iter().filter(compacted).count() as u64);
        let resumed = |event: &&Event| matches!(event.step, history::Step::Seen { seen: Seen::Resumed });
        self.add("watch_resumed", history.iter().filter(resumed).count() as u64);
    }

    /// Adds to the count of an event of the list.
    pub fn add(&mut self, event: &'static str, count: u64) {
        debug_assert!(
            EVENTS.contains(&event) || ROCKS_EVENTS.contains(&event) || MEMBER_EVENTS.contains(&event),
            "{event}"
        );
        *self.counts.entry(event).or_default() += count;
    }

    /// Adds what the network has seen.
    pub fn add_network(&mut self, net: &SimNet) {
        for ((_, _, fate), count) in net.counts() {
            let event = match fate {
                Fate::Dropped | Fate::ResetBefore => "message_lost",
                Fate::ResetAfter => "connection_broken_after_delivery",
                Fate::Duplicated | Fate::Replayed => "message_delivered_twice",
                _ => continue,
            };
            self.add(event, count);
        }
    }
}

#[cfg(test)]
mod tests;
