//! Makes a plan true in one stopped node's files. What is done already is not done again, so that it can be repeated after any interruption.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use kvsvr_core::types::{LogPosition, META_SHARD, ShardId};
use prost::Message as _;
use tokio::sync::oneshot;

use super::{
    Collected, Members, Plan, Position, RecoverError, Replica,
    collect::{Still, collect_files, open_engine},
};
use crate::{
    disk::{DynDisk, fs::FsDisk},
    limits::WAL_MIN_SEGMENT_BYTES,
    raft::{
        convert,
        runtime::random_u64,
        types::{Membership, PeerNode},
    },
    store::{DataLock, ReplicaRecord, ReplicaState, Store},
    wal::{Done, EntryKind, EntryRecord, VoteRecord, Wal, WalOptions},
};

/// What is to be done to one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It becomes the only voter.
    Recover {
        /// The shard.
        shard: u32,
        /// The replica as it is.
        before: Box<Replica>,
    },
    /// It is destroyed, at the node's next start.
    Retire {
        /// The shard.
        shard: u32,
        /// The replica's incarnation.
        incarnation: u64,
    },
}

impl Action {
    /// In words.
    pub fn text(&self) -> String {
        match self {
            Self::Recover { shard, before } => format!(
                "shard {shard}: this node becomes its only voter, with the log up to entry {}",
                before.last.map_or(0, |last| last.index)
            ),
            Self::Retire { shard, .. } => {
                format!("shard {shard}: this node's replica is destroyed when the node starts next")
            }
        }
    }
}

/// A stopped node whose files a plan is for. Its directory is locked meanwhile.
pub struct StoppedNode<'a> {
    plan: &'a Plan,
    node: u64,
    disk: DynDisk,
    actions: Vec<Action>,
    _lock: Option<DataLock>,
}

impl<'a> StoppedNode<'a> {
    /// Looks whether the plan is for this node as it is, and what is left to do.
    ///
    /// # Errors
    /// The directory cannot be used, the plan is another cluster's, the node is not in it or not as it was collected. Nothing has been changed.
    pub async fn open(data_dir: &Path, plan: &'a Plan) -> Result<StoppedNode<'a>, RecoverError> {
        let lock = DataLock::acquire_existing(data_dir)?;
        let disk = Arc::new(FsDisk::new(data_dir)?);
        let engine = open_engine(data_dir)?;
        let mut node = Self::look(disk, engine, plan, PathBuf::from(data_dir)).await?;
        node._lock = lock;
        Ok(node)
    }

    /// The same for a directory that is locked already.
    pub(super) async fn look(
        disk: DynDisk,
        engine: Still,
        plan: &'a Plan,
        place: PathBuf,
    ) -> Result<StoppedNode<'a>, RecoverError> {
        let now = collect_files(disk.clone(), engine, &place.display().to_string()).await?;
        if now.cluster_id != plan.cluster_id {
            return Err(RecoverError::OtherCluster(format!(
                "the plan is for cluster {} ({}), and {} belongs to cluster {}",
                plan.cluster_name,
                plan.cluster_id,
                place.display(),
                now.cluster_id
            )));
        }
        Ok(StoppedNode {
            plan,
            node: now.node_id,
            disk,
            actions: actions(plan, &now)?,
            _lock: None,
        })
    }

    /// The node.
    pub fn id(&self) -> u64 {
        self.node
    }

    /// What is left to do; nothing if all is done.
    pub fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// Does it. After an error it can be repeated.
    ///
    /// # Errors
    /// Files cannot be written.
    pub async fn apply(self) -> Result<(), RecoverError> {
        let store = Store::open_existing(self.disk.clone()).await?;
        let store =
            store.ok_or_else(|| RecoverError::Storage("the data directory is empty now".to_owned()))?;
        for action in &self.actions {
            if let Action::Retire { shard, incarnation } = action {
                let record = ReplicaRecord {
                    // Of the meta shard the next one is made at once, under its own number, which the placement counts in the same way.
                    incarnation: *incarnation + u64::from(*shard == META_SHARD.0),
                    // The next start ends it, whatever is there: see `Node::recover_shards` in `node/replicas.rs`.
                    state: ReplicaState::Destroying,
                };
                store.set_replica(*shard, record).await?;
            }
        }
        let recover = |action: &&Action| matches!(action, Action::Recover { .. });
        if self.actions.iter().any(|action| recover(&action)) {
            self.write_log(&store).await?;
        }
        Ok(())
    }

    async fn write_log(&self, store: &Store) -> Result<(), RecoverError> {
        let options = WalOptions {
            // As little as can be: the disk may be nearly full, and the next start makes what it wants.
            segment_bytes: WAL_MIN_SEGMENT_BYTES,
            spares: 0,
            // What fails is told to the callbacks, too.
            ..WalOptions::new(store.meta().store_id, random_u64(), Arc::new(|_| {}))
        };
        let (wal, _) = Wal::open(self.disk.clone(), options).await?;
        let mut written = Ok(());
        for action in &self.actions {
            if let Action::Recover { shard, before } = action
                && written.is_ok()
            {
                written = self.recover(&wal, *shard, before).await;
            }
        }
        wal.shutdown().await;
        written
    }

