//! What is known of a cluster at one time, and what follows from a few such samples: rates, and how long replicas are behind.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use futures::future::join3;
use kvsvr_client::{Client, proto::ShardMap};
use serde_json::Value;

use crate::{
    health::{NodeView, View},
    limits::TOP_HISTORY,
    operation,
};

/// A cluster at one time.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When, since the first.
    pub at: Duration,
    /// What the nodes say. `None`: no node has answered yet.
    pub view: Option<View>,
    /// The operation under way: one line, and for programs.
    pub operation: Option<(String, Value)>,
    /// Why nobody gave the shard map. The view then is of the map that was known before.
    pub error: Option<String>,
}

impl Sample {
    /// Asks the cluster. `known`: the map as it was. The map that this brings is for the next sample, so that a node that does not
    /// answer holds up nothing twice.
    pub async fn fetch(client: &Client, known: Option<ShardMap>, at: Duration) -> (Self, Option<ShardMap>) {
        let known = match known {
            Some(known) => known,
            None => match client.shard_map().await {
                Ok(map) => map,
                Err(error) => return (Self::failed(at, error.message), None),
            },
        };
        let asked = View::of_map(client, known.clone());
        let (map, view, operation) = join3(client.shard_map(), asked, operation::running(client)).await;
        let (map, error) = match map {
            Ok(map) => (map, None),
            Err(error) => (known, Some(error.message)),
        };
        let sample = Self {
            at,
            view: Some(view),
            operation,
            error,
        };
        (sample, Some(map))
    }

    fn failed(at: Duration, error: String) -> Self {
        Self {
            at,
            view: None,
            operation: None,
            error: Some(error),
        }
    }
}

/// How far a shard was at one time, by its leader.
#[derive(Clone, Copy, Debug)]
struct Point {
    at: Duration,
    revision: u64,
    committed: u64,
}

/// What a node had done at one time.
#[derive(Clone, Copy, Debug)]
struct Done {
    at: Duration,
    reads: u64,
    writes: u64,
}

/// What a node does in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Reads that it answers.
    pub reads: f64,
    /// Commands that it acknowledges as a leader of data shards.
    pub writes: f64,
}

/// For how long an entry is missing on a replica.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Behind {
    /// For so long.
    pub span: Duration,
    /// Or for longer: it was missing in the first sample already.
    pub or_more: bool,
}

/// The newest samples of each shard.
#[derive(Clone, Debug, Default)]
pub struct History {
    now: Duration,
    shards: BTreeMap<u32, VecDeque<Point>>,
    /// Of each node the newest, and the one before.
    nodes: BTreeMap<u64, (Done, Option<Done>)>,
}

impl History {
    /// Takes a sample in.
    pub fn push(&mut self, sample: &Sample) {
        self.now = sample.at;
        let Some(view) = &sample.view else {
            return;
        };
        for node in &view.nodes {
            self.push_node(node, sample.at);
        }
        for shard in &view.map.shards {
            let head = view.leader(shard.id).and_then(|id| view.replica(id, shard.id));
            let Some(head) = head else {
                continue;
            };
            let points = self.shards.entry(shard.id).or_default();
            // Time and logs go forward; if not, it is another cluster.
            if points
                .back()
                .is_some_and(|last| last.at >= sample.at || last.revision > head.revision)
            {
                points.clear();
            }
            points.push_back(Point {
                at: sample.at,
                revision: head.revision,
                committed: head.committed_index,
            });
            while points.len() > TOP_HISTORY {
                points.pop_front();
            }
        }
    }

    fn push_node(&mut self, node: &NodeView, at: Duration) {
        let counted = node.status().and_then(|status| status.reads.zip(status.writes));
        let Some((reads, writes)) = counted else { return };
        let before = self.nodes.get(&node.id).map(|(newest, _)| *newest);
        // If less was done than before, it has been started again.
        let before = before.filter(|done| done.at < at && done.reads <= reads && done.writes <= writes);
        self.nodes.insert(node.id, (Done { at, reads, writes }, before));
    }

    /// Reads and writes of a node between the two newest samples.
    pub fn rates(&self, node: u64) -> Option<Rates> {
        let (new, old) = self.nodes.get(&node).filter(|(new, _)| new.at == self.now)?;
        let old = (*old)?;
        let seconds = (self.now - old.at).as_secs_f64();
        let rate = |new: u64, old: u64| (new - old) as f64 / seconds;
        Some(Rates {
            reads: rate(new.reads, old.reads),
            writes: rate(new.writes, old.writes),
        })
    }

    /// The points of a shard, if the newest sample has one.
    fn points(&self, shard: u32) -> Option<&VecDeque<Point>> {
        let points = self.shards.get(&shard)?;
        (points.back()?.at == self.now).then_some(points)
    }

    /// Revisions of a shard per second between the two newest samples: its writes.
    pub fn writes(&self, shard: u32) -> Option<f64> {
        let points = self.points(shard)?;
        let new = points.back()?;
        let old = points.get(points.len().checked_sub(2)?)?;
        Some((new.revision - old.revision) as f64 / (new.at - old.at).as_secs_f64())
    }

