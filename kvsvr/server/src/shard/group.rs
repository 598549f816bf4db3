//! A shard's group as its leader sees it, and one step of a change of it.
//!
//! Two who ask at a time cannot get in each other's way: a step names the membership that it was decided on, and is refused on any other.
//! The leader looks itself whether who is to vote is caught up, as what the asker knows may be old.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use kvsvr_proto::{count, v1 as pb};
use openraft::{ChangeMembers, async_runtime::WatchReceiver as _, metrics::RaftMetrics, raft::Precondition};

use super::Shard;
use crate::{
    limits::{LAG_SAMPLES, LEARNER_MAX_LAG, LEARNER_MAX_LAG_MS, PREFERRED_LEADER_HEARTBEATS, STEP_DEADLINE},
    raft::{
        convert,
        types::{LogId, Membership, PeerNode, StoredMembership, TypeConfig},
    },
    time::{Instant, sleep, timeout},
};

/// When the leader's log ended where, to tell how far behind in time a member is.
#[derive(Debug, Default)]
pub(super) struct LagSamples(VecDeque<(Instant, u64)>);

impl LagSamples {
    fn add(&mut self, last: u64) {
        self.0.push_back((Instant::now(), last));
        if self.0.len() > LAG_SAMPLES {
            self.0.pop_front();
        }
    }

    /// How long ago the log ended at `matched`, or before it.
    fn age(&self, matched: u64, last: u64) -> Option<Duration> {
        if matched >= last {
            return Some(Duration::ZERO);
        }
        let reached = self.0.iter().rev().find(|(_, end)| *end <= matched)?;
        Some(reached.0.elapsed())
    }
}

/// A member that may become a voter: little is missing, in entries and in time.
pub fn caught_up(member: &pb::MemberProgress) -> bool {
    member.heard
        && member.lag_entries <= LEARNER_MAX_LAG
        && member.lag_ms_known
        && member.lag_ms <= LEARNER_MAX_LAG_MS
}

/// What is to be done to a group.
#[derive(Clone, Debug)]
pub enum GroupStep {
    /// Add a member that does not vote.
    AddLearner(u64, PeerNode),
    /// Let these vote; who did stays as a learner.
    Voters(BTreeSet<u64>),
    /// Take out a member that does not vote.
    DropLearner(u64),
    /// Hand leadership over.
    MoveLeader(u64),
}

impl Shard {
    /// Which of the node's replicas of this shard this is.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The newest membership, whether it is committed, and how far its members are. Confirmed by a quorum while it was so.
    pub async fn group(&self) -> pb::GroupResponse {
        match self.settled_group().await {
            Ok(response) => response,
            Err((leader, error)) => pb::GroupResponse {
                leader,
                error,
                ..Default::default()
            },
        }
    }

    /// While a step is under way the membership is not told as committed.
    async fn settled_group(&self) -> Result<pb::GroupResponse, (u64, String)> {
        let idle = self.changing.try_lock().is_ok();
        let mut group = self.confirmed_group().await?;
        // One that has begun since asks whether it is still wanted after this.
        group.committed &= idle;
        Ok(group)
    }

    async fn confirmed_group(&self) -> Result<pb::GroupResponse, (u64, String)> {
        let leader = self.leader.leader().map_or(0, |(id, _)| id);
        if !self.leader.is_me() {
            return Err((leader, format!("shard {}: node {leader} leads", self.id)));
        }
        let (before, _) = self.memberships().await.map_err(|e| (0, e))?;
        let confirmed = self.reads.confirm_as_leader().await;
        confirmed.map_err(|e| (e.leader_node, e.message))?;
        let (effective, committed) = self.memberships().await.map_err(|e| (0, e))?;
        if before.log_id() != effective.log_id() {
            return Err((self.node_id, format!("shard {}: its members change", self.id)));
        }
        Ok(pb::GroupResponse {
            leader: self.node_id,
            membership_id: effective.log_id().as_ref().map(convert::pb_log_id),
            membership: Some(convert::pb_membership(effective.membership())),
            committed: committed == *effective.log_id(),
            members: self.progress(effective.membership()),
            error: String::new(),
        })
    }

    /// The effective membership, and the log id of the committed one.
    async fn memberships(&self) -> Result<(Arc<StoredMembership>, Option<LogId>), String> {
        let found = self.raft.with_raft_state(|state| {
            let memberships = &state.membership_state;
            (memberships.effective().clone(), *memberships.committed().log_id())
        });
        found.await.map_err(|e| e.to_string())
    }

