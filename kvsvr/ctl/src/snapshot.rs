//! `kvctl snapshot`: a backup of the whole cluster in one file, checking such a file, and a new cluster from it.
//!
//! Each shard is saved as one state of it, with its revisions and history; shards differ in their moments. The topology is not in it: a backup is
//! restored into a cluster of any size, with as many shards.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use kvsvr_client::{
    Client,
    proto::{BackupEnd, BackupHeader, BackupPart, BootstrapRequest, ShardInfo},
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    backup_file::{Damage, Item, Reader, Writer, count_rows},
    context::Context,
    failure::{self, Exit, Failure},
    health::View,
    limits::{BACKUP_TRIES, BOOTSTRAP_TIMEOUT, POLL, RESTORE_PART_TIMEOUT},
    output::Field,
    progress,
    text::{parse_endpoint, show_size},
};

/// `kvctl snapshot`.
#[derive(Subcommand, Clone, Debug)]
pub enum SnapshotCommand {
    /// Save all data to a file, while the cluster serves
    Save(SaveArgs),
    /// Check a file from its first byte to its last
    Verify(VerifyArgs),
    /// Make a new cluster of empty nodes and put the data of a file into it
    Restore(RestoreArgs),
}

/// `kvctl snapshot save`.
#[derive(Args, Clone, Debug)]
pub struct SaveArgs {
    /// The file; it must not be there yet
    pub file: PathBuf,
}

/// `kvctl snapshot verify`.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    /// The file
    pub file: PathBuf,
}

/// `kvctl snapshot restore`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "WHAT IS RESTORED
  All keys with their values, revisions, versions and history, leases, consumers with their
  positions. Not sessions: clients open new ones. What has expired meanwhile expires at once.
  The new cluster has as many shards as the old one, and any number of nodes.
  If it is interrupted, repeat it with --resume.")]
pub struct RestoreArgs {
    /// The file
    pub file: PathBuf,
    /// The nodes of the new cluster, which run (`kvsvr serve`) with empty data directories, as they reach each other
    #[arg(
        long,
        value_delimiter = ',',
        required = true,
        value_parser = parse_endpoint,
        value_name = "HOST:PORT,..."
    )]
    pub nodes: Vec<String>,
    /// Replicas of each shard [default: as before, or as many as an odd number of the nodes allows]
    #[arg(long, value_name = "N")]
    pub replication: Option<u32>,
    /// Name of the new cluster [default: as before]
    #[arg(long)]
    pub name: Option<String>,
    /// Go on with a restore of this file that was interrupted
    #[arg(long)]
    pub resume: bool,
}

/// Runs a snapshot command.
pub async fn snapshot(context: &mut Context, command: &SnapshotCommand) -> Result<(), Failure> {
    match command {
        SnapshotCommand::Save(args) => save(context, args).await,
        SnapshotCommand::Verify(args) => verify(context, args),
        SnapshotCommand::Restore(args) => restore(context, args).await,
    }
}

/// What is known of a shard in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Saved {
    shard: u32,
    revision: u64,
    rows: u64,
    bytes: u64,
}

fn report(
    context: &mut Context,
    file: &Path,
    header: &BackupHeader,
    shards: &[Saved],
) -> Result<(), Failure> {
    if context.out.is_json() {
        let of: Vec<Value> = shards
            .iter()
            .map(|s| json!({ "shard": s.shard, "revision": s.revision, "rows": s.rows, "bytes": s.bytes }))
            .collect();
        return Ok(context.out.json(&json!({
            "file": file, "cluster_id": header.cluster_id, "cluster_name": header.cluster_name,
            "created_ms": header.created_ms, "version": header.version, "shards": of,
        }))?);
    }
    let rows = shards
        .iter()
        .map(|s| {
            vec![
                Field::number(s.shard),
                Field::number(s.revision),
                Field::number(s.rows),
                Field::number(show_size(s.bytes)),
            ]
        })
        .collect();
    Ok(context.out.table(&["SHARD", "REVISION", "ROWS", "SIZE"], rows)?)
}

fn at_file(error: io::Error, file: &Path) -> Failure {
    Failure::from(error).at(file.display())
}

fn damaged(damage: Damage, file: &Path) -> Failure {
    match damage {
        Damage::Io(error) => at_file(error, file),
        Damage::Bad { .. } => Failure::new(failure::DAMAGED, damage.to_string())
            .at(file.display())
            .with_help("the file cannot be restored; take another backup"),
    }
}

