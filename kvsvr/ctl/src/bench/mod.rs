//! `kvctl bench`: measures kvsvr, and etcd by the same loop for comparison.
//!
//! The benchmark shares the host with the servers it measures in our own figures, so it spends little itself: logical clients are
//! tasks on one thread by default, keys and values are made before the clock runs, and the report says how much CPU it used.

pub mod etcd_api;
pub mod report;
pub mod run;
pub mod target;
pub mod target_etcd;
pub mod target_kvsvr;
pub mod watch;
pub mod workload;

use std::{sync::Arc, time::Duration};

use clap::{Args, ValueEnum};
use kvsvr_client::ReadMode;

use self::{
    report::Report,
    run::{Bench, Drive},
    target::Target,
    target_etcd::EtcdTarget,
    target_kvsvr::KvsvrTarget,
    workload::{Mix, Skew, Workload},
};
use crate::{
    context::Context,
    data,
    failure::{self, Failure},
    limits::{MAX_BENCH_CLIENTS, MAX_BENCH_KEYS, MAX_BENCH_RATE},
    text::parse_span,
};

/// The system to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TargetName {
    /// A kvsvr cluster.
    Kvsvr,
    /// An etcd cluster, through its v3 API.
    Etcd,
}

/// What the benchmark does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the help texts are below")]
pub enum WorkloadName {
    #[value(help = "writes of known keys")]
    Put,
    #[value(help = "point reads")]
    Get,
    #[value(help = "reads and writes, see --read-ratio")]
    Mixed,
    #[value(help = "50 % reads, 50 % updates")]
    YcsbA,
    #[value(help = "95 % reads, 5 % updates")]
    YcsbB,
    #[value(help = "reads only")]
    YcsbC,
    #[value(help = "95 % reads of recent keys, 5 % inserts")]
    YcsbD,
    #[value(help = "95 % scans of 1 to 100 keys, 5 % inserts")]
    YcsbE,
    #[value(help = "50 % reads, 50 % read-modify-writes")]
    YcsbF,
    #[value(help = "writers and watchers: events per second, time to delivery")]
    Watch,
}

/// `kvctl bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// What to do
    pub workload: WorkloadName,
    /// The system to measure
    #[arg(long, value_enum, default_value = "kvsvr")]
    pub target: TargetName,
    /// Logical clients, each with one operation in flight; with --rate: the most in flight; with watch: the writers
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub clients: usize,
    /// Open loop: so many operations each second, whatever the target does; latency counts from when each was due
    #[arg(long, value_name = "OPS")]
    pub rate: Option<f64>,
    /// Bytes of each value
    #[arg(long, default_value_t = 256, value_name = "BYTES")]
    pub value_size: usize,
    /// Number of keys
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub keys: u64,
    /// Which keys: uniform, zipfian or zipfian=THETA [default: zipfian for ycsb, else uniform]
    #[arg(long)]
    pub skew: Option<Skew>,
    /// Measured time
    #[arg(long, default_value = "10s", value_parser = parse_span, value_name = "SPAN")]
    pub duration: Duration,
    /// Time before that, not measured
    #[arg(long, default_value = "2s", value_parser = parse_span, value_name = "SPAN")]
    pub warmup: Duration,
    /// Partitions that the keys are spread over
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub partitions: u64,
    /// Connections to etcd, or client instances of kvsvr (each has one stream to each node) [default: etcd 8, kvsvr 1]
    #[arg(long, value_name = "N")]
    pub connections: Option<usize>,
    /// How fresh reads are: linearizable, local, bounded=SPAN or at-least=REVISION; etcd knows the first two
    #[arg(long, default_value = "linearizable", value_parser = data::parse_mode, value_name = "MODE")]
    pub read_mode: ReadMode,
    /// mixed: share of reads, 0 to 1
    #[arg(long, default_value_t = 0.5, value_name = "SHARE")]
    pub read_ratio: f64,
    /// Write all keys before measuring
    #[arg(long)]
    pub load: bool,
    /// watch: number of watchers, spread over the partitions
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub watchers: usize,
    /// Seed of all choices; the same seed does the same operations
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Threads of the benchmark itself
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub threads: usize,
}

const ETCD_ENDPOINT: &str = "127.0.0.1:2379";
const ETCD_CONNECTIONS: usize = 8;

impl WorkloadName {
    fn ycsb(self) -> Option<char> {
        Some(match self {
            WorkloadName::YcsbA => 'a',
            WorkloadName::YcsbB => 'b',
            WorkloadName::YcsbC => 'c',
            WorkloadName::YcsbD => 'd',
            WorkloadName::YcsbE => 'e',
            WorkloadName::YcsbF => 'f',
            WorkloadName::Put | WorkloadName::Get | WorkloadName::Mixed | WorkloadName::Watch => return None,
        })
    }

