//! Histories as EDN, one map a line, in the shape of Jepsen 0.3 operations, for the tools of others: Knossos, Elle, Jepsen's checkers.
//!
//! Written only: our own form is [`jsonl`](super::jsonl).
//!
//! `:index` is the place in the history, `:time` nanoseconds, `:process` the process. `:type` is `:invoke`, `:ok`, `:fail`, `:info`. A
//! condition that did not hold is a `:fail` with `:error :mismatch`, which is how Jepsen tests write it. What a client was told besides the
//! value stands under its own keys (`:revision`, `:version`, ...), which the tools ignore.
//!
//! A key is `[partition key]`; it is the key of `jepsen.independent`, so a value is `[[partition key] value]`. (EDN has no map entries, so
//! who reads it makes the pair a tuple again with `jepsen.independent/tuple`.)
//!
//! | call | `:f` and `:value` | for |
//! |---|---|---|
//! | Read, Count | `:read [k v]`, `v` is nil in the invocation and when the key is not there | Knossos register |
//! | Write | `:write [k v]`; `:ttl`, `:lease` if there is one | register |
//! | Delete | `:write [k nil]` | register |
//! | Cas | `:cas [k [from to]]` | cas-register |
//! | Increment | `:add [k delta]`, `:result` in the reply | none: Jepsen's counter never goes down, ours does |
//! | Append | `:txn [[:append k v]]` | Elle list-append |
//! | List | `:txn [[:r k nil]]`, in the reply `[[:r k [v ...]]]` | Elle list-append |
//! | Transfer | `:transfer [partition {:from a :to b :amount n}]` | bank |
//! | Balances | `:read-all [partition nil]`, in the reply `[partition {account n ...}]` | bank, after renaming |
//! | Scan | `:scan [partition nil]`, in the reply `[partition {key v ...}]` | |
//! | Txn | `:transaction [partition nil]`, in words under `:does` and `:told` | |
//! | Pages | `:pages [partition nil]`, in the reply `[partition [[key v ...] ...]]`, page by page | |
//! | Send, Receive | `:send`, `:receive {:id i :from k :to k :amount n}` | |
//! | Grant, KeepAlive, Revoke | `:grant`, `:keep-alive`, `:revoke {:partition p ...}`, in the reply `{:lease l :ttl ms}` | |
//! | Watch, WatchKeys, Consume, ConsumeAt, Reset, Forget, Ack | `:watch`, `:watch-keys`, `:consume`, `:consume-at`, `:reset`, `:forget`, `:ack {...}`, in the reply `{:after r :epoch e}` or nil | |
//!
//! Reads that are not linearizable have `-weak` at the end of `:f` and their mode under `:mode`, so that no checker takes them for
//! linearizable ones. What watches and consumers see is `:info` of `:seen`, of a process `:seen-N` that is not a number. Jepsen takes these
//! for operations of a nemesis, of which it pairs every two that follow each other: such pairs mean nothing. An answer that no workload can
//! have caused is `:info` with `:error :strange`; one that a watch was shown is `:info` of `:strange`.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    io::{self, Write},
};

use super::{AllPages, Call, Event, Key, Mode, Process, Reply, Seen, Step};

/// Writes events; remembers what each process has called.
pub struct EdnWriter<W> {
    out: W,
    index: usize,
    open: BTreeMap<Process, Call>,
}

impl<W: Write> EdnWriter<W> {
    /// A writer of a history from its beginning.
    pub fn new(out: W) -> Self {
        Self {
            out,
            index: 0,
            open: BTreeMap::new(),
        }
    }

