//! Devices whose gateway ends: until all are back and in sync.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use chat_client::{Client, Happened, Options};
use chat_proto::v1::Tokens;
use clap::Args;
use comfy_table::Table;
use futures::future::join_all;
use serde_json::json;
use tokio::time::timeout;

use super::{Common, report::Latencies};
use crate::crowd::{Output, bar, users};

/// Connections of a user: fewer than a user may have, as old ones are remembered for a while.
const OF_A_USER: usize = 10;

#[derive(Args)]
pub(super) struct Recover {
    /// Devices
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Ends a gateway, and starts another one at its address if there is no other: a command of sh
    #[arg(long)]
    kill: String,
    /// Seconds until it has failed
    #[arg(long, default_value_t = 120)]
    patience: u64,
}

impl Recover {
    #[expect(clippy::print_stdout, reason = "the result")]
    pub(super) async fn run(self, common: &Common) -> Result<bool, String> {
        let count = self.connections as usize;
        let tokens = users(&common.gateways, count.div_ceil(OF_A_USER)).await?;
        let each = tokens
            .into_iter()
            .flat_map(|tokens| std::iter::repeat_n(tokens, OF_A_USER));
        let devices: Vec<Client> = each
            .take(count)
            .enumerate()
            .map(|(number, tokens)| device(common, number, tokens))
            .collect();
        let progress = bar(count, "connections");
        let patience = Duration::from_secs(self.patience);
        let connect = devices.iter().map(|device| async {
            in_sync(device).await;
            progress.inc(1);
        });
        let connected = timeout(patience, join_all(connect)).await;
        progress.finish_and_clear();
        connected.map_err(|_| format!("not all {count} devices connect within {patience:?}"))?;
        let kill = self.kill.clone();
        let begun = Instant::now();
        let killed = tokio::task::spawn_blocking(move || Command::new("sh").args(["-c", &kill]).status());
        let killed = killed.await.map_err(|error| error.to_string())?;
        let killed = killed.map_err(|error| format!("--kill: sh cannot be run: {error}"))?;
        if !killed.success() {
            return Err(format!("--kill: {killed}"));
        }
        let (back, lost) = self.wait(&devices, begun).await;
        match common.output {
            Output::Json => println!("{}", json!({"devices": count, "lost": lost, "back": back.json()})),
            Output::Text => {
                let mut table = Table::new();
                table.set_header([
                    "devices",
                    "lost it",
                    "back",
                    "ms until in sync: p50, p99, p99.9, max",
                ]);
                table.add_row([
                    count.to_string(),
                    lost.to_string(),
                    back.count().to_string(),
                    back.words(),
                ]);
                println!("{table}");
            }
        }
        Ok(lost > 0 && back.count() == lost)
    }

    /// Times until devices that lost their connection were in sync again, and how many lost it.
    async fn wait(&self, devices: &[Client], begun: Instant) -> (Latencies, u64) {
        let deadline = begun + Duration::from_secs(self.patience);
        let progress = bar(devices.len(), "back");
        let recover = devices.iter().map(|device| async {
            // Those of another gateway lose nothing.
            let is_lost = timeout(LOSE, lost(device)).await.is_ok();
            if !is_lost {
                return (false, None);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let back = timeout(left, in_sync(device)).await.is_ok();
            progress.inc(1);
            (true, back.then(|| begun.elapsed()))
        });
        let all = join_all(recover).await;
        progress.finish_and_clear();
        let mut back = Latencies::default();
        all.iter()
            .filter_map(|(_, time)| *time)
            .for_each(|time| back.record(time));
        (back, all.iter().filter(|(is_lost, _)| *is_lost).count() as u64)
    }
}

/// Within this a device sees that its gateway has ended.
const LOSE: Duration = Duration::from_secs(10);

fn device(common: &Common, number: usize, tokens: Tokens) -> Client {
    let mut addresses = common.gateways.clone();
    let first = number % addresses.len();
    addresses.rotate_left(first);
    let options = Options {
        backoff: (Duration::from_millis(200), Duration::from_secs(5)),
        ..Options::new(addresses)
    };
    Client::start(options, tokens)
}

async fn in_sync(device: &Client) {
    while let Some(happened) = device.happened().await {
        if happened == Happened::InSync {
            return;
        }
    }
}

async fn lost(device: &Client) {
    while let Some(happened) = device.happened().await {
        if matches!(happened, Happened::Lost(_)) {
            return;
        }
    }
}
