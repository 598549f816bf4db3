//! Commands on the data of one partition: get, put, del, range, incr, append.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use kvsvr_client::{GetOptions, KeyValue, PutOptions, RangeOptions, ReadMode, prefix_end};
use serde_json::{Value, json};

use crate::{
    context::{Context, changed, read_stdin},
    failure::{self, Failure},
    limits::{MAX_STDIN_VALUE, PAGE_KEYS},
    named::reader,
    output::{Field, Output},
    text::{Encoding, parse_span, parse_ttl, show_span, show_text},
};

/// Keys that `range` shows without `--limit` and `--all`.
const RANGE_LIMIT: u32 = 100;

/// `kvctl get`.
#[derive(Args, Clone, Debug)]
pub struct GetArgs {
    /// What the key belongs to
    pub partition: String,
    /// The key
    pub key: String,
    /// How to read
    #[command(flatten)]
    pub read: ReadArgs,
    /// Print the value's bytes and nothing else
    #[arg(long)]
    pub raw: bool,
}

/// How to read.
#[derive(Args, Clone, Copy, Debug)]
pub struct ReadArgs {
    /// Read the state at this revision [default: the newest]
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    pub revision: u64,
    /// linearizable: sees every acknowledged write; bounded=SPAN: not older than this, also while there is no leader;
    /// at-least=REVISION: sees that write; local: whatever the node has. A single one of --endpoints answers bounded and local itself
    #[arg(long, default_value = "linearizable", value_parser = parse_mode, value_name = "MODE")]
    pub mode: ReadMode,
}

/// `kvctl put`.
#[derive(Args, Clone, Debug)]
pub struct PutArgs {
    /// What the key belongs to
    pub partition: String,
    /// The key
    pub key: String,
    /// The value; - reads it from standard input, byte for byte
    #[arg(allow_hyphen_values = true)]
    pub value: String,
    /// Delete the key after this time
    #[arg(long, value_parser = parse_ttl, value_name = "SPAN", conflicts_with = "lease")]
    pub ttl: Option<Duration>,
    /// Delete the key when this lease ends
    #[arg(long, value_name = "ID")]
    pub lease: Option<u64>,
}

/// `kvctl del`.
#[derive(Args, Clone, Debug)]
#[command(group(clap::ArgGroup::new("keys").required(true).args(["key", "prefix", "from"])))]
pub struct DelArgs {
    /// What the keys belong to
    pub partition: String,
    /// The key
    pub key: Option<String>,
    /// Delete all keys that begin with this
    #[arg(long)]
    pub prefix: Option<String>,
    /// Delete all keys from this one on
    #[arg(long, value_name = "KEY")]
    pub from: Option<String>,
    /// With --from: up to this one, which is not deleted [default: to the end of the partition]
    #[arg(long, requires = "from", value_name = "KEY")]
    pub to: Option<String>,
}

/// `kvctl range`.
#[derive(Args, Clone, Debug)]
pub struct RangeArgs {
    /// What the keys belong to
    pub partition: String,
    /// First key [default: the first of the partition]
    pub start: Option<String>,
    /// End, exclusive [default: to the end of the partition]
    pub end: Option<String>,
    /// Keys that begin with this
    #[arg(long, conflicts_with = "start")]
    pub prefix: Option<String>,
    /// From the end to the start
    #[arg(long)]
    pub reverse: bool,
    /// Most keys to show
    #[arg(long, default_value_t = RANGE_LIMIT, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// Show all keys, as of one revision
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
    /// Leave the values out
    #[arg(long)]
    pub keys_only: bool,
    /// How to read
    #[command(flatten)]
    pub read: ReadArgs,
}

/// `kvctl incr`.
#[derive(Args, Clone, Debug)]
pub struct IncrArgs {
    /// What the key belongs to
    pub partition: String,
    /// The key
    pub key: String,
    /// What to add; may be negative
    #[arg(default_value_t = 1, allow_negative_numbers = true)]
    pub delta: i64,
}

/// `kvctl append`.
#[derive(Args, Clone, Debug)]
pub struct AppendArgs {
    /// What the keys belong to
    pub partition: String,
    /// Beginning of the new key; its sequence number follows as 8 bytes
    pub prefix: String,
    /// The value; - reads it from standard input, byte for byte
    #[arg(allow_hyphen_values = true)]
    pub value: String,
    /// Delete the key after this time
    #[arg(long, value_parser = parse_ttl, value_name = "SPAN")]
    pub ttl: Option<Duration>,
}