    /// Writes the next event as one line. The end of a call that was never made is left out.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&mut self, event: &Event) -> io::Result<()> {
        let Event { time, process, step } = event;
        let is_call = match step {
            Step::Seen { .. } => false,
            Step::Strange { .. } => self.open.contains_key(process),
            _ => true,
        };
        let body = match step {
            Step::Invoke { call } => {
                self.open.insert(*process, call.clone());
                Some(body("invoke", call, None))
            }
            Step::Ok { reply } => self.open.remove(process).map(|call| match reply {
                Reply::Mismatch { .. } => body("fail", &call, Some(reply)) + " :error :mismatch",
                _ => body("ok", &call, Some(reply)),
            }),
            Step::Fail { error } => (self.open.remove(process))
                .map(|call| body("fail", &call, None) + &format!(" :error {}", Text(error))),
            Step::Info { error } => (self.open.remove(process))
                .map(|call| body("info", &call, None) + &format!(" :error {}", Text(error))),
            Step::Strange { what } => Some(self.open.remove(process).map_or_else(
                || format!(":type :info :f :strange :value {}", Text(what)),
                |call| body("info", &call, None) + &format!(" :error :strange :what {}", Text(what)),
            )),
            Step::Seen { seen } => Some(format!(":type :info :f :seen :value {}", seen_value(seen))),
        };
        let Some(body) = body else { return Ok(()) };
        let watcher = if is_call { "" } else { ":seen-" };
        let index = self.index;
        self.index += 1;
        writeln!(
            self.out,
            "{{:index {index} :time {time} :process {watcher}{process} {body}}}"
        )
    }
}

/// Writes a history.
///
/// # Errors
/// The writer's.
pub fn write(out: &mut impl Write, history: &[Event]) -> io::Result<()> {
    let mut writer = EdnWriter::new(out);
    history.iter().try_for_each(|event| writer.write(event))
}

/// A string with quotes.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} {}]", self.partition, self.key)
    }
}

fn body(kind: &str, call: &Call, reply: Option<&Reply>) -> String {
    let (f, mode) = function(call);
    let weak = match mode {
        None | Some(Mode::Linearizable) => String::new(),
        Some(Mode::AtLeast(revision)) => format!(" :mode [:at-least {revision}]"),
        Some(Mode::Bounded(ms)) => format!(" :mode [:bounded {ms}]"),
        Some(Mode::Local) => " :mode [:local]".to_owned(),
        Some(Mode::At(revision)) => format!(" :mode [:at {revision}]"),
    };
    let suffix = if weak.is_empty() { "" } else { "-weak" };
    let value = value(call, reply);
    let extra = reply.map(told).unwrap_or_default();
    format!(":type :{kind} :f :{f}{suffix} :value {value}{weak}{extra}")
}

fn function(call: &Call) -> (&'static str, Option<Mode>) {
    match call {
        Call::Read { mode, .. } => ("read", Some(*mode)),
        Call::Count { .. } => ("read", None),
        Call::Write { .. } | Call::Delete { .. } => ("write", None),
        Call::Cas { .. } => ("cas", None),
        Call::Increment { .. } => ("add", None),
        Call::Append { .. } => ("txn", None),
        Call::List { mode, .. } => ("txn", Some(*mode)),
        Call::Transfer { .. } => ("transfer", None),
        Call::Balances { .. } => ("read-all", None),
        Call::Scan { mode, .. } => ("scan", Some(*mode)),
        Call::Send { .. } => ("send", None),
        Call::Receive { .. } => ("receive", None),
        Call::Txn(_) => ("transaction", None),
        Call::Pages(pages) => ("pages", Some(pages.mode)),
        Call::Grant { .. } => ("grant", None),
        Call::KeepAlive { .. } => ("keep-alive", None),
        Call::Revoke { .. } => ("revoke", None),
        Call::Watch { .. } => ("watch", None),
        Call::Consume { .. } => ("consume", None),
        Call::ConsumeAt { .. } => ("consume-at", None),
        Call::Reset { .. } => ("reset", None),
        Call::Forget { .. } => ("forget", None),
        Call::WatchKeys { .. } => ("watch-keys", None),
        Call::Ack { .. } => ("ack", None),
    }
}

