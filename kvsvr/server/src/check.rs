//! Verifies the files of a stopped node: `kvsvr check --data DIR`.
//!
//! It looks at the store files, at every block and record of the log, at the checksum of every block of the engine, and whether
//! log and engine fit together: what a shard has purged from its log must be in the engine. It takes the directory's lock, so a
//! running node is never looked at, and changes nothing else: a torn last write is reported, not cut (the next start does that).
//! It cannot know what the cluster committed; a node whose files are all good may still have lost acknowledged entries if
//! somebody put back old copies of its files.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use kvsvr_core::types::LogPosition;
use serde::{Serialize, Serializer};

use crate::{
    disk::{DynDisk, fs::FsDisk},
    node::cluster_text,
    store::{DataLock, Identity, MEMBER_LOST, Store, StoreError, StoreMeta},
    wal::{
        Damage, SegmentReport, WalError,
        scan::{Scan, scan},
    },
};

/// What a check comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything is good.
    Ok,
    /// Everything that was durable is good; a write was interrupted, the next start cuts it off.
    Torn,
    /// Durable data is damaged: the node must not run on it.
    Corrupt,
}

/// A position, for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Position {
    /// Index in the log.
    pub index: u64,
    /// Term.
    pub term: u64,
}

impl From<LogPosition> for Position {
    fn from(position: LogPosition) -> Self {
        Self {
            index: position.index,
            term: position.term,
        }
    }
}

/// A shard as log and engine know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ShardCheck {
    /// Term and node of the last vote.
    pub vote: Option<(u64, u64)>,
    /// The last committed position in the log.
    pub committed: Option<Position>,
    /// What was purged from the log.
    pub purged: Option<Position>,
    /// The log's last entry, or what was purged.
    pub last: Option<Position>,
    /// What the engine has applied.
    pub applied: Option<Position>,
    /// The engine's newest revision.
    pub revision: Option<u64>,
}

/// The log.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LogCheck {
    /// What is in each segment that could be read.
    pub segments: Vec<SegmentReport>,
    /// Allocated files that are not in use.
    pub spares: usize,
}

/// The engine.
#[derive(Clone, Debug, Default, Serialize)]
pub struct EngineCheck {
    /// Pairs that were read, in all column families.
    pub pairs: u64,
}

/// Everything that a check found.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// The worst of all.
    pub verdict: Verdict,
    /// Whose directory it is; `None` if it was never used.
    pub store: Option<StoreMeta>,
    /// Cluster and node, once joined.
    #[serde(serialize_with = "identity_for_people")]
    pub identity: Option<Identity>,
    /// The log.
    pub log: LogCheck,
    /// The engine; `None` if there is none.
    pub engine: Option<EngineCheck>,
    /// By shard number.
    pub shards: BTreeMap<u32, ShardCheck>,
    /// What is wrong.
    pub damage: Vec<Damage>,
}

/// With the cluster id as it is written everywhere else; the file has it as a number.
#[expect(clippy::ref_option, reason = "serde calls it so")]
fn identity_for_people<S: Serializer>(identity: &Option<Identity>, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Shown {
        cluster_id: String,
        node_id: u64,
    }
    let shown = identity.map(|identity| Shown {
        cluster_id: cluster_text(identity),
        node_id: identity.node_id,
    });
    shown.serialize(to)
}

/// Told what is being looked at, now and then.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

/// Checks a data directory. `Err` means that it could not be looked at; damage is in the report.
pub async fn check(data_dir: &Path, progress: Progress<'_>) -> Result<CheckReport, StoreError> {
    let _lock = DataLock::acquire_existing(data_dir)?;
    let disk = FsDisk::new(data_dir).map_err(|source| StoreError::Io {
        path: data_dir.display().to_string(),
        source,
    })?;
    check_files(Arc::new(disk), data_dir, progress).await
}

