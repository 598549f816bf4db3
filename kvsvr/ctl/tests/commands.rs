//! Commands from their arguments to their output, against a cluster in memory.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod fake;

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use clap::Parser as _;
use fake::{ADDRESS, Fake};
use kvctl::{
    backup_file::Writer,
    cli::{Cli, execute},
    context::Context,
    failure::{Exit, Failure},
    output::Output,
};
use kvsvr_client::{Client, ClientConfig, proto};
use serde_json::{Value, json};

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Shell {
    fake: Fake,
    client: Client,
}

impl Shell {
    fn new() -> Self {
        let fake = Fake::default();
        let config = ClientConfig {
            sessions: false,
            ..ClientConfig::new([ADDRESS])
        };
        let client = Client::with_transport(Arc::new(fake.clone()), config).unwrap();
        Self { fake, client }
    }

    /// Runs a command; words are separated by spaces.
    async fn try_run(&self, line: &str) -> (String, Result<(), Failure>) {
        let cli = Cli::try_parse_from(["kvctl"].into_iter().chain(line.split(' '))).unwrap();
        let page = Page::default();
        let out = Output::new(page.clone(), cli.global.output, cli.global.encoding());
        let mut context = Context::with_client(cli.global, out, self.client.clone());
        let result = Box::pin(execute(&mut context, cli.command)).await;
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        (text, result)
    }

    async fn run(&self, line: &str) -> String {
        let (text, result) = self.try_run(line).await;
        result.unwrap_or_else(|failure| panic!("{line}: {failure}"));
        text
    }

