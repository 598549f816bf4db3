//! What can go wrong, by what the caller must know: the code says what happened, the certainty whether the operation may have
//! taken effect. The library never turns [`Certainty::Unknown`] into [`Certainty::Definite`].

use std::{fmt, time::Duration};

use kvsvr_proto::v1;

use crate::transport::TransportError;

/// The result of the library's calls.
pub type Result<T> = std::result::Result<T, Error>;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Stable codes, the same as the protocol's `ErrorCode`. Printed in lower case.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* $variant,)*
        }

        impl Code {
            /// All codes.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The stable printed form, for example `not_found`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Code::$variant => $name,)*
                }
            }

            /// The code on the wire.
            pub fn to_proto(self) -> v1::ErrorCode {
                match self {
                    $(Code::$variant => v1::ErrorCode::$variant,)*
                }
            }
        }

        impl From<v1::ErrorCode> for Code {
            fn from(code: v1::ErrorCode) -> Self {
                match code {
                    $(v1::ErrorCode::$variant => Code::$variant,)*
                    v1::ErrorCode::Unspecified => Code::Internal,
                }
            }
        }
    };
}

codes! {
    /// The request breaks a rule; repeating it does not help.
    Invalid = "invalid",
    /// No such lease, consumer, shard or node.
    NotFound = "not_found",
    /// The revision has been compacted; [`Error::revision`] is the first that can still be read.
    Compacted = "compacted",
    /// The value at the key is not a number, or the number would overflow.
    WrongType = "wrong_type",
    /// The session is not known to the server any more.
    SessionExpired = "session_expired",
    /// Another owner has taken over.
    Fenced = "fenced",
    /// It is there already.
    AlreadyExists = "already_exists",
    /// The node has too much to do; try again after [`Error::retry_after`].
    Overloaded = "overloaded",
    /// A safety check refuses it.
    Refused = "refused",
    /// The node does not lead the shard.
    NotLeader = "not_leader",
    /// The shard has no leader now.
    NoLeader = "no_leader",
    /// The partition is in another shard: the shard map has changed.
    WrongShard = "wrong_shard",
    /// No replica that was asked is as fresh as the read demands.
    TooStale = "too_stale",
    /// The revision does not exist yet.
    FutureRevision = "future_revision",
    /// The node is not part of a cluster, or is still starting.
    NotReady = "not_ready",
    /// No answer in time.
    Timeout = "timeout",
    /// The connection broke after the request was sent.
    Disconnected = "disconnected",
    /// No connection could be made.
    Unreachable = "unreachable",
    /// Stored data failed its checksum and is not served.
    Corrupt = "corrupt",
    /// A bug.
    Internal = "internal",
    /// It was applied once, but its outcome is no longer kept.
    ResultForgotten = "result_forgotten",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a failed operation may have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// It did not happen and will not happen.
    Definite,
    /// It may have happened, or may still happen.
    Unknown,
}

/// How the message of an answer of another form ends.
const UNEXPECTED: &str = ": client and server do not fit together, or this is a bug";

/// A failed call.
#[derive(Clone, Debug)]
pub struct Error {
    /// What happened.
    pub code: Code,
    /// What, where and what to do, for people.
    pub message: String,
    /// Whether the operation may have taken effect.
    pub certainty: Certainty,
    /// When to try again, if the server said so.
    pub retry_after: Option<Duration>,
    /// [`Code::Compacted`]: the first revision that can still be read; 0 otherwise.
    pub revision: u64,
    /// [`Code::NotLeader`]: who leads, if known: node id (0 = not known) and address.
    pub leader: Option<(u64, String)>,
}

