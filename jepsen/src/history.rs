//! Histories: what clients asked for, when, and what they were told.
//!
//! A history is a list of [`Event`]s in the order in which they happened on one clock: where times are equal, the place in the list
//! decides. A process (a logical client) has at most one call
//! open. After an unknown outcome ([`Step::Info`], [`Step::Strange`]) its number is not used again (as in Jepsen), because that call may still take effect at
//! any later time. [`paired`] brings calls and their ends together.
//!
//! Values that are written are numbers; where a checker needs it, each is written only once (the workload says so).

pub mod edn;
pub mod jsonl;
mod operation;
#[cfg(test)]
mod samples;
mod txn;
mod words;

use serde::{Deserialize, Serialize};

pub use self::{
    operation::{End, Operation, paired},
    txn::{Action, AllPages, Answer, Condition, Is, PageRow, Pages, Side, Txn, TxnDone},
};

/// Nanoseconds since the run began, on the one clock of all clients.
pub type Nanos = u64;
/// A logical client.
pub type Process = u64;
/// A shard's revision, see `kvsvr-core`.
pub type Revision = u64;

/// The number of the key to which a workload writes last, so that whoever follows a partition or a shard knows the end.
pub const MARKER: u32 = 0x7fff_ffff;

/// A key: its partition and its place in it, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The partition.
    pub partition: u32,
    /// The key in it.
    pub key: u32,
}

impl Key {
    /// Not greater than any.
    pub const MIN: Key = Key { partition: 0, key: 0 };
    /// Not less than any.
    pub const MAX: Key = Key {
        partition: u32::MAX,
        key: u32::MAX,
    };

