//! What a node does by itself: flush and purge, expire, compact, hand leadership to preferred nodes, watch its disk; and the orderly stop.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use kvsvr_core::{command::Op, types::ShardId};
use kvsvr_proto::v1 as pb;
use openraft_rt::AsyncRuntime;

use crate::{
    admin::propose,
    controller,
    limits::{
        COMPACTION_INTERVAL, EXPIRY_INTERVAL, IDLE_CHECKPOINT_INTERVAL, MAINTENANCE_INTERVAL,
        MIN_COMPACTION_STEP, POLL_INTERVAL, PREFERRED_LEADER_INTERVAL, STOP_TRANSFER_DEADLINE,
        STOP_TRANSFER_RETRY,
    },
    node::Node,
    raft::runtime::Runtime,
    shard::Shard,
    time::{Instant, sleep, timeout},
};

/// Starts all of it. The tasks live as long as the process.
pub fn spawn(node: &Arc<Node>) {
    tokio::spawn(flush(node.clone()));
    tokio::spawn(relieve(node.clone()));
    tokio::spawn(every(node.clone(), MAINTENANCE_INTERVAL, purge));
    tokio::spawn(every(node.clone(), EXPIRY_INTERVAL, expire));
    tokio::spawn(every(node.clone(), COMPACTION_INTERVAL, compact));
    tokio::spawn(every(node.clone(), PREFERRED_LEADER_INTERVAL, prefer_leaders));
    tokio::spawn(every(node.clone(), MAINTENANCE_INTERVAL, |node| async move {
        node.note_rates();
        watch_disk(node).await;
    }));
    tokio::spawn(controller::run(node.clone()));
    tokio::spawn(every(node.clone(), IDLE_CHECKPOINT_INTERVAL, |node| async move {
        remove_checkpoints(&node, false).await;
    }));
}

async fn every<F, Fut>(node: Arc<Node>, interval: Duration, act: F)
where
    F: Fn(Arc<Node>) -> Fut,
    Fut: Future<Output = ()>,
{
    loop {
        sleep(interval).await;
        act(node.clone()).await;
    }
}

/// Flushes the engine when its write buffer is full, or when much of the log is not flushed yet, so that a restart stays short.
async fn flush(node: Arc<Node>) {
    loop {
        let full = timeout(MAINTENANCE_INTERVAL, node.buffer().flush_due())
            .await
            .is_ok();
        let due = full || node.unflushed_bytes() >= node.settings().flush_bytes;
        if due && let Err(e) = flush_now(&node).await {
            node.fail(format!("the engine cannot flush: {e}"));
            return;
        }
    }
}

/// Moves a full write buffer on while a flush takes long, so that writers need not do it on async threads.
async fn relieve(node: Arc<Node>) {
    loop {
        node.buffer().drain_due().await;
        let buffer = node.buffer().clone();
        let relieved = Runtime::spawn_blocking(move || buffer.relieve()).await;
        if let Err(e) = relieved.and_then(|done| done.map_err(io::Error::other)) {
            node.fail(format!("the engine cannot take rows: {e}"));
            return;
        }
    }
}

/// Makes the engine's state durable, off the async threads.
pub async fn flush_now(node: &Node) -> io::Result<()> {
    let engine = node.engine();
    let written = node.applied_bytes();
    Runtime::spawn_blocking(move || engine.flush())
        .await?
        .map_err(io::Error::other)?;
    node.flushed(written);
    Ok(())
}

/// Purges the log behind what is flushed.
async fn purge(node: Arc<Node>) {
    for shard in node.shards() {
        if let Err(e) = shard.purge(node.settings().keep_log_bytes).await {
            tracing::warn!(shard = %shard.id(), "the log cannot be purged now: {e}");
        }
    }
}

fn led(node: &Node) -> impl Iterator<Item = Arc<Shard>> + use<> {
    node.shards().into_iter().filter(|s| s.leader().is_me())
}

/// Proposes; whatever stands in the way now is tried again at the next look. The result says whether more is due.
async fn propose_expiry(shard: &Shard, now: u64) -> bool {
    match propose(shard, Op::Expire { up_to_ms: now }).await {
        Ok(Some(pb::outcome::Result::Expire(expired))) => expired.more,
        Ok(_) => false,
        Err(e) => {
            tracing::debug!(shard = %shard.id(), "expiry is tried again: {}", e.message);
            false
        }
    }
}

/// The leader proposes to remove what is due; the state machine decides by the entry's stamp.
async fn expire(node: Arc<Node>) {
    for shard in led(&node) {
        let now = shard.clock().now();
        let due = shard
            .machine()
            .try_with_machine(|machine, engine| machine.next_expiry(engine));
        let Some(due) = due else { continue };
        match due {
            Ok(Some(at)) if at <= now && shard.begin_expiring() => {
                tokio::spawn(async move {
                    while propose_expiry(&shard, now).await {}
                    shard.expired();
                });
            }
            Ok(_) => {}
            Err(e) => node.fail(format!("shard {}: {e}", shard.id())),
        }
    }
}

