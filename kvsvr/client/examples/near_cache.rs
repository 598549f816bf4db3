//! Reads a key many times from the client's memory, with a bound on its age.
//!
//! `cargo run -p kvsvr-client --example near_cache -- 127.0.0.1:7101 [HOST:PORT...]`
#![allow(clippy::print_stdout, reason = "an example")]

use kvsvr_client::{CachedGet, Client, ClientConfig, NearCacheOptions, Partition};
use tokio::time::{Duration, Instant};

#[tokio::main]
async fn main() -> kvsvr_client::Result<()> {
    let client = Client::connect(ClientConfig::new(std::env::args().skip(1))).await?;
    let settings = Partition::local("settings");
    client.put(&settings, "colour", "blue").await?;

    let options = NearCacheOptions::new(settings.clone()).max_age(Duration::from_millis(200));
    let cache = client.near_cache(options).await?;
    let end = Instant::now() + Duration::from_secs(2);
    let mut last = None;
    while Instant::now() < end {
        last = Some(cache.get("colour").await?);
    }
    if let Some(read) = last {
        // Every write acknowledged longer ago than `age` is visible in the value.
        println!(
            "revision {}, at most {:?} old, from memory: {}",
            read.revision, read.age, read.hit
        );
    }
    let stats = cache.stats();
    println!("{} hits, {} misses", stats.hits, stats.misses);

    // One's own write is seen by asking for its revision.
    let put = client.put(&settings, "colour", "green").await?;
    let read = cache
        .get_with(
            "colour",
            CachedGet {
                at_least: put.revision,
                max_age: None,
            },
        )
        .await?;
    println!("after the write: {:?}", read.value.map(|kv| kv.value));
    Ok(())
}
