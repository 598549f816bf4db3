//! Calls, replies and what watches saw, in words for people. Nothing reads these texts back: `jsonl` and `edn` are the forms for programs.
//!
//! A list is cut after [`MAX_ITEMS`] items, so that a text stays a line.

use std::fmt::{self, Formatter};

use super::{Action, Answer, Call, Change, Condition, Is, Mode, Pages, Reply, Seen, Side, Txn, TxnDone};

/// Most items of a list that are spelt out.
const MAX_ITEMS: usize = 12;

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Mode::Linearizable => f.write_str("linearizable"),
            Mode::AtLeast(revision) => write!(f, "at least {revision}"),
            Mode::Bounded(ms) => write!(f, "at most {ms} ms old"),
            Mode::Local => f.write_str("local"),
            Mode::At(revision) => write!(f, "at revision {revision}"),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Call::Read { key, mode } => write!(f, "read {key} {mode}"),
            Call::Write {
                key,
                value,
                ttl_ms,
                lease,
            } => {
                write!(f, "write {key} = {value}")?;
                write_unless_zero(f, " ttl", *ttl_ms, " ms")?;
                write_unless_zero(f, " lease", *lease, "")
            }
            Call::Cas { key, from, to } => write!(f, "cas {key} {from} -> {to}"),
            Call::Delete { key } => write!(f, "delete {key}"),
            Call::Increment { key, delta } => write!(f, "increment {key} by {delta}"),
            Call::Count { key } => write!(f, "count {key}"),
            Call::Append { list, value } => write!(f, "append {value} to {list}"),
            Call::List { list, mode } => write!(f, "list {list} {mode}"),
            Call::Balances { partition } => write!(f, "balances of {partition}"),
            Call::Scan { partition, mode } => write!(f, "scan {partition} {mode}"),
            Call::Transfer {
                partition,
                from,
                to,
                amount,
            } => write!(f, "transfer {amount} in {partition} from {from} to {to}"),
            Call::Send { from, to, amount, id } => write!(f, "send {amount} from {from} to {to} as {id}"),
            Call::Receive { from, to, amount, id } => {
                write!(f, "receive {amount} from {from} to {to} as {id}")
            }
            Call::Txn(txn) => txn.fmt(f),
            Call::Pages(pages) => pages.fmt(f),
            Call::Grant { partition, ttl_ms } => write!(f, "grant a lease of {ttl_ms} ms in {partition}"),
            Call::KeepAlive { partition, lease } => write!(f, "keep lease {lease} of {partition} alive"),
            Call::Revoke { partition, lease } => write!(f, "revoke lease {lease} of {partition}"),
            Call::Watch { partition, after } => write!(f, "watch {partition} after {after}"),
            Call::Consume { shard, name } => write!(f, "consume shard {shard} as {name}"),
            Call::ConsumeAt { shard, name, start } => {
                write!(f, "consume shard {shard} as {name} from revision {start} on")
            }
            Call::Reset {
                shard,
                name,
                revision,
            } => write!(f, "reset {name} of shard {shard} to {revision}"),
            Call::Forget { shard, name } => write!(f, "delete {name} of shard {shard}"),
            Call::WatchKeys { shard, after } => write!(f, "watch the keys of shard {shard} after {after}"),
            Call::Ack {
                shard,
                name,
                epoch,
                revision,
            } => write!(f, "ack shard {shard} as {name} up to {revision} in epoch {epoch}"),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Value => "value",
            Side::Version => "version",
            Side::CreateRev => "creation",
            Side::ModRev => "revision",
            Side::Exists => "presence",
        };
        let is = match self.is {
            Is::Equal => "=",
            Is::Other => "!=",
            Is::Less => "<",
            Is::Greater => ">",
        };
        write!(f, "{side} of {} {is} {}", self.key, self.number)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Action::Get { key } => write!(f, "get {key}"),
            Action::Put { key, value } => write!(f, "put {key} = {value}"),
            Action::Delete { key } => write!(f, "delete {key}"),
            Action::Add { key, delta } => write!(f, "add {delta} to {key}"),
        }
    }
}

impl fmt::Display for Txn {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "transaction in {} if ", self.partition)?;
        write_list(f, &self.conditions, |f, one| one.fmt(f))?;
        f.write_str(" then ")?;
        write_list(f, &self.then, |f, one| one.fmt(f))?;
        f.write_str(" else ")?;
        write_list(f, &self.or_else, |f, one| one.fmt(f))
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Row { row: None } => f.write_str("nothing"),
            Answer::Row { row: Some(row) } => {
                write!(
                    f,
                    "{} of revision {} and version {}",
                    row.value, row.mod_rev, row.version
                )
            }
            Answer::Put { version } => write!(f, "version {version}"),
            Answer::Deleted { deleted } => write!(f, "{deleted} deleted"),
            Answer::Sum { value } => write!(f, "sum {value}"),
        }
    }
}

impl fmt::Display for TxnDone {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(if self.succeeded { "then " } else { "else " })?;
        write_list(f, &self.answers, |f, one| one.fmt(f))?;
        write!(f, " at revision {}", self.revision)
    }
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "pages of {} from {} to {} {}",
            self.partition, self.from, self.to, self.mode
        )?;
        write_unless_zero(f, ", ", u64::from(self.limit), " each")?;
        f.write_str(if self.reverse { ", backwards" } else { "" })?;
        f.write_str(if self.keys_only { ", without values" } else { "" })
    }
}

