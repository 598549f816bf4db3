//! `chat-logic`: some or all of the services, for gateways in other processes.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use chat_core::secrets::{Purpose, Secrets};
use chat_logic::{
    Logic, Seams,
    delivery::{Notices, Workers},
    rpc::{Exchange, Metrics, Rpc, Vouch},
};
use chat_proto::Service;
use chat_storage::Store;
use clap::Parser;
use kvsvr_client::Client;
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tonic::transport::{Server, server::TcpIncoming};

use crate::{
    process::{self, ClusterArgs, LogArgs, Stop, stopped},
    run::{DRAIN, system_seams},
    secrets, status,
};

/// Calls of one gateway at a time; more wait there.
const MAX_CALLS: u32 = 4_096;
/// Bytes that a gateway may have sent and that are not read yet.
const WINDOW: u32 = 4 * 1024 * 1024;

/// Services of the chat backend, on a kvsvr cluster. Any number of processes may have a service.
///
/// Exit codes: 0 stopped, 1 it cannot start, 2 wrong usage.
#[derive(Parser)]
#[command(name = "chat-logic", version)]
struct Arguments {
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Address that gateways connect to. Whoever has the secrets and can reach it may be any user: keep it in a network of your own
    #[arg(long, env = "CHAT_LOGIC_LISTEN", default_value = "127.0.0.1:8100")]
    listen: SocketAddr,
    /// Services of this process
    #[arg(long, env = "CHAT_SERVE", value_delimiter = ',', default_values_t = Service::ALL)]
    serve: Vec<Service>,
    /// Address of the port for operators: health, readiness, metrics
    #[arg(long, env = "CHAT_HTTP")]
    http: Option<SocketAddr>,
    /// File of the secret keys, the same for all processes; made if there is none
    #[arg(long, env = "CHAT_SECRETS", default_value = "chat-secrets")]
    secrets: PathBuf,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let log = arguments.log.clone();
    process::run(&log, run(arguments))
}

async fn run(arguments: Arguments) -> Result<bool, String> {
    let Arguments {
        cluster,
        listen,
        serve,
        http,
        secrets,
        ..
    } = arguments;
    let secrets = secrets::load_or_create(&secrets)?;
    let client = cluster.connect().await?;
    let services = serve.into_iter().collect();
    let name = process::name("logic");
    let logic = Services::start(client, secrets, system_seams(), listen, services, name).await;
    let mut logic = logic.map_err(|error| format!("--listen {listen}: {error}"))?;
    if let Some(http) = http {
        logic.show(http).await?;
    }
    tracing::info!(address = %logic.address, "gateways may connect");
    stopped().await?;
    tracing::info!("stopping: gateways go on elsewhere");
    logic.stop().await;
    Ok(true)
}

/// Services that run. Dropping them stops them as if the process died.
pub struct Services {
    /// Where gateways connect.
    pub address: SocketAddr,
    exchange: Arc<Exchange>,
    metrics: Metrics,
    stop: Stop,
    tasks: Vec<JoinHandle<()>>,
    shown: Option<JoinHandle<()>>,
}

impl Services {
    /// Starts them.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn start(
        client: Client,
        secrets: Secrets,
        seams: Seams,
        listen: SocketAddr,
        services: BTreeSet<Service>,
        name: String,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let exchange = Arc::new(Exchange::default());
        let stop = Stop::default();
        let vouching = secrets.clone();
        let vouch: Vouch = Arc::new(move |key| vouching.open(Purpose::Gateway, key).is_some());
        let logic = Logic::new(Store::new(client), secrets, 0, seams);
        let metrics = Metrics::new().map_err(std::io::Error::other)?;
        let mut tasks = Vec::new();
        if services.contains(&Service::Delivery) {
            let notices: Arc<dyn Notices> = Arc::clone(&exchange) as _;
            let workers = Workers::new(name, logic.clone(), notices);
            metrics.of_delivery(workers.counters());
            tasks.push(tokio::spawn(workers.run(stop.clone().stopped())));
        }
        let rpc = Rpc::new(logic, Arc::clone(&exchange), services, vouch, metrics.clone());
        let serving = Server::builder()
            .max_concurrent_streams(MAX_CALLS)
            .initial_connection_window_size(WINDOW)
            .add_service(rpc.into_server())
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                stop.clone().stopped(),
            );
        tasks.push(tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the services have ended");
            }
        }));
        Ok(Self {
            address,
            exchange,
            metrics,
            stop,
            tasks,
            shown: None,
        })
    }

    /// Serves what operators want to know at this address, too.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn show(&mut self, at: SocketAddr) -> Result<(), String> {
        let view = Shown {
            exchange: Arc::clone(&self.exchange),
            metrics: self.metrics.clone(),
        };
        self.shown = Some(status::serve(at, Arc::new(view)).await?);
        Ok(())
    }

    /// Gateways go on elsewhere, and other workers take over; what is under way is done.
    pub async fn stop(mut self) {
        self.exchange.close();
        self.stop.stop();
        for task in self.tasks.drain(..) {
            drop(timeout(DRAIN, task).await);
        }
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.tasks.iter().chain(&self.shown).for_each(JoinHandle::abort);
    }
}

struct Shown {
    exchange: Arc<Exchange>,
    metrics: Metrics,
}

impl status::View for Shown {
    fn ready(&self) -> Result<(), String> {
        if self.exchange.is_closed() {
            return Err("stopping".to_owned());
        }
        Ok(())
    }

    fn metrics(&self) -> Result<String, prometheus::Error> {
        self.metrics.render(self.exchange.gateways())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
