//! All of it put together.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chat_access::{Gateway, Hub};
use chat_core::secrets::Secrets;
use chat_logic::{
    Logic, Seams,
    delivery::{Notices, Workers},
};
use chat_storage::Store;
use kvsvr_client::Client;
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};

use crate::local::{InHub, InProcess};

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

/// A chat backend that runs. Dropping it stops it.
pub struct Chat {
    /// Where clients connect.
    pub address: SocketAddr,
    gateway: Arc<Gateway>,
    tasks: Vec<JoinHandle<()>>,
}

impl Chat {
    /// Starts the services and the gateway.
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
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let logic = Logic::new(Store::new(client), secrets, 0, seams);
        let hub = Arc::new(Hub::default());
        let notices: Arc<dyn Notices> = Arc::new(InHub(Arc::clone(&hub)));
        let workers = Workers::new(name, logic.clone(), notices);
        let backend = Arc::new(InProcess::new(logic, Arc::clone(&hub)));
        let gateway = Gateway::new(backend, hub);
        let (house, router) = (Arc::clone(&gateway), gateway.router());
        let tasks = vec![
            tokio::spawn(workers.run()),
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
            tasks,
        })
    }

    /// Lets nobody in any more, and tells clients to come back elsewhere. Returns when they are gone, or do not go.
    pub async fn drain(&self) {
        self.gateway.drain();
        // Those that do not go are cut off.
        drop(timeout(DRAIN, self.gateway.all_gone()).await);
    }
}

/// Time for clients to go.
const DRAIN: Duration = Duration::from_secs(10);

impl Drop for Chat {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
