//! Backups: taken while the cluster is written to, restored into another one whose leaders are killed meanwhile.

use std::time::Duration;

use kvsvr_client::{Client, Code, GetOptions, Partition, proto::BackupPart};

use crate::{
    harness::{Cluster, PATIENCE, eventually, report, size},
    load::Load,
};

const SHARDS: u32 = 2;
const BACKUP: u64 = 7;

fn key(i: usize) -> String {
    format!("key-{i:05}")
}

/// Large enough that a shard has several parts.
fn value(i: usize, version: u8) -> Vec<u8> {
    vec![version; 1_000 + i % 1_000]
}

fn shard_of(partition: &Partition) -> u32 {
    1 + u32::from(partition.slot()) * SHARDS / 4096
}

async fn parts(client: &Client, address: &str, shard: u32) -> Vec<BackupPart> {
    let mut backup = client.backup(address, shard).await.unwrap();
    let mut parts = Vec::new();
    while let Some(part) = backup.next_part().await.unwrap() {
        parts.push(part);
    }
    assert!(!parts.last().unwrap().head.is_empty());
    parts
}

#[expect(clippy::too_many_lines, reason = "a scenario reads as one script")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_becomes_another_cluster() {
    let source = Cluster::start(3, SHARDS, &[]).await;
    let client = source.client().await;
    let keys = size(600, 20_000);
    let partition = Partition::local("kept");
    let mut revisions = Vec::new();
    for version in [1, 2] {
        for i in 0..keys {
            let put = client.put(&partition, key(i), value(i, version)).await.unwrap();
            revisions.push(put.revision);
        }
    }
    let mut load = Load::start(std::slice::from_ref(&client), 8, 1, 256);
    load.wait_acknowledged(200).await;
    let client = source.client().await.with_timeout(PATIENCE);
    let mut saved = Vec::new();
    for shard in 1..=SHARDS {
        // Any replica has it, whoever leads.
        let address = &source.nodes[shard as usize].address;
        saved.push((shard, parts(&client, address, shard).await));
    }
    load.stop().await;
    assert_eq!(load.failures(), Vec::<String>::new());

    let mut target = Cluster::start(3, SHARDS, &[]).await;
    let restored = target.client().await.with_timeout(PATIENCE);
    let (mut kills, mut sent) = (0, 0);
    for (shard, parts) in &saved {
        for (number, part) in (0u64..).zip(parts) {
            let next = restored.restore_part(BACKUP, *shard, part.clone()).await.unwrap();
            assert_eq!(next, number + 1);
            sent += 1;
            if number == 1 {
                // Half a shard is no state of it, and stays what it is when its leader dies.
                let leader = target.leader(*shard).await;
                target.kill(&[leader]);
                target.start_node(leader);
                kills += 1;
                let again = restored
                    .restore_part(BACKUP, *shard, parts[0].clone())
                    .await
                    .unwrap();
                assert_eq!(again, 2);
                if shard_of(&partition) == *shard {
                    let read = restored
                        .with_timeout(Duration::from_secs(1))
                        .get(&partition, key(0))
                        .await;
                    assert!(read.is_err(), "{read:?}");
                }
            }
        }
    }
    target.wait_ready().await;
    for i in 0..keys {
        let newest = restored.get(&partition, key(i)).await.unwrap().value.unwrap();
        assert_eq!((&newest.value[..], newest.version), (&value(i, 2)[..], 2));
        assert_eq!(newest.mod_rev, revisions[keys + i]);
    }
    for i in (0..keys).step_by(37) {
        let at = GetOptions {
            revision: revisions[i],
            ..GetOptions::default()
        };
        let older = restored
            .get_with(&partition, key(i), at)
            .await
            .unwrap()
            .value
            .unwrap();
        assert_eq!(&older.value[..], &value(i, 1)[..]);
    }
    for shard in 1..=SHARDS {
        target.assert_equal_states(shard).await;
    }
    let refused = restored
        .restore_part(BACKUP, 1, saved[0].1.last().unwrap().clone())
        .await;
    assert!(refused.is_ok(), "the last part again: {refused:?}");
    let refused = client
        .restore_part(BACKUP, 1, saved[0].1[0].clone())
        .await
        .unwrap_err();
    assert_eq!(refused.code, Code::Refused, "{refused}");
    eventually("it is written to", PATIENCE, async || {
        restored.put(&partition, "after", "x").await.ok()
    })
    .await;
    report(
        "backup",
        format!(
            "{keys} keys twice, {sent} parts, {kills} leaders killed while it was restored: all there, at their revisions"
        ),
    );
}
