//! Follows the changes of a partition. Survives broken connections and changes of leader without gap or duplicate.
//!
//! `cargo run -p kvsvr-client --example watch -- PARTITION 127.0.0.1:7101 [HOST:PORT...]`
#![allow(clippy::print_stdout, reason = "an example")]

use kvsvr_client::{Client, ClientConfig, Partition, WatchItem, WatchOptions, WatchStart};

#[tokio::main]
async fn main() -> kvsvr_client::Result<()> {
    let mut args = std::env::args().skip(1);
    let partition = Partition::local(args.next().unwrap_or_else(|| "alice".to_owned()));
    let client = Client::connect(ClientConfig::new(args)).await?;

    // Everything there is, then what comes.
    let options = WatchOptions::partition(partition).start(WatchStart::After(0));
    let mut watch = client.watch(options).await?;
    loop {
        match watch.next().await? {
            WatchItem::Events(batch) => {
                for event in batch.events {
                    let (key, value) = (event.kv.key.escape_ascii(), event.kv.value.escape_ascii());
                    println!("{} {:?} {key} = {value}", event.revision(), event.kind);
                }
            }
            WatchItem::Compacted { resume_from } => {
                // What came before is gone: read the state anew here, then go on.
                println!("compacted, going on with revision {resume_from}");
                watch.resume_from(resume_from);
            }
            WatchItem::Progress { .. } => {}
        }
    }
}
