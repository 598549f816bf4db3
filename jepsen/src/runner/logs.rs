//! Reads the committed log out of the directories of stopped nodes, where it is still whole.
//!
//! What is committed is told by the nodes' files, and by what their replicas had applied before they were stopped. It is merged as etcd's
//! robustness tests do it (`tests/robustness/report/wal.go`): an entry is taken from the first node that has it. The log is whole if nothing
//! of it is missing from its beginning to the last committed entry, and if no node has a command behind that: such a one may be committed
//! too, so that nothing could be said of it.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use kvsvr::{
    disk::fs::FsDisk,
    limits::WAL_MIN_SEGMENT_BYTES,
    store::{DataLock, Store},
    wal::{EntryKind, EntryRecord, Wal, WalOptions},
};
use kvsvr_core::{
    machine::{Entry, Payload},
    types::ShardId,
};

use crate::{
    check::{Commit, Replica},
    committed_log::CommittedLog,
};

/// Payload bytes of one reading.
const READ_BYTES: usize = 1 << 20;

/// A node's log. Its directory is locked meanwhile.
struct NodeLog {
    node: u64,
    wal: Wal,
    _lock: DataLock,
}

impl NodeLog {
    /// The last entry that this node knows to be committed. What it has behind that others may have replaced.
    fn committed(&self, shard: ShardId, replicas: &[Replica]) -> Option<u64> {
        let mut mine = replicas
            .iter()
            .filter(|one| (one.node, one.shard) == (self.node, shard.0));
        let applied = mine.next().map(|replica| replica.applied);
        let saved = self.wal.shard(shard).committed.map(|position| position.index);
        saved.max(applied)
    }
}

/// The committed logs of data shards `1..=shards`, by shard and index, from the directories of these nodes. `Ok(Err)`: why they are not whole.
///
/// # Errors
/// A directory cannot be read.
pub async fn committed(
    directories: &BTreeMap<u64, PathBuf>,
    shards: u32,
    replicas: &[Replica],
) -> io::Result<Result<Vec<Commit>, String>> {
    let mut nodes = Vec::new();
    for (node, directory) in directories {
        nodes.push(open(*node, directory).await?);
    }
    let merged = merge(&nodes, shards, replicas).await;
    for node in &nodes {
        node.wal.shutdown().await;
    }
    merged
}

async fn open(node: u64, directory: &Path) -> io::Result<NodeLog> {
    let lock = DataLock::acquire_existing(directory).map_err(io::Error::other)?;
    let nothing = || io::Error::other(format!("{} is not a node's directory", directory.display()));
    let lock = lock.ok_or_else(nothing)?;
    let disk = Arc::new(FsDisk::new(directory)?);
    let store = Store::open_existing(disk.clone())
        .await
        .map_err(io::Error::other)?;
    let store_id = store.ok_or_else(nothing)?.meta().store_id;
    // Nothing is written but what opening it writes; its errors are returned.
    let mut options = WalOptions::new(store_id, 0, Arc::new(|_| {}));
    options.segment_bytes = WAL_MIN_SEGMENT_BYTES;
    options.spares = 0;
    let (wal, _) = Wal::open(disk, options).await.map_err(io::Error::other)?;
    Ok(NodeLog {
        node,
        wal,
        _lock: lock,
    })
}

async fn merge(
    nodes: &[NodeLog],
    shards: u32,
    replicas: &[Replica],
) -> io::Result<Result<Vec<Commit>, String>> {
    let mut commits = Vec::new();
    for shard in (1..=shards).map(ShardId) {
        let known = nodes.iter().filter_map(|node| node.committed(shard, replicas));
        let Some(end) = known.max() else {
            return Ok(Err(format!(
                "nothing is known to be committed of shard {}",
                shard.0
            )));
        };
        let Some(mut log) = CommittedLog::new(shard) else {
            return Ok(Err("a state machine cannot be made".into()));
        };
        for node in nodes {
            if let Some(known) = node.committed(shard, replicas) {
                follow(&mut log, &node.wal, shard, known).await?;
            }
        }
        match log.next() {
            Some(next) if next > end => {}
            Some(next) => return Ok(Err(format!("entry {next} of shard {} is purged", shard.0))),
            None => return Ok(Err(format!("the log of shard {} cannot be applied", shard.0))),
        }
        for node in nodes {
            if let Some(index) = command_after(&node.wal, shard, end).await? {
                let text = format!("entry {index} of shard {} may be committed or not", shard.0);
                return Ok(Err(text));
            }
        }
        commits.extend_from_slice(log.commits());
    }
    Ok(Ok(commits))
}

/// Takes what one node has, up to the end.
async fn follow(log: &mut CommittedLog, wal: &Wal, shard: ShardId, end: u64) -> io::Result<()> {
    while let Some(next) = log.next().filter(|next| *next <= end) {
        let records = wal.read(shard, next..end + 1, READ_BYTES).await?;
        if records.first().is_none_or(|record| record.position.index != next) {
            return Ok(());
        }
        log.apply(records.into_iter().map(entry));
    }
    Ok(())
}