async fn save(context: &mut Context, args: &SaveArgs) -> Result<(), Failure> {
    if args.file.exists() {
        let text = format!("{} is there already", args.file.display());
        return Err(Failure::refused(text, "choose another name, or remove it"));
    }
    let view = View::fetch(context).await?;
    let map = &view.map;
    let data: Vec<ShardInfo> = map.shards.iter().filter(|shard| shard.id != 0).cloned().collect();
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let header = BackupHeader {
        cluster_id: map.cluster_id.clone(),
        cluster_name: map.cluster_name.clone(),
        created_ms: since.map_or(0, |since| since.as_millis() as u64),
        version: env!("CARGO_PKG_VERSION").into(),
        replication: map.replication,
        shards: data.clone(),
        id: rand::random(),
        ..BackupHeader::default()
    };
    // Under another name until it is complete.
    let unfinished = args.file.with_added_extension("unfinished");
    let file = File::create(&unfinished).map_err(|e| at_file(e, &unfinished))?;
    let bar = progress::byte_counter("saving");
    let saved = save_shards(context, &view, BufWriter::new(file), header.clone(), &bar).await;
    bar.finish_and_clear();
    let saved = match saved {
        Ok(saved) => saved,
        Err(failure) => {
            // It is of no use to anybody.
            let _ = fs::remove_file(&unfinished);
            return Err(failure);
        }
    };
    fs::rename(&unfinished, &args.file).map_err(|e| at_file(e, &args.file))?;
    let parent = args.file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or_else(|| Path::new("."));
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(|e| at_file(e, parent))?;
    report(context, &args.file, &header, &saved)
}

async fn save_shards(
    context: &mut Context,
    view: &View,
    out: BufWriter<File>,
    header: BackupHeader,
    bar: &ProgressBar,
) -> Result<Vec<Saved>, Failure> {
    let client = context
        .client()?
        .with_timeout(context.request_timeout().max(RESTORE_PART_TIMEOUT));
    let shards = header.shards.clone();
    let mut writer = Writer::new(out, header)?;
    let mut saved = Vec::new();
    let mut end = BackupEnd::default();
    for shard in &shards {
        let begin = writer.position();
        let mut tried = 0;
        loop {
            bar.set_message(format!("shard {}", shard.id));
            match save_shard(&client, view, shard, tried, &mut writer, bar).await {
                Ok((one, parts)) => {
                    end.rows += one.rows;
                    end.parts += parts;
                    saved.push(one);
                    break;
                }
                Err(failure) if tried + 1 < BACKUP_TRIES && failure.code != failure::IO => {
                    context.note(format!("shard {}: {failure}; it is begun again", shard.id));
                    tried += 1;
                    let file = writer.rewind(begin)?;
                    file.get_mut().set_len(begin)?;
                    file.seek(SeekFrom::Start(begin))?;
                    bar.set_position(begin);
                    sleep(POLL).await;
                }
                Err(failure) => return Err(failure.at(format!("shard {}", shard.id))),
            }
        }
    }
    let mut out = writer.finish(end)?;
    out.flush()?;
    out.get_ref().sync_all()?;
    Ok(saved)
}

/// From the leader first, from the others after it.
async fn save_shard(
    client: &Client,
    view: &View,
    shard: &ShardInfo,
    tried: usize,
    writer: &mut Writer<BufWriter<File>>,
    bar: &ProgressBar,
) -> Result<(Saved, u64), Failure> {
    let mut hosts: Vec<u64> = shard.replicas.clone();
    hosts.sort_by_key(|id| Some(*id) != view.leader(shard.id));
    let node = hosts[tried % hosts.len()];
    let address = view
        .nodes
        .iter()
        .find(|seen| seen.id == node)
        .map(|seen| seen.address.as_str());
    let address =
        address.ok_or_else(|| Failure::new(failure::NOT_FOUND, format!("node {node} is not in the map")))?;
    let mut backup = client.backup(address, shard.id).await?;
    writer.shard(shard.id)?;
    let mut saved = Saved {
        shard: shard.id,
        ..Saved::default()
    };
    let mut parts = 0;
    while let Some(part) = backup.next_part().await? {
        parts += 1;
        saved.revision = part.revision;
        saved.rows += count_rows(&part.rows).unwrap_or(0);
        saved.bytes += part.rows.len() as u64;
        writer.part(part)?;
        bar.set_position(writer.position());
    }
    Ok((saved, parts))
}

/// Reads a file from its first byte to its last.
fn check(file: &Path) -> Result<(BackupHeader, Vec<Saved>), Failure> {
    let input = File::open(file).map_err(|e| at_file(e, file))?;
    let length = input.metadata().map_err(|e| at_file(e, file))?.len();
    let bar = progress::byte_bar(length, "checking");
    let checked = (|| {
        let (mut reader, header) = Reader::open(BufReader::new(input))?;
        let mut shards: Vec<Saved> = Vec::new();
        while let Some(item) = reader.next_item()? {
            bar.set_position(reader.position());
            let Item::Part(shard, part) = item else { continue };
            if shards.last().is_none_or(|last| last.shard != shard) {
                shards.push(Saved {
                    shard,
                    ..Saved::default()
                });
            }
            if let Some(saved) = shards.last_mut() {
                saved.revision = part.revision;
                saved.rows += count_rows(&part.rows).unwrap_or(0);
                saved.bytes += part.rows.len() as u64;
            }
        }
        Ok((header, shards))
    })();
    bar.finish_and_clear();
    checked.map_err(|damage| damaged(damage, file))
}

