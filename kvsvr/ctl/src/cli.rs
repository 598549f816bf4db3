//! The tree of commands, and how the process begins and ends.

use std::{ffi::OsString, io, time::Duration};

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::{
    bench, cluster, configure, consumer,
    context::Context,
    data, export,
    failure::{self, EXIT_HELP, Exit, Failure},
    health, import, leader, lease,
    limits::DEFAULT_ENDPOINT,
    member, operation,
    output::{self, Format},
    shard, snapshot,
    text::{Encoding, parse_endpoint, parse_timeout},
    top, txn, verify, watch,
};

/// Operate a kvsvr cluster: read and write data, look after consumers and leases, form and inspect clusters, measure.
#[derive(Parser, Clone, Debug)]
#[command(name = "kvctl", version, after_help = EXIT_HELP, max_term_width = 120)]
pub struct Cli {
    /// For all commands.
    #[command(flatten, next_help_heading = "Options of all commands")]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of all commands.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Nodes to ask, HOST:PORT, separated by commas; any node will do [default: 127.0.0.1:7101]
    #[arg(
        long,
        global = true,
        env = "KVCTL_ENDPOINTS",
        value_delimiter = ',',
        value_parser = parse_endpoint,
        value_name = "HOST:PORT"
    )]
    pub endpoints: Vec<String>,
    /// Form of results and errors: table or json
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORM",
        hide_possible_values = true
    )]
    pub output: Format,
    /// Do not ask for confirmation
    #[arg(long, global = true)]
    pub yes: bool,
    /// Time for a request, or for a wait [default: 5s for requests, 60s for waits]
    #[arg(long, global = true, env = "KVCTL_TIMEOUT", value_parser = parse_timeout, value_name = "SPAN")]
    pub timeout: Option<Duration>,
    /// Region of the partition; 0 is local to the cluster
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    pub region: u16,
    /// Keys and values are typed and shown in hex
    #[arg(long, global = true, conflicts_with = "base64")]
    pub hex: bool,
    /// Keys and values are typed and shown in base64
    #[arg(long, global = true)]
    pub base64: bool,
}

impl Global {
    /// The nodes to ask.
    pub fn endpoints_or(&self, default: &str) -> Vec<String> {
        let given: Vec<String> = self
            .endpoints
            .iter()
            .map(|e| e.trim().to_owned())
            .filter(|e| !e.is_empty())
            .collect();
        if given.is_empty() {
            vec![default.to_owned()]
        } else {
            given
        }
    }

    /// The node that was named, if it is one.
    pub fn only_endpoint(&self) -> Option<String> {
        let mut given = self.endpoints.iter().map(|e| e.trim()).filter(|e| !e.is_empty());
        given.next().filter(|_| given.next().is_none()).map(str::to_owned)
    }

    /// The nodes to ask.
    pub fn endpoints(&self) -> Vec<String> {
        self.endpoints_or(DEFAULT_ENDPOINT)
    }

    /// How keys and values are typed and shown.
    pub fn encoding(&self) -> Encoding {
        match (self.hex, self.base64) {
            (true, _) => Encoding::Hex,
            (_, true) => Encoding::Base64,
            _ => Encoding::Text,
        }
    }
}

