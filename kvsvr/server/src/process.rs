//! A node in production: its directory, the log, RocksDB, gRPC and HTTP, put together and taken apart again in order.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::future::BoxFuture;
use kvsvr_client::grpc::GrpcTransport;
use kvsvr_proto::v1 as pb;

use crate::{
    api::NodeService,
    cli::{Exit, Failure, Shutdown},
    config::Config,
    disk::{DynDisk, fs::FsDisk},
    grpc::{GrpcOptions, GrpcServer},
    http::{HttpServer, NodeView},
    limits::HEALTH_INTERVAL,
    maintenance,
    metrics::{Metrics, resident_bytes},
    node::{Node, NodeParts, StatusProbe, VERSION, cluster_text},
    raft::{runtime::random_u64, snapshot::free_staging},
    rocks::{RocksEngine, RocksOptions},
    store::{DataLock, MEMBER_LOST, ROCKS_DIR, STAGING_DIR, Store, StoreError, StoreId},
    time::{Instant, sleep, wall_clock_ms},
    wal::{Wal, WalError, WalOptions},
};

fn data_refused(e: StoreError) -> Failure {
    Failure::new(Exit::DataRefused, e.to_string())
}

fn storage(e: impl ToString) -> Failure {
    Failure::new(Exit::Storage, e.to_string())
}

fn log_refused(e: WalError) -> Failure {
    match e {
        // Nothing is wrong with the storage: something else lies in the directory.
        WalError::Misnamed { .. } => Failure::new(Exit::DataRefused, e.to_string()),
        e => storage(e),
    }
}

/// Runs a node until `shutdown` resolves or it cannot go on.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), Failure> {
    #[cfg(feature = "mutants")]
    kvsvr_client::mutants::choose_from_environment().map_err(|e| Failure::new(Exit::Usage, e.to_string()))?;
    // The ports first: a port in use must not cost a recovery.
    let grpc = GrpcServer::bind(&config.listen).await?;
    let http = match &config.http {
        Some(address) => Some(HttpServer::bind(address).await?),
        None => None,
    };
    let _lock = DataLock::acquire(&config.data).map_err(data_refused)?;
    // Another process that had the directory has ended by now.
    let started = Instant::now();
    let disk: DynDisk = Arc::new(FsDisk::new(&config.data).map_err(storage)?);
    let fresh = StoreId((u128::from(random_u64()) << 64 | u128::from(random_u64())).to_be_bytes());
    let store = Store::open(disk.clone(), fresh, wall_clock_ms())
        .await
        .map_err(data_refused)?;
    say_start(&config, &store);
    keep_address(&config.advertise, &store).await?;
    disk.create_dir(STAGING_DIR).await.map_err(storage)?;
    free_staging(&disk, config.disk_reserve_bytes)
        .await
        .map_err(storage)?;
    let metrics = Metrics::new();
    let wal = open_wal(&config, &store, disk.clone(), &metrics).await?;
    let rocks = open_rocks(&config)?;
    let probe = Arc::new(Probe {
        rocks: rocks.clone(),
        metrics: metrics.clone(),
    });
    let parts = NodeParts {
        settings: config.settings(),
        address: config.advertise.clone(),
        store,
        disk,
        wal,
        engine: rocks.clone(),
        checkpoints: rocks,
        transport: Arc::new(GrpcTransport::new()),
        metrics: metrics.clone(),
        probe,
        started,
    };
    let (node, mut fatal) = Node::start(parts).await.map_err(storage)?;
    maintenance::spawn(&node);
    serve(config, node, grpc, http, shutdown, &mut fatal).await
}

/// Logs who starts where.
fn say_start(config: &Config, store: &Store) {
    let identity = store.identity();
    tracing::info!(
        version = VERSION,
        data = %config.data.display(),
        store = %store.meta().store_id,
        node = identity.map(|i| i.node_id),
        cluster = identity.map(cluster_text),
        listen = config.listen,
        advertise = config.advertise,
        "starting"
    );
}

/// Keeps the address that others are given, and warns of a member that has another one than before.
async fn keep_address(address: &str, store: &Store) -> Result<(), Failure> {
    if let Some(kept) = store.keep_address(address).await.map_err(data_refused)? {
        tracing::warn!(
            "this data directory belongs to a member at {kept}, now it is started with --advertise {address}. The other members know it only at {kept}: \
             a change of address is not supported yet. If the data directories of two nodes are swapped, start each with its own --data"
        );
    }
    Ok(())
}