fn value(call: &Call, reply: Option<&Reply>) -> String {
    match (call, reply) {
        (Call::Read { key, .. } | Call::Count { key }, reply) => match reply {
            Some(Reply::Row { row: Some(row), .. }) => format!("[{key} {}]", row.value),
            Some(Reply::Number { value, .. }) => format!("[{key} {value}]"),
            _ => format!("[{key} nil]"),
        },
        (Call::Write { key, value, .. }, _) => format!("[{key} {value}]"),
        (Call::Delete { key }, _) => format!("[{key} nil]"),
        (Call::Cas { key, from, to }, _) => format!("[{key} [{from} {to}]]"),
        (Call::Increment { key, delta }, _) => format!("[{key} {delta}]"),
        (Call::Append { list, value }, _) => format!("[[:append {list} {value}]]"),
        (Call::List { list, .. }, Some(Reply::Items { items, .. })) => {
            format!("[[:r {list} [{}]]]", joined(items.iter().map(|(_, value)| value)))
        }
        (Call::List { list, .. }, _) => format!("[[:r {list} nil]]"),
        (Call::Scan { partition, .. }, Some(Reply::Items { items, .. })) => {
            let pairs = items.iter().map(|(key, value)| format!("{key} {value}"));
            format!("[{partition} {{{}}}]", joined(pairs))
        }
        (Call::Balances { partition }, Some(Reply::Balances { balances, .. })) => {
            let pairs = balances.iter().map(|(account, n)| format!("{account} {n}"));
            format!("[{partition} {{{}}}]", joined(pairs))
        }
        (Call::Scan { partition, .. } | Call::Balances { partition }, _) => format!("[{partition} nil]"),
        (call, reply) => other_value(call, reply),
    }
}

/// Of calls that no checker of others reads.
fn other_value(call: &Call, reply: Option<&Reply>) -> String {
    match (call, reply) {
        (Call::Pages(of), Some(Reply::Pages(all))) => format!("[{} [{}]]", of.partition, pages(all)),
        (Call::Pages(of), _) => format!(
            "[{} nil] :from {} :to {} :limit {} :reverse {} :keys-only {}",
            of.partition, of.from, of.to, of.limit, of.reverse, of.keys_only
        ),
        (Call::Txn(txn), Some(_)) => format!("[{} nil]", txn.partition),
        (Call::Txn(txn), None) => format!("[{} nil] :does {}", txn.partition, Text(&txn.to_string())),
        (_, Some(Reply::Lease { lease, ttl_ms })) => format!("{{:lease {lease} :ttl {ttl_ms}}}"),
        (_, Some(Reply::Watching { after, epoch })) => format!("{{:after {after} :epoch {epoch}}}"),
        (_, Some(Reply::Acked)) => "nil".to_owned(),
        (
            Call::Transfer {
                partition,
                from,
                to,
                amount,
            },
            _,
        ) => format!("[{partition} {{:from {from} :to {to} :amount {amount}}}]"),
        (Call::Send { from, to, amount, id } | Call::Receive { from, to, amount, id }, _) => {
            format!("{{:id {id} :from {from} :to {to} :amount {amount}}}")
        }
        (Call::Grant { partition, ttl_ms }, _) => format!("{{:partition {partition} :ttl {ttl_ms}}}"),
        (Call::KeepAlive { partition, lease } | Call::Revoke { partition, lease }, _) => {
            format!("{{:partition {partition} :lease {lease}}}")
        }
        (Call::Watch { partition, after }, _) => format!("{{:partition {partition} :after {after}}}"),
        (Call::Consume { shard, name }, _) => format!("{{:shard {shard} :name {}}}", Text(name)),
        (Call::ConsumeAt { shard, name, start }, _) => {
            format!("{{:shard {shard} :name {} :start {start}}}", Text(name))
        }
        (
            Call::Reset {
                shard,
                name,
                revision,
            },
            _,
        ) => format!("{{:shard {shard} :name {} :revision {revision}}}", Text(name)),
        (Call::Forget { shard, name }, _) => format!("{{:shard {shard} :name {}}}", Text(name)),
        (Call::WatchKeys { shard, after }, _) => format!("{{:shard {shard} :after {after}}}"),
        (
            Call::Ack {
                shard,
                name,
                epoch,
                revision,
            },
            _,
        ) => format!(
            "{{:shard {shard} :name {} :epoch {epoch} :revision {revision}}}",
            Text(name)
        ),
        _ => "nil".to_owned(),
    }
}