    /// The keys of a partition.
    pub fn all_of(partition: u32) -> std::ops::RangeInclusive<Key> {
        let key = |key| Key { partition, key };
        key(0)..=key(u32::MAX)
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Everything acknowledged before the read began.
    Linearizable,
    /// At least this revision.
    AtLeast(Revision),
    /// At most so many milliseconds old.
    Bounded(u64),
    /// Whatever the replica has.
    Local,
    /// The state of exactly this revision, which is the reply's. It may be compacted.
    At(Revision),
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "snake_case")]
pub enum Call {
    /// [`Reply::Row`].
    Read {
        /// The key.
        key: Key,
        /// How fresh.
        mode: Mode,
    },
    /// [`Reply::Written`].
    Write {
        /// The key.
        key: Key,
        /// Its new value.
        value: u64,
        /// Milliseconds until it expires; 0 = never.
        ttl_ms: u64,
        /// The lease that it is attached to; 0 = none.
        lease: u64,
    },
    /// Writes `to` if the value is `from`: [`Reply::Written`] or [`Reply::Mismatch`].
    Cas {
        /// The key.
        key: Key,
        /// The value that it must have.
        from: u64,
        /// Its new value.
        to: u64,
    },
    /// [`Reply::Deleted`].
    Delete {
        /// The key.
        key: Key,
    },
    /// Adds to a counter: [`Reply::Number`] with the sum.
    Increment {
        /// The counter.
        key: Key,
        /// What is added.
        delta: i64,
    },
    /// Reads a counter: [`Reply::Number`]; 0 if it does not exist.
    Count {
        /// The counter.
        key: Key,
    },
    /// Appends to a list: [`Reply::Appended`] with its place, from 1 on.
    Append {
        /// The list.
        list: Key,
        /// What is appended.
        value: u64,
    },
    /// Reads a whole list: [`Reply::Items`].
    List {
        /// The list.
        list: Key,
        /// How fresh.
        mode: Mode,
    },
    /// Moves money between two accounts of a partition, if there is enough: [`Reply::Written`] or [`Reply::Mismatch`].
    Transfer {
        /// The partition.
        partition: u32,
        /// The account (key) that pays.
        from: u32,
        /// The account that gets.
        to: u32,
        /// How much.
        amount: u64,
    },
    /// Moves money to an account of another partition in two steps, if there is enough: [`Reply::Written`] once the first is done, or
    /// [`Reply::Mismatch`]. The second is [`Call::Receive`].
    Send {
        /// The account that pays.
        from: Key,
        /// The account that gets.
        to: Key,
        /// How much.
        amount: u64,
        /// Names the transfer.
        id: u64,
    },
    /// The second step of a [`Call::Send`], by whoever follows the outbox: [`Reply::Written`], or [`Reply::Mismatch`] if the transfer
    /// had arrived before.
    Receive {
        /// The account that paid.
        from: Key,
        /// The account that gets.
        to: Key,
        /// How much.
        amount: u64,
        /// Names the transfer.
        id: u64,
    },
    /// Reads all accounts of a partition at one revision: [`Reply::Balances`].
    Balances {
        /// The partition.
        partition: u32,
    },
    /// Reads all keys of a partition at one revision: [`Reply::Items`] with key numbers and values.
    Scan {
        /// The partition.
        partition: u32,
        /// How fresh.
        mode: Mode,
    },
    /// A transaction: [`Reply::Txn`].
    Txn(Txn),
    /// Reads a range of keys page by page, all of one state: [`Reply::Pages`].
    Pages(Pages),
    /// Opens a lease: [`Reply::Lease`]. Its id is unique within the shard of the partition.
    Grant {
        /// A partition of the shard.
        partition: u32,
        /// Milliseconds.
        ttl_ms: u64,
    },
    /// Renews a lease: [`Reply::Lease`], or it fails because the lease has ended.
    KeepAlive {
        /// A partition of the shard.
        partition: u32,
        /// The lease.
        lease: u64,
    },
    /// Ends a lease: [`Reply::Lease`].
    Revoke {
        /// A partition of the shard.
        partition: u32,
        /// The lease.
        lease: u64,
    },
    /// Opens a watch of a partition after a revision: [`Reply::Watching`]. What it sees comes as [`Step::Seen`] of the same process.
    Watch {
        /// The partition.
        partition: u32,
        /// Events after this revision.
        after: Revision,
    },
    /// Becomes the owner of a consumer of a shard: [`Reply::Watching`] with its cursor. What it gets comes as [`Step::Seen`].
    Consume {
        /// The shard.
        shard: u32,
        /// The consumer's name.
        name: String,
    },
    /// As [`Call::Consume`], and one that does not exist yet begins with a revision.
    ConsumeAt {
        /// The shard.
        shard: u32,
        /// The consumer's name.
        name: String,
        /// The first revision that is wanted.
        start: Revision,
    },
    /// Sets a consumer's cursor by hand, and fences its owner: [`Reply::Watching`] with cursor and epoch.
    Reset {
        /// The shard.
        shard: u32,
        /// The consumer's name.
        name: String,
        /// Everything up to here counts as done.
        revision: Revision,
    },
    /// Deletes a consumer: [`Reply::Acked`], or it fails because there is none.
    Forget {
        /// The shard.
        shard: u32,
        /// The consumer's name.
        name: String,
    },
    /// Opens a watch of a whole shard without values after a revision: [`Reply::Watching`]. What it sees comes as [`Seen::Keys`].
    WatchKeys {
        /// The shard.
        shard: u32,
        /// Events after this revision.
        after: Revision,
    },
    /// Acknowledges everything up to a revision, as the consumer's owner: [`Reply::Acked`], or it fails because another one owns it.
    Ack {
        /// The shard.
        shard: u32,
        /// The consumer's name.
        name: String,
        /// The owner's number.
        epoch: u64,
        /// Up to here.
        revision: Revision,
    },
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Reply {
    /// A key's state.
    Row {
        /// A revision that the shard had reached when it was read; the row may be newer.
        revision: Revision,
        /// What was there.
        row: Option<Row>,
        /// Milliseconds that the state was old, as the server said.
        age_ms: u64,
    },
    /// A change was made.
    Written {
        /// The revision that it has.
        revision: Revision,
        /// Puts of the key since its creation, this one counted; 0 if there are several keys.
        version: u64,
    },
    /// A condition did not hold; nothing was changed.
    Mismatch {
        /// The shard's revision then.
        revision: Revision,
    },
    /// A deletion was made, of a key that was there or not.
    Deleted {
        /// The shard's revision after it.
        revision: Revision,
        /// The key was there.
        existed: bool,
    },
    /// A counter's value.
    Number {
        /// The shard's revision after the addition; of a read one that the shard had reached, the value may be newer.
        revision: Revision,
        /// The value.
        value: i64,
    },
    /// An item's place in its list.
    Appended {
        /// The revision of the append.
        revision: Revision,
        /// From 1 on.
        seq: u64,
    },
    /// Numbered values, in order.
    Items {
        /// The shard's revision that was read.
        revision: Revision,
        /// Number (place in the list, or key) and value.
        items: Vec<(u64, u64)>,
    },
    /// All accounts of a partition, by number.
    Balances {
        /// The shard's revision that was read.
        revision: Revision,
        /// Money by account.
        balances: Vec<(u32, i64)>,
    },
    /// What a transaction did and found.
    Txn(TxnDone),
    /// The pages of a range.
    Pages(AllPages),
    /// A lease.
    Lease {
        /// Its id.
        lease: u64,
        /// Milliseconds that it lasts from now on.
        ttl_ms: u64,
    },
    /// A watch or a consumer has begun.
    Watching {
        /// It sees events after this revision.
        after: Revision,
        /// The owner's number, of a consumer; else 0.
        epoch: u64,
    },
    /// An acknowledgement is durable.
    Acked,
}

/// A key as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The value.
    pub value: u64,
    /// Revision of the put that created the key.
    pub create_rev: Revision,
    /// Revision of the put that wrote the value.
    pub mod_rev: Revision,
    /// Puts since the creation.
    pub version: u64,
}