/// Parses `linearizable`, `local`, `bounded=SPAN` and `at-least=REVISION`.
pub fn parse_mode(typed: &str) -> Result<ReadMode, String> {
    match typed.split_once('=') {
        None if typed == "linearizable" => Ok(ReadMode::Linearizable),
        None if typed == "local" => Ok(ReadMode::Local),
        Some(("bounded", span)) => parse_span(span).map(ReadMode::Bounded).map_err(|e| e.to_string()),
        Some(("at-least", revision)) => revision
            .parse()
            .map(ReadMode::AtLeast)
            .map_err(|_| "a revision is a number, as in at-least=42".into()),
        _ => Err("use linearizable, local, bounded=SPAN (as in bounded=2s) or at-least=REVISION".into()),
    }
}

/// Undoes [`parse_mode`].
pub fn show_mode(mode: ReadMode) -> String {
    match mode {
        ReadMode::Linearizable => "linearizable".into(),
        ReadMode::Local => "local".into(),
        ReadMode::Bounded(age) => format!("bounded={}ms", age.as_millis()),
        ReadMode::AtLeast(revision) => format!("at-least={revision}"),
    }
}

/// Reads a key.
pub async fn get(context: &mut Context, args: &GetArgs) -> Result<(), Failure> {
    let (partition, key) = (
        context.partition(&args.partition)?,
        context.bytes("key", &args.key)?,
    );
    let options = GetOptions {
        mode: args.read.mode,
        revision: args.read.revision,
    };
    let client = reader(context, &partition, args.read.mode).await?;
    let read = client.get_with(&partition, key.clone(), options).await?;
    let Some(kv) = read.value else {
        let shown = (context.encoding().show(&key), show_text(&partition.name));
        let message = format!(
            "there is no key {:?} in partition {:?} at revision {}",
            shown.0, shown.1, read.revision
        );
        return Err(Failure::new(failure::NOT_FOUND, message));
    };
    if args.raw {
        return Ok(context.out.raw(&kv.value)?);
    }
    if context.out.is_json() {
        let object = kv_json(
            context.encoding(),
            &kv,
            json!({ "revision": read.revision, "age_ms": age_ms(read.age) }),
        );
        return Ok(context.out.json(&object)?);
    }
    print_kvs(&mut context.out, std::slice::from_ref(&kv), false, true)?;
    if !read.age.is_zero() {
        context.note(format!(
            "read at revision {}, {}",
            read.revision,
            show_age(read.age)
        ));
    }
    Ok(())
}

/// Sets a key.
pub async fn put(context: &mut Context, args: &PutArgs) -> Result<(), Failure> {
    let (partition, key) = (
        context.partition(&args.partition)?,
        context.bytes("key", &args.key)?,
    );
    let value = value(context, &args.value)?;
    let options = PutOptions {
        ttl: args.ttl,
        lease: args.lease,
    };
    let reply = context
        .client()?
        .put_with(&partition, key, value, options)
        .await?;
    context.print(
        format!("put, version {}, revision {}", reply.version, reply.revision),
        json!({ "version": reply.version, "revision": reply.revision }),
    )
}

/// Deletes keys.
pub async fn del(context: &mut Context, args: &DelArgs) -> Result<(), Failure> {
    let partition = context.partition(&args.partition)?;
    let reply = if let Some(key) = &args.key {
        let key = context.bytes("key", key)?;
        context.client()?.delete(&partition, key).await?
    } else {
        let (start, end) = match &args.prefix {
            Some(prefix) => {
                let prefix = context.bytes("prefix", prefix)?;
                (prefix.clone(), prefix_end(&prefix))
            }
            None => (
                context.bytes("first key", args.from.as_deref().unwrap_or_default())?,
                context.bytes("end", args.to.as_deref().unwrap_or_default())?,
            ),
        };
        let shown = |bytes| format!("{:?}", context.encoding().show(bytes));
        let up_to = if end.is_empty() {
            "the end".into()
        } else {
            shown(&end)
        };
        let name = show_text(&partition.name);
        context.confirm(&format!(
            "delete the keys from {} to {up_to} of partition {name:?}",
            shown(&start)
        ))?;
        context.client()?.delete_range(&partition, start, end).await?
    };
    let (line, mut object) = changed(format!("deleted {}", reply.deleted), reply.revision);
    object["deleted"] = reply.deleted.into();
    context.print(line, object)
}

