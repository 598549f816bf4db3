//! Works off the changes of a shard, each at least once, also across restarts of this program. Start it twice: the second takes over
//! and the first is fenced.
//!
//! `cargo run -p kvsvr-client --example consumer -- SHARD NAME 127.0.0.1:7101 [HOST:PORT...]`
#![allow(clippy::print_stdout, reason = "an example")]

use kvsvr_client::{Client, ClientConfig, Code, ConsumerStart};

#[tokio::main]
async fn main() -> kvsvr_client::Result<()> {
    let mut args = std::env::args().skip(1);
    let shard = args.next().and_then(|a| a.parse().ok()).unwrap_or(1);
    let name = args.next().unwrap_or_else(|| "example".to_owned());
    let client = Client::connect(ClientConfig::new(args)).await?;

    let mut consumer = client.consumer_open(shard, &name, ConsumerStart::At(1)).await?;
    println!(
        "owner with epoch {}, done up to revision {}",
        consumer.epoch(),
        consumer.cursor()
    );
    loop {
        let batch = match consumer.next().await {
            Ok(batch) => batch,
            Err(error) if error.code == Code::Fenced => {
                println!("another owner has taken over");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for event in &batch.events {
            println!(
                "{} {} {}",
                event.revision(),
                event.partition,
                event.kv.key.escape_ascii()
            );
        }
        // After the work: what is not acknowledged is delivered again to the next owner.
        consumer.ack(batch.revision).await?;
    }
}