/// One change as a watch or a consumer shows it, or the committed log.
///
/// A counter or an account shows its new number (negative ones as their two's complement). An append shows the list as the key and the
/// item as the value; the change of its length is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The shard's revision after it. Changes of one command share it.
    pub revision: Revision,
    /// The key.
    pub key: Key,
    /// The new value; `None` = deleted or expired.
    pub value: Option<u64>,
    /// The key expired.
    pub expired: bool,
    /// Revision of the put that created the key; 0 of a key that is gone, and if it was not told.
    #[serde(default)]
    pub create_rev: Revision,
    /// Puts since the creation; 0 as above.
    #[serde(default)]
    pub version: u64,
    /// The lease that the key is attached to; 0 = none.
    #[serde(default)]
    pub lease: u64,
}

impl Change {
    /// What a read of the key would find at the change's revision; `None` if the key is gone, or not all of it was told.
    pub fn row(&self) -> Option<Row> {
        let row = |value| Row {
            value,
            create_rev: self.create_rev,
            mod_rev: self.revision,
            version: self.version,
        };
        self.value.filter(|_| self.version != 0).map(row)
    }
}

/// What a watch or a consumer got at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// Changes, in order. Everything up to `through` has been shown now.
    Changes {
        /// The changes.
        changes: Vec<Change>,
        /// No later change has a revision up to this one.
        through: Revision,
    },
    /// The same of a watch without values: each that is not gone is 0.
    Keys {
        /// The changes.
        changes: Vec<Change>,
        /// No later change has a revision up to this one.
        through: Revision,
    },
    /// What it asked for is compacted; it goes on after `resumed_after`.
    Compacted {
        /// It goes on after this revision.
        resumed_after: Revision,
    },
    /// The connection broke and it goes on by itself from where it was.
    Resumed,
    /// It ended with an error, for good.
    Ended {
        /// The error's code.
        code: String,
        /// The first revision that is not compacted, as the error says; 0 if it says none.
        revision: Revision,
    },
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Step {
    /// The process calls.
    Invoke {
        /// What.
        call: Call,
    },
    /// Its call was carried out.
    Ok {
        /// What it was told.
        reply: Reply,
    },
    /// Its call was not carried out and never will be.
    Fail {
        /// The error's code and text.
        error: String,
    },
    /// Its call may have been carried out, or may be later.
    Info {
        /// The error's code and text.
        error: String,
    },
    /// Its call, if one is open, was answered with what nothing in the workloads can have caused; else its watch or consumer got such. That
    /// is a broken promise, and leaves open whether the call was carried out.
    Strange {
        /// What is strange, in words.
        what: String,
    },
    /// Its watch or consumer got something.
    Seen {
        /// What.
        seen: Seen,
    },
}

/// A step of a process at some time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub time: Nanos,
    /// Who.
    pub process: Process,
    /// What.
    #[serde(flatten)]
    pub step: Step,
}
