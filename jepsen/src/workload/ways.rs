//! Calls in another way than [`perform`](super::perform): through a transaction, or as the deletion of a range with one key.
//!
//! To a history and its checkers it is the same call. So every rule for a put, a deletion, an increment, an append and a read holds the
//! operations of transactions to it, too, their `or_else` branch, and deletions of ranges.

use kvsvr_client::{Client, Compare, Op, OpReply, Txn, TxnReply};

use super::{
    names,
    perform::{Failed, Result, number, put_options, read_mode, row},
};
use crate::history::{Call, Key, Mode, Reply};

/// Carries a call out in another way; `None` if there is none.
///
/// # Errors
/// As of [`perform`](super::perform::perform).
pub(super) async fn perform(client: &Client, call: &Call) -> Option<Result<Reply>> {
    let (key, txn) = match call {
        Call::Delete { key } => return Some(delete(client, *key).await),
        Call::Read {
            mode: Mode::At(_), ..
        } => return None,
        Call::Read { key, mode } => return Some(read(client, *key, *mode).await),
        Call::Write {
            key,
            value,
            ttl_ms,
            lease,
        } => {
            let options = put_options(*ttl_ms, *lease);
            (
                *key,
                Txn::new().then(Op::put_with(names::key(key.key), names::value(*value), options)),
            )
        }
        Call::Cas { key, from, to } => {
            let txn = Txn::new()
                .when(Compare::value(names::key(key.key)).equals(names::value(*from)))
                .then(Op::put(names::key(key.key), names::value(*to)))
                .or_else(Op::get(names::key(key.key)));
            (*key, txn)
        }
        Call::Increment { key, delta } => (*key, Txn::new().then(Op::increment(names::key(key.key), *delta))),
        Call::Append { list, value } => {
            let append = Op::append(names::list(list.key), names::value(*value));
            (*list, Txn::new().then(append))
        }
        _ => return None,
    };
    let reply = client.txn(&names::partition(key.partition), txn).await;
    Some(match reply {
        Ok(reply) => told(call, &reply),
        Err(error) => Err(error.into()),
    })
}

async fn delete(client: &Client, key: Key) -> Result<Reply> {
    let start = names::key(key.key);
    // No other key lies before this end.
    let end = [&start[..], &[0]].concat();
    let partition = names::partition(key.partition);
    let deleted = client.delete_range(&partition, start, end).await?;
    match deleted.deleted {
        0 | 1 => Ok(Reply::Deleted {
            revision: deleted.revision,
            existed: deleted.deleted == 1,
        }),
        many => Err(Failed::Strange(format!("a range with one key had {many}"))),
    }
}

/// With another key beside it, on one state.
async fn read(client: &Client, key: Key, mode: Mode) -> Result<Reply> {
    let txn = Txn::new()
        .then(Op::get(names::key(names::MARKER)))
        .then(Op::get(names::key(key.key)));
    let read = client
        .txn_read(&names::partition(key.partition), txn, read_mode(mode))
        .await?;
    match &read.value.results[..] {
        [OpReply::Get(_), OpReply::Get(pair)] => row(pair.as_ref(), read.revision, read.age),
        _ => Err(Failed::Strange(format!(
            "a transaction was answered with {:?}",
            read.value
        ))),
    }
}

fn told(call: &Call, reply: &TxnReply) -> Result<Reply> {
    let revision = reply.revision;
    let first = reply.results.first();
    match (call, reply.succeeded, first) {
        (Call::Write { .. } | Call::Cas { .. }, true, Some(OpReply::Put { version })) => Ok(Reply::Written {
            revision,
            version: *version,
        }),
        (Call::Cas { from, .. }, false, Some(OpReply::Get(pair))) => {
            let found = pair.as_ref().map(number).transpose()?;
            match found == Some(*from) {
                true => Err(Failed::Strange(format!(
                    "a cas found {from}, which it wants, and refused"
                ))),
                false => Ok(Reply::Mismatch { revision }),
            }
        }
        (Call::Increment { .. }, true, Some(OpReply::Increment { value })) => Ok(Reply::Number {
            revision,
            value: *value,
        }),
        (Call::Append { .. }, true, Some(OpReply::Append { seq })) => {
            Ok(Reply::Appended { revision, seq: *seq })
        }
        _ => Err(Failed::Strange(format!(
            "a transaction was answered with {reply:?}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use kvsvr_client::KeyValue;

    use super::*;

    const KEY: Key = Key { partition: 1, key: 1 };

    fn reply(succeeded: bool, result: OpReply) -> TxnReply {
        TxnReply {
            revision: 9,
            succeeded,
            results: vec![result],
        }
    }

    fn pair(value: u64) -> KeyValue {
        KeyValue {
            value: names::value(value),
            ..KeyValue::default()
        }
    }

    #[test]
    fn a_cas_that_is_refused_must_not_have_found_what_it_wants() {
        let cas = Call::Cas {
            key: KEY,
            from: 3,
            to: 4,
        };
        let refused = |found: Option<u64>| told(&cas, &reply(false, OpReply::Get(found.map(pair))));
        assert_eq!(refused(None).unwrap(), Reply::Mismatch { revision: 9 });
        assert_eq!(refused(Some(5)).unwrap(), Reply::Mismatch { revision: 9 });
        assert!(matches!(refused(Some(3)), Err(Failed::Strange(_))));
    }

    #[test]
    fn an_answer_to_something_else_is_strange() {
        let delta = 1;
        let increment = Call::Increment { key: KEY, delta };
        let answered = |result| told(&increment, &reply(true, result));
        let number = Reply::Number {
            revision: 9,
            value: 7,
        };
        assert_eq!(answered(OpReply::Increment { value: 7 }).unwrap(), number);
        assert!(matches!(
            answered(OpReply::Append { seq: 7 }),
            Err(Failed::Strange(_))
        ));
    }
}
