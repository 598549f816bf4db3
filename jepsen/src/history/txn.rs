//! Transactions and pages of ranges, as histories have them. Keys are those of one partition, by number.

use serde::{Deserialize, Serialize};

use super::{Key, Mode, Revision, Row};

/// What of a key a condition looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Its value. No condition on the value of a key that is not there holds.
    Value,
    /// Puts since its creation; 0 of a key that is not there, as of the two that follow.
    Version,
    /// The revision that created it.
    CreateRev,
    /// The revision that changed it last.
    ModRev,
    /// 1 if it is there, 0 if not.
    Exists,
}

/// How the two sides of a condition must compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Is {
    /// The key's side is the number.
    Equal,
    /// It is another one.
    Other,
    /// It is less.
    Less,
    /// It is greater.
    Greater,
}

/// A condition of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// The key.
    pub key: u32,
    /// What of it.
    pub side: Side,
    /// Compares how.
    pub is: Is,
    /// With what.
    pub number: u64,
}

/// An operation of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Action {
    /// Reads a key: [`Answer::Row`].
    Get {
        /// The key.
        key: u32,
    },
    /// Sets a key: [`Answer::Put`].
    Put {
        /// The key.
        key: u32,
        /// Its new value.
        value: u64,
    },
    /// Deletes a key, if it is there: [`Answer::Deleted`].
    Delete {
        /// The key.
        key: u32,
    },
    /// Adds to a key's value: [`Answer::Sum`].
    Add {
        /// The key.
        key: u32,
        /// What is added.
        delta: i64,
    },
}

impl Action {
    /// The key that it changes, if it does.
    pub fn changes(&self) -> Option<u32> {
        match *self {
            Action::Get { .. } => None,
            Action::Put { key, .. } | Action::Delete { key } | Action::Add { key, .. } => Some(key),
        }
    }
}

/// A transaction: if all conditions hold on the state before it, the first list of operations, else the second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// The partition.
    pub partition: u32,
    /// What must hold.
    pub conditions: Vec<Condition>,
    /// If it does. No key is changed twice.
    pub then: Vec<Action>,
    /// If not. The same.
    pub or_else: Vec<Action>,
}

impl Txn {
    /// The operations that run.
    pub fn branch(&self, succeeded: bool) -> &[Action] {
        match succeeded {
            true => &self.then,
            false => &self.or_else,
        }
    }

    /// Keys that it changes in either case.
    pub fn changed_keys(&self) -> Vec<Key> {
        let all = self.then.iter().chain(&self.or_else);
        let partition = self.partition;
        let mut keys: Vec<Key> = all
            .filter_map(Action::changes)
            .map(|key| Key { partition, key })
            .collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// It changes nothing in either case.
    pub fn is_read_only(&self) -> bool {
        let mut all = self.then.iter().chain(&self.or_else);
        all.all(|action| action.changes().is_none())
    }
}

/// The answer to one operation of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Answer {
    /// What was there.
    Row {
        /// `None`: nothing.
        row: Option<Row>,
    },
    /// The key was set.
    Put {
        /// Puts since its creation.
        version: u64,
    },
    /// So many keys were deleted.
    Deleted {
        /// 0 or 1.
        deleted: u64,
    },
    /// The value after the addition.
    Sum {
        /// The value.
        value: i64,
    },
}

/// What a transaction was answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnDone {
    /// The shard's revision after it; its own, if it has changed something.
    pub revision: Revision,
    /// The conditions held.
    pub succeeded: bool,
    /// One for each operation that ran.
    pub answers: Vec<Answer>,
}

/// A range of a partition's keys, read page by page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pages {
    /// The partition.
    pub partition: u32,
    /// The first key.
    pub from: u32,
    /// The first key that is not wanted any more.
    pub to: u32,
    /// Keys of a page at most; 0: as many as the server gives.
    pub limit: u32,
    /// From the last key to the first.
    pub reverse: bool,
    /// Values are not wanted.
    pub keys_only: bool,
    /// How fresh.
    pub mode: Mode,
}

/// A key of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRow {
    /// The key.
    pub key: u32,
    /// Its row; the value is 0 where values were not wanted.
    pub row: Row,
}

/// All pages of a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllPages {
    /// The revision of the state that was read: the first page's.
    pub revision: Revision,
    /// Page after page.
    pub pages: Vec<Vec<PageRow>>,
}

impl AllPages {
    /// The keys of all pages, in the order in which they came.
    pub fn rows(&self) -> impl Iterator<Item = &PageRow> {
        self.pages.iter().flatten()
    }
}
