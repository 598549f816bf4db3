//! Connections that do nothing: what each costs the gateway.

use std::{fs, time::Duration};

use chat_proto::v1::Tokens;
use clap::Args;
use comfy_table::Table;
use serde_json::json;
use tokio::time::sleep;

use super::Common;
use crate::crowd::{Output, connections, users};

/// Connections of a user.
const OF_A_USER: usize = 32;
/// Until what the opening needed is given back.
const SETTLE: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(super) struct Idle {
    /// Connections
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    connections: u32,
    /// The gateway's process, on this machine: its memory is looked at
    #[arg(long)]
    pid: u32,
}

impl Idle {
    #[expect(clippy::print_stdout, reason = "the result")]
    pub(super) async fn run(self, common: &Common) -> Result<bool, String> {
        let count = self.connections as usize;
        let tokens = users(&common.gateways, count.div_ceil(OF_A_USER)).await?;
        let each: Vec<Tokens> = tokens
            .into_iter()
            .flat_map(|tokens| std::iter::repeat_n(tokens, OF_A_USER))
            .take(count)
            .collect();
        // What the first ones cost is the gateway's own: code, caches, buffers of the allocator.
        let few = connections(&common.gateways, &each[..count.min(OF_A_USER)]).await?;
        sleep(SETTLE).await;
        let before = resident(self.pid)?;
        let rest = connections(&common.gateways, &each[few.len()..]).await?;
        sleep(SETTLE).await;
        let after = resident(self.pid)?;
        let bytes = after.saturating_sub(before) / (rest.len() as u64).max(1);
        match common.output {
            Output::Json => println!(
                "{}",
                json!({"connections": count, "before_bytes": before, "after_bytes": after, "bytes_per_connection": bytes})
            ),
            Output::Text => {
                let mut table = Table::new();
                table.set_header(["connections", "MiB before", "MiB after", "KiB of each"]);
                table.add_row([
                    count.to_string(),
                    format!("{:.1}", before as f64 / 1_048_576.0),
                    format!("{:.1}", after as f64 / 1_048_576.0),
                    format!("{:.1}", bytes as f64 / 1_024.0),
                ]);
                println!("{table}");
            }
        }
        Ok(true)
    }
}

/// Bytes of memory of a process.
fn resident(pid: u32) -> Result<u64, String> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).map_err(|error| format!("--pid {pid}: {path}: {error}"))?;
    parse(&status).ok_or_else(|| format!("--pid {pid}: {path} does not say VmRSS"))
}

fn parse(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1_024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_is_read() {
        assert_eq!(super::parse("Name:\tx\nVmRSS:\t   12 kB\n"), Some(12 * 1_024));
        assert_eq!(super::parse("Name:\tx\n"), None);
        assert!(super::resident(std::process::id()).is_ok_and(|bytes| bytes > 1_000_000));
    }
}
