//! The calls.

use std::{collections::BTreeSet, pin::Pin, sync::Arc};

use chat_core::{DeviceId, UserId};
use chat_proto::{
    Service,
    internal::v1::{
        AccessToken, CallRequest, FromGateway, Identity, ToGateway, TypingRequest, VisibleReply,
        VisibleRequest, Welcome,
        logic_server::{Logic as Calls, LogicServer},
        to_gateway::What,
    },
    kind_of,
    v1::{Code, Done, Login, Refresh, Register, Reply, Tokens, Typing, server_frame::Body},
};
use futures::{Stream, StreamExt, stream};
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};

use super::{
    exchange::{Exchange, Told},
    metrics::Metrics,
};
use crate::{Caller, Failure, Logic, delivery::Notices};

/// Bytes of the largest message.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// Where a link says what the caller may.
const KEY: &str = "chat-key-bin";

/// Whether a key is one that this backend has given to a gateway.
pub type Vouch = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// Some of the services, for gateways.
#[derive(Clone)]
pub struct Rpc {
    logic: Logic,
    exchange: Arc<Exchange>,
    services: Arc<BTreeSet<Service>>,
    vouch: Vouch,
    metrics: Metrics,
}

impl Rpc {
    /// These services, for gateways whose key is vouched for.
    pub fn new(
        logic: Logic,
        exchange: Arc<Exchange>,
        services: impl IntoIterator<Item = Service>,
        vouch: Vouch,
        metrics: Metrics,
    ) -> Self {
        Self {
            logic,
            exchange,
            services: Arc::new(services.into_iter().collect()),
            vouch,
            metrics,
        }
    }

    /// As tonic serves it.
    pub fn into_server(self) -> LogicServer<Self> {
        LogicServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// What was asked for, if this process may do it for the caller.
    fn admitted<T>(&self, service: Service, request: Request<T>) -> Result<T, Status> {
        self.known(&request)?;
        if !self.services.contains(&service) {
            return Err(Status::unimplemented(format!(
                "this process does not have the service {service}"
            )));
        }
        Ok(request.into_inner())
    }

    fn known<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let key = request
            .metadata()
            .get_bin(KEY)
            .and_then(|key| key.to_bytes().ok());
        if key.is_some_and(|key| (self.vouch)(&key)) {
            return Ok(());
        }
        Err(Status::unauthenticated(
            "the key is none of this backend's: gateways and services must have the same secrets",
        ))
    }
}

/// The identity of a caller, which every message that needs one must have.
fn caller(who: Option<Identity>) -> Result<Caller, Status> {
    let Identity { user, device, epoch } = who.ok_or_else(|| Status::invalid_argument("nobody asks"))?;
    Ok(Caller {
        user: UserId(user),
        device: DeviceId(device),
        epoch,
    })
}

fn answer<T>(answer: Result<T, Failure>) -> Result<Response<T>, Status> {
    answer.map(Response::new).map_err(|failure| status(&failure))
}

fn status(failure: &Failure) -> Status {
    use tonic::Code as Grpc;
    let code = match failure.code {
        Code::Unauthenticated | Code::WrongPassword => Grpc::Unauthenticated,
        Code::Forbidden | Code::NotContacts | Code::Blocked | Code::Muted => Grpc::PermissionDenied,
        Code::NotFound => Grpc::NotFound,
        Code::NameTaken | Code::Reused => Grpc::AlreadyExists,
        Code::GroupFull | Code::Fixed | Code::TooLate => Grpc::FailedPrecondition,
        Code::TooLarge | Code::RateLimited => Grpc::ResourceExhausted,
        Code::Unavailable => Grpc::Unavailable,
        Code::UnknownOutcome => Grpc::Unknown,
        Code::Invalid | Code::Protocol | Code::Unspecified => Grpc::InvalidArgument,
    };
    Status::with_details(
        code,
        failure.to_string(),
        failure.to_proto().encode_to_vec().into(),
    )
}

