//! A chat backend, and people with devices that keep what syncs tell them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chat_core::{UserId, secrets::Secrets};
use chat_logic::{
    Caller, Failure, Logic, Seams,
    delivery::{Notices, Worker},
};
use chat_proto::v1::{
    Block, ChangeGroup, Code, Contact, CreateGroup, Delta, DeviceInfo, Group, Profile, Register, Reply,
    Request, Send, Sent, Sync, Tokens, View, Want, change_group::Change, contact::Relation,
    reply::Reply as R, request::Request as Q, send, server_frame::Body,
};
use chat_storage::Store;
use kvsvr::local::LocalCluster;
use parking_lot::Mutex;

const SHARDS: u32 = 2;
pub(crate) const PASSWORD: &str = "correct horse";
/// How long something may take to be told.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Hints that were passed on.
#[derive(Default)]
pub(crate) struct Heard(pub(crate) Mutex<Vec<(UserId, Body)>>);

impl Notices for Heard {
    fn notify(&self, users: &[UserId], body: &Body) {
        let heard = users.iter().map(|user| (*user, body.clone()));
        self.0.lock().extend(heard);
    }
}

pub(crate) struct World {
    _cluster: LocalCluster,
    pub(crate) logic: Logic,
    pub(crate) heard: Arc<Heard>,
    pub(crate) now_ms: Arc<AtomicU64>,
    client_ids: AtomicU64,
}

fn seams(now_ms: &Arc<AtomicU64>) -> Seams {
    let (now_ms, random) = (Arc::clone(now_ms), AtomicU64::new(1));
    Seams {
        now_ms: Arc::new(move || now_ms.load(Ordering::SeqCst)),
        fill_random: Arc::new(move |bytes| {
            bytes.fill_with(|| random.fetch_add(1, Ordering::SeqCst) as u8);
        }),
        run: Arc::new(|work| work()),
        argon2: argon2::Params::new(8, 1, 1, None).unwrap(),
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        let cluster = LocalCluster::start(SHARDS).await;
        let now_ms = Arc::new(AtomicU64::new(1_700_000_000_000));
        let secrets = Secrets::new(1, BTreeMap::from([(1, vec![7; 32])])).unwrap();
        let logic = Logic::new(Store::new(cluster.client()), secrets, 0, seams(&now_ms));
        let heard = Arc::new(Heard::default());
        let worker = Arc::new(Worker::new(logic.clone(), Arc::clone(&heard) as _));
        for shard in 1..=SHARDS {
            let worker = Arc::clone(&worker);
            tokio::spawn(async move { worker.run(shard).await });
        }
        Self {
            _cluster: cluster,
            logic,
            heard,
            now_ms,
            client_ids: AtomicU64::new(1),
        }
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.now_ms.fetch_add(time.as_millis() as u64, Ordering::SeqCst);
    }

    pub(crate) fn client_id(&self) -> [u8; 16] {
        u128::from(self.client_ids.fetch_add(1, Ordering::SeqCst)).to_be_bytes()
    }

    pub(crate) async fn register(&self, name: &str) -> Device<'_> {
        let request = Register {
            name: name.to_owned(),
            password: PASSWORD.to_owned(),
            device: "a test".to_owned(),
            ..Register::default()
        };
        Device::new(self, self.logic.register(request).await.unwrap())
    }

    /// Two people who are contacts.
    pub(crate) async fn friends(&self) -> (Device<'_>, Device<'_>) {
        let (alice, bob) = (self.register("alice").await, self.register("bob").await);
        alice.befriend(&bob).await;
        (alice, bob)
    }
}

/// What a device keeps.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Kept {
    pub(crate) account: Profile,
    pub(crate) devices: Vec<DeviceInfo>,
    pub(crate) contacts: BTreeMap<u64, Contact>,
    pub(crate) views: BTreeMap<String, View>,
}

pub(crate) struct Device<'a> {
    pub(crate) world: &'a World,
    pub(crate) tokens: Tokens,
    pub(crate) caller: Caller,
    pub(crate) snapshot: Vec<u8>,
    pub(crate) kept: Kept,
}

impl<'a> Device<'a> {
    pub(crate) fn new(world: &'a World, tokens: Tokens) -> Self {
        let caller = world.logic.caller(&tokens.access_token).unwrap();
        Self {
            world,
            tokens,
            caller,
            snapshot: Vec::new(),
            kept: Kept::default(),
        }
    }

    pub(crate) fn user(&self) -> u64 {
        self.caller.user.0
    }

    pub(crate) async fn call(&self, request: Q) -> Result<R, Failure> {
        let request = Request {
            request: Some(request),
        };
        let Reply { reply } = self.world.logic.call(self.caller, request).await?;
        Ok(reply.unwrap())
    }

