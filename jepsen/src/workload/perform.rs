//! What each call of a history is in the client library, and each of its answers in a history.
//!
//! Watches and consumers are streams, which [`watcher`](super::watcher) and [`owner`](super::owner) open.

use std::time::Duration;

use kvsvr_client::{
    Client, Code, Compare, Error, GetOptions, KeyValue, LeaseReply, Op, OpReply, PutOptions, RangeOptions,
    Read, ReadMode, Txn, TxnReply,
};

use super::{
    names::{self, Stored},
    txn,
};
use crate::history::{Call, Key, Mode, Reply, Revision, Row};

/// Why a call has no answer that a history can take.
#[derive(Debug)]
pub(super) enum Failed {
    /// The client library says so.
    Error(Error),
    /// There is one that nothing in the workloads can have caused. Whether a change happened cannot be said then.
    Strange(String),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        match error.is_unexpected_answer() {
            true => Failed::Strange(error.to_string()),
            false => Failed::Error(error),
        }
    }
}

/// What came of a call.
pub(super) type Result<T> = std::result::Result<T, Failed>;

/// Carries a call out.
///
/// # Errors
/// Those of the client library; a strange one if the answer is not of the form that workloads make.
pub(super) async fn perform(client: &Client, call: &Call) -> Result<Reply> {
    match call {
        Call::Read { key, mode } => read(client, *key, *mode).await,
        Call::Count { key } => count(client, *key).await,
        Call::Scan { partition, mode } => scan(client, *partition, *mode).await,
        Call::List { list, mode } => list_items(client, *list, *mode).await,
        Call::Balances { partition } => balances(client, *partition).await,
        Call::Transfer { .. } | Call::Send { .. } | Call::Receive { .. } => move_money(client, call).await,
        Call::Txn(call) => txn::run(client, call).await,
        Call::Pages(pages) => txn::pages(client, pages).await,
        Call::Grant { .. } | Call::KeepAlive { .. } | Call::Revoke { .. } => lease(client, call).await,
        Call::Watch { .. }
        | Call::WatchKeys { .. }
        | Call::Consume { .. }
        | Call::ConsumeAt { .. }
        | Call::Reset { .. }
        | Call::Forget { .. }
        | Call::Ack { .. } => Err(Error::definite(Code::Invalid, "streams are opened elsewhere").into()),
        Call::Write { .. }
        | Call::Cas { .. }
        | Call::Delete { .. }
        | Call::Increment { .. }
        | Call::Append { .. } => change(client, call).await,
    }
}

/// The library's word for how fresh a read must be.
pub(super) fn read_mode(mode: Mode) -> ReadMode {
    match mode {
        Mode::Linearizable | Mode::At(_) => ReadMode::Linearizable,
        Mode::AtLeast(revision) => ReadMode::AtLeast(revision),
        Mode::Bounded(ms) => ReadMode::Bounded(Duration::from_millis(ms)),
        Mode::Local => ReadMode::Local,
    }
}

/// The older revision that is to be read; 0: it is not said.
pub(super) fn at(mode: Mode) -> Revision {
    match mode {
        Mode::At(revision) => revision,
        _ => 0,
    }
}

/// The revision of the state that was read: the shard's, or the one that was asked for, if the shard has it.
pub(super) fn revision_read(mode: Mode, of_shard: Revision) -> Result<Revision> {
    match mode {
        Mode::At(revision) if revision > of_shard => Err(Failed::Strange(format!(
            "revision {revision} was read of a shard at revision {of_shard}"
        ))),
        Mode::At(revision) => Ok(revision),
        _ => Ok(of_shard),
    }
}

/// A row that no workload makes.
pub(super) fn strange(what: &str, kv: &KeyValue) -> Failed {
    let (key, value) = (kv.key.escape_ascii(), kv.value.escape_ascii());
    Failed::Strange(format!("{what}: key \"{key}\", value \"{value}\""))
}

