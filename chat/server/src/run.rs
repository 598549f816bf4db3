//! All of it put together.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chat_access::{Backend, Gateway, Hub, Metrics, Remote};
use chat_core::secrets::Secrets;
use chat_logic::{
    Logic, Seams,
    delivery::{Notices, Workers},
};
use chat_storage::Store;
use kvsvr_client::Client;
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};

use crate::{
    local::{InHub, InProcess},
    process::Stop,
    status,
};

/// Time, chance and threads of this machine; the cost of a password's hash is OWASP's.
pub fn system_seams() -> Seams {
    Seams {
        now_ms: Arc::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            since.map_or(0, |since| since.as_millis() as u64)
        }),
        fill_random: Arc::new(|bytes| rand::fill(bytes)),
        run: Arc::new(|work| drop(tokio::task::spawn_blocking(work))),
        argon2: argon2::Params::default(),
    }
}

/// A gateway that runs, with or without all the rest in the same process. Dropping it stops it.
pub struct Chat {
    /// Where clients connect.
    pub address: SocketAddr,
    gateway: Arc<Gateway>,
    stop: Stop,
    workers: Option<JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Chat {
    /// Starts the services and a gateway in front of them.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn start(
        client: Client,
        secrets: Secrets,
        seams: Seams,
        listen: SocketAddr,
        name: String,
    ) -> io::Result<Self> {
        let logic = Logic::new(Store::new(client), secrets, 0, seams);
        let hub = Arc::new(Hub::default());
        let notices: Arc<dyn Notices> = Arc::new(InHub(Arc::clone(&hub)));
        let workers = Workers::new(name, logic.clone(), notices);
        let backend = Arc::new(InProcess::new(logic, Arc::clone(&hub)));
        let mut chat = Self::serve(backend, hub, listen).await?;
        chat.workers = Some(tokio::spawn(workers.run(chat.stop.clone().stopped())));
        Ok(chat)
    }

    /// Starts a gateway in front of services in other processes.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn in_front_of(services: Remote, listen: SocketAddr) -> io::Result<Self> {
        let hub = Arc::new(Hub::default());
        let (links, linked) = (services.clone(), Arc::clone(&hub));
        let mut chat = Self::serve(Arc::new(services), hub, listen).await?;
        chat.tasks
            .push(tokio::spawn(async move { links.run(linked).await }));
        Ok(chat)
    }

    async fn serve(backend: Arc<dyn Backend>, hub: Arc<Hub>, listen: SocketAddr) -> io::Result<Self> {
        let gateway = Gateway::new(backend, hub, Metrics::new().map_err(io::Error::other)?);
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (house, router) = (Arc::clone(&gateway), gateway.router());
        let tasks = vec![
            tokio::spawn(async move { house.keep_house().await }),
            tokio::spawn(async move {
                if let Err(error) = axum::serve(listener, router).await {
                    tracing::error!(%error, "the gateway has ended");
                }
            }),
        ];
        Ok(Self {
            address,
            gateway,
            stop: Stop::default(),
            workers: None,
            tasks,
        })
    }

    /// Serves what operators want to know at this address, too.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn show(&mut self, at: SocketAddr) -> Result<(), String> {
        let view = Arc::new(Shown(Arc::clone(&self.gateway)));
        self.tasks.push(status::serve(at, view).await?);
        Ok(())
    }

    /// Lets nobody in any more, and tells clients to come back elsewhere. Returns when they are gone, or do not go.
    pub async fn drain(&mut self) {
        self.gateway.drain();
        self.stop.stop();
        // Those that do not go are cut off.
        drop(timeout(DRAIN, self.gateway.all_gone()).await);
        if let Some(workers) = self.workers.take() {
            drop(timeout(DRAIN, workers).await);
        }
    }
}

struct Shown(Arc<Gateway>);

impl status::View for Shown {
    fn ready(&self) -> Result<(), String> {
        self.0.ready()
    }

    fn metrics(&self) -> Result<String, prometheus::Error> {
        self.0.metrics()
    }
}

/// Time for clients to go, and for what is under way to end.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);

impl Drop for Chat {
    fn drop(&mut self) {
        self.tasks.iter().chain(&self.workers).for_each(JoinHandle::abort);
    }
}
