//! Runs the golden scripts in `src/testscripts`: each is a conversation with one shard and shows outcomes, events, reads and rows.
//!
//! A command of a script is one log entry with one command, stamped with the script's time (`time MS`); `batch "CMD" "CMD" ...` is
//! one entry with several. Keys `session=ID seq=N acked=N p=PARTITION` go with every command. Numbers of 8 bytes are written i@N.
//! `UPDATE_GOLDENFILES=1 cargo test -p kvsvr-core --test golden` writes the outputs anew.

use std::{error::Error, fmt::Write as _, path::Path};

use bytes::Bytes;
use goldenscript::{Argument, Context, Runner};
use kvsvr_core::{
    codec::{encode_batch, encode_command},
    command::*,
    engine::{Cf, Engine},
    error::Failure,
    event::{Event, EventKind},
    hash::state_hash,
    keys::Key,
    machine::{Entry, Machine, Payload},
    mem::MemEngine,
    read::{self, View},
    types::{LogPosition, Partition, ShardId},
};

const SHARD: ShardId = ShardId(1);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

macro_rules! scripts {
    ($($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/testscripts").join(stringify!($name));
            goldenscript::run(&mut Shard::new(), path).expect("the script runs");
        })+

        /// Every script is run.
        #[test]
        fn no_script_is_forgotten() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/testscripts");
            let files = std::fs::read_dir(folder).expect("the folder").map(|file| file.expect("a file").file_name());
            let mut files: Vec<_> = files.collect();
            files.sort();
            let mut named = vec![$(stringify!($name)),+];
            named.sort();
            assert_eq!(files, named);
        }
    };
}

scripts! {
    append, batches, compact, consumers, delete, delete_range, expire, get, increment, invalid, leases, put, range,
    replay, rows, sessions, txn, txn_reads,
}

struct Shard {
    engine: MemEngine,
    machine: Machine,
    now: u64,
    continuation: Bytes,
}

/// The words of a command: by position, and key=value.
struct Words {
    words: Vec<String>,
    named: Vec<(String, String)>,
}

impl Words {
    fn of(args: &[Argument]) -> Self {
        let (mut words, mut named) = (Vec::new(), Vec::new());
        for arg in args {
            match arg {
                Argument::Positional(word) => words.push(word.clone()),
                Argument::KeyValue(key, value) => named.push((key.clone(), value.clone())),
                _ => unreachable!("no other kinds"),
            }
        }
        Self { words, named }
    }

    /// Of one line, which has no quotes.
    fn parse(line: &str) -> Self {
        let (mut words, mut named) = (Vec::new(), Vec::new());
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some((key, value)) if !key.is_empty() => named.push((key.to_owned(), value.to_owned())),
                _ => words.push(word.to_owned()),
            }
        }
        Self { words, named }
    }

    fn next(&mut self) -> Option<String> {
        (!self.words.is_empty()).then(|| self.words.remove(0))
    }

    fn key(&mut self) -> Bytes {
        bytes(&self.next().unwrap_or_default())
    }

    fn number<T: std::str::FromStr>(&mut self) -> Result<T>
    where
        T::Err: Error + 'static,
    {
        Ok(self.next().ok_or("a number is missing")?.parse()?)
    }

    fn named(&mut self, key: &str) -> Option<String> {
        let at = self.named.iter().position(|(k, _)| k == key)?;
        Some(self.named.remove(at).1)
    }

    fn named_number(&mut self, key: &str) -> Result<u64> {
        self.named(key).map_or(Ok(0), |value| Ok(value.parse()?))
    }

    fn flag(&mut self, word: &str) -> bool {
        let at = self.words.iter().position(|w| w == word);
        at.map(|at| self.words.remove(at)).is_some()
    }

    fn done(&self) -> Result<()> {
        if self.words.is_empty() && self.named.is_empty() {
            return Ok(());
        }
        Err(format!("unexpected words: {:?} {:?}", self.words, self.named).into())
    }
}

/// A key or value: text, i@N for a number of 8 bytes, len@N for N bytes.
fn bytes(text: &str) -> Bytes {
    if let Some(len) = text
        .strip_prefix("len@")
        .and_then(|len| len.parse::<usize>().ok())
    {
        return vec![b'x'; len].into();
    }
    match text
        .strip_prefix("i@")
        .and_then(|number| number.parse::<i64>().ok())
    {
        Some(number) => Bytes::copy_from_slice(&number.to_be_bytes()),
        None => Bytes::copy_from_slice(text.as_bytes()),
    }
}