/// Reads keys in order.
pub async fn range(context: &mut Context, args: &RangeArgs) -> Result<(), Failure> {
    let partition = context.partition(&args.partition)?;
    let bytes =
        |typed: &Option<String>, what: &str| context.bytes(what, typed.as_deref().unwrap_or_default());
    let range = match &args.prefix {
        Some(_) => RangeOptions::prefix(bytes(&args.prefix, "prefix")?),
        None => RangeOptions::between(bytes(&args.start, "first key")?, bytes(&args.end, "end")?),
    };
    let mut options = RangeOptions {
        reverse: args.reverse,
        keys_only: args.keys_only,
        revision: args.read.revision,
        mode: args.read.mode,
        ..range
    };
    let client = reader(context, &partition, args.read.mode).await?;
    let mut left = if args.all { u32::MAX } else { args.limit };
    let mut first = true;
    while left > 0 {
        options.limit = left.min(PAGE_KEYS);
        let read = client.range(&partition, &options).await?;
        let page = read.value;
        left -= (page.kvs.len() as u32).min(left);
        print_page(context, &page.kvs, args.keys_only, first, read.revision)?;
        if page.continuation.is_empty() {
            return Ok(());
        }
        // It carries the first page's revision: all pages show one state.
        options.continuation = page.continuation;
        first = false;
    }
    context.note("there are more keys: --all shows them, --limit more of them");
    Ok(())
}

fn print_page(
    context: &mut Context,
    kvs: &[KeyValue],
    keys_only: bool,
    first: bool,
    revision: u64,
) -> Result<(), Failure> {
    if !context.out.is_json() {
        print_kvs(&mut context.out, kvs, keys_only, first)?;
    } else {
        for kv in kvs {
            let mut object = kv_json(context.encoding(), kv, json!({ "revision": revision }));
            if keys_only && let Some(object) = object.as_object_mut() {
                object.remove("value");
            }
            context.out.json(&object)?;
        }
    }
    Ok(context.out.flush()?)
}

/// Adds to a number.
pub async fn incr(context: &mut Context, args: &IncrArgs) -> Result<(), Failure> {
    let (partition, key) = (
        context.partition(&args.partition)?,
        context.bytes("key", &args.key)?,
    );
    let reply = context.client()?.increment(&partition, key, args.delta).await?;
    context.print(
        reply.value.to_string(),
        json!({ "value": reply.value, "revision": reply.revision }),
    )
}

/// Appends a value.
pub async fn append(context: &mut Context, args: &AppendArgs) -> Result<(), Failure> {
    let (partition, prefix) = (
        context.partition(&args.partition)?,
        context.bytes("prefix", &args.prefix)?,
    );
    let value = value(context, &args.value)?;
    let client = context.client()?;
    let reply = match args.ttl {
        None => client.append(&partition, prefix.clone(), value).await?,
        Some(ttl) => {
            client
                .append_with_ttl(&partition, prefix.clone(), value, ttl)
                .await?
        }
    };
    let mut key = prefix.to_vec();
    key.extend(reply.seq.to_be_bytes());
    let object = context.object(
        &[("key", &key)],
        json!({ "seq": reply.seq, "revision": reply.revision }),
    );
    let line = format!(
        "appended {} as {}, revision {}",
        reply.seq,
        context.encoding().show(&key),
        reply.revision
    );
    context.print(line, object)
}

/// A value as typed, or standard input for `-`.
fn value(context: &Context, typed: &str) -> Result<bytes::Bytes, Failure> {
    if typed == "-" {
        return Ok(read_stdin(MAX_STDIN_VALUE, "the value")?.into());
    }
    context.bytes("value", typed)
}

/// A replica that has not heard of a leader does not know how old its state is; it says the greatest age there is.
fn is_known(age: Duration) -> bool {
    age < Duration::from_millis(u64::MAX)
}

fn age_ms(age: Duration) -> Option<u64> {
    is_known(age).then_some(age.as_millis() as u64)
}

fn show_age(age: Duration) -> String {
    if is_known(age) {
        format!("up to {} old", show_span(age))
    } else {
        "of unknown age".into()
    }
}