/// What to do.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Read a key
    Get(data::GetArgs),
    /// Set a key
    Put(data::PutArgs),
    /// Delete keys
    Del(data::DelArgs),
    /// Read keys in order
    Range(data::RangeArgs),
    /// Run a transaction from a file or standard input
    #[command(after_help = crate::txn_syntax::HELP)]
    Txn(txn::TxnArgs),
    /// Add to the number at a key
    Incr(data::IncrArgs),
    /// Put a value under a prefix and the next sequence number
    Append(data::AppendArgs),
    /// Follow changes until Ctrl-C
    Watch(watch::WatchArgs),
    /// Leases: keys that vanish together
    #[command(subcommand)]
    Lease(lease::LeaseCommand),
    /// Durable cursors on the change log
    #[command(subcommand)]
    Consumer(consumer::ConsumerCommand),
    /// Give up old revisions
    Compact(cluster::CompactArgs),
    /// Write key-value pairs from JSON lines
    Import(import::ImportArgs),
    /// Write key-value pairs as JSON lines
    Export(export::ExportArgs),
    /// Form and inspect a cluster
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Watch a cluster: nodes, shards, rates and lags, on one screen that keeps up; q ends it
    Top(top::TopArgs),
    /// Who leads, and who should
    #[command(subcommand)]
    Leader(leader::LeaderCommand),
    /// The nodes: take in, take out, put one in the place of another
    #[command(subcommand)]
    Member(member::MemberCommand),
    /// Move all data off a node; it stays a member
    Drain(member::NodeArgs),
    /// Let a drained node have data again
    Undrain(member::NodeArgs),
    /// Give a node labels: replicas of a shard are kept apart by them
    Label(member::LabelArgs),
    /// The shards: which keys, which replicas, how far each is
    #[command(subcommand)]
    Shard(shard::ShardCommand),
    /// Backups: save, check, restore into a new cluster
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Settings of the cluster, which change while it runs
    #[command(subcommand)]
    Config(configure::ConfigCommand),
    /// Compare the replicas of each shard while it serves: do all hold the same?
    Verify(verify::VerifyArgs),
    /// Operations on members: what runs, what was done, taking one back
    #[command(subcommand)]
    Ops(operation::OpsCommand),
    /// Measure kvsvr, or etcd for comparison
    Bench(bench::BenchArgs),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Parses the arguments, runs the command, reports its failure. The exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && asks_for_json(&args) => {
            failure::report(&usage_failure(&error), Format::Json, false);
            return Exit::Error;
        }
        Err(error) => {
            // If the terminal is gone there is nobody left to tell.
            let _ = error.print();
            return if error.use_stderr() { Exit::Error } else { Exit::Ok };
        }
    };
    let format = cli.global.output;
    match start(cli) {
        Ok(()) => Exit::Ok,
        Err(failure) if failure.is_broken_pipe() => Exit::Ok,
        Err(failure) => {
            failure::report(&failure, format, output::wants_color(&io::stderr()));
            failure.exit
        }
    }
}

/// True if JSON is asked for in arguments that do not parse.
fn asks_for_json(args: &[OsString]) -> bool {
    let args: Vec<_> = args
        .iter()
        .map(|a| a.to_string_lossy())
        .take_while(|a| a != "--")
        .collect();
    args.windows(2)
        .any(|w| matches!(&*w[0], "-o" | "--output") && w[1] == "json")
        || args
            .iter()
            .any(|a| matches!(&**a, "-ojson" | "-o=json" | "--output=json"))
}

/// A usage error in the form of the other failures: what is wrong, and the usage as help.
fn usage_failure(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    match text.split_once("\n\n") {
        Some((message, help)) => Failure::invalid(message.trim()).with_help(help.trim().to_owned()),
        None => Failure::invalid(text.trim()),
    }
}

/// Names the environment variable that turns on the client library's log, as in `KVCTL_LOG=debug`.
const LOG: &str = "KVCTL_LOG";

fn start_log() {
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env(LOG) {
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .init();
    }
}

fn start(cli: Cli) -> Result<(), Failure> {
    start_log();
    if let Command::Completion { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "kvctl", &mut script);
        return Ok(io::Write::write_all(&mut io::stdout(), &script)?);
    }
    let threads = match &cli.command {
        Command::Bench(args) => args.threads,
        _ => 1,
    };
    let mut builder = match threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    let runtime = builder.enable_all().build()?;
    let mut context = Context::new(cli.global);
    let result = runtime.block_on(Box::pin(execute(&mut context, cli.command)));
    // What was printed before a failure is shown too.
    let flushed = context.out.flush();
    // A reader of standard input may be blocked in it: not waited for.
    runtime.shutdown_background();
    result?;
    Ok(flushed?)
}

