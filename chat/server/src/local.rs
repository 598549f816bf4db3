//! The services as the gateway needs them, in the same process.

use std::sync::Arc;

use chat_access::{Answer, Backend, Hub, Identity};
use chat_core::{DeviceId, UserId};
use chat_logic::{Caller, Failure, Logic, delivery::Notices};
use chat_proto::v1::{Login, Refresh, Register, Reply, Request, Tokens, Typing, server_frame::Body};

/// See the module.
pub struct InProcess {
    logic: Logic,
    hub: Arc<Hub>,
}

impl InProcess {
    /// These services, whose hints go to this hub.
    pub fn new(logic: Logic, hub: Arc<Hub>) -> Self {
        Self { logic, hub }
    }
}

fn caller(who: Identity) -> Caller {
    Caller {
        user: UserId(who.user),
        device: DeviceId(who.device),
        epoch: who.epoch,
    }
}

/// What services answer, as it goes to clients.
fn answer<T, F>(answer: impl FnOnce(Logic) -> F, logic: &Logic) -> Answer<T>
where
    F: Future<Output = Result<T, Failure>> + Send + 'static,
{
    let answer = answer(logic.clone());
    Box::pin(async move { answer.await.map_err(|failure| failure.to_proto()) })
}

impl Backend for InProcess {
    fn register(&self, request: Register) -> Answer<Tokens> {
        answer(|logic| async move { logic.register(request).await }, &self.logic)
    }

    fn login(&self, request: Login) -> Answer<Tokens> {
        answer(|logic| async move { logic.login(request).await }, &self.logic)
    }

    fn refresh(&self, request: Refresh) -> Answer<Tokens> {
        answer(|logic| async move { logic.refresh(request).await }, &self.logic)
    }

    fn identify(&self, access_token: &str) -> Answer<Identity> {
        let known = self.logic.caller(access_token);
        let identify = |logic: Logic| async move {
            let caller = known?;
            logic.admit(caller).await?;
            Ok(Identity {
                user: caller.user.0,
                device: caller.device.0,
                epoch: caller.epoch,
            })
        };
        answer(identify, &self.logic)
    }

    fn still_there(&self, who: Identity) -> Answer<()> {
        answer(
            |logic| async move { logic.still_there(caller(who)).await },
            &self.logic,
        )
    }

    fn call(&self, who: Identity, request: Request) -> Answer<Reply> {
        answer(
            |logic| async move { logic.call(caller(who), request).await },
            &self.logic,
        )
    }

    fn typing(&self, who: Identity, conversation: String) -> Answer<()> {
        let hub = Arc::clone(&self.hub);
        let typing = |logic: Logic| async move {
            let others = logic.others(caller(who), &conversation).await?;
            let user = who.user;
            InHub(hub).notify(&others, &Body::Typing(Typing { conversation, user }));
            Ok(())
        };
        answer(typing, &self.logic)
    }

    fn visible(&self, who: Identity, users: Vec<u64>) -> Answer<Vec<u64>> {
        let visible = |logic: Logic| async move {
            let users: Vec<UserId> = users.into_iter().map(UserId).collect();
            let seen = logic.visible(caller(who), &users).await?;
            Ok(seen.into_iter().map(|user| user.0).collect())
        };
        answer(visible, &self.logic)
    }
}

/// Passes hints of delivery on to who is connected here.
pub(crate) struct InHub(pub(crate) Arc<Hub>);

impl Notices for InHub {
    fn notify(&self, users: &[UserId], body: &Body) {
        let users: Vec<u64> = users.iter().map(|user| user.0).collect();
        self.0.notify(&users, body);
    }
}