/// Keys and values, page by page.
fn pages(all: &AllPages) -> String {
    let page = |rows: &Vec<super::PageRow>| {
        let rows = rows.iter().map(|row| format!("{} {}", row.key, row.row.value));
        format!("[{}]", joined(rows))
    };
    joined(all.pages.iter().map(page))
}

/// What the client was told besides the value.
fn told(reply: &Reply) -> String {
    match reply {
        Reply::Row {
            revision,
            row: None,
            age_ms,
        } => format!(" :revision {revision} :age {age_ms}"),
        Reply::Row {
            revision,
            row: Some(row),
            age_ms,
        } => format!(
            " :revision {revision} :age {age_ms} :create-rev {} :mod-rev {} :version {}",
            row.create_rev, row.mod_rev, row.version
        ),
        Reply::Written { revision, version } => format!(" :revision {revision} :version {version}"),
        Reply::Mismatch { revision } | Reply::Items { revision, .. } | Reply::Balances { revision, .. } => {
            format!(" :revision {revision}")
        }
        Reply::Deleted { revision, existed } => format!(" :revision {revision} :existed {existed}"),
        Reply::Number { revision, value } => format!(" :revision {revision} :result {value}"),
        Reply::Appended { revision, seq } => format!(" :revision {revision} :seq {seq}"),
        Reply::Txn(done) => format!(" :revision {} :told {}", done.revision, Text(&done.to_string())),
        Reply::Pages(all) => format!(" :revision {}", all.revision),
        Reply::Lease { .. } | Reply::Watching { .. } | Reply::Acked => String::new(),
    }
}

fn seen_value(seen: &Seen) -> String {
    match seen {
        Seen::Changes { changes, through } | Seen::Keys { changes, through } => {
            let changes = changes.iter().map(|change| {
                let value = change.value.map_or("nil".to_owned(), |value| value.to_string());
                let expired = if change.expired { " :expired" } else { "" };
                format!("[{} {} {value}{expired}]", change.revision, change.key)
            });
            format!("{{:changes [{}] :through {through}}}", joined(changes))
        }
        Seen::Compacted { resumed_after } => format!("{{:compacted {resumed_after}}}"),
        Seen::Resumed => ":resumed".to_owned(),
        Seen::Ended { code, revision } => format!("{{:ended {} :revision {revision}}}", Text(code)),
    }
}

fn joined(items: impl Iterator<Item = impl fmt::Display>) -> String {
    let mut out = String::new();
    for item in items {
        if !out.is_empty() {
            out.push(' ');
        }
        // Writing to a string does not fail.
        let _ = write!(out, "{item}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::samples;

    /// Compares with a file in `testdata`; with `UPDATE_GOLDEN` set it is written instead.
    fn check(name: &str, text: &str) {
        let path = format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{path}");
    }

    #[test]
    fn every_kind_of_event_is_written_so() {
        let mut out = Vec::new();
        write(&mut out, &samples::one_of_each()).unwrap();
        check("one_of_each.edn", &String::from_utf8(out).unwrap());
    }

    #[test]
    fn a_short_history_is_written_so() {
        let mut out = Vec::new();
        write(&mut out, &samples::short()).unwrap();
        let golden = [
            "{:index 0 :time 1 :process 3 :type :invoke :f :write :value [[0 7] 5]}",
            "{:index 1 :time 2 :process 3 :type :ok :f :write :value [[0 7] 5] :revision 11 :version 2}",
            "{:index 2 :time 3 :process 3 :type :invoke :f :read-weak :value [[0 7] nil] :mode [:at-least 11]}",
            "{:index 3 :time 4 :process 3 :type :info :f :read-weak :value [[0 7] nil] :mode [:at-least 11] :error \"TIMEOUT\"}",
            "{:index 4 :time 5 :process :seen-4 :type :info :f :seen :value :resumed}",
        ];
        assert_eq!(
            String::from_utf8(out).unwrap().lines().collect::<Vec<_>>(),
            golden
        );
    }
}
