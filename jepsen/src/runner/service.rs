//! What the cluster serves: creates it, waits until it serves, and asks for the states of its replicas.

use std::{collections::BTreeMap, io, time::Duration};

use kvsvr_client::{Client, proto};
use tokio::time::{Instant, sleep, timeout};

use super::cluster::Cluster;
use crate::workload;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// Time that a node may take to answer after its start, and a new cluster to serve.
const START: Duration = Duration::from_secs(60);
/// Entries that a replica may be behind its leader when it is asked: others may be written meanwhile.
const LAG: u64 = 64;
/// Partitions that no program has, for probes. So many that every shard has some.
pub(super) const PROBES: std::ops::Range<u32> = 4_000_000..4_000_064;

/// Waits until all nodes answer, and makes a cluster of them.
///
/// # Errors
/// They do not answer in time, or refuse.
pub async fn bootstrap(cluster: &Cluster, admin: &Client, shards: u32, replication: u32) -> io::Result<()> {
    let started = Instant::now();
    for node in cluster.nodes() {
        while let Err(error) = admin.identify(&node.address).await {
            if started.elapsed() > START {
                return Err(io::Error::other(format!(
                    "{} does not answer: {error}",
                    node.host
                )));
            }
            cluster.supervise()?;
            sleep(PAUSE).await;
        }
    }
    let request = proto::BootstrapRequest {
        addresses: cluster.nodes().iter().map(|node| node.address.clone()).collect(),
        shards,
        replication,
        cluster_name: "jepsen".into(),
    };
    let made = admin.with_timeout(START).bootstrap(request).await;
    let map = made.map_err(io::Error::other)?.map.unwrap_or_default();
    for node in cluster.nodes() {
        let is_it = |one: &proto::NodeInfo| one.id == node.id && one.address == node.address;
        if !map.nodes.iter().any(is_it) {
            return Err(io::Error::other(format!("{} got another number", node.host)));
        }
    }
    serves(cluster, admin, START).await
}

/// Waits until every node runs, every replica has caught up, and every shard takes a write.
///
/// # Errors
/// Not within this time; says what is missing.
pub async fn serves(cluster: &Cluster, admin: &Client, within: Duration) -> io::Result<()> {
    let waiting = async {
        loop {
            let missing = missing(cluster, admin).await;
            match missing {
                None => return,
                Some(_) => sleep(PAUSE).await,
            }
        }
    };
    if timeout(within, waiting).await.is_ok() {
        return Ok(());
    }
    let what = missing(cluster, admin).await;
    Err(io::Error::other(format!(
        "the cluster does not serve {} s after all faults were over: {}",
        within.as_secs(),
        what.unwrap_or_else(|| "it does now".into())
    )))
}

/// What keeps the cluster from being whole.
async fn missing(cluster: &Cluster, admin: &Client) -> Option<String> {
    let map = match admin.shard_map().await {
        Err(error) => return Some(format!("the shard map: {error}")),
        Ok(map) => map,
    };
    let mut statuses = BTreeMap::new();
    for node in cluster.nodes() {
        if !node.state().runs() {
            return Some(format!("{} does not run", node.host));
        }
        match admin.status(&node.address).await {
            Err(error) => return Some(format!("{}: {error}", node.host)),
            Ok(status) => statuses.insert(status.node_id, status.replicas),
        };
    }
    if let Some(text) = behind(&workload::placement(&map), &statuses) {
        return Some(text);
    }
    for number in PROBES {
        let partition = workload::names::partition(number);
        if let Err(error) = admin.put(&partition, "probe", "x").await {
            return Some(format!("a write: {error}"));
        }
    }
    None
}

/// A replica that is not there, or has not applied what its shard's leader had committed, but for [`LAG`] entries.
fn behind(placement: &[(u64, u32)], statuses: &BTreeMap<u64, Vec<proto::ReplicaStatus>>) -> Option<String> {
    if placement.is_empty() {
        return Some("no shard has a replica".into());
    }
    for (node, shard) in placement {
        let of = |replicas: &'_ Vec<proto::ReplicaStatus>| {
            replicas.iter().find(|replica| replica.shard == *shard).cloned()
        };
        let leaders = statuses.values().filter_map(of);
        let leader = leaders
            .filter(|replica| replica.role == "leader")
            .max_by_key(|replica| replica.term);
        let Some(leader) = leader else {
            return Some(format!("nobody leads shard {shard}"));
        };
        let Some(replica) = statuses.get(node).and_then(of) else {
            return Some(format!("node {node} has no replica of shard {shard}"));
        };
        if replica.applied_index + LAG < leader.committed_index {
            return Some(format!(
                "node {node} has applied {} of shard {shard}, {} is committed",
                replica.applied_index, leader.committed_index
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_replica_must_be_there_and_about_as_far_as_its_leader() {
        let replica = |shard, role: &str, applied_index| proto::ReplicaStatus {
            shard,
            role: role.into(),
            term: 3,
            applied_index,
            committed_index: applied_index,
            ..Default::default()
        };
        let old = proto::ReplicaStatus {
            term: 2,
            ..replica(1, "leader", 5_000)
        };
        let placement = [(1, 1), (2, 1)];
        let missing = |one: proto::ReplicaStatus, other: Vec<proto::ReplicaStatus>| {
            behind(&placement, &BTreeMap::from([(1, vec![one]), (2, other)])).unwrap_or_default()
        };
        let leader = || replica(1, "leader", 1_000);
        assert_eq!(missing(leader(), vec![replica(1, "follower", 1_000 - LAG)]), "");
        assert!(missing(leader(), vec![replica(1, "follower", 999 - LAG)]).contains("1000 is committed"));
        assert!(missing(leader(), vec![]).contains("node 2 has no replica"));
        assert!(missing(leader(), vec![replica(2, "follower", 1_000)]).contains("of shard 1"));
        assert!(missing(replica(1, "follower", 9), vec![replica(1, "follower", 9)]).contains("nobody leads"));
        assert_eq!(
            missing(leader(), vec![old]),
            "",
            "of two leaders the later one counts"
        );
        assert!(behind(&[], &BTreeMap::new()).is_some());
    }
}
