//! Why a log does not open, and what to do about it.

use std::io;

use thiserror::Error;

use super::scan::Damage;
use crate::store::{MEMBER_LOST, StoreId};

/// Why a WAL does not open.
#[derive(Debug, Error)]
pub enum WalError {
    /// The disk refuses.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file or directory, relative to the data directory.
        path: String,
        /// What the disk said.
        source: io::Error,
    },
    /// Durable parts of the log are damaged.
    #[error(
        "the log is corrupt: {}. It may have held committed entries, so this node must not vote with what is left. \
         Nothing was changed. Keep the directory, and restore the damaged file from a copy of this disk; `kvsvr check` lists all damage. {MEMBER_LOST}",
        list(damage)
    )]
    Corrupt {
        /// At least one.
        damage: Vec<Damage>,
    },
    /// A segment was written by a newer program.
    #[error(
        "{path} has format version {found}, this program knows {known}. Run the version of kvsvr that wrote it, or a newer one"
    )]
    Newer {
        /// The file.
        path: String,
        /// Its version.
        found: u32,
        /// The newest version that is known.
        known: u32,
    },
    /// A file has the ending of the log's files, and not the name of one.
    #[error(
        "{path} is not a file of the log, though it ends like one: segments are called by 20 digits, as 00000000000000000001.wal. It may be a copy that \
         somebody has made. Nothing was changed. Move it out of this directory, then start the node again"
    )]
    Misnamed {
        /// The file.
        path: String,
    },
    /// A segment belongs to another store.
    #[error(
        "{path} belongs to store {found}, this is store {expected}. Files of two nodes were mixed; put each back in its own directory"
    )]
    Foreign {
        /// The file.
        path: String,
        /// The store in its header.
        found: StoreId,
        /// This store.
        expected: StoreId,
    },
}

impl WalError {
    pub(super) fn io(what: &'static str, path: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            what,
            path: path.into(),
            source,
        }
    }
}

fn list(damage: &[Damage]) -> String {
    let all: Vec<String> = damage.iter().map(ToString::to_string).collect();
    all.join("; ")
}
