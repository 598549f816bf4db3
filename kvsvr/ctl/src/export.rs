//! `kvctl export`: pairs of partitions as JSON lines that `import` takes.
//!
//! Each partition is read as of one revision; partitions differ in theirs. The store keeps no list of its partitions, so a whole
//! shard is exported by way of its change log: every partition that the log names is read. That is complete unless history has
//! been compacted, in which case partitions that have not changed since are not named; `--partial` accepts that. Keys attached to a
//! lease belong to a living owner and are left out.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufWriter, Write},
};

use clap::Args;
use futures::{StreamExt as _, stream};
use indicatif::ProgressBar;
use kvsvr_client::{
    Client, Page, Pages, Partition, RangeOptions, Read, ReadMode, WatchItem, WatchOptions, WatchStart,
};
use serde::Serialize;

use crate::{
    context::Context,
    data,
    failure::Failure,
    health::View,
    limits::{EXPORT_IN_FLIGHT, PAGE_KEYS},
    progress, record,
};

/// `kvctl export`.
#[derive(Args, Clone, Debug)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["partition", "shard", "all"])))]
#[command(after_help = "WHAT IS COMPLETE
  Each partition is exported as of one revision. --shard and --all find partitions in the
  change log: if history has been compacted, partitions that did not change since are not
  found, and the command refuses unless --partial accepts that.
  Keys attached to a lease are left out.")]
pub struct ExportArgs {
    /// Where to; - is standard output
    pub file: String,
    /// A partition; may be repeated
    #[arg(long, value_name = "PARTITION")]
    pub partition: Vec<String>,
    /// All partitions of a shard
    #[arg(long, value_name = "N")]
    pub shard: Option<u32>,
    /// All partitions of all shards
    #[arg(long)]
    pub all: bool,
    /// Go on although compaction hides partitions
    #[arg(long)]
    pub partial: bool,
    /// Only keys that begin with this
    #[arg(long)]
    pub prefix: Option<String>,
    /// How fresh, see `kvctl get --help`
    #[arg(long, default_value = "linearizable", value_parser = data::parse_mode, value_name = "MODE")]
    pub mode: ReadMode,
}

/// What an export did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Partitions that were read.
    pub partitions: u64,
    /// Pairs that were written.
    pub pairs: u64,
    /// Pairs left out because a lease holds them.
    pub leased: u64,
}

/// Writes the pairs of partitions to a file.
pub async fn export(context: &mut Context, args: &ExportArgs) -> Result<(), Failure> {
    let client = context.client()?;
    let partitions = partitions(context, args).await?;
    let prefix = context.bytes("prefix", args.prefix.as_deref().unwrap_or_default())?;
    let range = RangeOptions::prefix(prefix).limit(PAGE_KEYS).mode(args.mode);
    let mut target = Target::open(&args.file)?;
    let bar = progress::bar(None, "exporting");
    let result = write_all(&client, partitions, &range, &mut target.out, &bar).await;
    bar.finish_and_clear();
    let counts = result?;
    target.finish()?;
    let line = format!(
        "{} partitions, {} pairs, {} left out (leased)",
        counts.partitions, counts.pairs, counts.leased
    );
    if args.file == "-" {
        context.note(line);
        return Ok(());
    }
    Ok(context.out.result(line, &counts)?)
}

/// A file under a temporary name until it is complete, or standard output.
struct Target {
    out: BufWriter<Box<dyn Write + Send>>,
    /// Temporary and final name.
    names: Option<(String, String)>,
}

impl Target {
    fn open(file: &str) -> Result<Self, Failure> {
        if file == "-" {
            return Ok(Self {
                out: BufWriter::new(Box::new(io::stdout())),
                names: None,
            });
        }
        let temporary = format!("{file}.partial");
        let opened = File::create(&temporary).map_err(|e| Failure::from(e).at(&temporary))?;
        Ok(Self {
            out: BufWriter::new(Box::new(opened)),
            names: Some((temporary, file.to_owned())),
        })
    }

    fn finish(mut self) -> Result<(), Failure> {
        self.out.flush()?;
        let Some((temporary, file)) = self.names else {
            return Ok(());
        };
        let synced = File::open(&temporary).and_then(|f| f.sync_all());
        synced
            .and_then(|()| std::fs::rename(&temporary, &file))
            .map_err(|e| Failure::from(e).at(file))
    }
}