fn text(bytes: &[u8]) -> String {
    if bytes.len() > 32 {
        return format!("{} bytes", bytes.len());
    }
    match bytes.split_last_chunk::<8>() {
        Some((before, number)) if number[0] == 0 || number[0] == 0xff || number[0] == 0x7f => {
            format!("{}i@{}", before.escape_ascii(), i64::from_be_bytes(*number))
        }
        _ => bytes.escape_ascii().to_string(),
    }
}

impl Shard {
    fn new() -> Self {
        let engine = MemEngine::new();
        let machine = Machine::load(SHARD, &engine).expect("an empty shard");
        Self {
            engine,
            machine,
            now: 1000,
            continuation: Bytes::new(),
        }
    }

    fn partition(words: &mut Words) -> Partition {
        Partition::local(words.named("p").unwrap_or_else(|| "p".into()))
    }

    fn command(&self, name: &str, words: &mut Words) -> Result<Bytes> {
        let session = words.named("session").map(|id| id.parse()).transpose()?;
        let session = match session {
            Some(session) => {
                let (seq, acked_below) = (words.named_number("seq")?, words.named_number("acked")?);
                Some(SessionSeq {
                    session,
                    seq,
                    acked_below,
                })
            }
            None => None,
        };
        let partition = Self::partition(words);
        let op = match name {
            "txn" => Op::Txn(self.txn(words)?),
            "raw" => return Ok(words.key()),
            _ => shard_op(name, words)?.map_or_else(|| self.txn_op(name, words).and_then(as_op), Ok)?,
        };
        words.done()?;
        Ok(encode_command(&Command {
            partition,
            session,
            op,
        }))
    }

    /// `txn "if COMPARE" ... "then OP" ... "else OP" ...`
    fn txn(&self, words: &mut Words) -> Result<Txn> {
        let mut txn = Txn::default();
        while let Some(line) = words.next() {
            let mut part = Words::parse(&line);
            match part.next().as_deref() {
                Some("if") => txn.compares.push(compare(&mut part)?),
                Some("then") => {
                    let name = part.next().unwrap_or_default();
                    txn.then_ops.push(self.txn_op(&name, &mut part)?);
                }
                Some("else") => {
                    let name = part.next().unwrap_or_default();
                    txn.else_ops.push(self.txn_op(&name, &mut part)?);
                }
                other => return Err(format!("not a part of a transaction: {other:?}").into()),
            }
            part.done()?;
        }
        Ok(txn)
    }

    fn txn_op(&self, name: &str, words: &mut Words) -> Result<TxnOp> {
        Ok(match name {
            "get" => TxnOp::Get {
                key: words.key(),
                revision: revision(words)?,
            },
            "range" => TxnOp::Range(self.range(words)?),
            "put" => TxnOp::Put {
                key: words.key(),
                value: words.key(),
                ttl_ms: words.named_number("ttl")?,
                lease: words.named_number("lease")?,
            },
            "delete" => TxnOp::Delete { key: words.key() },
            "delete-range" => TxnOp::DeleteRange {
                start: words.key(),
                end: words.key(),
            },
            "increment" => TxnOp::Increment {
                key: words.key(),
                delta: words.number()?,
            },
            "append" => TxnOp::Append {
                prefix: words.key(),
                value: words.key(),
                ttl_ms: words.named_number("ttl")?,
            },
            _ => return Err(format!("unknown command {name}").into()),
        })
    }

    fn range(&self, words: &mut Words) -> Result<Range> {
        let (reverse, keys_only) = (words.flag("reverse"), words.flag("keys-only"));
        let limit = u32::try_from(words.named_number("limit")?)?;
        let revision = revision(words)?;
        let continuation = match words.named("continuation").as_deref() {
            Some("last") => self.continuation.clone(),
            Some(other) => bytes(other),
            None => Bytes::new(),
        };
        Ok(Range {
            start: words.key(),
            end: words.key(),
            limit,
            reverse,
            keys_only,
            revision,
            continuation,
        })
    }