    fn progress(&self, membership: &Membership) -> Vec<pb::MemberProgress> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let last = metrics.last_log_index.unwrap_or(0);
        let mut samples = self.lag_samples.lock();
        samples.add(last);
        let ids = membership.nodes().map(|(id, _)| *id);
        ids.map(|id| self.member_progress(&metrics, &samples, id, last))
            .collect()
    }

    fn member_progress(
        &self,
        metrics: &RaftMetrics<TypeConfig>,
        samples: &LagSamples,
        id: u64,
        last: u64,
    ) -> pb::MemberProgress {
        let me = id == self.node_id;
        let matched = match metrics.replication.as_ref().and_then(|r| r.get(&id)) {
            _ if me => last,
            Some(Some(matched)) => matched.index,
            _ => 0,
        };
        let recent = self.heartbeat * PREFERRED_LEADER_HEARTBEATS;
        let heard = metrics.heartbeat.as_ref().and_then(|h| h.get(&id)?.as_ref());
        let age = samples.age(matched, last);
        pb::MemberProgress {
            node: id,
            matched,
            lag_entries: last.saturating_sub(matched),
            lag_ms: age.map_or(0, |age| age.as_millis() as u64),
            lag_ms_known: age.is_some(),
            heard: me || heard.is_some_and(|at| openraft::async_runtime::Instant::elapsed(&**at) < recent),
        }
    }

    /// Takes a step, if the membership is still `decided_on`, and if it is still wanted: `wanted` is asked once no other step is under way, and
    /// no other begins before this one has ended. Goes on when the caller has gone; the caller waits for a while only.
    ///
    /// So whoever is told a committed membership by [`Shard::group`] knows that no step changes it any more that `wanted` says no to since.
    pub async fn change_group(
        self: &Arc<Self>,
        decided_on: Option<LogId>,
        step: GroupStep,
        wanted: impl Future<Output = Result<(), String>>,
    ) -> Result<(), String> {
        let Ok(busy) = self.changing.clone().try_lock_owned() else {
            return Err(format!("shard {}: another step is under way", self.id));
        };
        wanted.await?;
        let group = self.confirmed_group().await.map_err(|(_, e)| e)?;
        let membership_id = group.membership_id.as_ref().map(convert::from_pb_log_id);
        if membership_id != decided_on {
            return Err(format!(
                "shard {}: its members are others than the step is for",
                self.id
            ));
        }
        if !group.committed {
            return Err(format!("shard {}: a change is being committed", self.id));
        }
        let change = match step {
            GroupStep::AddLearner(id, node) if kvsvr_core::mutant!("learner-votes-at-once") => {
                ChangeMembers::AddVoters([(id, node)].into())
            }
            GroupStep::AddLearner(id, node) => ChangeMembers::AddNodes([(id, node)].into()),
            GroupStep::DropLearner(id) => {
                // What it has been sent last it only takes for committed with the next heartbeat: let it hear of its end.
                sleep(self.heartbeat * PREFERRED_LEADER_HEARTBEATS).await;
                ChangeMembers::RemoveNodes([id].into())
            }
            GroupStep::Voters(voters) => {
                check_voters(&group, &voters)?;
                ChangeMembers::ReplaceAllVoters(voters)
            }
            GroupStep::MoveLeader(to) => return self.move_leader(to).await,
        };
        tracing::info!(shard = %self.id, "changing the group: {change}");
        let raft = self.raft.clone();
        let precondition = Precondition::LastMembershipLogId {
            last_membership_log_id: decided_on,
        };
        let changing = async move {
            let changed = raft.change_membership_if(change, true, [precondition]).await;
            drop(busy);
            changed.map(drop).map_err(|e| e.to_string())
        };
        match timeout(STEP_DEADLINE, tokio::spawn(changing)).await {
            Ok(Ok(result)) => result,
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err(format!("not done within {STEP_DEADLINE:?}; it goes on")),
        }
    }

    async fn move_leader(&self, to: u64) -> Result<(), String> {
        match self.transfer_target(Some(to)) {
            Some((id, _)) if id == to => {}
            _ => return Err(format!("node {to} is not caught up now")),
        }
        tracing::info!(shard = %self.id, to, "handing leadership over, for a change of the group");
        let transfer = self.raft.trigger().transfer_leader(to).await;
        transfer.map_err(|e| e.to_string())
    }

    /// Stops the replica for good: nothing is applied any more when this returns, and its end is no failure.
    pub async fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.machine.retire();
        self.shutdown().await;
    }

    /// It was, or is being, stopped for good.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }
}