/// A pair as JSON, with `rest` added.
pub fn kv_json(encoding: Encoding, kv: &KeyValue, rest: Value) -> Value {
    let mut fields = json!({ "version": kv.version, "create_rev": kv.create_rev, "mod_rev": kv.mod_rev });
    if kv.lease != 0 {
        fields["lease"] = kv.lease.into();
    }
    if kv.expires_at_ms != 0 {
        fields["expires_at_ms"] = kv.expires_at_ms.into();
    }
    if let (Some(fields), Value::Object(rest)) = (fields.as_object_mut(), rest) {
        fields.extend(rest);
    }
    crate::output::bytes_object(encoding, &[("key", &kv.key), ("value", &kv.value)], fields)
}

/// Pairs as a table.
pub fn print_kvs(out: &mut Output, kvs: &[KeyValue], keys_only: bool, header: bool) -> std::io::Result<()> {
    if kvs.is_empty() && !header {
        return Ok(());
    }
    let expires = kvs.iter().any(|kv| kv.lease != 0 || kv.expires_at_ms != 0);
    let mut names = vec!["KEY", "VALUE", "VERSION", "MOD_REV", "ENDS"];
    if !expires {
        names.pop();
    }
    if keys_only {
        names.remove(1);
    }
    let rows = kvs.iter().map(|kv| {
        let mut row = vec![Field::text(out.encoding.show(&kv.key))];
        if !keys_only {
            row.push(Field::text(out.encoding.show(&kv.value)));
        }
        row.extend([Field::number(kv.version), Field::number(kv.mod_rev)]);
        if expires {
            row.push(Field::text(ends(kv, now_ms())));
        }
        row
    });
    let rows = rows.collect();
    out.table(if header { &names } else { &[] }, rows)
}

/// When a key goes away: with its lease, or after a time.
fn ends(kv: &KeyValue, now_ms: u64) -> String {
    match (kv.lease, kv.expires_at_ms) {
        (0, 0) => "never".into(),
        (0, at) => match at.checked_sub(now_ms) {
            Some(left) => format!("in {}", show_span(Duration::from_millis(left))),
            None => "now".into(),
        },
        (lease, _) => format!("with lease {lease}"),
    }
}

/// Unix milliseconds by this host's clock.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, tests::Page};

    fn kv() -> KeyValue {
        KeyValue {
            key: "k".into(),
            value: "v\n".into(),
            create_rev: 3,
            mod_rev: 7,
            version: 2,
            ..KeyValue::default()
        }
    }

    #[test]
    fn modes_are_parsed_and_shown() {
        for typed in ["linearizable", "local", "bounded=2000ms", "at-least=7"] {
            assert_eq!(show_mode(parse_mode(typed).unwrap()), typed);
        }
        for bad in ["", "bounded", "bounded=2", "at-least=x", "strong"] {
            assert!(parse_mode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_age_that_is_not_known_is_not_shown() {
        let unknown = Duration::from_millis(u64::MAX);
        assert_eq!(
            (age_ms(unknown), &show_age(unknown)[..]),
            (None, "of unknown age")
        );
        let known = Duration::from_millis(1500);
        assert_eq!(
            (age_ms(known), &show_age(known)[..]),
            (Some(1500), "up to 1.5s old")
        );
    }

    #[test]
    fn pairs_are_printed() {
        let page = Page::default();
        let mut out = page.output(Format::Table);
        print_kvs(&mut out, &[kv()], false, true).unwrap();
        print_kvs(&mut out, &[KeyValue { lease: 9, ..kv() }], true, true).unwrap();
        let text = page.text();
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                "KEY  VALUE  VERSION  MOD_REV",
                r"k    v\n          2        7",
                "KEY  VERSION  MOD_REV  ENDS",
                "k          2        7  with lease 9",
            ]
        );
    }

    #[test]
    fn pairs_as_json() {
        assert_eq!(
            kv_json(
                Encoding::Text,
                &KeyValue {
                    expires_at_ms: 5,
                    ..kv()
                },
                json!({ "revision": 8 })
            ),
            json!({
                "key": "k", "value": "v\n", "enc": "utf8", "version": 2, "create_rev": 3, "mod_rev": 7,
                "expires_at_ms": 5, "revision": 8
            })
        );
    }

    #[test]
    fn ends_are_readable() {
        assert_eq!(
            ends(
                &KeyValue {
                    expires_at_ms: 9_500,
                    ..kv()
                },
                8_000
            ),
            "in 1.5s"
        );
        assert_eq!(
            ends(
                &KeyValue {
                    expires_at_ms: 9_500,
                    ..kv()
                },
                9_501
            ),
            "now"
        );
        assert_eq!(ends(&kv(), 1), "never");
    }
}