    fn name(self) -> String {
        self.to_possible_value()
            .map(|v| v.get_name().to_owned())
            .unwrap_or_default()
    }
}

impl BenchArgs {
    /// Refuses what cannot be run.
    pub fn validate(&self) -> Result<(), Failure> {
        let positive = [
            ("--clients", self.clients as u64, MAX_BENCH_CLIENTS as u64),
            ("--keys", self.keys, MAX_BENCH_KEYS),
            ("--partitions", self.partitions, self.keys),
            (
                "--connections",
                self.connections.unwrap_or(1) as u64,
                self.clients as u64,
            ),
            ("--threads", self.threads as u64, 256),
        ];
        for (name, value, most) in positive {
            if value == 0 || value > most {
                return Err(Failure::invalid(format!(
                    "{name} {value} is out of range: 1 to {most}"
                )));
            }
        }
        let is_watch = self.workload == WorkloadName::Watch;
        if is_watch && (self.watchers == 0 || self.watchers > MAX_BENCH_CLIENTS) {
            return Err(Failure::invalid(format!(
                "--watchers is out of range: 1 to {MAX_BENCH_CLIENTS}"
            )));
        }
        if is_watch && self.value_size < watch::STAMP {
            return Err(Failure::invalid(format!(
                "watch needs --value-size {} or more",
                watch::STAMP
            )));
        }
        if !(0.0..=1.0).contains(&self.read_ratio) {
            return Err(Failure::invalid("--read-ratio is a share between 0 and 1"));
        }
        if self
            .rate
            .is_some_and(|rate| !(rate > 0.0 && rate <= MAX_BENCH_RATE))
        {
            return Err(Failure::invalid(format!(
                "--rate is out of range: above 0, to {MAX_BENCH_RATE}"
            )));
        }
        if self.duration.is_zero() {
            return Err(Failure::invalid("--duration must not be zero"));
        }
        let known = matches!(self.read_mode, ReadMode::Linearizable | ReadMode::Local);
        if self.target == TargetName::Etcd && !known {
            return Err(Failure::invalid(
                "etcd reads are linearizable or local (serializable)",
            ));
        }
        Ok(())
    }

    fn mix(&self) -> Mix {
        match (self.workload, self.workload.ycsb().and_then(Mix::ycsb)) {
            (_, Some(mix)) => mix,
            (WorkloadName::Get, _) => Mix::reads(1.0),
            (WorkloadName::Mixed, _) => Mix::reads(self.read_ratio),
            _ => Mix::reads(0.0),
        }
    }

    fn skew(&self) -> Skew {
        let ycsb = Skew::Zipfian(workload::ZIPFIAN_THETA);
        self.skew.unwrap_or(if self.workload.ycsb().is_some() {
            ycsb
        } else {
            Skew::Uniform
        })
    }

    fn connections(&self) -> usize {
        let usual = if self.target == TargetName::Etcd {
            ETCD_CONNECTIONS
        } else {
            1
        };
        self.connections.unwrap_or(usual.min(self.clients))
    }

    /// Watchers beyond the partitions share them; partitions beyond the watchers would be written for nobody.
    fn partitions(&self) -> u64 {
        if self.workload == WorkloadName::Watch {
            self.partitions.min(self.watchers as u64)
        } else {
            self.partitions
        }
    }

    fn drive(&self) -> Drive {
        Drive {
            clients: self.clients,
            rate: self.rate,
            warmup: self.warmup,
            duration: self.duration,
        }
    }
}

/// Runs a benchmark and prints its report.
pub async fn bench(context: &mut Context, args: &BenchArgs) -> Result<(), Failure> {
    args.validate()?;
    let timeout = context.request_timeout();
    let report = match args.target {
        TargetName::Kvsvr => {
            let target = KvsvrTarget::connect(context, args.connections(), args.read_mode).await?;
            measure(target, args).await?
        }
        TargetName::Etcd => {
            let endpoints = context.endpoints_or(ETCD_ENDPOINT);
            let local = args.read_mode == ReadMode::Local;
            let target = EtcdTarget::connect(&endpoints, args.connections(), local, timeout).await?;
            measure(target, args).await?
        }
    };
    report.print(&mut context.out)?;
    verdict(&report.measured)
}

/// A benchmark in which nothing succeeded has measured nothing.
fn verdict(measured: &report::Measured) -> Result<(), Failure> {
    if measured.latency.ops > 0 || measured.errors == 0 {
        return Ok(());
    }
    let sample = measured.error_sample.as_deref().unwrap_or_default();
    Err(Failure::new(
        failure::BENCH,
        format!(
            "no operation succeeded, {} failed, such as: {sample}",
            measured.errors
        ),
    ))
}