/// Who is to vote anew is caught up, and no fewer voters answer than before.
fn check_voters(group: &pb::GroupResponse, voters: &BTreeSet<u64>) -> Result<(), String> {
    let Some(membership) = &group.membership else {
        return Err("no membership".to_owned());
    };
    if membership.configs.len() > 1 {
        // Only its end is left: where it leads was looked at when it was begun.
        let last = membership.configs.last();
        let target: BTreeSet<u64> = last.iter().flat_map(|set| set.ids.iter().copied()).collect();
        return if target == *voters {
            Ok(())
        } else {
            Err("another change is under way".to_owned())
        };
    }
    let old: BTreeSet<u64> = membership
        .configs
        .iter()
        .flat_map(|set| set.ids.iter().copied())
        .collect();
    let progress = |id: &u64| group.members.iter().find(|m| m.node == *id);
    if let Some(late) = voters
        .difference(&old)
        .find(|id| !progress(id).is_some_and(caught_up))
    {
        return Err(format!("node {late} is not caught up"));
    }
    let heard = |set: &BTreeSet<u64>| {
        set.iter()
            .filter(|id| progress(id).is_some_and(|m| m.heard))
            .count()
    };
    let (before, after) = (heard(&old), heard(voters));
    let is_blind = voters.is_subset(&old) && kvsvr_core::mutant!("reseed-without-the-others");
    if !is_blind && (after < before.min(voters.len()) || after * 2 <= voters.len()) {
        return Err(format!(
            "{after} of {} would answer, now it is {before} of {}",
            count(voters.len(), "voter"),
            old.len()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(configs: &[&[u64]], late: &[u64], silent: &[u64]) -> pb::GroupResponse {
        let configs = configs.iter().map(|ids| pb::PbNodeSet { ids: ids.to_vec() });
        let member = |node| pb::MemberProgress {
            node,
            lag_entries: if late.contains(&node) { 10_000 } else { 0 },
            lag_ms_known: true,
            heard: !silent.contains(&node),
            ..Default::default()
        };
        pb::GroupResponse {
            membership: Some(pb::PbMembership {
                configs: configs.collect(),
                nodes: Vec::new(),
            }),
            members: (1..=5).map(member).collect(),
            ..Default::default()
        }
    }

    #[track_caller]
    fn check(group: &pb::GroupResponse, voters: &[u64], refusal: Option<&str>) {
        let checked = check_voters(group, &voters.iter().copied().collect());
        match (checked, refusal) {
            (Ok(()), None) => {}
            (Err(reason), Some(part)) => assert!(reason.contains(part), "{reason}"),
            (checked, _) => panic!("{checked:?}, not {refusal:?}"),
        }
    }

    #[test]
    fn who_votes_is_caught_up_and_no_fewer_answer() {
        let three: &[&[u64]] = &[&[1, 2, 3]];
        check(&group(three, &[], &[]), &[1, 2, 4], None);
        check(
            &group(three, &[4], &[]),
            &[1, 2, 4],
            Some("node 4 is not caught up"),
        );
        check(
            &group(three, &[], &[4]),
            &[1, 2, 4],
            Some("node 4 is not caught up"),
        );
        // The dead one goes, or stays, but no other.
        check(&group(three, &[], &[3]), &[1, 2, 4], None);
        check(&group(three, &[], &[3]), &[1, 3], Some("1 of 2 voters"));
        check(&group(three, &[], &[]), &[1, 2], None);
        check(
            &group(&[&[1, 2, 3, 4, 5]], &[], &[4, 5]),
            &[1, 4, 5],
            Some("1 of 3 voters"),
        );
        // A joint configuration only ends.
        let joint: &[&[u64]] = &[&[1, 2, 3], &[1, 2, 4]];
        check(&group(joint, &[4], &[4]), &[1, 2, 4], None);
        check(&group(joint, &[], &[]), &[1, 2, 5], Some("another change"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_is_as_late_as_the_leaders_log_was_where_it_is() {
        let mut samples = LagSamples::default();
        assert_eq!(samples.age(9, 9), Some(Duration::ZERO));
        assert_eq!(samples.age(8, 9), None, "nobody has looked yet");
        samples.add(5);
        sleep(Duration::from_secs(2)).await;
        samples.add(9);
        sleep(Duration::from_secs(1)).await;
        samples.add(30);
        assert_eq!(samples.age(4, 30), None);
        assert_eq!(samples.age(8, 30), Some(Duration::from_secs(3)));
        assert_eq!(samples.age(9, 30), Some(Duration::from_secs(1)));
        assert_eq!(samples.age(30, 30), Some(Duration::ZERO));
    }
}