fn verify(context: &mut Context, args: &VerifyArgs) -> Result<(), Failure> {
    let (header, shards) = check(&args.file)?;
    report(context, &args.file, &header, &shards)?;
    context.note("the file is complete and sound");
    Ok(())
}

/// The greatest odd number of replicas up to what there was that the nodes allow.
fn replication(header: &BackupHeader, nodes: usize) -> u32 {
    let was = match header.replication {
        0 => header
            .shards
            .iter()
            .map(|shard| shard.replicas.len())
            .max()
            .unwrap_or(1) as u32,
        replication => replication,
    };
    let most = was.min(u32::try_from(nodes).unwrap_or(u32::MAX)).max(1);
    most - u32::from(most.is_multiple_of(2))
}

async fn restore(context: &mut Context, args: &RestoreArgs) -> Result<(), Failure> {
    let (header, shards) = check(&args.file)?;
    let client = context.client_of(args.nodes.clone(), BOOTSTRAP_TIMEOUT)?;
    if !args.resume {
        let request = BootstrapRequest {
            addresses: args.nodes.clone(),
            shards: header.shards.len() as u32,
            replication: args
                .replication
                .unwrap_or_else(|| replication(&header, args.nodes.len())),
            cluster_name: args.name.clone().unwrap_or_else(|| header.cluster_name.clone()),
        };
        client.bootstrap(request).await?;
    }
    let map = client.shard_map().await?;
    let layout = |shards: &[ShardInfo]| -> Vec<(u32, u32, u32)> {
        let data = shards.iter().filter(|shard| shard.id != 0);
        data.map(|shard| (shard.id, shard.first_slot, shard.last_slot))
            .collect()
    };
    if layout(&map.shards) != layout(&header.shards) {
        let text = "the cluster has other shards than the backup";
        return Err(Failure::refused(text, "restore into new nodes, without --resume"));
    }
    let input = File::open(&args.file).map_err(|e| at_file(e, &args.file))?;
    let length = input.metadata().map_err(|e| at_file(e, &args.file))?.len();
    let bar = progress::byte_bar(length, "restoring");
    let sent = send(&client, &header, BufReader::new(input), &args.file, &bar).await;
    bar.finish_and_clear();
    sent?;
    report(context, &args.file, &header, &shards)?;
    context.note(format!(
        "restored into cluster {} ({})",
        map.cluster_name, map.cluster_id
    ));
    Ok(())
}

async fn send(
    client: &Client,
    header: &BackupHeader,
    input: BufReader<File>,
    file: &Path,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    let client = client.with_timeout(RESTORE_PART_TIMEOUT);
    let (mut reader, _) = Reader::open(input).map_err(|damage| damaged(damage, file))?;
    // From now on no shard answers, or is written to, before it is whole: an empty part comes before the first one.
    let begin = BackupPart::default();
    for shard in &header.shards {
        restored(
            client.restore_part(header.id, shard.id, begin.clone()).await,
            shard.id,
            0,
        )?;
    }
    // What a shard has already, if this was interrupted before.
    let mut has = (0, 0);
    while let Some(item) = reader.next_item().map_err(|damage| damaged(damage, file))? {
        let Item::Part(shard, part) = item else { continue };
        if has.0 != shard {
            has = (shard, 0);
        }
        bar.set_position(reader.position());
        if part.number < has.1 && part.head.is_empty() {
            continue;
        }
        let part = BackupPart {
            number: part.number + 1,
            ..part
        };
        let number = part.number;
        let next = client.restore_part(header.id, shard, part).await;
        has.1 = restored(next, shard, number)?.saturating_sub(1);
    }
    Ok(())
}

/// What comes next, or what to do.
fn restored(next: kvsvr_client::Result<u64>, shard: u32, number: u64) -> Result<u64, Failure> {
    next.map_err(|error| {
        let failure = Failure::from(error).at(format!("shard {shard}, part {number}"));
        match failure.exit {
            Exit::Refused => failure,
            _ => failure.with_help("repeat the command with --resume"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_cluster_has_fewer_replicas() {
        let header = |replication| BackupHeader {
            replication,
            ..BackupHeader::default()
        };
        assert_eq!(replication(&header(3), 5), 3);
        assert_eq!(replication(&header(3), 2), 1);
        assert_eq!(replication(&header(5), 4), 3);
        assert_eq!(replication(&header(0), 3), 1);
        let old = BackupHeader {
            shards: vec![ShardInfo {
                replicas: vec![1, 2, 3],
                ..ShardInfo::default()
            }],
            ..header(0)
        };
        assert_eq!(replication(&old, 3), 3);
    }
}