/// The leader moves the compaction floor behind retention and consumers.
async fn compact(node: Arc<Node>) {
    let settings = node.settings();
    for shard in led(&node) {
        let target = shard.machine().try_with_machine(|machine, engine| {
            machine.compaction_target(engine, settings.keep_revisions, settings.consumer_max_lag_bytes)
        });
        let Some(target) = target else { continue };
        match target {
            Ok(target) if target.revision >= shard.head().floor() + MIN_COMPACTION_STEP => {
                if let Err(e) = propose(&shard, target.into()).await {
                    tracing::debug!(shard = %shard.id(), "compaction is tried again: {}", e.message);
                }
            }
            Ok(_) => {}
            Err(e) => node.fail(format!("shard {}: {e}", shard.id())),
        }
    }
}

async fn prefer_leaders(node: Arc<Node>) {
    let Some(map) = node.map_with_leaders() else {
        return;
    };
    for shard in led(&node) {
        let info = map.shards.iter().find(|s| s.id == shard.id().0);
        let Some(preferred) = info.and_then(|s| s.replicas.first()) else {
            continue;
        };
        if let Err(e) = shard.prefer_leader(*preferred).await {
            tracing::debug!(shard = %shard.id(), "leadership stays here: {e}");
        }
    }
}

/// Removes checkpoints that interrupted transfers have left.
async fn remove_checkpoints(node: &Node, urgent: bool) {
    let snapshots = node.snapshot_sender().clone();
    let removed = Runtime::spawn_blocking(move || snapshots.remove_idle(urgent)).await;
    if let Err(e) = removed.and_then(|done| done.map_err(io::Error::other)) {
        tracing::warn!("checkpoints of interrupted transfers cannot be removed: {e}");
    }
}

/// Refuses writes before the disk is full, so that what is accepted can be kept.
async fn watch_disk(node: Arc<Node>) {
    let space = match node.wal().refresh_space().await {
        Ok(space) => space,
        Err(e) => {
            tracing::warn!("cannot find out how much space is left: {e}");
            return;
        }
    };
    node.metrics().disk_free(space.free_bytes);
    let refused = node.writes_refused().is_some();
    let reserve = node.settings().disk_reserve_bytes;
    if space.low && !refused {
        let reason = format!(
            "writes are refused: the disk has {} MiB free, less than the reserve of {} MiB; free space or add disk, writes go on by themselves",
            space.free_bytes >> 20,
            reserve >> 20
        );
        tracing::error!("{reason}");
        node.refuse_writes(Some(reason));
        remove_checkpoints(&node, true).await;
    } else if refused && space.free_bytes >= reserve + reserve / 4 {
        tracing::info!("the disk has space again, writes are taken");
        node.refuse_writes(None);
    }
}

/// The orderly stop: leadership goes to other nodes, then Raft stops, then everything is made durable.
pub async fn stop(node: &Arc<Node>) -> io::Result<()> {
    if timeout(STOP_TRANSFER_DEADLINE, hand_over(node)).await.is_err() {
        tracing::warn!("leadership was not taken over in time, stopping all the same");
    }
    for shard in node.shards() {
        shard.shutdown().await;
    }
    flush_now(node).await?;
    node.wal().shutdown().await;
    Ok(())
}

/// Until this node leads nothing that another member could lead. Leadership may come back meanwhile: the others prefer this node until it is
/// gone. And who has just been elected has not heard of anybody yet.
async fn hand_over(node: &Arc<Node>) {
    let begun = Instant::now();
    let mut asked: BTreeMap<ShardId, Instant> = BTreeMap::new();
    loop {
        let mut is_left = false;
        for shard in led(node) {
            let now = Instant::now();
            match shard.transfer_target(None) {
                Some((to, _)) => {
                    is_left = true;
                    let due = asked
                        .get(&shard.id())
                        .is_none_or(|at| now >= *at + STOP_TRANSFER_RETRY);
                    if due {
                        asked.insert(shard.id(), now);
                        tracing::info!(shard = %shard.id(), to, "handing over leadership");
                        if let Err(e) = shard.raft().trigger().transfer_leader(to).await {
                            tracing::warn!(shard = %shard.id(), "handing over leadership failed: {e}");
                        }
                    }
                }
                None if shard.has_other_voters() && now < begun + STOP_TRANSFER_RETRY => is_left = true,
                None => {}
            }
        }
        if !is_left {
            break;
        }
        sleep(POLL_INTERVAL).await;
    }
    for shard in led(node) {
        tracing::info!(shard = %shard.id(), "no other member can lead now");
    }
}