    async fn json(&self, line: &str) -> Vec<Value> {
        let text = self.run(&format!("{line} -o json")).await;
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    async fn fails(&self, line: &str) -> Failure {
        self.try_run(line).await.1.expect_err(line)
    }
}

#[tokio::test]
async fn keys_are_written_read_and_deleted() {
    let shell = Shell::new();
    assert_eq!(shell.run("put p k v1").await, "put, version 1, revision 1\n");
    assert_eq!(shell.run(r"put p k a\nb").await, "put, version 2, revision 2\n");
    assert_eq!(
        shell.run("get p k").await,
        "KEY  VALUE  VERSION  MOD_REV\nk    a\\nb         2        2\n"
    );
    assert_eq!(shell.run("get p k --raw").await, "a\nb");
    let got = shell.json("get p k").await;
    assert_eq!(
        (&got[0]["value"], &got[0]["version"]),
        (&json!("a\nb"), &json!(2))
    );
    assert_eq!(
        shell.run("get p 6b --hex").await.lines().nth(1),
        Some("6b   610a62        2        2")
    );

    let failure = shell.fails("get p nothing").await;
    assert_eq!((&failure.code[..], failure.exit), ("not_found", Exit::Error));
    assert_eq!(shell.run("del p k").await, "deleted 1, revision 3\n");
    assert_eq!(shell.run("del p k").await, "deleted 0, revision 4\n");
    assert_eq!(shell.run("incr p n").await, "1\n");
    assert_eq!(shell.run("incr p n -5").await, "-4\n");
}

#[tokio::test]
async fn a_read_of_what_a_node_has_goes_to_the_node_that_was_named() {
    let shell = Shell::new();
    shell.fake.replicas(|replicas| replicas.nodes = 3);
    shell.run("put p k v").await;
    for (line, at) in [
        ("get p k --mode local --endpoints node3:1", "node3:1"),
        ("get p k --mode bounded=1s --endpoints node2:1", "node2:1"),
        ("range p --mode local --endpoints node3:1", "node3:1"),
        // The leader knows best, and is asked when nobody was named, or more than one.
        ("get p k --endpoints node3:1", ADDRESS),
        ("get p k --mode local", ADDRESS),
        ("get p k --mode local --endpoints node2:1,node3:1", ADDRESS),
    ] {
        shell.run(line).await;
        assert_eq!(shell.fake.read_at(), [at], "{line}");
    }
    shell.fake.replicas(|replicas| replicas.nodes = 2);
    let failure = shell.fails("get p k --mode local --endpoints node3:1").await;
    assert_eq!(&failure.code[..], "unreachable");
}

#[tokio::test]
async fn ranges_go_over_pages() {
    let shell = Shell::new();
    for n in 0..2_345 {
        shell
            .client
            .put(&"p".into(), format!("k{n:04}"), n.to_string())
            .await
            .unwrap();
    }
    let all = shell.json("range p --all").await;
    let values: Vec<String> = all
        .iter()
        .map(|kv| kv["value"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(values, (0..2_345).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(shell.json("range p").await.len(), 100);
    assert_eq!(shell.json("range p --limit 1001").await.len(), 1001);
    let last = shell.json("range p --reverse --limit 2 --keys-only").await;
    assert_eq!(
        (&last[0]["key"], &last[1]["key"]),
        (&json!("k2344"), &json!("k2343"))
    );
    assert_eq!(last[0].get("value"), None);
    assert_eq!(shell.json("range p k0010 k0013").await.len(), 3);
    assert_eq!(shell.json("range p --prefix k23").await.len(), 45);
    assert_eq!(shell.json("range other").await.len(), 0);

    assert_eq!(shell.fails("del p --prefix k23").await.exit, Exit::Refused);
    assert!(
        shell
            .run("del p --prefix k23 --yes")
            .await
            .starts_with("deleted 45,")
    );
    assert!(
        shell
            .run("del p --from k2 --yes")
            .await
            .starts_with("deleted 300,")
    );
    assert_eq!(shell.json("range p --all").await.len(), 2_000);
}

#[tokio::test]
async fn scripts_run() {
    let shell = Shell::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock.txn");
    std::fs::write(
        &path,
        "if not exists(lock)\nput lock me ttl 30s\nelse\nget lock\n",
    )
    .unwrap();
    let line = format!("txn p {}", path.display());
    assert_eq!(
        shell.run(&line).await,
        "then ran, revision 1\nOP  RESULT\n 1  put, version 1\n"
    );
    let again = shell.json(&line).await;
    assert_eq!(again[0]["succeeded"], false);
    assert_eq!(again[0]["results"][0]["get"]["value"], "me");
    assert_eq!(
        &shell.fails(&format!("{line} --require")).await.code[..],
        "compare_failed"
    );

    std::fs::write(&path, "put lock\n").unwrap();
    let failure = shell.fails(&line).await;
    assert!(failure.message.contains("line 1, column 9"), "{failure}");
}

#[tokio::test]
async fn what_is_exported_is_imported() {
    let shell = Shell::new();
    let folder = tempfile::tempdir().unwrap();
    let (source, copy) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    let (source, copy) = (source.display(), copy.display());
    let mut text = String::new();
    for n in 0..3_000 {
        text += &format!(
            "{{\"partition\":\"p{}\",\"key\":\"k{n}\",\"value\":\"v{n}\"}}\n",
            n % 7
        );
    }
    text += "\n{\"partition\":\"p0\",\"key\":\"AP8=\",\"value\":\"/w==\",\"enc\":\"base64\"}\n";
    std::fs::write(source.to_string(), text.replace("\"AP8=\"", "\"/w==\"")).unwrap();
    let failure = shell.fails(&format!("import {source} --in-flight 16")).await;
    assert!(
        failure.message.contains("1 lines were bad"),
        "\"p0\" is no base64: {failure}"
    );
    std::fs::write(
        source.to_string(),
        text.replace("\"p0\",\"key\":\"AP8=\"", "\"cDA=\",\"key\":\"AP8=\""),
    )
    .unwrap();
    let counts = shell.json(&format!("import {source} --if-absent")).await;
    assert_eq!(
        (&counts[0]["written"], &counts[0]["kept"], &counts[0]["lines"]),
        (&json!(1), &json!(3000), &json!(3002))
    );

    let exported = shell.run(&format!("export {copy} --all --mode local")).await;
    assert_eq!(exported, "7 partitions, 3001 pairs, 0 left out (leased)\n");
    let other = Shell::new();
    let imported = other.json(&format!("import {copy}")).await;
    assert_eq!(
        (&imported[0]["written"], &imported[0]["bad"]),
        (&json!(3001), &json!(0))
    );
    for partition in 0..7 {
        let line = format!("range p{partition} --all --hex");
        let strip = |kvs: Vec<Value>| -> Vec<(Value, Value)> {
            kvs.iter()
                .map(|kv| (kv["key"].clone(), kv["value"].clone()))
                .collect()
        };
        assert_eq!(
            strip(shell.json(&line).await),
            strip(other.json(&line).await),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_stopped_import_says_where_to_go_on() {
    let shell = Shell::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.jsonl");
    std::fs::write(
        &path,
        "{\"key\":\"a\",\"value\":\"1\"}\n{\"key\":\"b\",\"value\":\"2\"}\n",
    )
    .unwrap();
    let line = format!("import {} --partition p", path.display());
    shell.fake.set_broken(true);
    let client = shell.client.with_timeout(std::time::Duration::from_millis(50));
    let failure = Shell {
        fake: shell.fake.clone(),
        client,
    }
    .fails(&line)
    .await;
    assert!(
        failure
            .help
            .as_deref()
            .is_some_and(|help| help.ends_with("--skip 0")),
        "{failure:?}"
    );
    shell.fake.set_broken(false);
    let counts = shell.json(&format!("{line} --skip 1")).await;
    assert_eq!(
        (&counts[0]["lines"], &counts[0]["written"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(shell.json("range p").await.len(), 1);
}

#[tokio::test]
async fn an_export_of_a_compacted_shard_must_be_accepted() {
    let shell = Shell::new();
    shell.run("put old k v").await;
    shell.run("put new k v").await;
    shell.fake.compact(1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.jsonl");
    let line = format!("export {} --shard 1", path.display());
    let failure = shell.fails(&line).await;
    assert_eq!(failure.exit, Exit::Refused);
    assert!(!path.exists());
    assert_eq!(
        shell.run(&format!("{line} --partial")).await,
        "1 partitions, 1 pairs, 0 left out (leased)\n"
    );
    let line = format!(
        "export {} --partition old --partition new --partition new",
        path.display()
    );
    assert_eq!(
        shell.run(&line).await,
        "2 partitions, 2 pairs, 0 left out (leased)\n"
    );
}

#[tokio::test]
async fn changes_are_followed() {
    let shell = Shell::new();
    shell.run("put p a 1").await;
    shell.run("put q a 2").await;
    shell.run("put p b 3").await;
    assert_eq!(
        shell.run("watch p --from-revision 1 --count 2").await,
        "1 PUT    a = 1\n3 PUT    b = 3\n"
    );
    // More events come in one message than are wanted.
    assert_eq!(
        shell.run("watch p --from-revision 1 --count 1").await,
        "1 PUT    a = 1\n"
    );
    assert_eq!(
        shell.run("watch p --prefix b --from-revision 1 --count 1").await,
        "3 PUT    b = 3\n"
    );
    assert_eq!(
        shell.run("watch --shard 1 --from-revision 2 --count 2").await,
        "2 PUT    q a = 2\n3 PUT    p b = 3\n"
    );
    shell.fake.compact(2);
    let failure = shell.fails("watch p --from-revision 1").await;
    assert_eq!(&failure.code[..], "compacted");
    assert!(failure.help.unwrap().ends_with("--from-revision 3"));
}

#[tokio::test]
async fn the_cluster_is_shown() {
    let shell = Shell::new();
    shell.run("put p a 1").await;
    let status = shell.run("cluster status").await;
    for part in [
        "cluster fake (fake)",
        "node:1",
        "0 (meta)",
        "0-4095",
        "all is well",
    ] {
        assert!(status.contains(part), "{part} is missing in\n{status}");
    }
    assert_eq!(shell.json("cluster status").await[0]["shards"][1]["revision"], 1);
    assert_eq!(
        shell.run("cluster health --wait").await,
        "healthy: 1 of 1 node, 2 shards with a leader each\n"
    );
    let top = shell.run("top --once --interval 100ms").await;
    for part in [
        "1 of 1 node up",
        "can lose 0 more nodes",
        "node:1",
        "0 (meta)",
        "all is well",
    ] {
        assert!(top.contains(part), "{part} is missing in\n{top}");
    }
    let json = shell.json("top --once --interval 100ms").await;
    assert_eq!(
        (json.len(), &json[0]["shards"][1]["writes_per_s"]),
        (1, &0.0.into())
    );
    assert_eq!(shell.json("leader show").await[0]["leaders"][0]["leader"], 1);
    assert_eq!(&shell.fails("leader transfer 9").await.code[..], "not_found");
    assert_eq!(
        shell.run("leader transfer 1 --to 1").await,
        "shard 1: node 1 leads already\n"
    );
    assert_eq!(shell.fails("compact --all --keep 0").await.exit, Exit::Refused);
    assert_eq!(
        shell.json("compact --all --keep 0 --yes").await[0]["floors"],
        json!({ "1": 1 })
    );
}

#[tokio::test]
async fn a_benchmark_of_the_client_library_runs() {
    let shell = Shell::new();
    let target =
        kvctl::bench::target_kvsvr::KvsvrTarget::new(vec![shell.client.clone()], 0, Default::default());
    let line = "kvctl bench mixed --clients 8 --keys 100 --partitions 5 --load --duration 50ms --warmup 0s";
    let Cli {
        command: kvctl::cli::Command::Bench(args),
        ..
    } = Cli::try_parse_from(line.split(' ')).unwrap()
    else {
        panic!("not bench");
    };
    let report = kvctl::bench::measure(target, &args).await.unwrap();
    assert!(
        report.measured.latency.ops > 0 && report.measured.errors == 0,
        "{report:?}"
    );
    assert_eq!((report.measured.misses, report.target), (0, "kvsvr"));
}

#[tokio::test]
async fn members_change_by_operations() {
    let shell = Shell::new();
    assert_eq!(
        shell.run("member list").await,
        "NODE  ADDRESS  STATE  REPLICAS  SHOULD LEAD  LABELS  STORE\n   1  node:1   up            1            1          5107e\n"
    );
    assert_eq!(
        shell.run("member add n2:1 --dry-run").await,
        "  1  first\n  2  second\n"
    );
    assert_eq!(
        shell.json("member add n2:1 --dry-run").await,
        [json!({"dry_run": true, "plan": ["first", "second"]})]
    );
    assert_eq!(
        shell.run("ops list").await,
        "OP  WHAT  STATE  STEPS  TIME  WHO\n",
        "nothing has begun"
    );
    assert_eq!(
        shell.run("member add n2:1").await,
        "operation 1 (add node 2) is done, 2 steps in 2.0s\n"
    );
    let done = shell.json("drain node:1").await;
    assert_eq!(
        (&done[0]["id"], &done[0]["node"], &done[0]["state"]),
        (&json!("2"), &json!("1"), &json!("done"))
    );
    assert_eq!(
        shell.run("ops show").await,
        "operation 2 (drain node 1) is done, 2 steps in 2.0s\n      1.0s  shard 1: change the voters to 2\n"
    );
    let failure = shell.fails("member remove 1 --yes").await;
    assert_eq!((&failure.code[..], failure.exit), ("refused", Exit::Refused));
    assert!(failure.message.contains("without node 1"), "{failure}");
    // A plan needs no confirmation, the rest does.
    assert_eq!(shell.fails("member remove 1").await.exit, Exit::Refused);
    assert_eq!(
        shell.fails("member remove 1 --dry-run").await.message,
        failure.message
    );
    assert_eq!(shell.fails("drain n7:1").await.code, "not_found");
    assert_eq!(shell.fails("ops show 9").await.code, "not_found");
}

/// A cluster of so many nodes, in which these replicas hold something else, or cannot read what they have.
fn with_odd(nodes: u64, odd: &[(u32, u64, Option<u64>)]) -> Shell {
    let shell = Shell::new();
    shell.fake.replicas(|replicas| {
        replicas.nodes = nodes;
        replicas.others = odd
            .iter()
            .map(|(shard, node, hash)| ((*shard, *node), *hash))
            .collect();
    });
    shell
}

#[tokio::test]
async fn an_odd_replica_is_named_and_made_anew() {
    let shell = with_odd(3, &[(1, 2, Some(7))]);
    let (text, result) = shell.try_run("verify").await;
    assert!(text.contains("node 2 DIFFERS from the others"), "{text}");
    let failure = result.unwrap_err();
    assert_eq!((&failure.code[..], failure.exit), ("diverged", Exit::Error));
    assert!(failure.help.unwrap().contains("kvctl verify --repair"));

    let (_, result) = shell.try_run("verify --repair").await;
    let failure = result.unwrap_err();
    assert_eq!(failure.exit, Exit::Refused);
    assert!(
        failure
            .message
            .contains("destroy the replica of shard 1 on node 2"),
        "{failure}"
    );
    assert!(
        shell.fails("verify 1").await.code == "diverged",
        "nothing was done"
    );

    let text = shell.run("verify --repair --yes").await;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[2].contains("node 2 DIFFERS"), "{text}");
    assert_eq!(
        lines[3],
        "operation 1 (reseed shard 1 on node 2) is done, 2 steps in 2.0s"
    );
    assert!(lines[5].ends_with("3 of 3 equal"), "{text}");
    shell.run("verify").await;
    assert_eq!(
        shell.run("verify --repair").await.lines().count(),
        3,
        "nothing is odd"
    );
}

#[tokio::test]
async fn a_repair_is_told_as_json() {
    let shell = with_odd(3, &[(0, 3, Some(7)), (1, 1, Some(8))]);
    let told = shell.json("verify --repair --yes").await;
    assert_eq!(told.len(), 5);
    assert_eq!(told[0]["shards"][1]["nodes"], json!(["1"]));
    assert_eq!(
        (&told[1]["what"], &told[1]["shard"], &told[1]["node"]),
        (&json!("reseed shard 0 on node 3"), &json!(0), &json!("3"))
    );
    assert_eq!(told[2]["shards"][0]["ruling"], "equal");
    assert_eq!(told[3]["shard"], 1);
    assert_eq!(told[4]["shards"][0]["ruling"], "equal");
    let added = shell.json("drain 1").await;
    assert_eq!(added[0]["shard"], Value::Null);
}

/// The copy comes from the leader.
#[tokio::test]
async fn one_of_the_good_replicas_leads_while_several_are_made_anew() {
    let shell = with_odd(5, &[(1, 1, Some(7)), (1, 2, Some(7))]);
    let text = shell.run("verify 1 --repair --yes").await;
    assert!(text.contains("shard 1: node 3 leads\n"), "{text}");
    assert!(text.ends_with("5 of 5 equal\n"), "{text}");
    assert_eq!(text.matches("is done").count(), 2, "{text}");
}

#[tokio::test]
async fn what_has_no_majority_is_not_repaired() {
    let shell = with_odd(3, &[(1, 2, Some(7)), (1, 3, Some(8))]);
    let failure = shell.fails("verify --repair --yes").await;
    assert_eq!((&failure.code[..], failure.exit), ("diverged", Exit::Error));
    assert!(failure.help.unwrap().contains("kvctl shard reseed"));
    let shell = with_odd(3, &[(1, 2, None)]);
    let failure = shell.fails("verify --repair --yes").await;
    assert_eq!((&failure.code[..], failure.exit), ("incomplete", Exit::Error));
    assert!(
        failure.message.contains("node 2: a block is damaged"),
        "{failure}"
    );
    assert!(failure.help.unwrap().contains("nothing is repaired"));
    assert_eq!(
        shell.run("ops list").await.lines().count(),
        1,
        "nothing was begun"
    );
}

#[tokio::test]
async fn a_replica_is_made_anew_by_name() {
    let shell = with_odd(3, &[(1, 1, Some(7))]);
    assert_eq!(shell.fails("shard reseed 1 1").await.exit, Exit::Refused);
    assert_eq!(
        shell.run("shard reseed 1 1 --dry-run").await,
        "  1  first\n  2  second\n"
    );
    assert_eq!(shell.fails("verify 1").await.code, "diverged");
    assert_eq!(
        shell.run("shard reseed 1 node:1 --yes").await,
        "operation 1 (reseed shard 1 on node 1) is done, 2 steps in 2.0s\n"
    );
    shell.run("verify 1").await;
    let failure = Shell::new().fails("shard reseed 1 1 --yes").await;
    assert_eq!((&failure.code[..], failure.exit), ("refused", Exit::Refused));
}

#[tokio::test]
async fn a_backup_whose_shards_overlap_is_neither_sound_nor_restored() {
    let shell = Shell::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("b.kvsvr");
    let shard = |id, first_slot, last_slot| proto::ShardInfo {
        id,
        first_slot,
        last_slot,
        ..proto::ShardInfo::default()
    };
    let header = proto::BackupHeader {
        shards: vec![shard(1, 0, 2048), shard(2, 2048, 4095)],
        ..proto::BackupHeader::default()
    };
    let out = std::fs::File::create(&file).unwrap();
    let writer = Writer::new(out, header).unwrap();
    writer.finish(proto::BackupEnd::default()).unwrap();
    let file = file.display();
    for line in [
        format!("snapshot verify {file}"),
        // Nobody listens there: it does not come to that.
        format!("snapshot restore {file} --nodes 127.0.0.1:1"),
    ] {
        let failure = shell.fails(&line).await;
        assert_eq!(
            (&failure.code[..], failure.exit),
            ("damaged", Exit::Error),
            "{line}"
        );
        let what = "its shards contradict each other: shards 1 and 2 both have slot 2048";
        assert!(failure.message.contains(what), "{line}: {}", failure.message);
    }
}
