//! What a service answers when it does not do what was asked for: by what the client must do.

use std::{fmt, time::Duration};

use chat_core::{ids::BadId, room::Refusal, text::BadText};
use chat_proto::v1::{Code, Error};
use chat_storage::StoreError;

/// An error for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What to do about it.
    pub code: Code,
    /// For people.
    pub message: String,
    /// Not before this time is over.
    pub retry_after: Duration,
}

impl Failure {
    /// An error with this text.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after: Duration::ZERO,
        }
    }

    /// The request cannot be understood.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::Invalid, message)
    }

    /// Too many, too soon.
    pub fn limited(what: &str, retry_after: Duration) -> Self {
        Self {
            retry_after,
            ..Self::new(Code::RateLimited, format!("too many {what}: wait a while"))
        }
    }

    /// Others were quicker each time.
    pub(crate) fn contended() -> Self {
        StoreError::Contended.into()
    }

    /// As it is sent.
    pub fn to_proto(&self) -> Error {
        Error {
            code: self.code.into(),
            message: self.message.clone(),
            retry_after_ms: self.retry_after.as_millis().try_into().unwrap_or(u32::MAX),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}",
            self.code.as_str_name().to_ascii_lowercase(),
            self.message
        )
    }
}

impl std::error::Error for Failure {}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::NotMember | Refusal::NotAllowed | Refusal::Disbanded | Refusal::NotYours => {
                Code::Forbidden
            }
            Refusal::NotContacts => Code::NotContacts,
            Refusal::Blocked => Code::Blocked,
            Refusal::Muted => Code::Muted,
            Refusal::Full => Code::GroupFull,
            Refusal::Reused => Code::Reused,
            Refusal::NoMessage => Code::NotFound,
            Refusal::TooLate => Code::TooLate,
            Refusal::Fixed => Code::Fixed,
        };
        Self::new(code, refusal.to_string())
    }
}

/// What the store says is for operators: clients are told what it means for them.
impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        if error.is_unknown() {
            tracing::warn!(%error, "the outcome of a write is not known");
            return Self::new(
                Code::UnknownOutcome,
                "the store did not answer: it may have been done, try again",
            );
        }
        match error {
            StoreError::Contended => Self {
                retry_after: RETRY_AFTER,
                ..Self::new(Code::Unavailable, error.to_string())
            },
            _ => {
                tracing::warn!(%error, "the store failed");
                Self {
                    retry_after: RETRY_AFTER,
                    ..Self::new(Code::Unavailable, "the store cannot do this now: try again")
                }
            }
        }
    }
}

impl From<BadText> for Failure {
    fn from(bad: BadText) -> Self {
        let code = match bad {
            BadText::Long { .. } => Code::TooLarge,
            _ => Code::Invalid,
        };
        Self::new(code, bad.to_string())
    }
}

impl From<BadId> for Failure {
    fn from(bad: BadId) -> Self {
        Self::invalid(bad.to_string())
    }
}

/// After a failure of the store.
const RETRY_AFTER: Duration = Duration::from_millis(200);
