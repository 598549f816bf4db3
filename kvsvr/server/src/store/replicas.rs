//! Which replicas of shards this directory has had, besides those that it had from the beginning.
//!
//! A replica that was destroyed has forgotten whom it gave its vote. So the node never makes it again: the next one of the same shard is another
//! member, with a greater number (its incarnation), and whoever knows only the old one is refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{FORMAT_VERSION, Store, StoreError, read_json, write_json};

const REPLICAS_FILE: &str = "REPLICAS";

/// What became of the newest replica of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// It is there.
    Live,
    /// Some of its files are gone; the rest is to go.
    Destroying,
    /// It is gone.
    Destroyed,
}

/// The newest replica of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaRecord {
    /// Its incarnation.
    pub incarnation: u64,
    /// Whether it is there.
    pub state: ReplicaState,
}

/// The file [`REPLICAS_FILE`].
#[derive(Serialize, Deserialize)]
struct Replicas {
    format_version: u32,
    shards: BTreeMap<u32, ReplicaRecord>,
}

impl Store {
    /// The newest replica of each shard that was made, or destroyed, after the cluster was.
    pub async fn replicas(&self) -> Result<BTreeMap<u32, ReplicaRecord>, StoreError> {
        let stored = read_json::<Replicas>(&self.disk, REPLICAS_FILE).await?;
        Ok(stored.map(|stored| stored.shards).unwrap_or_default())
    }

    /// Keeps what became of a shard's newest replica.
    pub async fn set_replica(&self, shard: u32, record: ReplicaRecord) -> Result<(), StoreError> {
        let mut shards = self.replicas().await?;
        if shards.insert(shard, record) == Some(record) {
            return Ok(());
        }
        let replicas = Replicas {
            format_version: FORMAT_VERSION,
            shards,
        };
        write_json(&self.disk, REPLICAS_FILE, &replicas).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{disk::mem::MemDisk, store::StoreId};

    #[tokio::test]
    async fn what_was_destroyed_is_remembered() {
        let disk = MemDisk::new(1);
        let store = Store::open(Arc::new(disk.clone()), StoreId([1; 16]), 5)
            .await
            .unwrap();
        assert!(store.replicas().await.unwrap().is_empty());
        let record = |incarnation, state| ReplicaRecord { incarnation, state };
        let live = record(3, ReplicaState::Live);
        store.set_replica(7, live).await.unwrap();
        let operations = disk.operations();
        store.set_replica(7, live).await.unwrap();
        assert_eq!(
            disk.operations(),
            operations + 1,
            "what is the same is not written"
        );
        store
            .set_replica(2, record(0, ReplicaState::Destroyed))
            .await
            .unwrap();
        let disk = disk.crash(3);
        let store = Store::open(Arc::new(disk.clone()), StoreId([1; 16]), 5)
            .await
            .unwrap();
        let stored: Vec<_> = store.replicas().await.unwrap().into_iter().collect();
        assert_eq!(stored, [(2, record(0, ReplicaState::Destroyed)), (7, live)]);
        // The stored form.
        let text = crate::disk::Disk::read(&disk, REPLICAS_FILE).await.unwrap();
        let text: String = String::from_utf8_lossy(&text).split_whitespace().collect();
        assert_eq!(
            text,
            r#"{"format_version":1,"shards":{"2":{"incarnation":0,"state":"destroyed"},"7":{"incarnation":3,"state":"live"}}}"#
        );
    }
}