/// Measures a target.
pub async fn measure<T: Target>(target: T, args: &BenchArgs) -> Result<Report, Failure> {
    let target_version = target
        .version()
        .await
        .map_err(|e| run::failed("asking for the version", &e))?;
    let bench = Bench::new(target, args.keys, args.partitions(), args.value_size, args.seed);
    if args.load {
        bench.load().await?;
    }
    let (outcome, watch) = if args.workload == WorkloadName::Watch {
        let outcome = watch::run(&bench, args.watchers, args.seed, args.drive()).await?;
        (outcome.writes, Some(outcome.watch))
    } else {
        let workload: Arc<Workload> = Workload::new(args.mix(), args.skew(), args.keys, args.seed);
        (run::run(&bench, &workload, args.drive()).await?, None)
    };
    Ok(Report {
        target: T::NAME,
        target_version,
        workload: args.workload.name(),
        discipline: if args.rate.is_some() { "open" } else { "closed" },
        clients: args.clients,
        rate: args.rate,
        not_started: outcome.not_started,
        connections: args.connections(),
        threads: args.threads,
        partitions: args.partitions(),
        keys: args.keys,
        value_size: args.value_size,
        skew: args.skew().to_string(),
        read_mode: data::show_mode(args.read_mode),
        seed: args.seed,
        warmup_s: args.warmup.as_secs_f64(),
        duration_s: args.duration.as_secs_f64(),
        client_cpu_s: outcome.client_cpu.as_secs_f64(),
        measured: outcome.measured,
        watch,
    })
}

pub(crate) fn unreachable(endpoint: &str, error: &dyn std::error::Error) -> Failure {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        reason = format!("{reason}: {error}");
        source = error.source();
    }
    let code = failure::UNREACHABLE;
    let mut failure = Failure::new(code, format!("cannot connect to {endpoint}: {reason}"));
    failure.exit = Failure::exit_for(code, false);
    failure.help = Failure::help_for(code, false);
    failure
}

/// CPU time that this process has used, user and system. Zero where /proc does not tell.
fn cpu_used() -> Duration {
    /// Ticks of a second in /proc: fixed to 100 on Linux, whatever the kernel's own clock is (`USER_HZ`).
    const TICKS: u64 = 100;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the program's name in parentheses and may hold anything; utime and stime are 14 and 15 of proc(5).
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 1000 / TICKS)
}

#[cfg(test)]
mod tests {
    use super::{run::tests::FakeTarget, *};
    use crate::cli::tests::parse;

    fn args(line: &str) -> BenchArgs {
        match parse(line).command {
            crate::cli::Command::Bench(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_depend_on_workload_and_target() {
        let put = args("bench put");
        assert_eq!(
            (put.skew(), put.connections(), put.mix()),
            (Skew::Uniform, 1, Mix::reads(0.0))
        );
        let ycsb = args("bench ycsb-b --target etcd --clients 4");
        assert_eq!((ycsb.skew(), ycsb.connections()), (Skew::Zipfian(0.99), 4));
        assert_eq!(args("bench mixed --read-ratio 0.9").mix(), Mix::reads(0.9));
        assert_eq!(args("bench ycsb-a --skew uniform").skew(), Skew::Uniform);
        assert_eq!(args("bench watch --watchers 3").partitions(), 3);
        assert_eq!(args("bench watch").workload.name(), "watch");
        assert_eq!(args("bench ycsb-e").workload.name(), "ycsb-e");
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "bench put --clients 0",
            "bench put --keys 0",
            "bench put --keys 10 --partitions 11",
            "bench put --rate 0",
            "bench put --rate NaN",
            "bench put --duration 0s",
            "bench put --threads 0",
            "bench put --clients 2 --connections 3",
            "bench mixed --read-ratio 1.1",
            "bench watch --value-size 7",
            "bench watch --watchers 0",
            "bench get --target etcd --read-mode bounded=1s",
        ] {
            assert_eq!(
                args(line).validate().unwrap_err().code,
                failure::INVALID,
                "{line}"
            );
        }
        args("bench put").validate().unwrap();
    }

    #[tokio::test]
    async fn a_report_names_its_parameters() {
        let args = args(
            "bench mixed --clients 3 --keys 50 --partitions 5 --duration 30ms --warmup 0s --load --value-size 10",
        );
        let report = serde_json::to_value(measure(FakeTarget::default(), &args).await.unwrap()).unwrap();
        for (field, value) in [
            ("clients", 3),
            ("keys", 50),
            ("partitions", 5),
            ("value_size", 10),
            ("misses", 0),
        ] {
            assert_eq!(report[field], value, "{field}");
        }
        assert_eq!(report["loop"], "closed");
        assert_eq!(report["target"], "fake");
        assert!(report["ops_per_s"].as_f64().unwrap() > 0.0, "{report}");
    }

    #[test]
    fn own_cpu_time_is_known() {
        // Ends because spinning uses CPU time; a broken reading would stay at zero for ever, and the test would be stopped.
        let before = cpu_used();
        while cpu_used() < before + Duration::from_millis(20) {}
    }
}
