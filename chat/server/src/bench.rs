//! `chat bench`: how much, how fast, at what cost in memory, and how soon after a gateway's end.
//!
//! Loads are *open*: each message has the time at which it is to be sent, whether or not those before it were answered, and latencies count from that time on. So a server that
//! stands still for a moment pays for all that should have been sent meanwhile ("coordinated omission", G. Tene).

mod idle;
mod load;
mod recover;
mod report;

use clap::{Args, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::crowd::Output;

/// Measures a chat backend.
///
/// It makes users of its own, which stay. Exit codes: 0 measured, 1 something was refused or lost, 2 wrong usage.
#[derive(Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    what: What,
}

#[derive(Args)]
struct Common {
    /// Gateways, HOST:PORT
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:8080", global = true)]
    gateways: Vec<String>,
    /// text or json
    #[arg(short, long, default_value = "text", global = true)]
    output: Output,
}

#[derive(Subcommand)]
enum What {
    /// Messages of two users
    Pairs(load::Pairs),
    /// Messages to groups
    Groups(load::Groups),
    /// Connections that do nothing, and the memory that they take
    Idle(idle::Idle),
    /// Devices that lose their gateway
    Recover(recover::Recover),
}

impl Bench {
    /// Runs it. False: something went wrong that has been told.
    pub(crate) async fn run(self) -> Result<bool, String> {
        more_files();
        match self.what {
            What::Pairs(pairs) => pairs.run(&self.common).await,
            What::Groups(groups) => groups.run(&self.common).await,
            What::Idle(idle) => idle.run(&self.common).await,
            What::Recover(recover) => recover.run(&self.common).await,
        }
    }
}

/// Each connection is a file: as many as the system allows.
fn more_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}