/// Index of a command that a node has behind the last committed entry.
async fn command_after(wal: &Wal, shard: ShardId, end: u64) -> io::Result<Option<u64>> {
    let last = wal.shard(shard).last.map_or(0, |position| position.index);
    let mut next = end + 1;
    while next <= last {
        let records = wal.read(shard, next..last + 1, READ_BYTES).await?;
        let Some(newest) = records.last() else { break };
        next = newest.position.index + 1;
        let mut commands = records.iter().filter(|record| record.kind == EntryKind::Batch);
        if let Some(record) = commands.next() {
            return Ok(Some(record.position.index));
        }
    }
    Ok(None)
}

/// An entry as the state machine takes it.
fn entry(record: EntryRecord) -> Entry {
    let payload = match record.kind {
        EntryKind::Batch => Payload::Batch(record.payload),
        // Who is a member changes no key.
        EntryKind::Blank | EntryKind::Membership => Payload::Blank,
    };
    Entry {
        position: record.position,
        payload,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kvsvr::store::StoreId;
    use kvsvr_core::{
        codec::{encode_batch, encode_command},
        command::{Command, Op},
        types::{LogPosition, Partition},
    };
    use tokio::sync::oneshot;

    use super::*;
    use crate::workload::names;

    const SHARD: ShardId = ShardId(1);

    fn at(index: u64) -> LogPosition {
        LogPosition {
            index,
            term: 1,
            node: 1,
        }
    }

    /// The first entry is nothing; each of the others writes its index.
    fn record(index: u64) -> EntryRecord {
        let write = Command {
            partition: Partition {
                region: 0,
                name: names::partition(100).name,
            },
            session: None,
            op: Op::Put {
                key: names::key(1),
                value: names::value(index),
                ttl_ms: 0,
                lease: 0,
            },
        };
        let (kind, payload) = match index {
            0 => (EntryKind::Blank, Bytes::new()),
            _ => (EntryKind::Batch, encode_batch(1, &[encode_command(&write)])),
        };
        EntryRecord {
            position: at(index),
            kind,
            payload,
        }
    }

    /// A stopped node that has entries up to `last`, knows those up to `committed` to be so, and has purged those up to `purged`.
    async fn node(directory: &Path, last: u64, committed: u64, purged: Option<u64>) {
        let lock = DataLock::acquire(directory).unwrap();
        let disk = Arc::new(FsDisk::new(directory).unwrap());
        let store = Store::open(disk.clone(), StoreId([7; 16]), 0).await.unwrap();
        let mut options = WalOptions::new(store.meta().store_id, 1, Arc::new(|_| {}));
        options.segment_bytes = WAL_MIN_SEGMENT_BYTES;
        let (wal, _) = Wal::open(disk, options).await.unwrap();
        wal.save_committed(SHARD, Some(at(committed)));
        if let Some(purged) = purged {
            wal.purge(SHARD, at(purged));
        }
        let (done, synced) = oneshot::channel();
        let done = Box::new(move |result: io::Result<()>| drop(done.send(result)));
        let first = purged.map_or(0, |purged| purged + 1);
        wal.append(SHARD, (first..=last).map(record).collect(), done);
        synced.await.unwrap().unwrap();
        wal.shutdown().await;
        drop(lock);
    }

    /// What comes of nodes with these last, committed and purged entries: the indexes of the changes, or why there are none.
    fn merged(nodes: &[(u64, u64, Option<u64>)], replicas: &[Replica]) -> Result<Vec<u64>, String> {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut directories = BTreeMap::new();
            for (id, (last, committed, purged)) in (1..).zip(nodes) {
                let home = dir.path().join(id.to_string());
                node(&home, *last, *committed, *purged).await;
                directories.insert(id, home);
            }
            let commits = super::committed(&directories, 1, replicas).await.unwrap()?;
            for commit in &commits {
                assert_eq!(commit.changes[0].value, Some(commit.index));
            }
            Ok(commits.iter().map(|commit| commit.index).collect())
        })
    }

    #[test]
    fn what_one_node_has_purged_another_has() {
        let nodes = [(3, 3, None), (5, 5, Some(2))];
        assert_eq!(merged(&nodes, &[]), Ok(vec![1, 2, 3, 4, 5]));
        let error = merged(&[(4, 4, Some(1)), (5, 5, Some(2))], &[]).unwrap_err();
        assert!(error.contains("entry 0 of shard 1 is purged"), "{error}");
    }

    #[test]
    fn a_command_that_may_be_committed_makes_the_log_useless() {
        let error = merged(&[(3, 3, None), (4, 3, None)], &[]).unwrap_err();
        assert!(
            error.contains("entry 4 of shard 1 may be committed or not"),
            "{error}"
        );
        let applied = Replica {
            node: 2,
            shard: 1,
            applied: 4,
            hash: 0,
        };
        let told = merged(&[(3, 3, None), (4, 3, None)], &[applied]);
        assert_eq!(told, Ok(vec![1, 2, 3, 4]), "the replica had applied it");
    }
}
