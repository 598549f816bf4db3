//! What the cluster serves: creates it, waits until it serves, and asks for the states of its replicas.

use std::{io, time::Duration};

use kvsvr_client::{Client, proto};
use tokio::time::{Instant, sleep, timeout};

use super::cluster::Cluster;
use crate::workload;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// Time that a node may take to answer after its start, and a new cluster to serve.
const START: Duration = Duration::from_secs(60);
/// Partitions that no program has, for probes. So many that every shard has some.
const PROBES: std::ops::Range<u32> = 4_000_000..4_000_064;

/// Waits until all nodes answer, and makes a cluster of them.
///
/// # Errors
/// They do not answer in time, or refuse.
pub async fn bootstrap(cluster: &Cluster, admin: &Client, shards: u32) -> io::Result<()> {
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
        replication: cluster.nodes().len() as u32,
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

/// Waits until every node runs and every shard takes a write.
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
    for node in cluster.nodes() {
        if !node.state().runs() {
            return Some(format!("{} does not run", node.host));
        }
        match admin.status(&node.address).await {
            Err(error) => return Some(format!("{}: {error}", node.host)),
            Ok(status) if status.replicas.is_empty() => {
                return Some(format!("{} has no replica", node.host));
            }
            Ok(_) => {}
        }
    }
    for number in PROBES {
        let partition = workload::names::partition(number);
        if let Err(error) = admin.put(&partition, "probe", "x").await {
            return Some(format!("a write: {error}"));
        }
    }
    None
}
