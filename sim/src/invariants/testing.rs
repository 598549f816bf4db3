//! Hand-made moments.

use std::time::Duration;

use kvsvr::wal::{ShardLog, VoteRecord};
use kvsvr_core::types::{LogPosition, ShardId};

use super::{Invariant, Log, Machine, Moment, Replica, Reseed, Role};

/// A log that has everything from index 0 on, given by the terms.
#[derive(Clone)]
pub(super) struct Terms(Vec<u64>);

impl Log for Terms {
    fn position(&self, index: u64) -> Option<LogPosition> {
        let term = *self.0.get(index as usize)?;
        Some(LogPosition {
            index,
            term,
            node: term,
        })
    }
}

/// A follower with nothing.
pub(crate) fn replica(machine: usize, term: u64) -> Replica {
    Replica {
        machine,
        node: machine as u64 + 1,
        process: 1,
        incarnation: 0,
        installing: false,
        installs: 0,
        shard: ShardId(1),
        role: Role::Follower,
        term,
        committed: None,
        applied: None,
        flushed: None,
        unreadable: false,
        revision: 0,
        lease: false,
        asked: None,
        granted: None,
        stored: None,
        election: None,
        log: ShardLog::default(),
        contents: None,
    }
}

/// With a vote for a node, in its term.
pub(super) fn voted(mut replica: Replica, node: u64) -> Replica {
    replica.log.vote = Some(VoteRecord {
        term: replica.term,
        node,
        committed: true,
    });
    replica
}

/// With the entries of these terms.
pub(super) fn with_log(mut replica: Replica, terms: &[u64]) -> (Replica, Terms) {
    let log = Terms(terms.to_vec());
    replica.log.last = log.position(terms.len() as u64 - 1);
    (replica, log)
}

/// An invariant under test.
pub(super) struct World<I> {
    invariant: I,
    /// When it looks.
    pub(super) at: Duration,
    /// What is under way then.
    pub(super) reseed: Option<Reseed>,
}

impl<I: Invariant> World<I> {
    pub(super) fn new(invariant: I) -> Self {
        Self {
            invariant,
            at: Duration::ZERO,
            reseed: None,
        }
    }

    fn moment<'a>(&self, replicas: &'a [(Replica, Terms)]) -> Moment<'a> {
        let replicas = replicas
            .iter()
            .map(|(replica, log)| (replica.clone(), log as &dyn Log));
        Moment {
            at: self.at,
            machines: Vec::new(),
            members_change: true,
            reseed: self.reseed,
            replicas: replicas.collect(),
        }
    }

    fn look(&mut self, replicas: &[(Replica, Terms)]) -> Result<(), String> {
        let moment = self.moment(replicas);
        self.invariant.look(&moment)
    }

    fn moment_of(&self, machines: &[Machine]) -> Moment<'static> {
        Moment {
            machines: machines.to_vec(),
            ..self.moment(&[])
        }
    }

    /// Looks at machines only.
    pub(super) fn look_at(&mut self, machines: &[Machine]) -> Result<(), String> {
        let moment = self.moment_of(machines);
        self.invariant.look(&moment)
    }

    /// Whether these machines have what it looks at.
    pub(super) fn sees_machines(&self, machines: &[Machine]) -> bool {
        self.invariant.sees(&self.moment_of(machines))
    }

    /// Whether a moment has what it looks at.
    pub(super) fn sees_with(&self, replicas: &[(Replica, Terms)]) -> bool {
        self.invariant.sees(&self.moment(replicas))
    }

    /// See [`World::sees_with`].
    pub(super) fn sees(&self, replicas: &[Replica]) -> bool {
        self.sees_with(&Self::without_logs(replicas))
    }

    pub(super) fn holds_with(&mut self, replicas: &[(Replica, Terms)]) {
        assert_eq!(self.look(replicas), Ok(()));
    }

    pub(super) fn breaks_with(&mut self, replicas: &[(Replica, Terms)], text: &str) {
        let error = self.look(replicas).unwrap_err();
        assert!(error.contains(text), "{error}");
    }

    pub(super) fn holds(&mut self, replicas: &[Replica]) {
        self.holds_with(&Self::without_logs(replicas));
    }

    pub(super) fn breaks(&mut self, replicas: &[Replica], text: &str) {
        self.breaks_with(&Self::without_logs(replicas), text);
    }

    fn without_logs(replicas: &[Replica]) -> Vec<(Replica, Terms)> {
        replicas
            .iter()
            .map(|replica| (replica.clone(), Terms(Vec::new())))
            .collect()
    }
}