async fn check_files(
    disk: DynDisk,
    data_dir: &Path,
    progress: Progress<'_>,
) -> Result<CheckReport, StoreError> {
    let store = Store::open_existing(disk.clone()).await?;
    let mut report = CheckReport {
        verdict: Verdict::Ok,
        store: store.as_ref().map(Store::meta),
        identity: store.as_ref().and_then(Store::identity),
        log: LogCheck::default(),
        engine: None,
        shards: BTreeMap::new(),
        damage: Vec::new(),
    };
    let Some(meta) = report.store else {
        return Ok(report);
    };
    let read = std::sync::atomic::AtomicU64::new(0);
    let log_progress = |bytes| {
        let so_far = bytes + read.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        progress(&format!("log: {} MiB", so_far >> 20));
    };
    match scan(&disk, meta.store_id, &log_progress).await {
        Ok(found) => report.add_log(found),
        Err(WalError::Io { path, source, .. }) => return Err(StoreError::Io { path, source }),
        // A segment of another store or another version says all by itself.
        Err(other) => report.damaged("wal", other.to_string(), Vec::new()),
    }
    if report.identity.is_some() && report.log.segments.is_empty() && report.damage.is_empty() {
        report.damaged(
            "wal",
            "the node has joined a cluster, but has no log".to_owned(),
            Vec::new(),
        );
    }
    report.add_engine(data_dir, progress);
    report.compare();
    let torn = report
        .log
        .segments
        .iter()
        .any(|segment| segment.torn_at.is_some());
    report.verdict = match (report.damage.is_empty(), torn) {
        (false, _) => Verdict::Corrupt,
        (true, true) => Verdict::Torn,
        (true, false) => Verdict::Ok,
    };
    Ok(report)
}

impl CheckReport {
    fn damaged(&mut self, path: &str, detail: String, shards: Vec<u32>) {
        self.damage.push(Damage {
            path: path.to_owned(),
            offset: 0,
            detail,
            shards,
        });
    }

    fn add_log(&mut self, found: Scan) {
        for (shard, state) in found.replay.states() {
            let check = self.shards.entry(shard.0).or_default();
            check.vote = state.vote.map(|vote| (vote.term, vote.node));
            check.committed = state.committed.map(Position::from);
            check.purged = state.purged.map(Position::from);
            check.last = state.last.map(Position::from);
        }
        self.log.spares = found.spares.len();
        self.log.segments = found.segments.into_iter().map(|segment| segment.report).collect();
        self.damage.extend(found.damage);
    }

    #[cfg(feature = "rocks")]
    fn add_engine(&mut self, data_dir: &Path, progress: Progress<'_>) {
        use kvsvr_core::{read::shard_head, types::ShardId};

        use crate::{rocks::RocksView, store::ROCKS_DIR};

        let view = match RocksView::open_stopped(&data_dir.join(ROCKS_DIR)) {
            Ok(Some(view)) => view,
            Ok(None) => return,
            Err(error) => return self.damaged(ROCKS_DIR, error.to_string(), Vec::new()),
        };
        let pairs = view.verify(&|pairs| progress(&format!("engine: {pairs} pairs")));
        match pairs {
            Ok(pairs) => self.engine = Some(EngineCheck { pairs }),
            Err(error) => return self.damaged(ROCKS_DIR, error.to_string(), Vec::new()),
        }
        for shard in self.shards.keys().copied().collect::<Vec<_>>() {
            match shard_head(&view, ShardId(shard)) {
                Ok(head) => {
                    let check = self.shards.entry(shard).or_default();
                    check.applied = head.applied.map(Position::from);
                    check.revision = Some(head.revision);
                }
                Err(error) => self.damaged(ROCKS_DIR, error.to_string(), vec![shard]),
            }
        }
    }