    /// One log entry.
    fn entry(&mut self, commands: &[Bytes]) -> String {
        let index = self.machine.applied().map_or(1, |last| last.index + 1);
        let payload = Payload::Batch(encode_batch(self.now, commands));
        let entry = Entry {
            position: LogPosition {
                index,
                term: 1,
                node: 1,
            },
            payload,
        };
        let applied = self
            .machine
            .apply(&self.engine, &[entry])
            .expect("the state is sound");
        self.engine.write(applied.batch).expect("memory works");
        let mut out = String::new();
        for outcome in applied.replies.iter().flatten() {
            let _ = writeln!(out, "r{} {}", outcome.revision, show_result(&outcome.result));
        }
        for event in &applied.events {
            let _ = writeln!(out, "  {}", show_event(event));
        }
        out
    }

    fn read(&mut self, name: &str, words: &mut Words) -> Result<std::result::Result<String, Failure>> {
        let partition = Self::partition(words);
        let snapshot = self.engine.snapshot();
        let answer = match name {
            "get" => {
                let (key, revision) = (words.key(), revision(words)?);
                let kv = read::get(&*snapshot, SHARD, &partition, &key, revision);
                kv.map(|kv| kv.map_or("nothing\n".into(), |kv| show_kv(&kv) + "\n"))
            }
            "range" => {
                let range = self.range(words)?;
                let page = View::load(&*snapshot, SHARD)?.range(&partition, &range, usize::MAX);
                page.map(|page| {
                    self.continuation = page.continuation.clone();
                    show_range(&page)
                })
            }
            "read-txn" => {
                let txn = self.txn(words)?;
                read::txn_read(&*snapshot, SHARD, &partition, &txn).map(|txn| show_txn(&txn) + "\n")
            }
            _ => {
                let after = words.number()?;
                let max = usize::try_from(words.named_number("max")?)?;
                let max = if max == 0 { usize::MAX } else { max };
                let only = words.named("only");
                let wanted =
                    |p: &Partition, _: &[u8]| only.as_ref().is_none_or(|only| p.name == only.as_bytes());
                read::replay(&*snapshot, SHARD, after, max, &wanted).map(|replay| {
                    let mut out: String = replay
                        .events
                        .iter()
                        .map(|event| show_event(event) + "\n")
                        .collect();
                    let _ = writeln!(out, "up to {} of {}", replay.up_to, replay.revision);
                    out
                })
            }
        };
        words.done()?;
        Ok(answer)
    }

    fn show_state(&self) -> Result<String> {
        let machine = &self.machine;
        let mut out = format!(
            "revision={} floor={} stamp={} sessions={} leases={} event_bytes={}",
            machine.revision(),
            machine.floor(),
            machine.last_stamp(),
            machine.sessions(),
            machine.leases(),
            machine.event_bytes()
        );
        let _ = match machine.next_expiry(&self.engine)? {
            Some(at) => writeln!(out, " next_expiry={at}"),
            None => writeln!(out),
        };
        for (name, row) in machine.consumers() {
            let (name, lag) = (name.escape_ascii(), machine.lag_bytes(&self.engine, row.cursor)?);
            let _ = writeln!(
                out,
                "consumer {name} epoch={} cursor={} lag={lag}",
                row.epoch, row.cursor
            );
        }
        Ok(out)
    }

    fn show_rows(&self, words: &mut Words) -> Result<String> {
        let mut out = String::new();
        let wanted = words.next();
        for cf in Cf::ALL
            .into_iter()
            .filter(|cf| wanted.as_ref().is_none_or(|name| name == cf.name()))
        {
            for (key, value) in self.engine.rows(cf) {
                let _ = writeln!(
                    out,
                    "{}: {}",
                    show_key(&Key::decode(cf, &key)?.1),
                    value.escape_ascii()
                );
            }
        }
        Ok(out)
    }
}

impl Runner for Shard {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &goldenscript::Command, _: &Context) -> Result<String> {
        let mut words = Words::of(&command.args);
        match &command.name[..] {
            "time" => {
                self.now = words.number()?;
                words.done()?;
                Ok(String::new())
            }
            "restart" => {
                self.machine = Machine::load(SHARD, &self.engine)?;
                Ok(String::new())
            }
            "flush" => {
                self.engine.set_garbage_floor(SHARD, self.machine.floor());
                self.engine.flush()?;
                Ok(String::new())
            }
            "hash" => {
                let (applied, hash) = state_hash(&self.engine, SHARD)?;
                Ok(format!(
                    "{hash:016x} at {}\n",
                    applied.map_or(0, |last| last.index)
                ))
            }
            "state" => self.show_state(),
            "rows" => self.show_rows(&mut words),
            "target" => {
                let (keep, lag) = (words.number()?, words.number()?);
                let target = self.machine.compaction_target(&self.engine, keep, lag)?;
                Ok(format!("{} pass={}\n", target.revision, target.pass_below))
            }
            name @ ("get" | "range" | "read-txn" | "replay") => Ok(self
                .read(name, &mut words)?
                .unwrap_or_else(|failure| match failure {
                    Failure::Rejected(rejection) => show_result(&OutcomeResult::Rejected(rejection)) + "\n",
                    corrupt @ Failure::Corrupt(_) => panic!("{corrupt}"),
                })),
            "batch" => {
                let mut commands = Vec::new();
                while let Some(line) = words.next() {
                    let mut part = Words::parse(&line);
                    let name = part.next().unwrap_or_default();
                    commands.push(self.command(&name, &mut part)?);
                }
                Ok(self.entry(&commands))
            }
            name => {
                let command = self.command(name, &mut words)?;
                Ok(self.entry(&[command]))
            }
        }
    }
}

