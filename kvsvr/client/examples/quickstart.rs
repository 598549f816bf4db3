//! Put, get, a transaction and an append.
//!
//! `cargo run -p kvsvr-client --example quickstart -- 127.0.0.1:7101 [HOST:PORT...]`
#![allow(clippy::print_stdout, reason = "an example")]

use kvsvr_client::{Client, ClientConfig, Compare, Op, Partition, RangeOptions, ReadMode, Txn};
use tokio::time::Duration;

#[tokio::main]
async fn main() -> kvsvr_client::Result<()> {
    // Any nodes of the cluster; the others are learnt from them.
    let client = Client::connect(ClientConfig::new(std::env::args().skip(1))).await?;

    // What is in one partition is ordered, and can be changed together.
    let alice = Partition::local("alice");
    let put = client.put(&alice, "city", "Lisbon").await?;
    println!("put: version {} at revision {}", put.version, put.revision);

    // Linearizable: sees every write that was acknowledged before.
    let city = client.get(&alice, "city").await?;
    println!(
        "get: {:?} at revision {}",
        city.value.map(|kv| kv.value),
        city.revision
    );

    // May be answered by any replica, also while there is no leader; says how old it is.
    let city = client
        .get_with(&alice, "city", ReadMode::Bounded(Duration::from_secs(5)))
        .await?;
    println!("bounded get: at most {:?} old", city.age);

    // Claims a name, if nobody has it.
    let names = Partition::local("names");
    let claim = Txn::new()
        .when(Compare::absent("alice"))
        .then(Op::put("alice", "user 1"))
        .or_else(Op::get("alice"));
    let reply = client.txn(&names, claim).await?;
    println!("claim: {}", if reply.succeeded { "done" } else { "taken" });

    // Appended values get the numbers 1, 2, 3, ... under their prefix.
    for text in ["hello", "how are you?"] {
        let appended = client.append(&alice, "inbox/", text).await?;
        println!("appended {text:?} as number {}", appended.seq);
    }
    let inbox = client
        .range(&alice, &RangeOptions::prefix("inbox/").reverse().limit(2))
        .await?;
    println!(
        "the inbox ends with {} entries, read at revision {}",
        inbox.value.kvs.len(),
        inbox.revision
    );

    // A failed call says whether it may have taken effect. Certain failures did not happen and will not.
    match client.increment(&alice, "city", 1).await {
        Ok(reply) => println!("incremented to {}", reply.value),
        Err(error) if error.is_unknown() => println!("may have happened: {error}"),
        Err(error) => println!("did not happen: {error}"),
    }
    Ok(())
}
