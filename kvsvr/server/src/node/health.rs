//! How a node is: what is wrong with it, whether it serves, and its status.

use std::time::Duration;

use bytes::Bytes;
use kvsvr_core::machine::ConsumerRow;
use kvsvr_proto::v1 as pb;

use super::{Node, VERSION, cluster_text};
use crate::{limits::UNCONFIRMED_WARNING, shard::Shard};

impl Node {
    /// What is wrong, in words, most urgent first. Empty when all is well.
    pub fn messages(&self) -> Vec<String> {
        let mut messages: Vec<String> = self.refusal.lock().iter().map(|r| r.text.clone()).collect();
        if let Some(me) = self.identity().filter(|me| self.was_removed(me.node_id)) {
            messages.push(format!(
                "node {} was removed from the cluster: stop this process; its data directory is of no use any more",
                me.node_id
            ));
            return messages;
        }
        messages.extend(self.writes_refused());
        if self.identity().is_none() && messages.is_empty() {
            messages.push("not part of a cluster yet: kvctl cluster bootstrap makes one".to_owned());
        }
        let state = self.map.read().clone();
        if self.identity().is_some() && state.map.is_none() {
            messages.push(
                "no shard map yet: the meta shard has no leader, or this node cannot reach it".to_owned(),
            );
        }
        for shard in self.shards() {
            if shard.leader().leader().is_none() {
                messages.push(format!(
                    "shard {} has no leader: a majority of its replicas must be up and reach each other",
                    shard.id()
                ));
            } else if let Some(silence) = self.unconfirmed(&shard) {
                // With pre-votes neither leader nor followers give up the last leader while nobody can replace it.
                messages.push(format!(
                    "shard {} has no leader that a majority confirms, for {} s: a majority of its replicas must be up and reach each other",
                    shard.id(),
                    silence.as_secs()
                ));
            }
        }
        messages
    }

    /// What somebody must do, though the node serves.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.cut_off_consumers();
        let state = self.map.read().clone();
        let me = self.identity().map_or(0, |me| me.node_id);
        let infos = state.map.iter().flat_map(|map| &map.nodes);
        if infos.filter(|info| info.id == me).any(|info| info.slow) {
            let mean = self.wal.mean_write().unwrap_or_default();
            warnings.push(format!(
                "the disk of node {me} is slow, so it leads nothing until that is over: a write of the log takes {} ms now; look at what else uses the disk, or replace it",
                mean.as_millis()
            ));
        }
        warnings
    }

    fn cut_off_consumers(&self) -> Vec<String> {
        let led = self.shards().into_iter().filter(|shard| shard.leader().is_me());
        led.filter_map(|shard| {
            shard.machine().try_with_machine(|machine, _| {
                let cut_off = |row: &ConsumerRow| row.cursor < machine.floor();
                let consumers = machine.consumers().filter(|(_, row)| cut_off(row));
                let message = |(name, row): (&Bytes, ConsumerRow)| {
                    let name = String::from_utf8_lossy(name);
                    format!(
                        "consumer {name:?} of shard {shard} was too far behind and has lost events: it is at revision {}, compaction at {}; read what it \
                         needs anew, then: kvctl consumer reset {shard} {name:?} {}",
                        row.cursor,
                        machine.floor(),
                        machine.revision(),
                        shard = shard.id(),
                    )
                };
                consumers.map(message).collect::<Vec<_>>()
            })
        })
        .flatten()
        .collect()
    }

    /// For how long no quorum has confirmed the leader of this replica's shard, if that is too long.
    fn unconfirmed(&self, shard: &Shard) -> Option<Duration> {
        let silence = shard.reads().age().unwrap_or_else(|| self.started.elapsed());
        (silence >= UNCONFIRMED_WARNING).then_some(silence)
    }

    /// Ok when the node serves, each of its replicas having been confirmed since the start; else why not.
    pub fn ready(&self) -> Result<(), Vec<String>> {
        let mut reasons = self.messages();
        if reasons.is_empty() {
            // Reads with a bound on their age are not served before. Later than that `messages` says so too, by the silence since the start.
            let shards = self.shards().into_iter();
            reasons.extend(shards.filter(|shard| shard.reads().age().is_none()).map(|shard| {
                format!(
                    "the replica of shard {} has not been confirmed by a leader since this node started",
                    shard.id()
                )
            }));
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    /// Microseconds that a write of the log takes with its sync, on an average of the last seconds; 0 = there was none.
    pub fn mean_write_us(&self) -> u64 {
        let mean = self.wal.mean_write();
        mean.map_or(0, |mean| (mean.as_micros() as u64).max(1))
    }

    /// Remembers what was read and written until now, for the rates of the status.
    pub fn note_rates(&self) {
        let counted = self.metrics.answered();
        self.rates.lock().note(self.started.elapsed(), counted);
    }

    fn fill_rates(&self, status: &mut pb::NodeStatus) {
        let counted = self.metrics.answered();
        let (reads, writes) = self.rates.lock().per_second(self.started.elapsed(), counted);
        status.reads = Some(counted.reads);
        status.writes = Some(counted.writes);
        status.reads_per_s = Some(reads);
        status.writes_per_s = Some(writes);
    }

    /// Everything an operator wants to know of this node.
    pub async fn status(&self) -> pb::NodeStatus {
        let identity = self.identity();
        let mut status = pb::NodeStatus {
            node_id: identity.map_or(0, |i| i.node_id),
            cluster_id: identity.map(cluster_text).unwrap_or_default(),
            store_id: self.store_id.clone(),
            address: self.address.clone(),
            version: VERSION.to_owned(),
            uptime_s: self.started.elapsed().as_secs(),
            map_epoch: self.map_epoch(),
            disk_free_bytes: self.disk.free_bytes().await.unwrap_or(0),
            wal_bytes: self.wal.total_bytes(),
            mean_write_us: self.mean_write_us(),
            replicas: self.shards().iter().map(|s| s.status()).collect(),
            messages: [self.messages(), self.warnings()].concat(),
            ..Default::default()
        };
        let cache = self.cache();
        let looked_up = cache.hits + cache.misses;
        if looked_up > 0 {
            status.cache_hit_rate = cache.hits as f64 / looked_up as f64;
        }
        self.fill_rates(&mut status);
        self.probe.fill(&mut status);
        status
    }
}