fn revision(words: &mut Words) -> Result<Option<u64>> {
    Ok(words.named("rev").map(|rev| rev.parse()).transpose()?)
}

fn as_op(op: TxnOp) -> Result<Op> {
    Ok(match op {
        TxnOp::Put {
            key,
            value,
            ttl_ms,
            lease,
        } => Op::Put {
            key,
            value,
            ttl_ms,
            lease,
        },
        TxnOp::Delete { key } => Op::Delete { key },
        TxnOp::DeleteRange { start, end } => Op::DeleteRange { start, end },
        TxnOp::Increment { key, delta } => Op::Increment { key, delta },
        TxnOp::Append {
            prefix,
            value,
            ttl_ms,
        } => Op::Append {
            prefix,
            value,
            ttl_ms,
        },
        TxnOp::Get { .. } | TxnOp::Range(_) => return Err("not a command".into()),
    })
}

fn shard_op(name: &str, words: &mut Words) -> Result<Option<Op>> {
    Ok(Some(match name {
        "grant" => Op::LeaseGrant {
            ttl_ms: words.number()?,
            id: words.named_number("id")?,
        },
        "keep-alive" => Op::LeaseKeepAlive { id: words.number()? },
        "revoke" => Op::LeaseRevoke { id: words.number()? },
        "session-open" => Op::SessionOpen,
        "session-close" => Op::SessionClose,
        "consumer-open" => Op::ConsumerOpen {
            name: words.key(),
            start_revision: words.named_number("start")?,
        },
        "ack" => Op::ConsumerAck {
            name: words.key(),
            epoch: words.number()?,
            revision: words.number()?,
        },
        "consumer-delete" => Op::ConsumerDelete { name: words.key() },
        "consumer-reset" => Op::ConsumerReset {
            name: words.key(),
            revision: words.number()?,
        },
        "expire" => {
            let up_to_ms = if words.words.is_empty() {
                u64::MAX
            } else {
                words.number()?
            };
            Op::Expire { up_to_ms }
        }
        "compact" => Op::Compact {
            revision: words.number()?,
            pass_below: words.named_number("pass")?,
        },
        _ => return Ok(None),
    }))
}

/// `KEY exists`, `KEY absent`, `KEY value|version|create|mod eq|ne|lt|gt OPERAND`
fn compare(words: &mut Words) -> Result<Compare> {
    let key = words.key();
    let what = words.next().unwrap_or_default();
    match &what[..] {
        "exists" => return Ok(Compare::exists(key)),
        "absent" => return Ok(Compare::absent(key)),
        _ => {}
    }
    let operator = match words.next().as_deref() {
        Some("eq") => CompareOperator::Equal,
        Some("ne") => CompareOperator::NotEqual,
        Some("lt") => CompareOperator::Less,
        Some("gt") => CompareOperator::Greater,
        other => return Err(format!("not an operator: {other:?}").into()),
    };
    let target = match &what[..] {
        "value" => CompareTarget::Value(words.key()),
        "version" => CompareTarget::Version(words.number()?),
        "create" => CompareTarget::CreateRev(words.number()?),
        "mod" => CompareTarget::ModRev(words.number()?),
        other => return Err(format!("not a target: {other}").into()),
    };
    Ok(Compare {
        key,
        target,
        operator,
    })
}

fn show_kv(kv: &KeyValue) -> String {
    let mut out = format!("{} = {}", text(&kv.key), text(&kv.value));
    let _ = write!(
        out,
        "  create={} mod={} version={}",
        kv.create_rev, kv.mod_rev, kv.version
    );
    if kv.lease != 0 {
        let _ = write!(out, " lease={}", kv.lease);
    }
    if kv.expires_at != 0 {
        let _ = write!(out, " expires_at={}", kv.expires_at);
    }
    out
}