async fn write_all(
    client: &Client,
    partitions: Vec<Partition>,
    range: &RangeOptions,
    out: &mut (impl Write + Send),
    bar: &ProgressBar,
) -> Result<Counts, Failure> {
    let mut counts = Counts::default();
    // First pages are fetched ahead; most partitions have no other.
    let mut first_pages = stream::iter(partitions)
        .map(|partition| async {
            let mut pages = client.pages(&partition, range.clone());
            let first = pages.next().await;
            (partition, pages, first)
        })
        .buffered(EXPORT_IN_FLIGHT);
    while let Some((partition, pages, first)) = first_pages.next().await {
        let at = |e| Failure::from(e).at(format!("partition {partition}"));
        write_partition(&partition, pages, first.map_err(at)?, out, &mut counts, bar).await?;
    }
    Ok(counts)
}

async fn write_partition(
    partition: &Partition,
    mut pages: Pages,
    first: Option<Read<Page>>,
    out: &mut (impl Write + Send),
    counts: &mut Counts,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    counts.partitions += 1;
    let mut page = first;
    while let Some(read) = page {
        for kv in &read.value.kvs {
            if kv.lease != 0 {
                counts.leased += 1;
                continue;
            }
            serde_json::to_writer(&mut *out, &record::show(partition, kv)).map_err(io::Error::from)?;
            out.write_all(b"\n")?;
            counts.pairs += 1;
            bar.inc(1);
        }
        page = pages
            .next()
            .await
            .map_err(|e| Failure::from(e).at(format!("partition {partition}")))?;
    }
    Ok(())
}

/// The partitions asked for, without repetition.
async fn partitions(context: &mut Context, args: &ExportArgs) -> Result<Vec<Partition>, Failure> {
    if !args.partition.is_empty() {
        let named: Result<BTreeSet<_>, _> = args
            .partition
            .iter()
            .map(|typed| context.partition(typed))
            .collect();
        return Ok(named?.into_iter().collect());
    }
    let view = View::fetch(context).await?;
    let shards: Vec<u32> = match args.shard {
        Some(shard) => vec![view.shard(shard)?.id],
        None => view
            .map
            .shards
            .iter()
            .map(|shard| shard.id)
            .filter(|&id| id != 0)
            .collect(),
    };
    let client = context.client()?;
    let mut found = BTreeSet::new();
    for shard in shards {
        let head = view.leader(shard).and_then(|leader| view.replica(leader, shard));
        let head = head.ok_or_else(|| Failure::new("no_leader", format!("shard {shard} has no leader")))?;
        find_partitions(context, &client, (shard, head.revision), args.partial, &mut found).await?;
    }
    Ok(found.into_iter().collect())
}

/// Adds the partitions that a shard's change log names up to a revision.
async fn find_partitions(
    context: &Context,
    client: &Client,
    (shard, head): (u32, u64),
    partial: bool,
    found: &mut BTreeSet<Partition>,
) -> Result<(), Failure> {
    let options = WatchOptions::shard(shard)
        .start(WatchStart::After(0))
        .without_values()
        .progress();
    let mut watch = client.watch(options).await?;
    let bar = progress::bar(Some(head), "finding partitions");
    let mut revision = 0;
    while revision < head {
        match watch.next().await? {
            WatchItem::Events(batch) => {
                revision = batch.revision;
                found.extend(batch.events.into_iter().map(|event| event.partition));
            }
            WatchItem::Progress { revision: at } => revision = at,
            WatchItem::Compacted { resume_from } if partial => {
                bar.suspend(|| {
                    context.note(format!("shard {shard}: history begins at revision {resume_from}"))
                });
                watch.resume_from(resume_from);
            }
            WatchItem::Compacted { resume_from } => {
                let message = format!(
                    "shard {shard} is compacted up to revision {resume_from}: partitions may be missing"
                );
                return Err(Failure::refused(
                    message,
                    "name partitions with --partition, or accept it with --partial",
                ));
            }
        }
        bar.set_position(revision.min(head));
    }
    bar.finish_and_clear();
    Ok(())
}
