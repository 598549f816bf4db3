//! Each layer in processes of its own.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use chat::{Chat, Services};
use chat_access::Remote;
use chat_core::secrets::{Purpose, Secrets};
use chat_proto::{
    Service,
    v1::{Code, Typing, WatchPresence, client_frame, reply::Reply as R, server_frame::Body},
};
use kvsvr::local::LocalCluster;
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
    time::timeout,
};

use crate::{
    client::{Door, listening, seams, secrets},
    devices::{PATIENCE, in_sync, start_at, text as message, texts, want as befriend},
    text, want,
};

/// Services of the first process; the second has the others, but for those that both have.
const FIRST: [Service; 4] = [
    Service::Account,
    Service::Message,
    Service::Sync,
    Service::Delivery,
];
const SECOND: [Service; 4] = [
    Service::Contact,
    Service::Group,
    Service::Message,
    Service::Delivery,
];

/// Whose end is that of a process: all of it is gone at once.
struct Process<T> {
    runtime: Option<Runtime>,
    running: Option<T>,
    address: SocketAddr,
}

impl<T: Send + 'static> Process<T> {
    async fn start(
        address: impl FnOnce(&T) -> SocketAddr,
        make: impl Future<Output = T> + Send + 'static,
    ) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let running = runtime.spawn(make).await.unwrap();
        Self {
            address: address(&running),
            runtime: Some(runtime),
            running: Some(running),
        }
    }

    fn kill(&mut self) {
        self.running = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl<T> Drop for Process<T> {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

async fn logic(
    cluster: &LocalCluster,
    listen: SocketAddr,
    serve: [Service; 4],
    name: &str,
) -> Process<Services> {
    let (client, name) = (cluster.client(), name.to_owned());
    let make = async move {
        let services: BTreeSet<Service> = serve.into();
        let start = || {
            Services::start(
                client.clone(),
                secrets(),
                seams(),
                listen,
                services.clone(),
                name.clone(),
            )
        };
        listening(start).await
    };
    Process::start(|services| services.address, make).await
}

async fn access(listen: SocketAddr, logic: &[SocketAddr], secrets: Secrets) -> Process<Chat> {
    let logic: Vec<String> = logic.iter().map(ToString::to_string).collect();
    let make = async move {
        let key = secrets.seal(Purpose::Gateway, b"");
        listening(|| Chat::in_front_of(Remote::new(&logic, &key).unwrap(), listen)).await
    };
    Process::start(|chat| chat.address, make).await
}

/// Until all services are there.
async fn ready(door: &Door) {
    let ready = async {
        while door.get("/readyz").await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, ready)
        .await
        .expect("not all services are there");
}

struct Layers {
    cluster: LocalCluster,
    logic: [Process<Services>; 2],
    access: [Process<Chat>; 2],
}

impl Layers {
    async fn start() -> Self {
        let cluster = LocalCluster::start(2).await;
        let logic = [
            logic(&cluster, ANYWHERE, FIRST, "first").await,
            logic(&cluster, ANYWHERE, SECOND, "second").await,
        ];
        let at = [logic[0].address, logic[1].address];
        let access = [
            access(ANYWHERE, &at, secrets()).await,
            access(ANYWHERE, &at, secrets()).await,
        ];
        let layers = Self {
            cluster,
            logic,
            access,
        };
        ready(&layers.door(0)).await;
        ready(&layers.door(1)).await;
        layers
    }

    fn door(&self, number: usize) -> Door {
        Door(self.access[number].address)
    }

    /// A process dies, and another one begins at its address.
    async fn replace(&mut self, number: usize) {
        match number {
            0 | 1 => {
                self.logic[number].kill();
                let (address, name) = (self.logic[number].address, format!("again-{number}"));
                let serve = [FIRST, SECOND][number];
                self.logic[number] = logic(&self.cluster, address, serve, &name).await;
            }
            _ => {
                let number = number - 2;
                self.access[number].kill();
                let at = [self.logic[0].address, self.logic[1].address];
                self.access[number] = access(self.access[number].address, &at, secrets()).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_two_gateways_hear_of_each_other() {
    let layers = Layers::start().await;
    let mut alice = layers.door(0).connect("alice").await;
    let mut bob = layers.door(1).connect("bob").await;
    alice.call(want(bob.user)).await.unwrap();
    bob.call(want(alice.user)).await.unwrap();
    let pair = format!("d-{}-{}", alice.user.min(bob.user), alice.user.max(bob.user));
    let R::Sent(sent) = alice.call(text(&pair, 1, "hello")).await.unwrap() else {
        panic!("not sent");
    };
    let pushed = bob.until(|body| match body {
        Body::Push(push) => push.message.clone(),
        _ => None,
    });
    assert_eq!(pushed.await.seq, sent.seq);
    let typing = Typing {
        conversation: pair.clone(),
        user: 0,
    };
    bob.write(90, client_frame::Body::Typing(typing)).await;
    let typing = alice.until(|body| match body {
        Body::Typing(typing) => Some(typing.user),
        _ => None,
    });
    assert_eq!(typing.await, bob.user);
    let watch = WatchPresence {
        users: vec![bob.user],
    };
    alice.write(91, client_frame::Body::WatchPresence(watch)).await;
    let bob_id = bob.user;
    alice
        .until(|body| matches!(body, Body::Presence(presence) if presence.online == [bob_id]).then_some(()))
        .await;
    bob.close().await;
    // His session is kept for a while, in case that his connection broke; his process ends here instead.
    let mut layers = layers;
    layers.access[1].kill();
    alice
        .until(|body| matches!(body, Body::Presence(presence) if presence.offline == [bob_id]).then_some(()))
        .await;
    let error = alice.call(text("d-1-2000", 2, "nobody")).await.unwrap_err();
    assert_eq!(error, Code::NotContacts);
}

/// Every process of every layer dies while messages are sent.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_whichever_process_dies() {
    const COUNT: u8 = 120;
    let mut layers = Layers::start().await;
    let addresses: Vec<String> = layers
        .access
        .iter()
        .map(|access| access.address.to_string())
        .collect();
    let (alice, bob) = (
        layers.door(0).tokens("/v1/register", "alice").await,
        layers.door(1).tokens("/v1/register", "bob").await,
    );
    let pair = format!("d-{}-{}", alice.user, bob.user);
    let (alice_id, bob_id) = (alice.user, bob.user);
    let second = layers.door(0).login("bob").await;
    let alice = start_at(addresses.clone(), alice);
    let bob = start_at(addresses.iter().rev().cloned().collect(), bob);
    let second = start_at(addresses, second);
    for client in [&alice, &bob, &second] {
        in_sync(client).await;
    }
    befriend(&alice, bob_id).await;
    befriend(&bob, alice_id).await;
    let (told, mut sent_so_far) = mpsc::unbounded_channel();
    let sending = async {
        for number in 0..COUNT {
            let sent = timeout(PATIENCE, alice.send(message(&pair, number))).await;
            assert_eq!(sent.expect("it is not sent").unwrap().seq, u64::from(number) + 1);
            told.send(number).unwrap();
        }
    };
    let dying = async {
        for process in 0..4 {
            while sent_so_far.recv().await.unwrap() < (process + 1) * (COUNT / 5) {}
            layers.replace(usize::from(process)).await;
        }
    };
    let count = usize::from(COUNT);
    let (first, other, (), ()) = tokio::join!(
        texts(&bob, &pair, count),
        texts(&second, &pair, count),
        sending,
        dying
    );
    let expected: Vec<String> = (0..COUNT).map(|number| format!("m{number}")).collect();
    assert_eq!((&first, &other), (&expected, &expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_other_secrets_gets_nothing() {
    let cluster = LocalCluster::start(2).await;
    let logic = logic(&cluster, ANYWHERE, FIRST, "first").await;
    let others = Secrets::new(1, [(1, vec![8; 32])].into()).unwrap();
    let access = access(ANYWHERE, &[logic.address], others).await;
    let door = Door(access.address);
    let (status, text) = door.get("/readyz").await;
    assert!(
        status == 503 && text.contains("account, contact"),
        "{status} {text}"
    );
    let body = r#"{"name":"alice","password":"correct horse","device":"a test"}"#;
    let (status, text) = door.post("/v1/register", body).await;
    assert!(status == 503 && text.contains("UNAVAILABLE"), "{status} {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stops_hands_over() {
    let mut layers = Layers::start().await;
    let mut alice = layers.door(0).connect("alice").await;
    let stopping = layers.logic[0].running.take().unwrap();
    layers.logic[0]
        .runtime
        .as_ref()
        .unwrap()
        .spawn(stopping.stop())
        .await
        .unwrap();
    // What only it had is missing, and said to be; all else goes on.
    let missing = async {
        loop {
            let (status, text) = layers.door(0).get("/readyz").await;
            if status == 503 {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let missing = timeout(PATIENCE, missing).await.expect("nothing is missing");
    assert!(missing.contains("account, sync"), "{missing}");
    let error = alice.call(text("d-1-2000", 1, "nobody")).await.unwrap_err();
    assert_eq!(error, Code::NotContacts);
}