/// The number that a row holds.
pub(super) fn number(kv: &KeyValue) -> Result<u64> {
    names::number(&kv.value).ok_or_else(|| strange("a value is not a number", kv))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

async fn read(client: &Client, key: Key, mode: Mode) -> Result<Reply> {
    let options = GetOptions {
        revision: at(mode),
        ..GetOptions::from(read_mode(mode))
    };
    let read = client
        .get_with(&names::partition(key.partition), names::key(key.key), options)
        .await?;
    let revision = revision_read(mode, read.revision)?;
    row(read.value.as_ref(), revision, read.age)
}

/// What a read of a key has shown.
///
/// # Errors
/// The value is none of a workload's.
pub(super) fn row(value: Option<&KeyValue>, revision: Revision, age: Duration) -> Result<Reply> {
    let row = match value {
        None => None,
        Some(kv) => Some(Row {
            value: number(kv)?,
            create_rev: kv.create_rev,
            mod_rev: kv.mod_rev,
            version: kv.version,
        }),
    };
    Ok(Reply::Row {
        revision,
        row,
        age_ms: millis(age),
    })
}

async fn count(client: &Client, key: Key) -> Result<Reply> {
    let read = client
        .get(&names::partition(key.partition), names::key(key.key))
        .await?;
    let value = match &read.value {
        None => 0,
        Some(kv) => number(kv)? as i64,
    };
    Ok(Reply::Number {
        revision: read.revision,
        value,
    })
}

/// All keys of a range, at one revision.
async fn range(
    client: &Client,
    partition: u32,
    range: RangeOptions,
    mode: Mode,
) -> Result<Read<Vec<KeyValue>>> {
    let range = range.mode(read_mode(mode)).revision(at(mode));
    let mut read = client.range_all(&names::partition(partition), range).await?;
    read.revision = revision_read(mode, read.revision)?;
    Ok(read)
}

async fn scan(client: &Client, partition: u32, mode: Mode) -> Result<Reply> {
    let read = range(client, partition, RangeOptions::all(), mode).await?;
    let mut items = Vec::new();
    for kv in &read.value {
        match names::stored(&kv.key) {
            Some(stored @ Stored::Key(key)) => match stored.number(&kv.value) {
                Some(number) => items.push((u64::from(key), number)),
                None => return Err(strange("a scan shows a value that is not a number", kv)),
            },
            _ => return Err(strange("a scan shows a key that is no workload's", kv)),
        }
    }
    Ok(Reply::Items {
        revision: read.revision,
        items,
    })
}

async fn list_items(client: &Client, list: Key, mode: Mode) -> Result<Reply> {
    let items = RangeOptions::prefix(names::list(list.key));
    let read = range(client, list.partition, items, mode).await?;
    let mut items = Vec::new();
    for kv in &read.value {
        match names::stored(&kv.key) {
            Some(Stored::Item(of, seq)) if of == list.key => items.push((seq, number(kv)?)),
            Some(Stored::Length(of)) if of == list.key => {}
            _ => return Err(strange("a list shows a key that is not its own", kv)),
        }
    }
    Ok(Reply::Items {
        revision: read.revision,
        items,
    })
}

async fn balances(client: &Client, partition: u32) -> Result<Reply> {
    let accounts = RangeOptions::between(names::key(0), names::key(names::MARKER));
    let read = range(client, partition, accounts, Mode::Linearizable).await?;
    let mut balances = Vec::new();
    for kv in &read.value {
        match names::stored(&kv.key) {
            Some(Stored::Key(account)) => balances.push((account, number(kv)? as i64)),
            _ => return Err(strange("an account has another form", kv)),
        }
    }
    Ok(Reply::Balances {
        revision: read.revision,
        balances,
    })
}

/// 0 = none of it.
pub(super) fn put_options(ttl_ms: u64, lease: u64) -> PutOptions {
    PutOptions {
        ttl: (ttl_ms != 0).then(|| Duration::from_millis(ttl_ms)),
        lease: (lease != 0).then_some(lease),
    }
}

async fn change(client: &Client, call: &Call) -> Result<Reply> {
    match call {
        Call::Write {
            key,
            value,
            ttl_ms,
            lease,
        } => {
            let options = put_options(*ttl_ms, *lease);
            let (partition, name) = (names::partition(key.partition), names::key(key.key));
            let put = client
                .put_with(&partition, name, names::value(*value), options)
                .await?;
            Ok(Reply::Written {
                revision: put.revision,
                version: put.version,
            })
        }
        Call::Cas { key, from, to } => cas(client, *key, *from, *to).await,
        Call::Delete { key } => {
            let partition = names::partition(key.partition);
            let deleted = client.delete(&partition, names::key(key.key)).await?;
            Ok(Reply::Deleted {
                revision: deleted.revision,
                existed: deleted.deleted > 0,
            })
        }
        Call::Increment { key, delta } => {
            let partition = names::partition(key.partition);
            let sum = client.increment(&partition, names::key(key.key), *delta).await?;
            Ok(Reply::Number {
                revision: sum.revision,
                value: sum.value,
            })
        }
        Call::Append { list, value } => {
            let (partition, prefix) = (names::partition(list.partition), names::list(list.key));
            let appended = client.append(&partition, prefix, names::value(*value)).await?;
            Ok(Reply::Appended {
                revision: appended.revision,
                seq: appended.seq,
            })
        }
        _ => Err(Error::definite(Code::Invalid, "no change of one key").into()),
    }
}

async fn cas(client: &Client, key: Key, from: u64, to: u64) -> Result<Reply> {
    let name = names::key(key.key);
    let txn = Txn::new()
        .when(Compare::value(name.clone()).equals(names::value(from)))
        .then(Op::put(name, names::value(to)));
    let reply = client.txn(&names::partition(key.partition), txn).await?;
    match (reply.succeeded, reply.results.first()) {
        (false, _) => Ok(Reply::Mismatch {
            revision: reply.revision,
        }),
        (true, Some(OpReply::Put { version })) => Ok(Reply::Written {
            revision: reply.revision,
            version: *version,
        }),
        _ => Err(Failed::Strange("a cas without the result of its put".into())),
    }
}

/// What an outbox row holds, after the transfer's name as its value: who pays, who gets, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// Names the transfer.
    pub(super) id: u64,
    /// Pays.
    pub(super) from: Key,
    /// Gets.
    pub(super) to: Key,
    /// How much.
    pub(super) amount: u64,
}