async fn open_wal(
    config: &Config,
    store: &Store,
    disk: DynDisk,
    metrics: &Arc<Metrics>,
) -> Result<Wal, Failure> {
    let data = config.data.display().to_string();
    let place = data.clone();
    let on_fatal = move |e: &io::Error| {
        // After a failed fsync nobody knows what is on disk: going on, or trying again, could lose what was acknowledged.
        tracing::error!(
            "writing the log in {place} failed, this node stops: {e}. Check the disk, then start the node again"
        );
        Exit::Storage.at_once();
    };
    let observed = metrics.clone();
    let options = WalOptions {
        segment_bytes: config.wal.segment,
        cache_bytes: config.memory.wal_cache,
        reserve_bytes: config.disk_reserve_bytes,
        on_write: Arc::new(move |write| {
            observed.wal_synced(write.duration);
            observed.wal_wrote(write.bytes, write.records);
        }),
        ..WalOptions::new(store.meta().store_id, random_u64(), Arc::new(on_fatal))
    };
    let opened = Wal::open(disk, options).await;
    let (wal, report) = opened.map_err(log_refused)?;
    if let Some(identity) = store.identity().filter(|_| report.fresh) {
        return Err(Failure::new(
            Exit::DataRefused,
            format!(
                "the data directory {data} belongs to node {} but has no log any more: a node without its log could vote against what it promised. \
                 Restore the directory wal from this disk, or start the node with its old directory if that exists. {MEMBER_LOST}",
                identity.node_id
            ),
        ));
    }
    if let Some((segment, offset)) = &report.torn {
        tracing::warn!(
            segment,
            offset,
            "the log ended in a write that was never acknowledged; it was cut off"
        );
    }
    tracing::info!(
        segments = report.segments,
        records = report.records,
        bytes = report.bytes,
        "the log is recovered"
    );
    Ok(wal)
}

fn open_rocks(config: &Config) -> Result<Arc<RocksEngine>, Failure> {
    let options = RocksOptions {
        block_cache_bytes: config.memory.block_cache,
        memtable_bytes: config.memory.memtables,
    };
    let data = config.data.display();
    RocksEngine::open(&config.data.join(ROCKS_DIR), &options).map_err(|e| {
        storage(format!(
            "the engine in {data} does not open: {e}. `kvsvr check --data {data}` lists what is damaged; restore those files from a \
             copy of this disk. {MEMBER_LOST}"
        ))
    })
}

async fn serve(
    config: Config,
    node: Arc<Node>,
    grpc: GrpcServer,
    http: Option<HttpServer>,
    shutdown: Shutdown,
    fatal: &mut tokio::sync::mpsc::UnboundedReceiver<String>,
) -> Result<(), Failure> {
    let metrics = node.metrics().clone();
    let health = Arc::new(grpc.health());
    let (stop_grpc, grpc_stopped) = tokio::sync::oneshot::channel::<()>();
    let options = GrpcOptions {
        max_connections: config.max_connections,
        ..GrpcOptions::default()
    };
    let service = Arc::new(NodeService(node.clone()));
    let serving = tokio::spawn(grpc.serve(service, metrics.clone(), options, async move {
        let _ = grpc_stopped.await;
    }));
    if let Some(http) = http {
        let view = Arc::new(View {
            node: node.clone(),
            seen_hits: AtomicU64::new(0),
            seen_misses: AtomicU64::new(0),
        });
        tokio::spawn(http.serve(view, metrics, std::future::pending()));
    }
    tracing::info!(listen = config.listen, advertise = config.advertise, "serving");
    let ready = tokio::spawn({
        let (node, health) = (node.clone(), health.clone());
        async move {
            loop {
                health.set_serving(node.ready().is_ok()).await;
                sleep(HEALTH_INTERVAL).await;
            }
        }
    });
    let ended = tokio::select! { biased;
        () = shutdown => None,
        reason = fatal.recv() => reason,
    };
    if let Some(reason) = ended {
        return Err(Failure::new(
            Exit::Storage,
            format!("a replica has stopped by itself, so this node stops: {reason}"),
        ));
    }
    ready.abort();
    let _ = ready.await;
    health.set_serving(false).await;
    maintenance::stop(&node).await.map_err(storage)?;
    // Peers are not needed any more: now the listener may go.
    drop(stop_grpc);
    let _ = serving.await;
    Ok(())
}

/// What the parts outside the node know of it.
struct Probe {
    rocks: Arc<RocksEngine>,
    metrics: Arc<Metrics>,
}

impl StatusProbe for Probe {
    fn fill(&self, status: &mut pb::NodeStatus) {
        let rocks = self.rocks.stats();
        status.data_bytes = rocks.file_bytes;
        status.fsync_p99_us = self.metrics.fsync_p99_us();
        status.rss_bytes = resident_bytes();
        if rocks.write_stopped {
            status
                .messages
                .push("RocksDB has stopped taking writes until a compaction catches up".to_owned());
        }
        if rocks.background_errors > 0 {
            status.messages.push(format!(
                "RocksDB reports {} background errors, see the log",
                rocks.background_errors
            ));
        }
    }
}

/// What the HTTP port shows.
struct View {
    node: Arc<Node>,
    /// Look-ups that the metrics have counted.
    seen_hits: AtomicU64,
    seen_misses: AtomicU64,
}

impl NodeView for View {
    fn ready(&self) -> Result<(), Vec<String>> {
        self.node.ready()
    }

    fn status(&self) -> BoxFuture<'static, pb::NodeStatus> {
        let node = self.node.clone();
        Box::pin(async move { node.status().await })
    }

    fn refresh(&self, metrics: &Metrics) {
        let cache = self.node.cache();
        let hits = cache.hits - self.seen_hits.swap(cache.hits, Ordering::AcqRel).min(cache.hits);
        let misses = cache.misses
            - self
                .seen_misses
                .swap(cache.misses, Ordering::AcqRel)
                .min(cache.misses);
        metrics.row_cache_looked_up(hits, misses);
        metrics.row_cache_holds(cache.entries, cache.bytes);
        metrics.wal_sizes(self.node.wal().total_bytes(), self.node.unflushed_bytes());
        for shard in self.node.shards() {
            shard.observe(&metrics.shard(shard.id()));
        }
    }
}
