//! The network between simulated nodes and clients.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use kvsvr::service::{CallError, Service};
use kvsvr_client::transport::{
    Class, Method, ReceiveMessages, STREAM_QUEUE, StreamReceiver, StreamSender, Transport, TransportError,
};
use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

struct Host {
    service: Arc<dyn Service>,
    node: madsim::runtime::NodeHandle,
}

#[derive(Default)]
pub struct Net {
    hosts: Mutex<BTreeMap<String, Host>>,
}

impl Net {
    pub fn listen(&self, address: &str, service: Arc<dyn Service>, node: madsim::runtime::NodeHandle) {
        self.hosts.lock().insert(address.to_owned(), Host { service, node });
    }

    pub fn close(&self, address: &str) {
        self.hosts.lock().remove(address);
    }

    fn host(&self, address: &str) -> Option<(Arc<dyn Service>, madsim::runtime::NodeHandle)> {
        let hosts = self.hosts.lock();
        hosts.get(address).map(|host| (host.service.clone(), host.node.clone()))
    }

    async fn travel(&self) {
        sleep(Duration::from_micros(200 + madsim::rand::random::<u64>() % 800)).await;
    }
}

pub struct Endpoint(pub Arc<Net>);

fn unreachable(address: &str) -> TransportError {
    TransportError::Unreachable {
        address: address.to_owned(),
        reason: "connection refused".into(),
    }
}

fn broken(address: &str) -> TransportError {
    TransportError::Broken {
        address: address.to_owned(),
        reason: "connection reset".into(),
    }
}

fn failure(address: &str, error: CallError) -> TransportError {
    match error {
        CallError::Api(error) => TransportError::Api {
            address: address.to_owned(),
            error,
        },
        other => TransportError::Rejected {
            address: address.to_owned(),
            reason: other.to_string(),
        },
    }
}

struct Receiver(mpsc::Receiver<Result<Bytes, TransportError>>);

impl ReceiveMessages for Receiver {
    fn receive(&mut self) -> BoxFuture<'_, Option<Result<Bytes, TransportError>>> {
        Box::pin(self.0.recv())
    }
}

impl Transport for Endpoint {
    fn call(
        &self,
        address: &str,
        _class: Class,
        method: Method,
        request: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (net, address) = (self.0.clone(), address.to_owned());
        Box::pin(async move {
            let to = address.clone();
            let calling = async {
                net.travel().await;
                let Some((service, node)) = net.host(&to) else {
                    return Err(unreachable(&to));
                };
                let answer = node.spawn(async move { service.call(method, request).await });
                let answer = answer.await.map_err(|_| broken(&to))?;
                net.travel().await;
                answer.map_err(|error| failure(&to, error))
            };
            match timeout(deadline, calling).await {
                Ok(answer) => answer,
                Err(_) => Err(TransportError::Timeout {
                    address,
                    after: deadline,
                }),
            }
        })
    }

    fn open(
        &self,
        address: &str,
        _class: Class,
        method: Method,
    ) -> BoxFuture<'static, Result<(StreamSender, StreamReceiver), TransportError>> {
        let (net, address) = (self.0.clone(), address.to_owned());
        Box::pin(async move {
            net.travel().await;
            let Some((service, node)) = net.host(&address) else {
                return Err(unreachable(&address));
            };
            let (to_server, mut outgoing) = mpsc::channel::<Bytes>(STREAM_QUEUE);
            let (server_in, server_messages) = mpsc::channel(STREAM_QUEUE);
            let (server_out, mut replies) = mpsc::channel::<Bytes>(STREAM_QUEUE);
            let (client_in, client_messages) = mpsc::channel(STREAM_QUEUE);
            let there = net.clone();
            tokio::spawn(async move {
                while let Some(message) = outgoing.recv().await {
                    there.travel().await;
                    if server_in.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
            });
            let input = StreamReceiver::new(Receiver(server_messages));
            let serving = node.spawn(async move { service.open(method, input, server_out).await });
            let to = address.clone();
            tokio::spawn(async move {
                while let Some(message) = replies.recv().await {
                    net.travel().await;
                    if client_in.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
                let end = match serving.await {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => failure(&to, error),
                    Err(_) => broken(&to),
                };
                let _ = client_in.send(Err(end)).await;
            });
            Ok((to_server, StreamReceiver::new(Receiver(client_messages))))
        })
    }
}
