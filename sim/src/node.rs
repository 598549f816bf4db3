//! A simulated node: the production node on the simulator's parts.

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
};

use bytes::Bytes;
use kvsvr::{
    api::NodeService,
    config::Settings,
    disk::{DynDisk, mem::MemDisk},
    maintenance,
    metrics::Metrics,
    node::{Node, NodeParts, StatusProbe},
    raft::{
        runtime::{random_u64, wall_clock_ms},
        snapshot::{Checkpoints, free_staging},
    },
    store::{STAGING_DIR, Store, StoreId},
    wal::{Wal, WalOptions},
};
use kvsvr_core::{
    engine::{Cf, Engine, EngineError, EngineRead, Scan, Visit},
    mem::MemEngine,
};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::net::{Endpoint, Net};

/// Checkpoints of a [`MemEngine`].
pub struct MemCheckpoints {
    engine: Arc<MemEngine>,
    named: Mutex<BTreeMap<String, Arc<MemEngine>>>,
}

struct Opened(Arc<MemEngine>);

impl EngineRead for Opened {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.get(cf, key)
    }
    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        self.0.scan(cf, range, visit)
    }
}

impl Checkpoints for MemCheckpoints {
    fn create(&self, name: &str) -> Result<(), EngineError> {
        let copy = Arc::new(self.engine.crash());
        self.named.lock().insert(name.to_owned(), copy);
        Ok(())
    }
    fn open(&self, name: &str) -> Result<Option<Box<dyn EngineRead + Send + Sync>>, EngineError> {
        let found = self.named.lock().get(name).cloned();
        Ok(found.map(|engine| Box::new(Opened(engine)) as _))
    }
    fn remove(&self, name: &str) -> Result<(), EngineError> {
        self.named.lock().remove(name);
        Ok(())
    }
    fn list(&self) -> Result<Vec<String>, EngineError> {
        Ok(self.named.lock().keys().cloned().collect())
    }
}

struct NoProbe;

impl StatusProbe for NoProbe {
    fn fill(&self, _: &mut kvsvr_proto::v1::NodeStatus) {}
}

pub async fn start(
    address: &str,
    disk: MemDisk,
    engine: Arc<MemEngine>,
    net: Arc<Net>,
    handle: madsim::runtime::NodeHandle,
    settings: Settings,
) -> io::Result<Arc<Node>> {
    let started = Instant::now();
    let disk: DynDisk = Arc::new(disk);
    let fresh = StoreId((u128::from(random_u64()) << 64 | u128::from(random_u64())).to_be_bytes());
    let store = Store::open(disk.clone(), fresh, wall_clock_ms()).await.map_err(io::Error::other)?;
    disk.create_dir(STAGING_DIR).await?;
    free_staging(&disk, settings.disk_reserve_bytes).await?;
    let on_fatal = |e: &io::Error| panic!("the log failed: {e}");
    let options = WalOptions {
        segment_bytes: 1 << 20,
        reserve_bytes: settings.disk_reserve_bytes,
        ..WalOptions::new(store.meta().store_id, random_u64(), Arc::new(on_fatal))
    };
    let (wal, _report) = Wal::open(disk.clone(), options).await.map_err(io::Error::other)?;
    let parts = NodeParts {
        settings,
        address: address.to_owned(),
        store,
        disk,
        wal,
        engine: engine.clone(),
        checkpoints: Arc::new(MemCheckpoints {
            engine,
            named: Mutex::default(),
        }),
        transport: Arc::new(Endpoint(net.clone())),
        metrics: Metrics::new(),
        probe: Arc::new(NoProbe),
        started,
    };
    let (node, mut fatal) = Node::start(parts).await?;
    maintenance::spawn(&node);
    net.listen(address, Arc::new(NodeService(node.clone())), handle);
    tokio::spawn(async move {
        if let Some(reason) = fatal.recv().await {
            panic!("the node stops: {reason}");
        }
    });
    Ok(node)
}