fn write_unless_zero(f: &mut Formatter<'_>, name: &str, n: u64, unit: &str) -> fmt::Result {
    if n == 0 {
        return Ok(());
    }
    write!(f, "{name} {n}{unit}")
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Row {
                revision,
                row,
                age_ms,
            } => {
                match row {
                    None => f.write_str("nothing")?,
                    Some(row) => write!(
                        f,
                        "{}, created at {}, written at {}, version {}",
                        row.value, row.create_rev, row.mod_rev, row.version
                    )?,
                }
                write!(f, "; revision {revision}")?;
                write_unless_zero(f, ", age", *age_ms, " ms")
            }
            Reply::Written { revision, version } => {
                write!(f, "written at revision {revision}")?;
                write_unless_zero(f, ", version", *version, "")
            }
            Reply::Mismatch { revision } => write!(f, "mismatch at revision {revision}"),
            Reply::Deleted { revision, existed } => {
                let what = if *existed { "deleted" } else { "was not there" };
                write!(f, "{what} at revision {revision}")
            }
            Reply::Number { revision, value } => write!(f, "{value} at revision {revision}"),
            Reply::Appended { revision, seq } => write!(f, "number {seq} at revision {revision}"),
            Reply::Items { revision, items } => {
                write_list(f, items, |f, (number, value)| write!(f, "{number}={value}"))?;
                write!(f, " at revision {revision}")
            }
            Reply::Balances { revision, balances } => {
                write_list(f, balances, |f, (account, money)| write!(f, "{account}={money}"))?;
                write!(f, " at revision {revision}")
            }
            Reply::Txn(done) => done.fmt(f),
            Reply::Pages(all) => {
                let rows: Vec<_> = all.rows().collect();
                write_list(f, &rows, |f, row| write!(f, "{}={}", row.key, row.row.value))?;
                write!(f, " in {} pages at revision {}", all.pages.len(), all.revision)
            }
            Reply::Lease { lease, ttl_ms } => write!(f, "lease {lease} for {ttl_ms} ms"),
            Reply::Watching { after, epoch } => {
                write!(f, "from revision {after} on")?;
                write_unless_zero(f, " in epoch", *epoch, "")
            }
            Reply::Acked => f.write_str("acked"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Change {
            revision,
            key,
            value,
            expired,
            version,
            lease,
            ..
        } = self;
        match value {
            Some(value) => {
                write!(f, "{revision}: {key}={value}")?;
                write_unless_zero(f, ", version", *version, "")?;
                write_unless_zero(f, ", lease", *lease, "")
            }
            None if *expired => write!(f, "{revision}: {key} expired"),
            None => write!(f, "{revision}: {key} deleted"),
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Changes { changes, through } | Seen::Keys { changes, through } => {
                write_list(f, changes, |f, change| write!(f, "{change}"))?;
                write!(f, " through {through}")
            }
            Seen::Compacted { resumed_after } => write!(f, "compacted, goes on after {resumed_after}"),
            Seen::Resumed => f.write_str("resumed"),
            Seen::Ended { code, revision } => {
                write!(f, "ended: {code}")?;
                write_unless_zero(f, ", can be read from revision", *revision, " on")
            }
        }
    }
}

fn write_list<T>(
    f: &mut Formatter<'_>,
    items: &[T],
    one: impl Fn(&mut Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    f.write_str("{")?;
    for (place, item) in items.iter().take(MAX_ITEMS).enumerate() {
        if place > 0 {
            f.write_str(", ")?;
        }
        one(f, item)?;
    }
    match items.len().saturating_sub(MAX_ITEMS) {
        0 => f.write_str("}"),
        more => write!(f, ", and {more} more}}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Key, samples};
    use super::*;
    use crate::history::Step;

    #[test]
    fn no_text_shows_the_code_behind_it() {
        for event in samples::one_of_each() {
            let text = match event.step {
                Step::Invoke { call } => call.to_string(),
                Step::Ok { reply } => reply.to_string(),
                Step::Seen { seen } => seen.to_string(),
                Step::Fail { .. } | Step::Info { .. } | Step::Strange { .. } => continue,
            };
            assert!(!text.contains("::") && !text.contains(": Key"), "{text}");
            assert!(!text.starts_with(char::is_uppercase), "{text}");
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let reply = Reply::Items {
            revision: 9,
            items: (0..15).map(|n| (n, n + 100)).collect(),
        };
        let text = reply.to_string();
        assert!(text.ends_with("11=111, and 3 more} at revision 9"), "{text}");
    }

    #[test]
    fn defaults_are_not_mentioned() {
        let key = Key { partition: 0, key: 7 };
        let write = |ttl_ms, lease| Call::Write {
            key,
            value: 5,
            ttl_ms,
            lease,
        };
        assert_eq!(write(0, 0).to_string(), "write [0 7] = 5");
        assert_eq!(write(10, 3).to_string(), "write [0 7] = 5 ttl 10 ms lease 3");
    }
}