    /// The vote first: an entry of a term that its node knows nothing of would be no log of Raft's.
    async fn recover(&self, wal: &Wal, shard: u32, before: &Replica) -> Result<(), RecoverError> {
        let Some(recovery) = self.plan.shards.get(&shard) else {
            return Ok(());
        };
        let id = ShardId(shard);
        // A snapshot was installed, and the log it replaces not purged yet. Openraft's next start would.
        if let Some(last) = before.last.map(LogPosition::from)
            && wal.shard(id).last.map(|p| p.index) < Some(last.index)
        {
            wal.purge(id, last);
        }
        let vote = recovery.vote();
        let (done, voted) = waiter();
        let vote = VoteRecord {
            term: vote.term,
            node: vote.node,
            committed: vote.committed,
        };
        wal.save_vote(id, vote, done);
        voted.await?;
        let entry = EntryRecord {
            position: recovery.entry.into(),
            kind: EntryKind::Membership,
            payload: payload(&recovery.members(&before.members))?,
        };
        let (done, appended) = waiter();
        wal.append(id, vec![entry], done);
        appended.await
    }
}

/// A callback, and the future that waits for it.
fn waiter() -> (Done, impl Future<Output = Result<(), RecoverError>>) {
    let (told, done) = oneshot::channel::<io::Result<()>>();
    let tell: Done = Box::new(move |result| {
        // Whoever waits may be gone.
        let _ = told.send(result);
    });
    let wait = async move {
        let result = done
            .await
            .map_err(|_| io::Error::other("the log's writer has stopped"));
        Ok(result??)
    };
    (tell, wait)
}

fn payload(members: &Members) -> Result<bytes::Bytes, RecoverError> {
    let nodes = members.nodes.iter().map(|(id, peer)| {
        let node = PeerNode {
            address: peer.address.clone(),
            store_id: peer.store_id.clone(),
            incarnation: peer.incarnation,
        };
        (*id, node)
    });
    let nodes: std::collections::BTreeMap<u64, PeerNode> = nodes.collect();
    let membership = Membership::new(members.voters.clone(), nodes).map_err(RecoverError::storage)?;
    Ok(convert::pb_membership(&membership).encode_to_vec().into())
}

/// What is left to do on a node, if the plan is for it as it is now. Pure.
pub(super) fn actions(plan: &Plan, now: &Collected) -> Result<Vec<Action>, RecoverError> {
    let then = plan
        .nodes
        .get(&now.node_id)
        .ok_or(RecoverError::NotPlanned(now.node_id))?;
    if then.store_id != now.store_id {
        return Err(RecoverError::NotPlanned(now.node_id));
    }
    let mut actions = Vec::new();
    let shards: std::collections::BTreeSet<u32> =
        then.replicas.keys().chain(now.replicas.keys()).copied().collect();
    for shard in shards {
        let changed = |what: String| RecoverError::StateChanged { shard, what };
        let (was, is) = (then.replicas.get(&shard), now.replicas.get(&shard));
        let Some(was) = was else {
            return Err(changed("its replica was not there".to_owned()));
        };
        let recovery = plan.shards.get(&shard);
        match (recovery, is) {
            (Some(recovery), Some(is)) if recovery.chosen == now.node_id => {
                // The vote may be there without the entry, as after a crash in between.
                let half = Replica {
                    vote: Some(recovery.vote()),
                    ..was.clone()
                };
                if is == was || *is == half {
                    actions.push(Action::Recover {
                        shard,
                        before: Box::new(was.clone()),
                    });
                } else if *is != recovery.done(was) {
                    return Err(changed(difference(was, is)));
                }
            }
            (Some(recovery), is) if recovery.retired.contains(&now.node_id) => match is {
                Some(is) if is == was => actions.push(Action::Retire {
                    shard,
                    incarnation: was.incarnation,
                }),
                Some(is) => return Err(changed(difference(was, is))),
                // It is marked already.
                None => {}
            },
            (_, Some(is)) if is == was => {}
            (_, Some(is)) => return Err(changed(difference(was, is))),
            (_, None) => return Err(changed("its replica is gone".to_owned())),
        }
    }
    Ok(actions)
}

fn difference(was: &Replica, is: &Replica) -> String {
    let at = |position: Option<Position>| {
        position.map_or("nothing".to_owned(), |p| format!("{}@{}", p.index, p.term))
    };
    let term = |replica: &Replica| replica.vote.map_or(0, |vote| vote.term);
    format!(
        "its log ended with {}, committed {}, applied {}, in term {}; now it is {}, {}, {}, {}",
        at(was.last),
        at(was.committed),
        at(was.applied),
        term(was),
        at(is.last),
        at(is.committed),
        at(is.applied),
        term(is)
    )
}
