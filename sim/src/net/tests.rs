//! Each fault of the network, as a user of `Transport` and a `Service` see it.

use std::{future::pending, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use kvsvr::service::{CallError, Service};
use kvsvr_client::transport::{Class, Method, StreamReceiver, StreamSender, Transport, TransportError};
use madsim::runtime::{Handle, NodeHandle, Runtime};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::*;

mod connections;
mod faults;
mod streams;

const MS: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(100);

/// What the server of the tests was asked, and what it noticed.
#[derive(Default)]
struct Journal {
    calls: Vec<(Method, Bytes)>,
    messages: Vec<(Method, Bytes)>,
    streams: usize,
    /// Handlers that ended, however.
    ended: usize,
    /// What streams ended with on the server's side.
    errors: Vec<TransportError>,
}

/// Notes the end of a handler, also when it is dropped.
struct Handler(Arc<Mutex<Journal>>);

impl Drop for Handler {
    fn drop(&mut self) {
        self.0.lock().ended += 1;
    }
}

/// Echoes calls and streams. `KvRange` takes a second, `KvDelete` and at its end `WatchWatch` fail, `AdminCompact` and `RaftSnapshot` never end and read nothing.
#[derive(Clone, Default)]
struct Echo(Arc<Mutex<Journal>>);

impl Service for Echo {
    fn call(&self, method: Method, request: Bytes) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let this = self.clone();
        async move {
            let _handler = Handler(this.0.clone());
            this.0.lock().calls.push((method, request.clone()));
            match method {
                Method::AdminCompact => pending().await,
                Method::KvRange => sleep(Duration::from_secs(1)).await,
                Method::KvDelete => return Err(CallError::Malformed("no".into())),
                _ => {}
            }
            Ok(request)
        }
        .boxed()
    }

    fn open(
        &self,
        method: Method,
        mut input: StreamReceiver,
        output: StreamSender,
    ) -> BoxFuture<'static, Result<(), CallError>> {
        let this = self.clone();
        async move {
            let _handler = Handler(this.0.clone());
            this.0.lock().streams += 1;
            if method == Method::RaftSnapshot {
                return pending().await;
            }
            while let Some(item) = input.next().await {
                match item {
                    Ok(message) => {
                        this.0.lock().messages.push((method, message.clone()));
                        if output.send(message).await.is_err() {
                            break;
                        }
                    }
                    Err(error) => {
                        this.0.lock().errors.push(error);
                        break;
                    }
                }
            }
            match method {
                Method::WatchWatch => Err(CallError::Malformed("no".into())),
                _ => Ok(()),
            }
        }
        .boxed()
    }
}

/// A client's machine and a server's, 10 ms apart.
struct Lab {
    net: SimNet,
    client: NodeHandle,
    server: NodeHandle,
    endpoint: Endpoint,
    echo: Echo,
}

impl Lab {
    fn new(seed: u64) -> Self {
        let net = SimNet::new(seed);
        net.set_default(LinkSpec::default().with_delay(10 * MS, Duration::ZERO));
        let host = |name: &str| Handle::current().create_node().name(name).build();
        let (client, server) = (host("client"), host("server"));
        let endpoint = net.boot("client", client.clone());
        let echo = Echo::default();
        net.boot("server", server.clone());
        net.listen("server", Arc::new(echo.clone()));
        Self {
            net,
            client,
            server,
            endpoint,
            echo,
        }
    }

    /// Starts the server's process again.
    fn restart_server(&mut self) {
        self.server = Handle::current().create_node().name("server again").build();
        self.net.boot("server", self.server.clone());
        self.net.listen("server", Arc::new(self.echo.clone()));
    }

    fn to_server(&self, change: impl FnOnce(&mut LinkSpec)) {
        self.net.change_link("client", "server", change);
    }

    fn to_client(&self, change: impl FnOnce(&mut LinkSpec)) {
        self.net.change_link("server", "client", change);
    }

    /// A call by the client's process, and how long it took.
    async fn call_within(
        &self,
        method: Method,
        request: &'static str,
        deadline: Duration,
    ) -> (Result<Bytes, TransportError>, Duration) {
        let call = self.endpoint.call(
            "server",
            Class::Data,
            method,
            Bytes::from_static(request.as_bytes()),
            deadline,
        );
        let calling = self.client.spawn(async move {
            let begun = Instant::now();
            (call.await, begun.elapsed())
        });
        calling.await.unwrap()
    }

    async fn call(&self, method: Method, request: &'static str) -> (Result<Bytes, TransportError>, Duration) {
        self.call_within(method, request, LONG).await
    }

    async fn open(&self, class: Class, method: Method) -> (StreamSender, StreamReceiver) {
        let opening = self.endpoint.open("server", class, method);
        self.client.spawn(opening).await.unwrap().unwrap()
    }

    fn calls(&self) -> usize {
        self.echo.0.lock().calls.len()
    }

    fn fates(&self, fate: Fate) -> u64 {
        let counts = self.net.counts();
        counts
            .iter()
            .filter(|((_, _, it), _)| *it == fate)
            .map(|(_, count)| count)
            .sum()
    }
}

/// Runs a test in a simulation.
fn lab<F: Future>(test: impl FnOnce(Lab) -> F) -> F::Output {
    lab_with_seed(1, test)
}

fn lab_with_seed<F: Future>(seed: u64, test: impl FnOnce(Lab) -> F) -> F::Output {
    let runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
    runtime.block_on(async { test(Lab::new(seed)).await })
}

/// Within a millisecond and a half: the time that tasks take, and the least of a sleep. The simulation rounds its clock.
#[track_caller]
fn assert_took(took: Duration, expected: Duration) {
    let near = expected - Duration::from_micros(1)..expected + Duration::from_micros(1500);
    assert!(near.contains(&took), "{took:?} instead of {expected:?}");
}

#[track_caller]
fn assert_broken(result: &Result<Bytes, TransportError>) {
    assert!(matches!(result, Err(TransportError::Broken { .. })), "{result:?}");
}

#[track_caller]
fn assert_unreachable(result: &Result<Bytes, TransportError>) {
    assert!(
        matches!(result, Err(TransportError::Unreachable { .. })),
        "{result:?}"
    );
}
