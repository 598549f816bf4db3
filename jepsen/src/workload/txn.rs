//! Transactions of several operations, and ranges page by page, in the client library.

use kvsvr_client::{
    Client, Compare, CompareNumber, KeyValue, Op, OpReply, Page, RangeOptions, Read, Txn, TxnReply,
};

use super::{
    names::{self, Stored},
    perform::{Failed, Result, at, number, read_mode, revision_read, strange},
};
use crate::history::{
    self, Action, AllPages, Answer, Condition, Is, Mode, PageRow, Pages, Reply, Row, Side, TxnDone,
};

/// Carries a transaction out; one without writes beside the log.
///
/// # Errors
/// As of [`perform`](super::perform::perform).
pub(super) async fn run(client: &Client, call: &history::Txn) -> Result<Reply> {
    let partition = names::partition(call.partition);
    let mut txn = Txn::new();
    for condition in &call.conditions {
        txn = txn.when(compare(condition));
    }
    for action in &call.then {
        txn = txn.then(op(action));
    }
    for action in &call.or_else {
        txn = txn.or_else(op(action));
    }
    let reply = match call.is_read_only() {
        true => {
            let read = client
                .txn_read(&partition, txn, read_mode(Mode::Linearizable))
                .await?;
            TxnReply {
                revision: read.revision,
                ..read.value
            }
        }
        false => client.txn(&partition, txn).await?,
    };
    let answers: Result<Vec<Answer>> = reply.results.iter().map(answer).collect();
    Ok(Reply::Txn(TxnDone {
        revision: reply.revision,
        succeeded: reply.succeeded,
        answers: answers?,
    }))
}

fn compare(condition: &Condition) -> Compare {
    let Condition { side, is, number, .. } = *condition;
    let key = names::key(condition.key);
    let compared = |side: CompareNumber| match is {
        Is::Equal => side.equals(number),
        Is::Other => side.not_equals(number),
        Is::Less => side.less(number),
        Is::Greater => side.greater(number),
    };
    match side {
        Side::Version => compared(Compare::version(key)),
        Side::CreateRev => compared(Compare::create_rev(key)),
        Side::ModRev => compared(Compare::mod_rev(key)),
        // It is 0 or 1.
        Side::Exists if (is == Is::Equal) == (number == 1) => Compare::exists(key),
        Side::Exists => Compare::absent(key),
        Side::Value => {
            let (side, value) = (Compare::value(key), names::value(number));
            match is {
                Is::Equal => side.equals(value),
                Is::Other => side.not_equals(value),
                Is::Less => side.less(value),
                Is::Greater => side.greater(value),
            }
        }
    }
}

fn op(action: &Action) -> Op {
    match *action {
        Action::Get { key } => Op::get(names::key(key)),
        Action::Put { key, value } => Op::put(names::key(key), names::value(value)),
        Action::Delete { key } => Op::delete(names::key(key)),
        Action::Add { key, delta } => Op::increment(names::key(key), delta),
    }
}

fn answer(reply: &OpReply) -> Result<Answer> {
    Ok(match reply {
        OpReply::Get(pair) => Answer::Row {
            row: pair.as_ref().map(whole_row).transpose()?,
        },
        OpReply::Put { version } => Answer::Put { version: *version },
        OpReply::Delete { deleted } => Answer::Deleted { deleted: *deleted },
        OpReply::Increment { value } => Answer::Sum { value: *value },
        OpReply::Range(_) | OpReply::Append { .. } => {
            return Err(Failed::Strange(format!(
                "an operation was answered with {reply:?}"
            )));
        }
    })
}

fn whole_row(pair: &KeyValue) -> Result<Row> {
    Ok(row(pair, number(pair)?))
}

fn row(pair: &KeyValue, value: u64) -> Row {
    Row {
        value,
        create_rev: pair.create_rev,
        mod_rev: pair.mod_rev,
        version: pair.version,
    }
}

/// Reads a range page by page.
///
/// # Errors
/// As of [`perform`](super::perform::perform).
pub(super) async fn pages(client: &Client, call: &Pages) -> Result<Reply> {
    let range = RangeOptions::between(names::key(call.from), names::key(call.to));
    let range = RangeOptions {
        limit: call.limit,
        reverse: call.reverse,
        keys_only: call.keys_only,
        ..range.mode(read_mode(call.mode)).revision(at(call.mode))
    };
    let mut pages = client.pages(&names::partition(call.partition), range);
    let mut all = AllPages {
        revision: 0,
        pages: Vec::new(),
    };
    while let Some(Read { value, revision, .. }) = pages.next().await? {
        if all.pages.is_empty() {
            all.revision = revision_read(call.mode, revision)?;
        }
        all.pages.push(page(&value, call.keys_only)?);
    }
    Ok(Reply::Pages(all))
}

fn page(page: &Page, keys_only: bool) -> Result<Vec<PageRow>> {
    let one = |pair: &KeyValue| {
        let Some(Stored::Key(key)) = names::stored(&pair.key) else {
            return Err(strange("a page shows a key that is no workload's", pair));
        };
        let value = match keys_only {
            false => number(pair)?,
            true if pair.value.is_empty() => 0,
            true => return Err(strange("a page shows a value that is not wanted", pair)),
        };
        Ok(PageRow {
            key,
            row: row(pair, value),
        })
    };
    page.kvs.iter().map(one).collect()
}