    /// How long ago the leader had committed the first entry that a replica has not applied.
    pub fn behind(&self, shard: u32, applied: u64) -> Option<Behind> {
        let points = self.points(shard)?;
        let missing = applied + 1;
        let mut later = points.back()?;
        if missing > later.committed {
            return Some(Behind {
                span: Duration::ZERO,
                or_more: false,
            });
        }
        for point in points.iter().rev().skip(1) {
            if point.committed < missing {
                // Between these two; entries are taken to have come evenly.
                let share = (missing - point.committed) as f64 / (later.committed - point.committed) as f64;
                let committed = point.at + (later.at - point.at).mul_f64(share);
                return Some(Behind {
                    span: self.now.saturating_sub(committed),
                    or_more: false,
                });
            }
            later = point;
        }
        // With one sample nothing is known.
        (points.len() > 1).then(|| Behind {
            span: self.now.saturating_sub(later.at),
            or_more: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::healthy;

    fn history(points: &[(u64, u64, u64)]) -> History {
        let mut history = History::default();
        for (seconds, revision, committed) in points {
            let mut view = healthy();
            for node in &mut view.nodes {
                if let Ok(status) = &mut node.status {
                    status.replicas[1].revision = *revision;
                    status.replicas[1].committed_index = *committed;
                }
            }
            history.push(&Sample {
                at: Duration::from_secs(*seconds),
                view: Some(view),
                operation: None,
                error: None,
            });
        }
        history
    }

    fn behind(history: &History, applied: u64) -> Option<(f64, bool)> {
        history
            .behind(1, applied)
            .map(|behind| (behind.span.as_secs_f64(), behind.or_more))
    }

    #[test]
    fn a_rate_needs_two_samples() {
        assert_eq!(history(&[(0, 10, 10)]).writes(1), None);
        assert_eq!(history(&[(0, 10, 10), (2, 510, 10)]).writes(1), Some(250.0));
        assert_eq!(
            history(&[(0, 10, 10), (2, 510, 10), (3, 510, 10)]).writes(1),
            Some(0.0)
        );
        assert_eq!(history(&[(0, 10, 10)]).writes(7), None);
    }

    #[test]
    fn another_cluster_at_the_same_address_begins_anew() {
        assert_eq!(history(&[(0, 10, 10), (1, 5, 5)]).writes(1), None);
        assert_eq!(history(&[(0, 10, 10), (1, 5, 5), (2, 6, 6)]).writes(1), Some(1.0));
    }

    #[test]
    fn without_a_leader_there_is_no_rate() {
        let mut history = history(&[(0, 10, 10), (1, 20, 20)]);
        history.push(&Sample {
            at: Duration::from_secs(2),
            view: None,
            operation: None,
            error: Some("gone".into()),
        });
        assert_eq!(history.writes(1), None);
        assert_eq!(history.behind(1, 5), None);
    }

    #[test]
    fn a_nodes_rates_are_of_the_two_newest_samples() {
        let mut history = History::default();
        let mut push = |second, counted: Option<(u64, u64)>| {
            let mut view = healthy();
            if let Ok(status) = &mut view.nodes[0].status {
                status.reads = counted.map(|(reads, _)| reads);
                status.writes = counted.map(|(_, writes)| writes);
            }
            history.push(&Sample {
                at: Duration::from_secs(second),
                view: Some(view),
                operation: None,
                error: None,
            });
            history.rates(1).map(|rates| (rates.reads, rates.writes))
        };
        assert_eq!(push(0, Some((100, 10))), None);
        assert_eq!(push(2, Some((700, 30))), Some((300.0, 10.0)));
        // Started again.
        assert_eq!(push(3, Some((5, 0))), None);
        assert_eq!(push(4, Some((6, 0))), Some((1.0, 0.0)));
        // Of an older version, or without an answer; then over the gap.
        assert_eq!(push(5, None), None);
        assert_eq!(push(6, Some((10, 4))), Some((2.0, 2.0)));
    }

    #[test]
    fn lag_in_time_is_since_the_first_missing_entry_was_committed() {
        let history = history(&[(0, 0, 100), (1, 0, 200), (2, 0, 300), (3, 0, 300)]);
        assert_eq!(behind(&history, 300), Some((0.0, false)));
        assert_eq!(
            behind(&history, 400),
            Some((0.0, false)),
            "asked a little later than the leader"
        );
        assert_eq!(behind(&history, 299), Some((1.0, false)));
        assert_eq!(behind(&history, 249), Some((1.5, false)));
        assert_eq!(behind(&history, 99), Some((3.0, true)));
        assert_eq!(behind(&history, 0), Some((3.0, true)));
    }

    #[test]
    fn lag_in_time_is_not_known_from_one_sample() {
        let history = history(&[(0, 0, 100)]);
        assert_eq!(behind(&history, 100), Some((0.0, false)));
        assert_eq!(behind(&history, 90), None);
    }

    #[test]
    fn history_is_bounded() {
        let points: Vec<_> = (0..TOP_HISTORY as u64 + 50).map(|n| (n, n, n)).collect();
        let history = history(&points);
        assert_eq!(history.shards[&1].len(), TOP_HISTORY);
    }
}