    #[cfg(not(feature = "rocks"))]
    fn add_engine(&mut self, _: &Path, _: Progress<'_>) {}

    /// Log and engine must overlap.
    fn compare(&mut self) {
        if self.engine.is_none() {
            return;
        }
        let mut gaps = Vec::new();
        for (shard, check) in &self.shards {
            let (applied, purged) = (check.applied.map(|p| p.index), check.purged.map(|p| p.index));
            if applied < purged {
                let text = |index: Option<u64>| index.map_or("nothing".to_owned(), |index| index.to_string());
                let (applied, purged) = (text(applied), text(purged));
                gaps.push((
                    *shard,
                    format!("applied up to {applied}, but the log was purged up to {purged}"),
                ));
            }
        }
        for (shard, detail) in gaps {
            self.damaged("rocks", format!("shard {shard}: {detail}"), vec![shard]);
        }
    }

    /// The report for people, line by line.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        match (&self.store, &self.identity) {
            (None, _) => lines.push("the directory is empty: nothing to check".to_owned()),
            (Some(store), None) => lines.push(format!("store {}, not joined to a cluster", store.store_id)),
            (Some(store), Some(identity)) => lines.push(format!(
                "store {}, node {} of cluster {:016x}",
                store.store_id, identity.node_id, identity.cluster_id
            )),
        }
        self.segment_lines(&mut lines);
        self.shard_lines(&mut lines);
        if let Some(engine) = &self.engine {
            lines.push(format!("engine: {} pairs, all checksums match", engine.pairs));
        }
        lines.extend(self.damage.iter().map(|damage| format!("DAMAGE {damage}")));
        lines.push(match self.verdict {
            Verdict::Ok => "ok".to_owned(),
            Verdict::Torn => "ok: the interrupted write is cut off at the next start".to_owned(),
            Verdict::Corrupt => {
                format!("CORRUPT: do not start this node. Restore the damaged files from a copy of this disk. {MEMBER_LOST}")
            }
        });
        lines
    }

    fn segment_lines(&self, lines: &mut Vec<String>) {
        if self.log.segments.is_empty() {
            return;
        }
        lines.push(format!(
            "{:>8} {:>8} {:>9} {:>10}  entries",
            "segment", "writes", "records", "bytes"
        ));
        for segment in &self.log.segments {
            let ranges = segment.shards.iter().map(|(shard, range)| {
                format!("{shard}: {}..{} ({})", range.first, range.last, range.entries)
            });
            let ranges: Vec<String> = ranges.collect();
            let torn = segment
                .torn_at
                .map_or(String::new(), |at| format!("  interrupted write at byte {at}"));
            lines.push(format!(
                "{:>8} {:>8} {:>9} {:>10}  {}{torn}",
                segment.number,
                segment.blocks,
                segment.records,
                segment.bytes,
                ranges.join(", ")
            ));
        }
    }

    fn shard_lines(&self, lines: &mut Vec<String>) {
        if self.shards.is_empty() {
            return;
        }
        let header = [
            "shard",
            "vote",
            "purged",
            "committed",
            "last",
            "applied",
            "revision",
        ];
        let row = |cells: [String; 7]| cells.map(|cell| format!("{cell:>10}")).join(" ");
        lines.push(row(header.map(str::to_owned)));
        let position = |position: Option<Position>| {
            position.map_or("-".to_owned(), |p| format!("{}@{}", p.index, p.term))
        };
        for (shard, check) in &self.shards {
            lines.push(row([
                shard.to_string(),
                check
                    .vote
                    .map_or("-".to_owned(), |(term, node)| format!("{node}@{term}")),
                position(check.purged),
                position(check.committed),
                position(check.last),
                position(check.applied),
                check
                    .revision
                    .map_or("-".to_owned(), |revision| revision.to_string()),
            ]));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::channel::oneshot;
    use kvsvr_core::types::ShardId;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        store::{StoreId, WAL_DIR},
        wal::{EntryKind, EntryRecord, Wal, WalOptions},
    };

    const SHARD: ShardId = ShardId(3);

    /// A directory with a store, an identity and a log of ten entries.
    async fn node() -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        let _lock = DataLock::acquire(dir.path()).unwrap();
        let disk: DynDisk = Arc::new(FsDisk::new(dir.path()).unwrap());
        let mut store = Store::open(disk.clone(), StoreId([1; 16]), 0).await.unwrap();
        store
            .set_identity(Identity {
                cluster_id: 1,
                node_id: 2,
            })
            .await
            .unwrap();
        let options = WalOptions {
            segment_bytes: 8 << 10,
            ..WalOptions::new(store.meta().store_id, 1, Arc::new(|error| panic!("{error}")))
        };
        let (wal, _) = Wal::open(disk, options).await.unwrap();
        for index in 0..10 {
            let position = LogPosition {
                index,
                term: 4,
                node: 2,
            };
            let payload = Bytes::from(vec![7; 900]);
            let (sender, receiver) = oneshot::channel();
            let entry = EntryRecord {
                position,
                kind: EntryKind::Batch,
                payload,
            };
            wal.append(
                SHARD,
                vec![entry],
                Box::new(move |result| drop(sender.send(result))),
            );
            receiver.await.unwrap().unwrap();
        }
        wal.shutdown().await;
        dir
    }

    #[tokio::test]
    async fn the_cluster_id_is_text() {
        let json = serde_json::to_value(run(&node().await).await).unwrap();
        assert_eq!(json["identity"]["cluster_id"], "0000000000000001");
        assert_eq!(json["identity"]["node_id"], 2);
    }

    async fn run(dir: &TempDir) -> CheckReport {
        check(dir.path(), &|_| {}).await.unwrap()
    }

    fn flip(dir: &TempDir, segment: u64, offset: usize) {
        let path = dir.path().join(format!("{WAL_DIR}/{segment:020}.wal"));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[offset] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }

    #[tokio::test]
    async fn a_good_node() {
        let dir = node().await;
        let report = run(&dir).await;
        assert_eq!(report.verdict, Verdict::Ok, "{:#?}", report.lines());
        assert!(report.log.segments.len() > 1);
        assert_eq!(report.shards[&3].last, Some(Position { index: 9, term: 4 }));
        let text = report.lines().join("\n");
        assert!(
            text.contains("node 2 of cluster") && text.contains("9@4"),
            "{text}"
        );
        assert!(
            serde_json::to_string(&report)
                .unwrap()
                .contains(r#""verdict":"ok""#)
        );
    }

    #[tokio::test]
    async fn all_damage_is_listed() {
        let dir = node().await;
        flip(&dir, 1, 2500);
        flip(&dir, 2, 100);
        let report = run(&dir).await;
        assert_eq!(report.verdict, Verdict::Corrupt);
        let paths: Vec<_> = report.damage.iter().map(|damage| damage.path.as_str()).collect();
        assert_eq!(
            paths,
            ["wal/00000000000000000001.wal", "wal/00000000000000000002.wal"]
        );
        assert!(report.lines().last().unwrap().starts_with("CORRUPT"));
    }

    #[tokio::test]
    async fn a_lost_log_is_damage() {
        let dir = node().await;
        std::fs::remove_dir_all(dir.path().join(WAL_DIR)).unwrap();
        assert_eq!(run(&dir).await.verdict, Verdict::Corrupt);
    }

    #[tokio::test]
    async fn empty_missing_foreign_and_running() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check(&dir.path().join("none"), &|_| {}).await.is_err());
        // Nothing is created in a directory that is not ours.
        assert_eq!(run(&dir).await.store, None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let lock = DataLock::acquire(dir.path()).unwrap();
        assert!(matches!(
            check(dir.path(), &|_| {}).await,
            Err(StoreError::Locked { .. })
        ));
        drop(lock);
        let report = run(&dir).await;
        assert_eq!((report.verdict, report.store), (Verdict::Ok, None));
        std::fs::write(dir.path().join("x"), "y").unwrap();
        assert!(matches!(
            check(dir.path(), &|_| {}).await,
            Err(StoreError::Foreign { .. })
        ));
    }
}
