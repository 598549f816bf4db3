//! `kvctl watch`: changes as they happen, one line each, until Ctrl-C.

use clap::Args;
use kvsvr_client::{Event, EventKind, WatchItem, WatchOptions, WatchStart};
use serde_json::{Value, json};

use crate::{
    context::Context,
    failure::Failure,
    output::{Mood, Output, bytes_object},
    text::{Encoding, show_text},
};

/// `kvctl watch`.
#[derive(Args, Clone, Debug)]
pub struct WatchArgs {
    /// What to follow
    #[arg(required_unless_present = "shard", conflicts_with = "shard")]
    pub partition: Option<String>,
    /// Follow a whole shard instead; 0 is the meta shard
    #[arg(long, value_name = "N")]
    pub shard: Option<u32>,
    /// Only keys that begin with this
    #[arg(long, conflicts_with = "shard")]
    pub prefix: Option<String>,
    /// Begin with this revision [default: from now on]
    #[arg(long, value_name = "N")]
    pub from_revision: Option<u64>,
    /// Leave the values out
    #[arg(long)]
    pub keys_only: bool,
    /// Stop after so many events; those of one revision stay together
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

/// Follows changes.
pub async fn watch(context: &mut Context, args: &WatchArgs) -> Result<(), Failure> {
    let mut options = match (&args.partition, args.shard) {
        (Some(partition), _) => WatchOptions::partition(context.partition(partition)?),
        (None, shard) => WatchOptions::shard(shard.unwrap_or(0)),
    };
    if let Some(prefix) = &args.prefix {
        options = options.prefix(context.bytes("prefix", prefix)?);
    }
    if let Some(revision) = args.from_revision {
        options = options.start(WatchStart::After(revision.saturating_sub(1)));
    }
    if args.keys_only {
        options = options.without_values();
    }
    let mut stream = context.client()?.watch(options).await?;
    context.note("watching; Ctrl-C ends it");
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let item = tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => return Ok(()),
            item = stream.next() => item?,
        };
        match item {
            WatchItem::Events(batch) => {
                let mut last = 0;
                for event in &batch.events {
                    // Not in the middle of a revision: who goes on after the last one shown would miss the rest of it.
                    if left == 0 && event.revision() != last {
                        break;
                    }
                    last = event.revision();
                    left = left.saturating_sub(1);
                    print(&mut context.out, event, args)?;
                }
                context.out.flush()?;
            }
            WatchItem::Progress { .. } => {}
            WatchItem::Compacted { resume_from } => {
                let message = format!("events before revision {resume_from} have been compacted away");
                let help = format!("read what you follow, then go on with --from-revision {resume_from}");
                return Err(Failure::new("compacted", message).with_help(help));
            }
        }
    }
    Ok(())
}

fn print(out: &mut Output, event: &Event, args: &WatchArgs) -> std::io::Result<()> {
    if out.is_json() {
        let mut object = event_json(out.encoding, event);
        if args.keys_only
            && let Some(object) = object.as_object_mut()
        {
            object.remove("value");
        }
        return out.json(&object);
    }
    let (name, mood) = match event.kind {
        EventKind::Put => ("PUT   ", Mood::Good),
        EventKind::Delete => ("DELETE", Mood::Warn),
        EventKind::Expire => ("EXPIRE", Mood::Warn),
    };
    let partition = match args.partition {
        Some(_) => String::new(),
        None => format!("{} ", show_partition(event)),
    };
    let value = match event.kind {
        EventKind::Put if !args.keys_only => format!(" = {}", out.encoding.show(&event.kv.value)),
        _ => String::new(),
    };
    let line = format!(
        "{} {} {partition}{}{value}",
        event.revision(),
        out.paint(name, mood),
        out.encoding.show(&event.kv.key)
    );
    out.line(line)
}

fn show_partition(event: &Event) -> String {
    let name = show_text(&event.partition.name);
    if event.partition.region == 0 {
        name
    } else {
        format!("{}:{name}", event.partition.region)
    }
}

fn event_json(encoding: Encoding, event: &Event) -> Value {
    let kind = match event.kind {
        EventKind::Put => "put",
        EventKind::Delete => "delete",
        EventKind::Expire => "expire",
    };
    let mut rest = json!({ "revision": event.revision(), "kind": kind, "region": event.partition.region });
    let mut bytes: Vec<(&str, &[u8])> = vec![("partition", &event.partition.name), ("key", &event.kv.key)];
    if event.kind == EventKind::Put {
        bytes.push(("value", &event.kv.value));
        rest["version"] = event.kv.version.into();
        rest["create_rev"] = event.kv.create_rev.into();
    }
    bytes_object(encoding, &bytes, rest)
}

#[cfg(test)]
mod tests {
    use kvsvr_client::{KeyValue, Partition};

    use super::*;
    use crate::{
        cli::{Command, tests::parse},
        output::{Format, tests::Page},
    };

    fn event(kind: EventKind) -> Event {
        let kv = KeyValue {
            key: "k".into(),
            value: "v".into(),
            mod_rev: 7,
            version: 2,
            ..KeyValue::default()
        };
        Event {
            kind,
            partition: Partition::new(3, "p"),
            kv,
        }
    }

    fn printed(line: &str, format: Format, kind: EventKind) -> String {
        let Command::Watch(args) = parse(line).command else {
            panic!("{line}")
        };
        let page = Page::default();
        print(&mut page.output(format), &event(kind), &args).unwrap();
        page.text()
    }

    #[test]
    fn events_are_lines() {
        assert_eq!(
            printed("watch p", Format::Table, EventKind::Put),
            "7 PUT    k = v\n"
        );
        assert_eq!(
            printed("watch p --keys-only", Format::Table, EventKind::Put),
            "7 PUT    k\n"
        );
        assert_eq!(
            printed("watch --shard 1", Format::Table, EventKind::Expire),
            "7 EXPIRE 3:p k\n"
        );
    }

    #[test]
    fn events_as_json_lines() {
        let json = |kind| -> Value { serde_json::from_str(&printed("watch p", Format::Json, kind)).unwrap() };
        assert_eq!(
            json(EventKind::Put),
            json!({
                "revision": 7, "kind": "put", "region": 3, "partition": "p", "key": "k", "value": "v", "enc": "utf8",
                "version": 2, "create_rev": 0
            })
        );
        assert_eq!(
            json(EventKind::Delete),
            json!({ "revision": 7, "kind": "delete", "region": 3, "partition": "p", "key": "k", "enc": "utf8" })
        );
    }
}