/// Runs one command.
pub async fn execute(context: &mut Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Get(args) => data::get(context, &args).await,
        Command::Put(args) => data::put(context, &args).await,
        Command::Del(args) => data::del(context, &args).await,
        Command::Range(args) => data::range(context, &args).await,
        Command::Txn(args) => txn::txn(context, &args).await,
        Command::Incr(args) => data::incr(context, &args).await,
        Command::Append(args) => data::append(context, &args).await,
        Command::Watch(args) => watch::watch(context, &args).await,
        Command::Lease(command) => lease::lease(context, &command).await,
        Command::Consumer(command) => consumer::consumer(context, &command).await,
        Command::Compact(args) => cluster::compact(context, &args).await,
        Command::Import(args) => import::import(context, &args).await,
        Command::Export(args) => export::export(context, &args).await,
        Command::Cluster(command) => match command {
            cluster::ClusterCommand::Bootstrap(args) => cluster::bootstrap(context, &args).await,
            cluster::ClusterCommand::Status => cluster::status(context).await,
            cluster::ClusterCommand::Health(args) => health::health(context, &args).await,
        },
        Command::Top(args) => Box::pin(top::top(context, &args)).await,
        Command::Leader(command) => leader::leader(context, &command).await,
        Command::Member(command) => member::member(context, &command).await,
        Command::Drain(args) => member::drain(context, &args).await,
        Command::Undrain(args) => member::undrain(context, &args).await,
        Command::Label(args) => member::label(context, &args).await,
        Command::Shard(command) => shard::shard(context, &command).await,
        Command::Snapshot(command) => snapshot::snapshot(context, &command).await,
        Command::Config(command) => configure::configure(context, &command).await,
        Command::Verify(args) => verify::verify(context, &args).await,
        Command::Ops(command) => operation::ops(context, &command).await,
        Command::Bench(args) => bench::bench(context, &args).await,
        Command::Completion { .. } => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The parsed form of a command line without quotes.
    pub(crate) fn parse(line: &str) -> Cli {
        try_parse(line).unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    fn try_parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["kvctl"].into_iter().chain(line.split_whitespace()))
    }

    #[test]
    fn the_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_may_stand_anywhere() {
        let cli = parse("get p k --endpoints a:1,b:2 -o json --timeout 500ms --region 7 --hex");
        assert_eq!(cli.global.endpoints(), ["a:1", "b:2"]);
        assert_eq!(cli.global.only_endpoint(), None);
        assert_eq!(cli.global.output, Format::Json);
        assert_eq!(cli.global.timeout, Some(Duration::from_millis(500)));
        assert_eq!((cli.global.region, cli.global.encoding()), (7, Encoding::Hex));
        assert_eq!(parse("--endpoints a:1 get p k").global.endpoints(), ["a:1"]);
        let named = |line| parse(line).global.only_endpoint();
        assert_eq!(named("--endpoints a:1 get p k").as_deref(), Some("a:1"));
        assert!(try_parse("get p k --hex --base64").is_err());
        assert!(try_parse("get p k --timeout 5").is_err());
    }

    #[test]
    fn usage_errors_exit_with_1_and_help_with_0() {
        let run_line = |line: &str| {
            run(["kvctl"]
                .into_iter()
                .chain(line.split_whitespace())
                .map(OsString::from))
        };
        assert_eq!(run_line("nonsense"), Exit::Error);
        assert_eq!(run_line("get"), Exit::Error);
        assert_eq!(run_line("--version"), Exit::Ok);
    }

    #[test]
    fn usage_errors_are_json_if_that_is_asked_for() {
        let args = |line: &str| -> Vec<OsString> { line.split_whitespace().map(OsString::from).collect() };
        for line in [
            "get -o json",
            "-ojson get",
            "get --output=json",
            "--output json nonsense",
        ] {
            assert!(asks_for_json(&args(line)), "{line}");
        }
        for line in ["get", "put p json", "get -- -o json", "get -o table"] {
            assert!(!asks_for_json(&args(line)), "{line}");
        }
        let failure = usage_failure(&try_parse("get p -o json").unwrap_err());
        assert_eq!((&failure.code[..], failure.exit), ("invalid", Exit::Error));
        assert!(failure.message.contains("<KEY>"), "{failure}");
        assert!(failure.help.unwrap().contains("Usage:"));
    }

    #[test]
    fn what_is_missing_is_named_with_its_alternatives() {
        for (line, parts) in [
            ("del p", ["<KEY", "--prefix", "--from"]),
            ("export f", ["--partition", "--shard", "--all"]),
        ] {
            let text = try_parse(line).unwrap_err().to_string();
            let (error, _) = text.split_once("Usage:").unwrap();
            assert!(parts.iter().all(|part| error.contains(part)), "{text}");
        }
    }

    #[test]
    fn every_command_about_members_parses() {
        for line in [
            "leader transfer 2 --to 3 --wait",
            "leader show",
            "member list",
            "member add 10.0.0.4:7101 --dry-run",
            "member remove 3 --yes",
            "member replace 3 10.0.0.4:7101 --no-wait",
            "drain n2:7101 --timeout 10s",
            "undrain 2",
            "leader evict 2 --dry-run",
            "leader restore n2:7101",
            "label 2 zone=a rack-",
            "shard list",
            "shard show 3",
            "shard reseed 3 n2:7101 --dry-run",
            "verify 2 --repair --yes",
            "verify",
            "config list",
            "config get repair-after",
            "config set repair-after 30m",
            "config set repair-after",
            "snapshot save b.kvsvr",
            "snapshot verify b.kvsvr",
            "snapshot restore b.kvsvr --nodes a:1,b:1,c:1 --replication 3 --name copy --resume",
            "verify 2 --timeout 10s",
            "ops list",
            "ops show 3 --wait",
            "ops abort 3 --yes",
        ] {
            parse(line);
        }
        assert!(try_parse("label 2").is_err());
    }

    #[test]
    fn every_command_of_the_manual_parses() {
        for line in [
            "get p k --revision 5 --mode bounded=2s --raw",
            "put p k v --ttl 10s",
            "put p k - --lease 7",
            "del p k",
            "del p --prefix a --yes",
            "del p --from a --to b",
            "range p",
            "range p a b --reverse --limit 5 --keys-only --revision 9",
            "range p --prefix a --all",
            "txn p script.txn",
            "txn p - --require",
            "txn p",
            "incr p k",
            "incr p k -5",
            "append p log/ v --ttl 1h",
            "watch p --prefix a --from-revision 3",
            "watch --shard 2",
            "lease grant p 10s --id 3",
            "lease keep-alive p 3 --once",
            "lease revoke p 3",
            "consumer list",
            "consumer show 1 mailer",
            "consumer reset 1 mailer 500 --yes",
            "consumer delete 1 mailer",
            "compact --keep 100 --shard 2",
            "compact --all",
            "import data.jsonl --in-flight 10 --skip 5 --if-absent",
            "import -",
            "export --partition a --partition b out.jsonl",
            "export --shard 1 -",
            "export --all -",
            "cluster bootstrap --nodes a:1,b:1,c:1 --shards 4 --replication 3 --name test",
            "cluster status",
            "cluster health --wait --serving",
            "top",
            "top --once --interval 500ms --width 80 -o json",
            "bench put --clients 64",
            "bench ycsb-a --rate 1000 --skew zipfian=0.8 --load",
            "completion bash",
        ] {
            parse(line);
        }
        for line in [
            "watch p --shard 1",
            "watch",
            "put p k v --ttl 1s --lease 2",
            "range p a --prefix b",
            "del p",
            "put p k v --ttl 0s",
            "append p k v --ttl 0s",
            "get p k --timeout 1us",
            "get p k --endpoints http://127.0.0.1:7101",
            "get p k --endpoints nonsense",
            "top --interval 10ms",
            "top --width 10",
        ] {
            assert!(try_parse(line).is_err(), "{line}");
        }
    }
}
