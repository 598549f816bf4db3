//! How an error of the node looks as a gRPC status.
//!
//! The message is `CODE: text` with the stable name of the code, for people; the details are the encoded `kvsvr.v1.Error` itself
//! (not wrapped in `google.rpc.Status`), for the client library, which needs the leader and the retry delay.

use kvsvr_proto::v1::{Error, ErrorCode};
use prost::Message as _;
use tonic::{Code, Status};

use crate::service::CallError;

/// The gRPC code that a generic client treats like `code`: UNAVAILABLE is retried, ABORTED and FAILED_PRECONDITION are not.
pub(super) fn grpc_code(code: ErrorCode) -> Code {
    match code {
        ErrorCode::Invalid => Code::InvalidArgument,
        ErrorCode::NotFound => Code::NotFound,
        ErrorCode::Compacted | ErrorCode::FutureRevision => Code::OutOfRange,
        ErrorCode::WrongType
        | ErrorCode::SessionExpired
        | ErrorCode::Refused
        | ErrorCode::WrongShard
        | ErrorCode::ResultForgotten => Code::FailedPrecondition,
        ErrorCode::Fenced => Code::Aborted,
        ErrorCode::AlreadyExists => Code::AlreadyExists,
        ErrorCode::Overloaded => Code::ResourceExhausted,
        ErrorCode::NotLeader
        | ErrorCode::NoLeader
        | ErrorCode::TooStale
        | ErrorCode::NotReady
        | ErrorCode::Unreachable => Code::Unavailable,
        ErrorCode::Timeout => Code::DeadlineExceeded,
        ErrorCode::Corrupt => Code::DataLoss,
        ErrorCode::Internal => Code::Internal,
        // It may have happened: nothing that invites a blind retry.
        ErrorCode::Disconnected | ErrorCode::Unspecified => Code::Unknown,
    }
}

/// The status of a call that failed.
pub(super) fn status(error: CallError) -> Status {
    match error {
        CallError::Malformed(text) => api_status(&Error {
            code: ErrorCode::Invalid.into(),
            message: text,
            ..Error::default()
        }),
        CallError::Api(error) => api_status(&error),
        CallError::Unsupported(text) => Status::unimplemented(text),
    }
}

fn api_status(error: &Error) -> Status {
    let code = error.code();
    let name = match code {
        ErrorCode::Unspecified => "UNKNOWN",
        code => code.as_str_name(),
    };
    Status::with_details(
        grpc_code(code),
        format!("{name}: {}", error.message),
        error.encode_to_vec().into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_a_code_a_name_and_its_details() {
        let mut codes = 0;
        for number in 1..100 {
            let Ok(code) = ErrorCode::try_from(number) else {
                continue;
            };
            codes += 1;
            let error = Error {
                code: number,
                message: "m".into(),
                retry_after_ms: 7,
                ..Error::default()
            };
            let status = status(CallError::Api(Box::new(error.clone())));
            assert_ne!(status.code(), Code::Ok);
            assert_eq!(status.message(), format!("{}: m", code.as_str_name()));
            assert_eq!(Error::decode(status.details()).unwrap(), error);
        }
        assert!(codes >= 21, "{codes}");
    }

    #[test]
    fn errors_of_the_call_itself() {
        let malformed = status(CallError::Malformed("bad varint".into()));
        assert_eq!(
            (malformed.code(), malformed.message()),
            (Code::InvalidArgument, "INVALID: bad varint")
        );
        assert_eq!(
            Error::decode(malformed.details()).unwrap().code(),
            ErrorCode::Invalid
        );
        assert_eq!(
            status(CallError::Unsupported("use the stream")).code(),
            Code::Unimplemented
        );
    }

    #[test]
    fn unknown_outcomes_never_look_retryable() {
        for code in [ErrorCode::Timeout, ErrorCode::Disconnected, ErrorCode::Internal] {
            assert_ne!(grpc_code(code), Code::Unavailable);
        }
    }
}
