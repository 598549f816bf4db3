//! The three ways in which something can fail here.
//!
//! A [`Rejection`] is deterministic: it is the answer to a command or a read, the same on every replica. [`Corrupt`] is a fact
//! about this replica only: its stored state contradicts itself or cannot be read, and it must stop. A [`Failure`] is either.
//!
//! A rejection's message is part of the outcome, and a session stores the outcomes it remembers. So replicas of two versions that word
//! a message differently have different state hashes until the client has acknowledged it.

use thiserror::Error;

use crate::{engine::EngineError, types::Revision};

pub use kvsvr_proto::v1::ErrorCode;

/// A refusal that every replica decides in the same way. The command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Rejection {
    /// What kind of refusal; stable.
    pub code: ErrorCode,
    /// For people: what is wrong, and what to do.
    pub message: String,
    /// With [`ErrorCode::Compacted`]: the first revision that can still be read; else 0.
    pub revision: Revision,
}

impl Rejection {
    /// A refusal without a revision.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            revision: 0,
        }
    }

    /// The request breaks a rule.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Invalid, message)
    }

    /// History before `first` is gone.
    pub fn compacted(wanted: Revision, first: Revision) -> Self {
        let message = format!("revision {wanted} has been compacted, the first that can be read is {first}");
        Self {
            code: ErrorCode::Compacted,
            message,
            revision: first,
        }
    }

    /// The revision does not exist yet.
    pub fn future(wanted: Revision, newest: Revision) -> Self {
        let message = format!("revision {wanted} does not exist yet, the newest is {newest}");
        Self::new(ErrorCode::FutureRevision, message)
    }
}

/// The stored state cannot be read or contradicts itself: this replica must stop and be rebuilt from another.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("corrupt state in {place}: {what}; stop this replica and rebuild it from another")]
pub struct Corrupt {
    /// Which row, entry or column family.
    pub place: String,
    /// What is wrong with it.
    pub what: String,
}

impl Corrupt {
    /// What is wrong, and where.
    pub fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            what: what.into(),
        }
    }
}

impl From<EngineError> for Corrupt {
    fn from(error: EngineError) -> Self {
        Self::new("the engine", error.to_string())
    }
}

/// Why a read or a command has no result.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Failure {
    /// A refusal: it is the answer.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// This replica must stop.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self::Corrupt(error.into())
    }
}