impl Error {
    /// A definite error.
    pub fn definite(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            certainty: Certainty::Definite,
            retry_after: None,
            revision: 0,
            leader: None,
        }
    }

    /// An error that leaves open whether the operation took effect.
    pub fn unknown(code: Code, message: impl Into<String>) -> Self {
        Self {
            certainty: Certainty::Unknown,
            ..Self::definite(code, message)
        }
    }

    /// True if the operation may have taken effect.
    pub fn is_unknown(&self) -> bool {
        self.certainty == Certainty::Unknown
    }

    /// The error of an answer; `address` is the node that gave it.
    pub(crate) fn from_proto(error: v1::Error, address: &str) -> Self {
        let code = Code::from(error.code());
        let certain = !(error.unknown || code_is_unknown(code));
        let leader = (error.leader_node != 0 || !error.leader_address.is_empty())
            .then_some((error.leader_node, error.leader_address));
        Self {
            code,
            message: format!("{} (node {address})", error.message),
            certainty: if certain {
                Certainty::Definite
            } else {
                Certainty::Unknown
            },
            retry_after: (error.retry_after_ms > 0)
                .then(|| Duration::from_millis(u64::from(error.retry_after_ms))),
            revision: error.revision,
            leader,
        }
    }

    /// The state machine's refusal of a command.
    pub(crate) fn from_rejection(rejection: v1::Rejection) -> Self {
        let code = Code::from(rejection.code());
        let certainty = if code_is_unknown(code) {
            Certainty::Unknown
        } else {
            Certainty::Definite
        };
        Self {
            certainty,
            revision: rejection.revision,
            ..Self::definite(code, rejection.message)
        }
    }

    /// The node's answer was not of the form that was asked for.
    pub fn is_unexpected_answer(&self) -> bool {
        self.code == Code::Internal && self.message.contains(UNEXPECTED)
    }

    /// An answer that is not what was asked for.
    pub(crate) fn unexpected(what: &str, address: &str) -> Self {
        Self::unknown(Code::Internal, format!("node {address} sent {what}{UNEXPECTED}"))
    }

    /// The same error, as the outcome of an operation of which a try may have taken effect.
    pub(crate) fn after_unknown_try(mut self) -> Self {
        if !self.is_unknown() {
            self.certainty = Certainty::Unknown;
            self.message
                .push_str("; a try may have taken effect: read before you repeat it");
        }
        self
    }
}

/// Codes that leave the outcome open, whatever the sender of the error says.
fn code_is_unknown(code: Code) -> bool {
    matches!(
        code,
        Code::Timeout | Code::Disconnected | Code::Internal | Code::ResultForgotten
    )
}

impl From<TransportError> for Error {
    fn from(error: TransportError) -> Self {
        let code = match &error {
            TransportError::Unreachable { .. } => Code::Unreachable,
            TransportError::Broken { .. } => Code::Disconnected,
            TransportError::Timeout { .. } => Code::Timeout,
            TransportError::Rejected { .. } => Code::Refused,
            TransportError::Api { address, error } => return Self::from_proto((**error).clone(), address),
        };
        let certainty = if error.is_unknown() {
            Certainty::Unknown
        } else {
            Certainty::Definite
        };
        Self {
            certainty,
            ..Self::definite(code, error.to_string())
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        match self.certainty {
            Certainty::Definite => Ok(()),
            Certainty::Unknown => f.write_str(" [outcome unknown]"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_the_wire() {
        for code in Code::ALL {
            assert_eq!(Code::from(code.to_proto()), *code);
            assert!(
                code.name().chars().all(|c| c.is_ascii_lowercase() || c == '_'),
                "{code}"
            );
        }
        // Every code of the protocol has one here.
        let known = (1..).take_while(|n| v1::ErrorCode::try_from(*n).is_ok()).count();
        assert_eq!(known, Code::ALL.len());
    }

    #[test]
    fn an_answer_of_another_form_is_told_from_other_errors() {
        assert!(Error::unexpected("no session id", "n:1").is_unexpected_answer());
        let internal = Error::unknown(Code::Internal, "the engine failed");
        assert!(!internal.is_unexpected_answer());
    }

    #[test]
    fn unknown_codes_are_unknown_even_if_the_flag_is_not_set() {
        let error = v1::Error {
            code: v1::ErrorCode::Timeout.into(),
            ..v1::Error::default()
        };
        assert!(Error::from_proto(error, "n:1").is_unknown());
        let error = v1::Error {
            code: v1::ErrorCode::NoLeader.into(),
            unknown: true,
            ..v1::Error::default()
        };
        assert!(Error::from_proto(error, "n:1").is_unknown());
        let error = v1::Error {
            code: v1::ErrorCode::NoLeader.into(),
            ..v1::Error::default()
        };
        assert!(!Error::from_proto(error, "n:1").is_unknown());
        let error = v1::Error {
            code: 12_345,
            ..v1::Error::default()
        };
        assert!(
            Error::from_proto(error, "n:1").is_unknown(),
            "a code of a newer server"
        );
    }
}
