//! Messages that arrive again: a proxy on the way that does not keep to the rules.
//!
//! A call may be carried out a second time, and an old stream may be opened again with the messages it had. Nobody reads the answers.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use kvsvr::service::Service;
use kvsvr_client::transport::{Method, ReceiveMessages, STREAM_QUEUE, StreamReceiver};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{
    Fate, Reached,
    connection::{Connection, Frame, Item, Side},
    link::Recording,
};

/// How long a stream that is played again may stay open.
const PLAY_LIMIT: Duration = Duration::from_secs(2);

/// A message of the client has come to the server's side: it may come again, and so may an older one.
pub(super) fn consider(connection: &Arc<Connection>, frame: &Frame, stream: u64) {
    let (here, there) = (
        &connection.peer(Side::Client).host,
        &connection.peer(Side::Server).host,
    );
    let (method, message, unary) = match frame {
        Frame::Call(_, method, message) => (*method, message, true),
        Frame::Data(_, method, message) => (*method, message, false),
        _ => return,
    };
    let first = unary || connection.state.lock().heads.insert(stream);
    let key = (connection.id, stream);
    let (again, old) = connection.net.with_link(here, there, |link| {
        link.record(key, method, unary, first, message);
        let again = if unary { link.duplicate() } else { None };
        (again, link.replay())
    });
    if let Some(delay) = again {
        let messages = vec![message.clone()];
        play(connection, method, true, messages, delay, Fate::Duplicated);
    }
    if let Some((
        Recording {
            method,
            unary,
            messages,
            ..
        },
        delay,
    )) = old
    {
        play(connection, method, unary, messages, delay, Fate::Replayed);
    }
}

/// Plays a call or stream at the server's host when the time has come, to whatever process serves there then.
fn play(
    connection: &Arc<Connection>,
    method: Method,
    unary: bool,
    messages: Vec<Bytes>,
    delay: Duration,
    fate: Fate,
) {
    let connection = connection.clone();
    connection.net.0.node.clone().spawn(async move {
        sleep(delay).await;
        let (client, server) = (connection.peer(Side::Client), connection.peer(Side::Server));
        let Reached::Process(process) = connection.net.reach(&server.host, None).await else {
            return;
        };
        let Some(service) = process.service.clone() else {
            return;
        };
        for message in &messages {
            let direction = super::Direction::Request;
            let mut event =
                connection
                    .net
                    .event(&client.host, &server.host, method, connection.class, direction);
            event.bytes = message.len();
            event.fate = fate;
            connection.net.record(&event, message);
        }
        if unary {
            for message in messages {
                let service = service.clone();
                process
                    .node
                    .spawn(async move { service.call(method, message).await });
            }
        } else {
            process
                .node
                .spawn(timeout(PLAY_LIMIT, play_stream(service, method, messages)));
        }
    });
}

struct Played(std::vec::IntoIter<Bytes>);

impl ReceiveMessages for Played {
    fn receive(&mut self) -> BoxFuture<'_, Option<Item>> {
        let next = self.0.next();
        Box::pin(async move { next.map(Ok) })
    }
}

async fn play_stream(service: Arc<dyn Service>, method: Method, messages: Vec<Bytes>) {
    let (output, mut answers) = mpsc::channel::<Bytes>(STREAM_QUEUE);
    let input = StreamReceiver::new(Played(messages.into_iter()));
    let serving = service.open(method, input, output);
    let reading = async { while answers.recv().await.is_some() {} };
    let _ = futures::join!(serving, reading);
}