fn show_range(page: &RangeResult) -> String {
    let mut out: String = page.kvs.iter().map(|kv| show_kv(kv) + "\n").collect();
    out += if page.continuation.is_empty() {
        "end\n"
    } else {
        "more\n"
    };
    out
}

fn show_txn(txn: &TxnResult) -> String {
    let mut out = format!("txn succeeded={}", txn.succeeded);
    for result in &txn.results {
        let shown = match result {
            TxnOpResult::Get(None) => "get nothing".into(),
            TxnOpResult::Get(Some(kv)) => format!("get {}", show_kv(kv)),
            TxnOpResult::Range(range) => {
                let shown = show_range(range);
                format!("range\n       {}", shown.trim_end().replace('\n', "\n       "))
            }
            TxnOpResult::Put { version } => format!("put version={version}"),
            TxnOpResult::Delete { deleted } => format!("delete deleted={deleted}"),
            TxnOpResult::Increment { value } => format!("increment value={value}"),
            TxnOpResult::Append { seq } => format!("append seq={seq}"),
        };
        let _ = write!(out, "\n     {shown}");
    }
    out
}

fn show_result(result: &OutcomeResult) -> String {
    match result {
        OutcomeResult::Put { version } => format!("put version={version}"),
        OutcomeResult::Delete { deleted } => format!("delete deleted={deleted}"),
        OutcomeResult::Increment { value } => format!("increment value={value}"),
        OutcomeResult::Append { seq } => format!("append seq={seq}"),
        OutcomeResult::Txn(txn) => show_txn(txn),
        OutcomeResult::Lease { id, ttl_ms, deleted } => {
            format!("lease id={id} ttl={ttl_ms} deleted={deleted}")
        }
        OutcomeResult::Session { id } => format!("session id={id}"),
        OutcomeResult::Consumer { epoch, cursor } => format!("consumer epoch={epoch} cursor={cursor}"),
        OutcomeResult::Compact { floor } => format!("compact floor={floor}"),
        OutcomeResult::Restore { next } => format!("restore next={next}"),
        OutcomeResult::Expire { keys, leases, more } => {
            format!("expire keys={keys} leases={leases} more={more}")
        }
        OutcomeResult::Rejected(rejection) => {
            let first = match rejection.revision {
                0 => String::new(),
                first => format!(" (first={first})"),
            };
            format!("rejected {:?}: {}{first}", rejection.code, rejection.message)
        }
    }
}

fn show_event(event: &Event) -> String {
    let place = format!("{}/{}", text(&event.partition.name), text(&event.key));
    match event.kind {
        EventKind::Put => {
            let kv = KeyValue {
                key: Bytes::new(),
                value: event.value.clone(),
                create_rev: event.create_rev,
                mod_rev: event.revision,
                version: event.version,
                lease: event.lease,
                expires_at: event.expires_at,
            };
            format!("@{} put {place}{}", event.revision, show_kv(&kv))
        }
        EventKind::Delete => format!("@{} delete {place}", event.revision),
        EventKind::Expire => format!("@{} expire {place}", event.revision),
    }
}

fn show_key(key: &Key) -> String {
    let place = |partition: &Partition, key: &Bytes| format!("{}/{}", text(&partition.name), text(key));
    match key {
        Key::Data { partition, key } => format!("data {}", place(partition, key)),
        Key::Hist {
            partition,
            key,
            mod_rev,
        } => format!("hist {} @{mod_rev}", place(partition, key)),
        Key::Log { first } => format!("log {first}"),
        Key::TtlKey {
            expires_at,
            partition,
            key,
        } => format!("ttl {expires_at} key {}", place(partition, key)),
        Key::TtlLease { expires_at, lease } => format!("ttl {expires_at} lease {lease}"),
        Key::Head => "state head".into(),
        Key::Lease(lease) => format!("state lease {lease}"),
        Key::LeaseKey {
            lease,
            partition,
            key,
        } => format!("state lease {lease} key {}", place(partition, key)),
        Key::Session(session) => format!("state session {session}"),
        Key::Window { session, index } => format!("state session {session} entry {index}"),
        Key::Consumer(name) => format!("state consumer {}", text(name)),
        Key::Restore => "state restore".into(),
    }
}