impl Sent {
    /// The row's value.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.id.to_be_bytes().to_vec();
        for number in [self.from.partition, self.from.key, self.to.partition, self.to.key] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&self.amount.to_be_bytes());
        bytes
    }

    /// From the row's value; `None` if it is none.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 8 + names::OUTBOX_REST] = bytes.try_into().ok()?;
        let key = |at: usize| {
            let number = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
            Some(Key {
                partition: number(at)?,
                key: number(at + 4)?,
            })
        };
        Some(Self {
            id: names::number(&bytes[..8])?,
            from: key(8)?,
            to: key(16)?,
            amount: names::number(&bytes[24..])?,
        })
    }
}

/// Balances are never negative and their bytes compare as they do, so that a transaction can ask whether there is enough.
fn has(account: u32, amount: u64) -> Compare {
    let account = Compare::value(names::key(account));
    match amount.checked_sub(1) {
        None => account.not_equals(""),
        Some(less) => account.greater(names::value(less)),
    }
}

async fn move_money(client: &Client, call: &Call) -> Result<Reply> {
    let add = |account: u32, amount: u64, sign: i64| Op::increment(names::key(account), sign * amount as i64);
    let (partition, txn) = match *call {
        Call::Transfer {
            partition,
            from,
            to,
            amount,
        } => {
            let txn = Txn::new().when(has(from, amount));
            (
                partition,
                txn.then(add(from, amount, -1)).then(add(to, amount, 1)),
            )
        }
        Call::Send { from, to, amount, id } => {
            let row = Sent { id, from, to, amount };
            let txn = Txn::new()
                .when(has(from.key, amount))
                .then(add(from.key, amount, -1))
                .then(Op::put(names::outbox(id), row.encode()));
            (from.partition, txn)
        }
        Call::Receive { to, amount, id, .. } => {
            let txn = Txn::new()
                .when(Compare::absent(names::received(id)))
                .then(Op::put(names::received(id), names::value(id)))
                .then(add(to.key, amount, 1));
            (to.partition, txn)
        }
        _ => return Err(Error::definite(Code::Invalid, "no movement of money").into()),
    };
    Ok(moved(&client.txn(&names::partition(partition), txn).await?))
}

fn moved(reply: &TxnReply) -> Reply {
    let revision: Revision = reply.revision;
    match reply.succeeded {
        true => Reply::Written { revision, version: 0 },
        false => Reply::Mismatch { revision },
    }
}

async fn lease(client: &Client, call: &Call) -> Result<Reply> {
    let reply: LeaseReply = match *call {
        Call::Grant { partition, ttl_ms } => {
            let ttl = Duration::from_millis(ttl_ms);
            client.lease_grant(&names::partition(partition), 0, ttl).await?
        }
        Call::KeepAlive { partition, lease } => {
            client
                .lease_keep_alive(&names::partition(partition), lease)
                .await?
        }
        Call::Revoke { partition, lease } => client.lease_revoke(&names::partition(partition), lease).await?,
        _ => return Err(Error::definite(Code::Invalid, "no call of a lease").into()),
    };
    Ok(Reply::Lease {
        lease: reply.id,
        ttl_ms: millis(reply.ttl),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outbox_rows_can_be_read_back_and_show_their_name_as_value() {
        let sent = Sent {
            id: 7,
            from: Key { partition: 1, key: 2 },
            to: Key { partition: 3, key: 4 },
            amount: 500,
        };
        assert_eq!(Sent::decode(&sent.encode()), Some(sent));
        let row = names::stored(&names::outbox(7)).unwrap();
        assert_eq!(row.number(&sent.encode()), Some(7));
        assert_eq!(Sent::decode(&sent.encode()[1..]), None);
    }
}
