//! One process of services: its address, its services, and the link to it.

use std::{collections::BTreeSet, sync::Arc};

use chat_proto::{
    Service,
    internal::v1::{ToGateway, logic_client::LogicClient, to_gateway::What},
};
use futures::stream;
use parking_lot::RwLock;
use tokio::time::{sleep, timeout};
use tonic::{
    Request, Status, Streaming,
    metadata::{Binary, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::{
    hub::Hub,
    limits::{CONNECT_WITHIN, LINK_BACKOFF, MAX_INTERNAL, PROBE_EVERY, PROBE_WITHIN, WINDOW},
    link::Link,
};

/// Where calls say what the caller may.
const KEY: &str = "chat-key-bin";

/// It is no address.
#[derive(Debug, thiserror::Error)]
#[error("{address} is no HOST:PORT: {reason}")]
pub struct BadAddress {
    address: String,
    reason: tonic::transport::Error,
}

/// Shows the key with each call.
#[derive(Clone, Debug)]
pub(super) struct WithKey(MetadataValue<Binary>);

impl Interceptor for WithKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert_bin(KEY, self.0.clone());
        Ok(request)
    }
}

/// What calls a process.
pub(super) type Client = LogicClient<InterceptedService<Channel, WithKey>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Process {
    address: String,
    channel: Channel,
    key: WithKey,
    /// None while there is no link.
    services: RwLock<BTreeSet<Service>>,
}

impl Process {
    pub(super) fn new(address: &str, key: &[u8]) -> Result<Self, BadAddress> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let endpoint = endpoint.map_err(|reason| BadAddress {
            address: address.to_owned(),
            reason,
        })?;
        let channel = endpoint
            .connect_timeout(CONNECT_WITHIN)
            .tcp_nodelay(true)
            .initial_connection_window_size(WINDOW)
            .http2_keep_alive_interval(PROBE_EVERY)
            .keep_alive_timeout(PROBE_WITHIN)
            .keep_alive_while_idle(true)
            .connect_lazy();
        Ok(Self {
            address: address.to_owned(),
            channel,
            key: WithKey(MetadataValue::from_bytes(key)),
            services: RwLock::default(),
        })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn has(&self, service: Service) -> bool {
        self.services.read().contains(&service)
    }

    pub(super) fn is_linked(&self) -> bool {
        !self.services.read().is_empty()
    }

    pub(super) fn client(&self) -> Client {
        LogicClient::with_interceptor(self.channel.clone(), self.key.clone())
            .max_decoding_message_size(MAX_INTERNAL)
            .max_encoding_message_size(MAX_INTERNAL)
    }

    /// For ever.
    pub(super) async fn keep_link(&self, hub: &Arc<Hub>) {
        let mut pause = LINK_BACKOFF.0;
        let mut is_told = false;
        loop {
            let status = match self.link(hub).await {
                Ok(mut inbound) => {
                    tracing::info!(process = self.address, "linked");
                    (pause, is_told) = (LINK_BACKOFF.0, false);
                    // What came in between is lost.
                    hub.all_changed();
                    inbound.run(self, hub).await
                }
                Err(status) => status,
            };
            self.services.write().clear();
            if !is_told {
                is_told = true;
                tracing::warn!(process = self.address, %status, "there is no link to these services; trying again");
            }
            sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(LINK_BACKOFF.1);
        }
    }

    /// A link, and which services are there.
    async fn link(&self, hub: &Arc<Hub>) -> Result<Inbound, Status> {
        let link = Arc::new(Link::new(hub));
        let said = stream::unfold(Arc::clone(&link), |link| async move {
            let changes = link.changes().await;
            Some((changes, link))
        });
        let stream = timeout(CONNECT_WITHIN, self.client().link(said)).await;
        let stream = stream.map_err(|_| Status::deadline_exceeded("no answer in time"))??;
        let mut inbound = Inbound {
            stream: stream.into_inner(),
            link,
        };
        let welcome = timeout(CONNECT_WITHIN, inbound.next()).await;
        match welcome.map_err(|_| Status::deadline_exceeded("no welcome in time"))?? {
            What::Welcome(welcome) => {
                // A newer process may have services that this gateway does not know.
                let known = welcome.services.iter().filter_map(|name| name.parse().ok());
                *self.services.write() = known.collect();
                Ok(inbound)
            }
            _ => Err(Status::internal("the first message was no welcome")),
        }
    }
}

struct Inbound {
    stream: Streaming<ToGateway>,
    link: Arc<Link>,
}

impl Inbound {
    async fn next(&mut self) -> Result<What, Status> {
        loop {
            let message = self.stream.message().await?;
            let message = message.ok_or_else(|| Status::unavailable("the process has ended the link"))?;
            // Something newer than this gateway is left out.
            if let Some(what) = message.what {
                return Ok(what);
            }
        }
    }

    /// Until it breaks, and why.
    async fn run(&mut self, process: &Process, hub: &Hub) -> Status {
        loop {
            match self.next().await {
                Ok(What::Hint(hint)) => {
                    if let Some(body) = hint.frame.and_then(|frame| frame.body) {
                        hub.notify(&hint.users, &body);
                    }
                }
                Ok(What::Elsewhere(elsewhere)) => self.link.elsewhere(&elsewhere),
                Ok(What::Lost(_)) => {
                    tracing::warn!(
                        process = process.address,
                        "hints were lost: clients are told to sync"
                    );
                    hub.all_changed();
                }
                Ok(What::Welcome(_)) => {}
                Err(status) => return status,
            }
        }
    }
}
