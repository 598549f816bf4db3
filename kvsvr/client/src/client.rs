//! The client's handle: how it is made and what its calls share. The calls themselves are in [`reads`](crate::reads),
//! [`writes`](crate::writes), [`admin`](crate::admin), [`watch`](crate::watch) and [`consumer`](crate::consumer).

use std::{fmt, sync::Arc};

use tokio::time::{Duration, Instant};

use crate::{
    core::Core,
    error::{Code, Error, Result},
    limits::{REQUEST_TIMEOUT, TRY_TIMEOUT},
    retry::Repeat,
    transport::Transport,
    types::{CallOptions, ReadFrom},
};

/// How a client is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// HOST:PORT of some nodes; the others are learnt from them.
    pub endpoints: Vec<String>,
    /// Time that a call may take, all its tries together.
    pub request_timeout: Duration,
    /// Time that one try may take before another node is asked.
    pub try_timeout: Duration,
    /// Writes carry a session and a sequence number, so that they can be tried again and are applied once. Without, a write whose
    /// connection breaks is reported as unknown.
    pub sessions: bool,
    /// Which replica answers reads.
    pub read_from: ReadFrom,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            request_timeout: REQUEST_TIMEOUT,
            try_timeout: TRY_TIMEOUT,
            sessions: true,
            read_from: ReadFrom::Leader,
        }
    }
}

impl ClientConfig {
    /// The defaults, with these endpoints.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}

/// A client of a kvsvr cluster. Cheap to clone; clones share connections, sessions and what is known about the cluster. Needs a
/// tokio runtime.
///
/// Every call ends by its deadline. Calls are retried until then where that is safe: reads always, writes under the same session
/// and sequence number, which the server applies once. See [`Error`] for what a failed call means.
#[derive(Clone)]
pub struct Client {
    pub(crate) core: Arc<Core>,
    request_timeout: Duration,
    read_from: ReadFrom,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("request_timeout", &self.request_timeout)
            .field("read_from", &self.read_from)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client over gRPC that has the cluster's shard map.
    ///
    /// # Errors
    /// No endpoint could be reached, or none is part of a cluster.
    #[cfg(feature = "grpc")]
    pub async fn connect(config: ClientConfig) -> Result<Client> {
        let client = Self::new(config)?;
        client.core.fetch_map(client.deadline(), 0).await?;
        Ok(client)
    }

    /// A client over gRPC that connects with its first call.
    ///
    /// # Errors
    /// The configuration has no endpoints.
    #[cfg(feature = "grpc")]
    pub fn new(config: ClientConfig) -> Result<Client> {
        #[cfg(feature = "mutants")]
        crate::mutants::choose_from_environment()?;
        Self::with_transport(Arc::new(crate::grpc::GrpcTransport::new()), config)
    }

    /// A client over another transport. Connects with its first call.
    ///
    /// # Errors
    /// The configuration has no endpoints.
    pub fn with_transport(transport: Arc<dyn Transport>, config: ClientConfig) -> Result<Client> {
        if config.endpoints.is_empty() {
            return Err(Error::definite(
                Code::Invalid,
                "no endpoints: give HOST:PORT of at least one node",
            ));
        }
        let endpoints = config.endpoints.iter().map(|e| e.as_str().into()).collect();
        Ok(Client {
            core: Arc::new(Core::new(
                transport,
                endpoints,
                config.try_timeout,
                config.sessions,
            )),
            request_timeout: config.request_timeout,
            read_from: config.read_from,
        })
    }

    /// The same client with other options for its calls. Cheap.
    pub fn with_options(&self, options: CallOptions) -> Client {
        Client {
            core: self.core.clone(),
            request_timeout: options.timeout.unwrap_or(self.request_timeout),
            read_from: options.read_from.unwrap_or(self.read_from),
        }
    }

    /// The same client with another timeout for its calls. Cheap.
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        self.with_options(CallOptions {
            timeout: Some(timeout),
            read_from: None,
        })
    }

    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.request_timeout
    }

    pub(crate) fn read_from(&self) -> ReadFrom {
        self.read_from
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.request_timeout
    }

    pub(crate) fn repeat(&self) -> Repeat {
        if self.core.sessions_on {
            Repeat::Deduplicated
        } else {
            Repeat::Forbidden
        }
    }
}
