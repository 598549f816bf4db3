//! Watches a cluster whose members change: that no shard ever has too few voters, and that what is said of the time left is true.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kvsvr_client::{Client, proto as pb};
use tokio::{task::JoinHandle, time::sleep};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(20);

/// What was said of an operation at one time.
#[derive(Clone, Copy, Debug)]
struct Said {
    now_ms: u64,
    done: u32,
    left: u32,
    time_left: Option<Duration>,
}

/// A watch of a cluster's operations and shard map.
pub(crate) struct Oversight {
    stop: Arc<AtomicBool>,
    task: JoinHandle<BTreeMap<u64, (Vec<Said>, pb::Operation)>>,
}

impl Oversight {
    /// Begins; data shards are to have so many voters at all times.
    pub(crate) fn start(client: &Client, voters: usize) -> Oversight {
        let stop = Arc::new(AtomicBool::new(false));
        let (client, ended) = (client.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let mut seen: BTreeMap<u64, (Vec<Said>, pb::Operation)> = BTreeMap::new();
            let mut maps = 0;
            while !ended.load(Ordering::Relaxed) {
                if let Ok(map) = client.shard_map().await {
                    maps += 1;
                    for shard in map.shards.iter().filter(|s| s.id != 0) {
                        let distinct: BTreeSet<_> = shard.replicas.iter().collect();
                        assert!(distinct.len() >= voters, "too few voters: {shard:?}");
                    }
                }
                if let Ok(members) = client.members().await {
                    for operation in members.operations {
                        note(&mut seen, operation, members.now_ms);
                    }
                }
                sleep(EVERY).await;
            }
            assert!(maps > 0 && !seen.is_empty(), "nothing was seen");
            seen
        });
        Oversight { stop, task }
    }

    /// Ends; for each operation that was under way for at least `least`, what the worst estimate of the time left was from half-way on, as a
    /// factor (never below 1), with the operation's number.
    pub(crate) async fn end(self, least: Duration) -> Vec<(u64, f64)> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.task.await.expect("a shard had too few voters");
        let ended = seen.into_iter().filter(|(_, (_, op))| op.ended());
        ended
            .filter(|(_, (_, op))| op.span(op.ended_ms) >= least)
            .inspect(|(id, (said, op))| println!("{}", told(*id, said, op)))
            .filter_map(|(id, (said, op))| Some((id, worst(&said, op.ended_ms)?)))
            .collect()
    }
}

fn note(seen: &mut BTreeMap<u64, (Vec<Said>, pb::Operation)>, operation: pb::Operation, now_ms: u64) {
    let (said, newest) = seen.entry(operation.id).or_default();
    said.push(Said {
        now_ms,
        done: operation.steps_done,
        left: operation.steps_left,
        time_left: operation.time_left(now_ms),
    });
    *newest = operation;
}

/// What was said of an operation, for who wants to know why an estimate was wrong.
fn told(id: u64, said: &[Said], op: &pb::Operation) -> String {
    let seconds = |ms: u64| ms as f64 / 1e3;
    let span = op.span(op.ended_ms).as_secs_f64();
    let events = op.events.iter().map(|event| {
        let at = seconds(event.at_ms.saturating_sub(op.started_ms));
        (at, format!("after {:?}: {}", event.after(), event.text))
    });
    let moments = said.chunk_by(|a, b| (a.done, a.left) == (b.done, b.left));
    let said = moments.filter_map(|same| same.first()).map(|s| {
        let estimate = s.time_left.map_or("nothing".to_owned(), |left| {
            format!("{:.1} s", left.as_secs_f64())
        });
        let at = seconds(s.now_ms.saturating_sub(op.started_ms));
        let text = format!(
            "{} done, {} left, said {estimate}, took {:.1} s",
            s.done,
            s.left,
            span - at
        );
        (at, text)
    });
    let mut lines: Vec<(f64, String)> = events.chain(said).collect();
    lines.sort_by(|a, b| a.0.total_cmp(&b.0));
    let lines = lines.iter().map(|(at, text)| format!("\n  {at:6.2} s  {text}"));
    format!(
        "operation {id}, {:?}, {span:.1} s:{}",
        op.kind(),
        lines.collect::<String>()
    )
}

/// By what factor the time left was estimated wrongly at most, too long or too short, once half of the steps were done. Of what is left at the very
/// end, less than half a second, nothing is asked: a person cannot tell.
fn worst(said: &[Said], ended_ms: u64) -> Option<f64> {
    let grace = 0.5;
    let late = said.iter().filter(|s| s.done >= s.left && s.now_ms < ended_ms);
    late.filter_map(|s| {
        let real = (ended_ms - s.now_ms) as f64 / 1e3;
        let estimate = s.time_left?.as_secs_f64();
        let (short, long) = (real.min(estimate), real.max(estimate));
        Some(if long - short <= grace {
            1.0
        } else {
            long / short.max(1e-3)
        })
    })
    .reduce(f64::max)
}
