//! Services in other processes, over gRPC.
//!
//! Each process says at its link which services it has, and a request goes to one whose link stands. Requests about the same conversation, or of the same user, go to the same
//! process while it is there, for what it remembers of them; any other one can do them as well. If a process fails in the middle of a request, the next one is
//! asked: everything may be done again with the same ids, but for one request (see [`Remote`]).

mod process;
mod route;

use std::sync::Arc;

use chat_proto::{
    Service,
    internal::v1 as internal,
    v1::{Code, Error, Login, Refresh, Register, Reply, Request, Tokens, request},
};
use futures::future::join_all;
use prost::Message as _;
use tokio::time::{Instant, timeout_at};
use tonic::{Response, Status};

pub use self::process::BadAddress;
use self::{
    process::{Client, Process},
    route::{in_order, place},
};
use crate::{
    backend::{Answer, Backend, Identity},
    hub::Hub,
    limits::{ANSWER_WITHIN, RETRY_AFTER},
};

/// See the module. A request to change a password is not repeated: done twice, the second time would say that the old one is wrong.
#[derive(Clone, Debug)]
pub struct Remote {
    processes: Arc<[Process]>,
}

impl Remote {
    /// Services at these addresses, HOST:PORT. They are shown the key: who has it may be any user.
    ///
    /// # Errors
    /// An address is none.
    pub fn new(addresses: &[String], key: &[u8]) -> Result<Self, BadAddress> {
        let processes = addresses.iter().map(|address| Process::new(address, key));
        Ok(Self {
            processes: processes.collect::<Result<_, _>>()?,
        })
    }

    /// Keeps a link to each process, for ever. Hints for users come by it.
    pub async fn run(&self, hub: Arc<Hub>) {
        join_all(self.processes.iter().map(|process| process.keep_link(&hub))).await;
    }

    /// Asks the processes that have a service, one after the other, until one answers.
    async fn ask<T, F>(
        self,
        service: Service,
        place: u64,
        once: bool,
        ask: impl Fn(Client) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + ANSWER_WITHIN;
        let mut is_tried = false;
        for process in in_order(&self.processes, service, place) {
            let answer = timeout_at(deadline, ask(process.client())).await;
            is_tried = true;
            match answer {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => match refusal(&status) {
                    Some(error) => return Err(error),
                    None => tracing::warn!(process = process.address(), %service, %status, "no answer"),
                },
                Err(_) => {
                    tracing::warn!(process = process.address(), %service, "no answer in time");
                    return Err(unknown());
                }
            }
            if once {
                break;
            }
        }
        Err(if is_tried { unknown() } else { unavailable(service) })
    }

    fn answer<T, F>(
        &self,
        (service, place, once): (Service, u64, bool),
        ask: impl Fn(Client) -> F + Send + 'static,
    ) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<Response<T>, Status>> + Send + 'static,
    {
        Box::pin(self.clone().ask(service, place, once, ask))
    }
}

fn unknown() -> Error {
    Error {
        code: Code::UnknownOutcome.into(),
        message: "the service did not answer: it may have been done, try again".to_owned(),
        retry_after_ms: RETRY_AFTER.as_millis() as u32,
    }
}

fn unavailable(service: Service) -> Error {
    Error {
        code: Code::Unavailable.into(),
        message: format!("the service {service} is not there now: try again"),
        retry_after_ms: RETRY_AFTER.as_millis() as u32,
    }
}

/// What a service says. `None`: it did not come to that.
fn refusal(status: &Status) -> Option<Error> {
    let details = status.details();
    (!details.is_empty())
        .then(|| Error::decode(details).ok())
        .flatten()
}

fn identity(who: Identity) -> internal::Identity {
    let Identity { user, device, epoch } = who;
    internal::Identity { user, device, epoch }
}

impl Backend for Remote {
    fn missing(&self) -> Vec<Service> {
        let mut missing = Service::ALL.to_vec();
        missing.retain(|service| !self.processes.iter().any(|process| process.has(*service)));
        missing
    }

    fn links(&self) -> usize {
        self.processes
            .iter()
            .filter(|process| process.is_linked())
            .count()
    }

    fn register(&self, request: Register) -> Answer<Tokens> {
        let route = (Service::Account, place(&request.name), false);
        self.answer(route, move |mut client: Client| {
            let request = request.clone();
            async move { client.register(request).await }
        })
    }

    fn login(&self, request: Login) -> Answer<Tokens> {
        let route = (Service::Account, place(&request.name), false);
        self.answer(route, move |mut client: Client| {
            let request = request.clone();
            async move { client.login(request).await }
        })
    }

    fn refresh(&self, request: Refresh) -> Answer<Tokens> {
        let route = (Service::Account, place(&request.refresh_token), false);
        self.answer(route, move |mut client: Client| {
            let request = request.clone();
            async move { client.refresh(request).await }
        })
    }

    fn identify(&self, access_token: &str) -> Answer<Identity> {
        let token = access_token.to_owned();
        let route = (Service::Account, place(&token), false);
        let answer = self.answer(route, move |mut client: Client| {
            let token = token.clone();
            async move { client.identify(internal::AccessToken { token }).await }
        });
        Box::pin(async move {
            let internal::Identity { user, device, epoch } = answer.await?;
            Ok(Identity { user, device, epoch })
        })
    }

    fn still_there(&self, who: Identity) -> Answer<()> {
        let route = (Service::Account, place(who.user), false);
        let answer = self.answer(route, move |mut client: Client| async move {
            client.still_there(identity(who)).await
        });
        Box::pin(async move { answer.await.map(drop) })
    }

    fn call(&self, who: Identity, request: Request) -> Answer<Reply> {
        let Some(asked) = &request.request else {
            let error = Error {
                code: Code::Invalid.into(),
                message: "the request is empty, or one that this server does not know".to_owned(),
                retry_after_ms: 0,
            };
            return Box::pin(async move { Err(error) });
        };
        let once = matches!(asked, request::Request::ChangePassword(_));
        let place = route::conversation(asked).map_or_else(|| place(who.user), place);
        let call = internal::CallRequest {
            who: Some(identity(who)),
            request: Some(request.clone()),
        };
        self.answer((Service::of(asked), place, once), move |mut client: Client| {
            let call = call.clone();
            async move { client.call(call).await }
        })
    }

    fn typing(&self, who: Identity, conversation: String) -> Answer<()> {
        let route = (Service::Message, place(&conversation), true);
        let answer = self.answer(route, move |mut client: Client| {
            let typing = internal::TypingRequest {
                who: Some(identity(who)),
                conversation: conversation.clone(),
            };
            async move { client.typing(typing).await }
        });
        Box::pin(async move { answer.await.map(drop) })
    }

    fn visible(&self, who: Identity, users: Vec<u64>) -> Answer<Vec<u64>> {
        let route = (Service::Contact, place(who.user), false);
        let answer = self.answer(route, move |mut client: Client| {
            let visible = internal::VisibleRequest {
                who: Some(identity(who)),
                users: users.clone(),
            };
            async move { client.visible(visible).await }
        });
        Box::pin(async move { Ok(answer.await?.users) })
    }
}
