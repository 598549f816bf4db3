mod net;
mod node;

use std::{sync::Arc, time::Duration};

use kvsvr::{config::Settings, disk::mem::MemDisk};
use kvsvr_client::{Client, ClientConfig, Partition};
use kvsvr_core::mem::MemEngine;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

fn main() {
    let seed: u64 = std::env::args().nth(1).map_or(1, |s| s.parse().expect("seed"));
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_writer(std::io::stderr).init();
    let mut runtime = madsim::runtime::Runtime::with_seed_and_config(seed, Default::default());
    let real = std::time::Instant::now();
    let _ = real;
    runtime.block_on(world());
}

async fn world() {
    let handle = madsim::runtime::Handle::current();
    let net = Arc::new(net::Net::default());
    let begin = Instant::now();
    let mut parts = Vec::new();
    let addresses: Vec<String> = (1..=3).map(|i| format!("node{i}:1")).collect();
    for (i, address) in addresses.iter().enumerate() {
        let host = handle.create_node().name(address.as_str()).ip(format!("10.0.0.{}", i + 1).parse().unwrap()).build();
        let disk = MemDisk::new(i as u64);
        let engine = Arc::new(MemEngine::new());
        let slot = Arc::new(Mutex::new(None));
        let (net2, address2, disk2, engine2, host2, slot2) = (net.clone(), address.clone(), disk.clone(), engine.clone(), host.clone(), slot.clone());
        host.spawn(async move {
            let node = node::start(&address2, disk2, engine2, net2, host2, Settings::default()).await.expect("starts");
            *slot2.lock() = Some(node);
        });
        parts.push((host, disk, engine, slot));
    }
    let client_host = handle.create_node().name("client").ip("10.0.1.1".parse().unwrap()).build();
    let net3 = net.clone();
    let driving = client_host.spawn(async move {
        sleep(Duration::from_secs(1)).await;
        let client = Client::with_transport(Arc::new(net::Endpoint(net3)), ClientConfig::new(addresses.clone())).unwrap();
        let request = kvsvr_proto::v1::BootstrapRequest {
            addresses: addresses.clone(),
            shards: 2,
            replication: 3,
            ..Default::default()
        };
        client.bootstrap(request).await.expect("bootstraps");
        let p = Partition::local("p");
        for i in 0..500u32 {
            let t = Instant::now();
            let r = client.put(&p, format!("k{}", i % 10), format!("v{i}")).await;
            if let Err(e) = &r { println!("{i}: {e:?} after {:?}", t.elapsed()); }
            let g = client.get(&p, format!("k{}", i % 10)).await;
            if r.is_ok() && i % 100 == 0 { println!("{i} {:?} {:?}", t.elapsed(), g.map(|g| g.value.map(|v| v.value))); }
        }
    });
    driving.await.unwrap();
    println!("simulated {:?}; unseed {}", begin.elapsed(), madsim::rand::random::<u64>());
    drop(parts);
}
