//! Flipped bits in the files of a stopped node.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use kvsvr::check::{Verdict, check};
use kvsvr_client::{
    grpc::GrpcTransport,
    proto as pb,
    transport::{Class, Method, Transport as _, TransportError},
};
use prost::Message as _;
use rustix::process::Signal;

use crate::{
    harness::{Cluster, PATIENCE, eventually, report},
    load::partition,
};

const PAIRS: usize = 400;

fn key(n: usize) -> String {
    format!("key-{n:05}")
}

/// About 1 KiB that does not compress, so that the tables have many blocks.
fn value(n: usize) -> String {
    let mut state = n as u64 + 1;
    let words = (0..64).map(|_| {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        format!("{:016x}", mixed ^ (mixed >> 27))
    });
    words.collect()
}

async fn filled(settings: &[&str]) -> Cluster {
    let cluster = Cluster::start(3, 1, settings).await;
    let client = cluster.client().await;
    let place = partition(0);
    // In several steps, so that the log has many blocks.
    for step in 0..20 {
        let pairs = (0..PAIRS).skip(step * PAIRS / 20).take(PAIRS / 20);
        let puts = pairs.map(|n| client.put(&place, key(n), value(n)));
        for done in futures::future::join_all(puts).await {
            done.unwrap();
        }
    }
    cluster
}

/// The files below a directory whose names end like this.
fn files(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, suffix));
        } else if path.to_str().unwrap().ends_with(suffix) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Flips one bit of the byte that is not zero nearest before `offset`; returns where.
fn flip(path: &Path, offset: usize) -> usize {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes[..=offset].iter().rposition(|b| *b != 0).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
    at
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_the_log_stops_the_start() {
    let mut cluster = filled(&[]).await;
    cluster.kill(&[1]);
    let wal = cluster.nodes[1].data.join("wal");
    // The segment that is in use, the middle of what is written.
    let written = |path: &PathBuf| fs::read(path).unwrap().iter().rposition(|b| *b != 0).unwrap_or(0);
    let segment = files(&wal, "")
        .into_iter()
        .filter(|p| !p.to_str().unwrap().contains("spare"))
        .max_by_key(written)
        .unwrap();
    let original = fs::read(&segment).unwrap();
    let at = flip(&segment, written(&segment) / 2);
    let damaged = fs::read(&segment).unwrap();
    let report_of = check(&cluster.nodes[1].data, &|_| {}).await.unwrap();
    assert_eq!(report_of.verdict, Verdict::Corrupt);
    cluster.start_node(1);
    let status = cluster.ended(1, PATIENCE).await;
    assert_eq!(status.code(), Some(5), "{status}");
    let text = cluster.nodes[1].log_text();
    let message = text
        .lines()
        .rev()
        .find(|l| l.contains("the log is corrupt"))
        .expect("a message")
        .to_owned();
    let name = segment.file_name().unwrap().to_str().unwrap();
    for part in [name, "at byte", "must not vote", "restore the damaged file"] {
        assert!(message.contains(part), "the message lacks {part:?}: {message}");
    }
    assert_eq!(
        fs::read(&segment).unwrap(),
        damaged,
        "the refused start changed the log"
    );
    // The damage undone, the node is what it was.
    fs::write(&segment, original).unwrap();
    cluster.start_node(1);
    cluster.wait_node_ready(1).await;
    cluster.wait_caught_up(1).await;
    cluster.assert_equal_states(1).await;
    let text = message.split_once("the log is corrupt").unwrap().1;
    report(
        "wal-bit-flip",
        format!("a bit at {at} of {name}: refused with exit code 5: the log is corrupt{text}"),
    );
}

/// Reads at this node what its replica holds.
async fn read_local(address: &str, n: usize) -> Result<Option<pb::KeyValue>, TransportError> {
    let local = pb::ReadMode {
        mode: Some(pb::read_mode::Mode::Local(true)),
    };
    let get = pb::GetRequest {
        partition: Some(partition(0).to_proto()),
        key: key(n).into(),
        mode: Some(local),
        ..Default::default()
    };
    let bytes = get.encode_to_vec().into();
    let answer = GrpcTransport::new()
        .call(address, Class::Data, Method::KvGet, bytes, Duration::from_secs(5))
        .await?;
    Ok(pb::GetResponse::decode(answer).unwrap().kv)
}

#[expect(clippy::too_many_lines, reason = "a scenario reads as one script")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_sst_files_are_never_served() {
    let mut cluster = filled(&[]).await;
    cluster.wait_caught_up(2).await;
    cluster.signal(2, Signal::TERM);
    assert_eq!(cluster.ended(2, PATIENCE).await.code(), Some(0));
    let good = check(&cluster.nodes[2].data, &|_| {}).await.unwrap();
    assert_eq!(good.verdict, Verdict::Ok, "{:?}", good.damage);
    let tables = files(&cluster.nodes[2].data.join("rocks"), ".sst");
    assert!(!tables.is_empty(), "nothing was flushed");
    // The rows, not what the engine needs to start.
    let rows = tables
        .iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let size = usize::try_from(fs::metadata(rows).unwrap().len()).unwrap();
    for part in 1..8 {
        // Data blocks come first in a table.
        flip(rows, size * part / 16);
    }
    let found = check(&cluster.nodes[2].data, &|_| {}).await.unwrap();
    assert_eq!(found.verdict, Verdict::Corrupt);
    cluster.start_node(2);
    let address = cluster.nodes[2].address.clone();
    let (mut right, mut corrupt) = (0, 0);
    let fate = eventually(
        "every pair is answered, or the node has ended",
        PATIENCE,
        async || {
            (right, corrupt) = (0, 0);
            for n in 0..PAIRS {
                if cluster.has_ended(2) {
                    return Some("ended with exit code 5");
                }
                match read_local(&address, n).await {
                    Ok(kv) => {
                        let found = kv.expect("the pair is there").value;
                        assert_eq!(found, value(n), "a wrong value was served");
                        right += 1;
                    }
                    Err(TransportError::Api { error, .. }) if error.code() == pb::ErrorCode::Corrupt => {
                        corrupt += 1
                    }
                    // Not yet, or not any more.
                    Err(TransportError::Api { error, .. }) if error.code() == pb::ErrorCode::NotReady => {
                        return None;
                    }
                    Err(TransportError::Unreachable { .. } | TransportError::Broken { .. }) => return None,
                    Err(other) => panic!("a value or CORRUPT is expected, not: {other}"),
                }
            }
            Some("runs")
        },
    )
    .await;
    if fate != "runs" {
        assert_eq!(cluster.ended(2, PATIENCE).await.code(), Some(5));
    }
    let log = cluster.nodes[2].log_text();
    assert!(!log.contains("panicked"), "the damage was not foreseen");
    let message = log
        .lines()
        .rev()
        .find(|l| l.contains("ERROR"))
        .unwrap_or_default();
    // The cluster serves all of it.
    let client = cluster.client().await;
    for n in (0..PAIRS).step_by(37) {
        let read = client.get(&partition(0), key(n)).await.unwrap();
        assert_eq!(read.value.unwrap().value, value(n));
    }
    report(
        "sst-bit-flips",
        format!(
            "7 blocks of {size} bytes damaged: check finds {} places; {right} right, {corrupt} CORRUPT, 0 wrong; the node {fate}: {message}",
            found.damage.len()
        ),
    );
}
