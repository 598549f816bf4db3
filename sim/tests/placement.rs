//! What the cluster does by itself with its members, in simulated time.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{sync::Arc, time::Duration};

use kvsvr::config::Settings;
use kvsvr_client::{Client, ClientConfig, Partition};
use kvsvr_proto::v1::{BootstrapRequest, Operation, operation};
use kvsvr_sim::{net::SimNet, node::SimNode};
use madsim::runtime::{Handle, Runtime};
use tokio::time::{Instant, sleep};

/// Waits until the newest operation is of this kind and done.
async fn done(client: &Client, kind: operation::Kind, within: Duration) -> Operation {
    let until = Instant::now() + within;
    loop {
        if let Ok(members) = client.members().await
            && let Some(last) = members.operations.last()
            && last.kind() == kind
            && last.state() == operation::State::Done
        {
            return last.clone();
        }
        assert!(Instant::now() < until, "no {kind:?} within {within:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Shards that a node leads, and the time that a write of each shard takes.
async fn look(client: &Client, node: &SimNode) -> (usize, Duration) {
    let begin = Instant::now();
    for number in 0..16 {
        client
            .put(&Partition::local(format!("p{number}")), "key", "value")
            .await
            .unwrap();
    }
    let took = begin.elapsed() / 16;
    let shards = node.node().unwrap().shards();
    (shards.iter().filter(|shard| shard.leader().is_me()).count(), took)
}

fn sync_takes(node: &SimNode, time: Duration) {
    node.disk_control().change(|spec| {
        (spec.sync.floor, spec.sync.mean) = (time, Duration::from_micros(10));
    });
}

#[test]
fn leaders_leave_a_node_whose_disk_is_slow_and_come_back() {
    kvsvr::time::skewed::forget_all();
    Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(async {
        let net = SimNet::new(1);
        let nodes: Vec<SimNode> = (1..=3)
            .map(|number| {
                let address = format!("node{number}:7101");
                SimNode::new(1, net.clone(), &address, Settings::default())
            })
            .collect();
        for node in &nodes {
            node.start();
            sync_takes(node, Duration::from_millis(1));
        }
        let addresses: Vec<String> = nodes.iter().map(|node| node.address().to_owned()).collect();
        let host = Handle::current().create_node().name("client").build();
        let transport = Arc::new(net.boot("client", host.clone()));
        let running = host.spawn(async move {
            sleep(Duration::from_secs(1)).await;
            let client = Client::with_transport(transport, ClientConfig::new(addresses.clone())).unwrap();
            let request = BootstrapRequest {
                addresses,
                shards: 3,
                replication: 3,
                ..Default::default()
            };
            client.bootstrap(request).await.unwrap();
            let writer = client.clone();
            tokio::spawn(async move {
                loop {
                    drop(writer.put(&Partition::local("load"), "key", "value").await);
                    sleep(Duration::from_millis(50)).await;
                }
            });
            sleep(Duration::from_secs(10)).await;
            let (led, quick) = look(&client, &nodes[0]).await;
            assert!(led > 0);

            sync_takes(&nodes[0], Duration::from_millis(400));
            let slow = done(&client, operation::Kind::Slow, Duration::from_secs(60)).await;
            assert_eq!((slow.node, &*slow.who), (1, "the cluster"));
            // It hears of it by way of its own disk, and the client learns who leads.
            sleep(Duration::from_secs(10)).await;
            look(&client, &nodes[0]).await;
            let (led, took) = look(&client, &nodes[0]).await;
            assert_eq!(led, 0);
            assert!(
                took < quick + Duration::from_millis(100),
                "{took:?}, before {quick:?}"
            );
            let status = client.status(nodes[0].address()).await.unwrap();
            assert!(
                status.messages.iter().any(|text| text.contains("is slow")),
                "{:?}",
                status.messages
            );

            sync_takes(&nodes[0], Duration::from_millis(1));
            done(&client, operation::Kind::Quick, Duration::from_secs(120)).await;
            sleep(Duration::from_secs(10)).await;
            let (led, _) = look(&client, &nodes[0]).await;
            assert!(led > 0, "it has its share again");
        });
        running.await.unwrap();
    });
}
