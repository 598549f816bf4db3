//! `kvctl txn`: runs a script of [`txn_syntax`].

use clap::Args;
use kvsvr_client::{OpReply, ReadMode, TxnReply};
use serde_json::{Value, json};

use crate::{
    context::{Context, read_file},
    data,
    failure::{self, Failure},
    limits::MAX_SCRIPT,
    named::reader,
    output::{Field, Output},
    text::Encoding,
    txn_syntax,
};

/// `kvctl txn`.
#[derive(Args, Clone, Debug)]
pub struct TxnArgs {
    /// What all keys belong to
    pub partition: String,
    /// The script; - is standard input
    #[arg(default_value = "-")]
    pub file: String,
    /// Exit with 1 if the conditions do not hold
    #[arg(long)]
    pub require: bool,
    /// For scripts that only read: how fresh, see `kvctl get --help`
    #[arg(long, default_value = "linearizable", value_parser = data::parse_mode, value_name = "MODE")]
    pub mode: ReadMode,
}

/// Runs a transaction.
pub async fn txn(context: &mut Context, args: &TxnArgs) -> Result<(), Failure> {
    let partition = context.partition(&args.partition)?;
    let script = read_file(&args.file, MAX_SCRIPT, "the script")?;
    let name = if args.file == "-" {
        "standard input"
    } else {
        &args.file
    };
    let script = String::from_utf8(script)
        .map_err(|_| Failure::invalid("the script is not UTF-8; write other bytes as \\xNN").at(name))?;
    let txn = txn_syntax::parse(&script).map_err(|error| {
        let failure = Failure::from(error.clone());
        Failure {
            message: error.with_source(&script),
            ..failure
        }
        .at(name)
    })?;
    let reply = if txn.is_read_only() {
        let client = reader(context, &partition, args.mode).await?;
        client.txn_read(&partition, txn, args.mode).await?.value
    } else if args.mode != ReadMode::Linearizable {
        return Err(Failure::invalid("--mode goes with scripts that only read"));
    } else {
        context.client()?.txn(&partition, txn).await?
    };
    print(&mut context.out, &reply)?;
    if args.require && !reply.succeeded {
        return Err(Failure::new(
            failure::COMPARE_FAILED,
            "the conditions do not hold; `else` ran",
        ));
    }
    Ok(())
}

fn print(out: &mut Output, reply: &TxnReply) -> std::io::Result<()> {
    if out.is_json() {
        let results: Vec<Value> = reply.results.iter().map(|r| op_json(out.encoding, r)).collect();
        return out.json(&json!({
            "succeeded": reply.succeeded, "revision": reply.revision, "results": results
        }));
    }
    let branch = if reply.succeeded { "then" } else { "else" };
    out.line(format!("{branch} ran, revision {}", reply.revision))?;
    if reply.results.is_empty() {
        return Ok(());
    }
    let rows = reply.results.iter().enumerate().map(|(index, result)| {
        vec![
            Field::number(index + 1),
            Field::text(op_text(out.encoding, result)),
        ]
    });
    let rows = rows.collect();
    out.table(&["OP", "RESULT"], rows)
}

fn op_text(encoding: Encoding, result: &OpReply) -> String {
    match result {
        OpReply::Get(None) => "no such key".into(),
        OpReply::Get(Some(kv)) => format!(
            "{} = {} (version {}, mod_rev {})",
            encoding.show(&kv.key),
            encoding.show(&kv.value),
            kv.version,
            kv.mod_rev
        ),
        OpReply::Range(page) => {
            let mut lines: Vec<String> = page
                .kvs
                .iter()
                .map(|kv| format!("{} = {}", encoding.show(&kv.key), encoding.show(&kv.value)))
                .collect();
            if !page.continuation.is_empty() {
                lines.push("... and more".into());
            }
            if lines.is_empty() {
                "no keys".into()
            } else {
                lines.join("\n")
            }
        }
        OpReply::Put { version } => format!("put, version {version}"),
        OpReply::Delete { deleted } => format!("deleted {deleted}"),
        OpReply::Increment { value } => format!("number {value}"),
        OpReply::Append { seq } => format!("appended as {seq}"),
    }
}

fn op_json(encoding: Encoding, result: &OpReply) -> Value {
    match result {
        OpReply::Get(kv) => json!({ "get": kv.as_ref().map(|kv| data::kv_json(encoding, kv, json!({}))) }),
        OpReply::Range(page) => {
            let kvs: Vec<Value> = page
                .kvs
                .iter()
                .map(|kv| data::kv_json(encoding, kv, json!({})))
                .collect();
            json!({ "range": { "kvs": kvs, "more": !page.continuation.is_empty() } })
        }
        OpReply::Put { version } => json!({ "put": { "version": version } }),
        OpReply::Delete { deleted } => json!({ "delete": { "deleted": deleted } }),
        OpReply::Increment { value } => json!({ "incr": { "value": value } }),
        OpReply::Append { seq } => json!({ "append": { "seq": seq } }),
    }
}

#[cfg(test)]
mod tests {
    use kvsvr_client::{KeyValue, Page};

    use super::*;
    use crate::output::{Format, tests::Page as Paper};

    fn reply() -> TxnReply {
        let kv = KeyValue {
            key: "k".into(),
            value: "v".into(),
            version: 1,
            mod_rev: 4,
            ..KeyValue::default()
        };
        let page = Page {
            kvs: vec![kv.clone(), kv.clone()],
            continuation: "c".into(),
        };
        let results = vec![
            OpReply::Get(None),
            OpReply::Get(Some(kv)),
            OpReply::Range(page),
            OpReply::Range(Page::default()),
            OpReply::Put { version: 2 },
            OpReply::Delete { deleted: 3 },
            OpReply::Increment { value: -4 },
            OpReply::Append { seq: 5 },
        ];
        TxnReply {
            revision: 9,
            succeeded: false,
            results,
        }
    }

    #[test]
    fn replies_are_printed() {
        let paper = Paper::default();
        print(&mut paper.output(Format::Table), &reply()).unwrap();
        let text: Vec<String> = paper.text().lines().map(|l| l.trim().to_owned()).collect();
        assert_eq!(
            text,
            [
                "else ran, revision 9",
                "OP  RESULT",
                "1  no such key",
                "2  k = v (version 1, mod_rev 4)",
                "3  k = v",
                "k = v",
                "... and more",
                "4  no keys",
                "5  put, version 2",
                "6  deleted 3",
                "7  number -4",
                "8  appended as 5",
            ]
        );
    }

    #[test]
    fn replies_as_json() {
        let paper = Paper::default();
        print(&mut paper.output(Format::Json), &reply()).unwrap();
        let json: Value = serde_json::from_str(&paper.text()).unwrap();
        assert_eq!(
            (&json["succeeded"], &json["revision"]),
            (&json!(false), &json!(9))
        );
        assert_eq!(json["results"][0], json!({ "get": null }));
        assert_eq!(json["results"][1]["get"]["value"], "v");
        assert_eq!(json["results"][2]["range"]["more"], true);
        assert_eq!(json["results"][7], json!({ "append": { "seq": 5 } }));
    }
}
