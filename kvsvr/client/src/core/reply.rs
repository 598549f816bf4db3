//! What a reply means for the tries of its request.

use kvsvr_proto::v1::{self, exec_reply, outcome};
use prost::Message as _;

use crate::{
    error::{Code, Error},
    router::Target,
};

/// What a reply means for the tries.
pub(super) enum Verdict<T> {
    /// The answer.
    Done(T),
    /// The state machine's own refusal: the answer, too.
    Refused(Error),
    /// This try failed.
    Failed(Error),
}

pub(super) fn accept_outcome(reply: v1::ExecReply, target: &Target) -> Verdict<v1::Outcome> {
    match reply.result {
        Some(exec_reply::Result::Outcome(bytes)) => match v1::Outcome::decode(bytes) {
            Ok(v1::Outcome {
                result: Some(outcome::Result::Rejected(rejection)),
                ..
            }) => {
                let error = Error::from_rejection(rejection);
                match error.code {
                    // Not the command's outcome, but that it was not looked at.
                    Code::SessionExpired | Code::Overloaded | Code::ResultForgotten => Verdict::Failed(error),
                    _ => Verdict::Refused(error),
                }
            }
            Ok(outcome) => Verdict::Done(outcome),
            Err(e) => Verdict::Failed(Error::unexpected(
                &format!("an outcome that does not decode ({e})"),
                &target.address,
            )),
        },
        other => Verdict::Failed(reply_error(other, target)),
    }
}

pub(super) fn accept_read(reply: v1::ExecReply, target: &Target) -> Verdict<v1::ReadResult> {
    match reply.result {
        Some(exec_reply::Result::Read(result)) => Verdict::Done(result),
        other => Verdict::Failed(reply_error(other, target)),
    }
}

fn reply_error(result: Option<exec_reply::Result>, target: &Target) -> Error {
    match result {
        Some(exec_reply::Result::Error(error)) => Error::from_proto(error, &target.address),
        _ => Error::unexpected("another kind of answer than was asked for", &target.address),
    }
}