#[tonic::async_trait]
impl Calls for Rpc {
    async fn register(&self, request: Request<Register>) -> Result<Response<Tokens>, Status> {
        let request = self.admitted(Service::Account, request)?;
        answer(self.logic.register(request).await)
    }

    async fn login(&self, request: Request<Login>) -> Result<Response<Tokens>, Status> {
        let request = self.admitted(Service::Account, request)?;
        answer(self.logic.login(request).await)
    }

    async fn refresh(&self, request: Request<Refresh>) -> Result<Response<Tokens>, Status> {
        let request = self.admitted(Service::Account, request)?;
        answer(self.logic.refresh(request).await)
    }

    async fn identify(&self, request: Request<AccessToken>) -> Result<Response<Identity>, Status> {
        let token = self.admitted(Service::Account, request)?.token;
        let identified = async {
            let caller = self.logic.caller(&token)?;
            self.logic.admit(caller).await?;
            Ok(Identity {
                user: caller.user.0,
                device: caller.device.0,
                epoch: caller.epoch,
            })
        };
        answer(identified.await)
    }

    async fn still_there(&self, request: Request<Identity>) -> Result<Response<Done>, Status> {
        let who = self.admitted(Service::Account, request)?;
        let there = self.logic.still_there(caller(Some(who))?).await;
        answer(there.map(|()| Done {}))
    }

    async fn call(&self, request: Request<CallRequest>) -> Result<Response<Reply>, Status> {
        let asked = request.get_ref().request.as_ref();
        let asked = asked.and_then(|asked| asked.request.as_ref());
        let asked = asked.map(|asked| (Service::of(asked), kind_of(asked)));
        let (service, kind) = asked.ok_or_else(|| {
            Status::invalid_argument("the request is empty, or one that this process does not know")
        })?;
        let call = self.admitted(service, request)?;
        let caller = caller(call.who)?;
        let timer = self.metrics.begins(kind);
        let answered = self.logic.call(caller, call.request.unwrap_or_default()).await;
        timer.ends(answered.as_ref().err().map(|failure| failure.code));
        answer(answered)
    }

    async fn typing(&self, request: Request<TypingRequest>) -> Result<Response<Done>, Status> {
        let TypingRequest { who, conversation } = self.admitted(Service::Message, request)?;
        let caller = caller(who)?;
        let others = self.logic.others(caller, &conversation).await;
        answer(others.map(|others| {
            let user = caller.user.0;
            let typing = Typing { conversation, user };
            self.exchange.notify(&others, &Body::Typing(typing));
            Done {}
        }))
    }

    async fn visible(&self, request: Request<VisibleRequest>) -> Result<Response<VisibleReply>, Status> {
        let VisibleRequest { who, users } = self.admitted(Service::Contact, request)?;
        let users: Vec<UserId> = users.into_iter().map(UserId).collect();
        let seen = self.logic.visible(caller(who)?, &users).await;
        answer(seen.map(|seen| VisibleReply {
            users: seen.into_iter().map(|user| user.0).collect(),
        }))
    }

    type LinkStream = Pin<Box<dyn Stream<Item = Result<ToGateway, Status>> + Send>>;

    async fn link(
        &self,
        request: Request<Streaming<FromGateway>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        self.known(&request)?;
        let mut said = request.into_inner();
        let place = self.exchange.add();
        let (seat, told) = place.ok_or_else(|| Status::unavailable("this process stops"))?;
        // It ends when the gateway's side does, and that ends the other direction.
        tokio::spawn(async move {
            while let Ok(Some(said)) = said.message().await {
                seat.take(said);
            }
        });
        let services = self.services.iter().map(ToString::to_string);
        let welcome = ToGateway {
            what: Some(What::Welcome(Welcome {
                services: services.collect(),
            })),
        };
        let rest = stream::unfold(told, |mut told: Told| async move {
            let message = told.next().await?;
            Some((message, told))
        });
        let all = stream::once(async move { welcome }).chain(rest).map(Ok);
        Ok(Response::new(Box::pin(all)))
    }
}