    pub(crate) async fn refused(&self, request: Q) -> Code {
        self.call(request).await.unwrap_err().code
    }

    pub(crate) async fn befriend(&self, other: &Device<'_>) {
        for (device, user) in [(self, other.user()), (other, self.user())] {
            let want = Want {
                user,
                greeting: "hello".to_owned(),
            };
            device.call(Q::Want(want)).await.unwrap();
        }
    }

    pub(crate) fn with(&self, other: &Device<'_>) -> String {
        chat_core::ConversationId::direct(self.caller.user, other.caller.user)
            .unwrap()
            .to_string()
    }

    pub(crate) fn text(&self, conversation: &str, text: &str) -> Send {
        Send {
            conversation: conversation.to_owned(),
            client_id: self.world.client_id().to_vec().into(),
            reply_to: 0,
            body: Some(send::Body::Text(text.to_owned())),
        }
    }

    pub(crate) async fn say(&self, conversation: &str, text: &str) -> Sent {
        let R::Sent(sent) = self.call(Q::Send(self.text(conversation, text))).await.unwrap() else {
            panic!("not sent");
        };
        sent
    }

    pub(crate) async fn group(&self, title: &str, members: &[&Device<'_>]) -> Group {
        let request = CreateGroup {
            client_id: self.world.client_id().to_vec().into(),
            title: title.to_owned(),
            members: members.iter().map(|member| member.user()).collect(),
        };
        let R::Group(group) = self.call(Q::CreateGroup(request)).await.unwrap() else {
            panic!("no group");
        };
        group
    }

    pub(crate) fn changing(&self, conversation: &str, change: Change) -> Q {
        Q::ChangeGroup(ChangeGroup {
            conversation: conversation.to_owned(),
            change: Some(change),
        })
    }

    pub(crate) async fn change(&self, conversation: &str, change: Change) -> Result<R, Failure> {
        self.call(self.changing(conversation, change)).await
    }

    pub(crate) async fn block(&self, other: &Device<'_>, end: bool) {
        let user = other.user();
        self.call(Q::Block(Block { user, end })).await.unwrap();
    }

    /// One answer; whether there is more.
    pub(crate) async fn sync_once(&mut self, conversations: u32, messages: u32) -> Delta {
        let request = Sync {
            snapshot: self.snapshot.clone().into(),
            conversations,
            messages,
        };
        let R::Delta(delta) = self.call(Q::Sync(request)).await.unwrap() else {
            panic!("no delta");
        };
        self.take(&delta);
        delta
    }

    fn take(&mut self, delta: &Delta) {
        if delta.reset {
            self.kept = Kept::default();
        }
        if let Some(account) = &delta.account {
            self.kept.account = account.clone();
            self.kept.devices = delta.devices.clone();
        }
        for contact in &delta.contacts {
            let user = contact.profile.as_ref().unwrap().user;
            if contact.relation() == Relation::Strangers && !contact.blocked {
                self.kept.contacts.remove(&user);
            } else {
                self.kept.contacts.insert(user, contact.clone());
            }
        }
        for view in &delta.conversations {
            self.kept.views.insert(view.conversation.clone(), view.clone());
        }
        self.snapshot = delta.snapshot.to_vec();
    }

    pub(crate) async fn sync(&mut self) {
        while self.sync_once(0, 20).await.more {}
    }

    /// Syncs until it sees that, or time is up.
    pub(crate) async fn until(&mut self, what: &str, seen: impl Fn(&Kept) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !seen(&self.kept) {
            assert!(tokio::time::Instant::now() < deadline, "{what}: {:#?}", self.kept);
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.sync().await;
        }
    }

    pub(crate) fn relation(&self, other: &Device<'_>) -> Relation {
        self.kept
            .contacts
            .get(&other.user())
            .map_or(Relation::Strangers, Contact::relation)
    }

    pub(crate) fn view(&self, conversation: &str) -> View {
        self.kept.views.get(conversation).cloned().unwrap_or_default()
    }
}

/// What messages say, with their numbers.
pub(crate) fn texts(view: &View) -> Vec<(u64, String)> {
    use chat_proto::v1::message::Body;
    let text = |body: &Option<Body>| match body {
        Some(Body::Text(text)) => text.text.clone(),
        Some(Body::Media(media)) => format!("[{}]", media.mime),
        Some(Body::System(note)) => format!("({})", note.what().as_str_name().to_lowercase()),
        Some(Body::Revision(of)) => format!("(revised {})", of.of_seq),
        None => "(recalled)".to_owned(),
    };
    let messages = view.messages.iter();
    messages
        .map(|message| (message.seq, text(&message.body)))
        .collect()
}
