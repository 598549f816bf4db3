//! How processes end, and what they find when they begin again. One node, so that what it has lost is nowhere else.

use bytes::Bytes;
use kvsvr_client::{Client, ClientConfig, Partition};
use kvsvr_proto::v1::BootstrapRequest;
use madsim::runtime::Runtime;
use tokio::time::sleep;

use super::*;
use crate::{disk::Operation, failpoint::Step};

const ADDRESS: &str = "node:7101";

struct Lab {
    node: SimNode,
    client: Client,
    /// Keeps the client's tasks' node.
    host: NodeHandle,
}

impl Lab {
    async fn put(&self, key: &str, value: &str) -> bool {
        let (client, key, value) = (self.client.clone(), key.to_owned(), value.to_owned());
        let putting = async move { client.put(&Partition::local("p"), key, value).await.is_ok() };
        self.host.spawn(putting).await.unwrap()
    }

    async fn get(&self, key: &str) -> Option<Bytes> {
        let (client, key) = (self.client.clone(), key.to_owned());
        let getting = async move { client.get(&Partition::local("p"), key).await.unwrap() };
        let read = self.host.spawn(getting).await.unwrap();
        read.value.map(|value| value.value)
    }

    /// Waits until the process has ended by itself, and gives the reason.
    async fn ended(&self) -> String {
        while self.node.is_running() {
            sleep(Duration::from_millis(10)).await;
        }
        self.node.ended().pop().unwrap().reason
    }
}

/// Runs a test with a cluster of one node that has `key` = `first`.
fn lab<F: Future>(test: impl FnOnce(Lab) -> F) -> F::Output {
    kvsvr::time::skewed::forget_all();
    Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(async {
        let net = SimNet::new(1);
        let node = SimNode::new(1, net.clone(), ADDRESS, Settings::default());
        assert!(node.start() && !node.start());
        let host = Handle::current().create_node().name("client").build();
        let transport = Arc::new(net.boot("client", host.clone()));
        let client = Client::with_transport(transport, ClientConfig::new([ADDRESS])).unwrap();
        let bootstrapping = client.clone();
        let bootstrapped = host.spawn(async move {
            sleep(Duration::from_secs(1)).await;
            let request = BootstrapRequest {
                addresses: vec![ADDRESS.into()],
                shards: 1,
                replication: 1,
                ..Default::default()
            };
            bootstrapping.bootstrap(request).await
        });
        bootstrapped.await.unwrap().unwrap();
        let lab = Lab { node, client, host };
        assert!(lab.put("key", "first").await);
        test(lab).await
    })
}

#[test]
fn what_was_acknowledged_survives_kills_and_power_losses() {
    lab(|lab| async move {
        for (number, power) in [false, true, true, false].into_iter().enumerate() {
            let value = format!("value {number}");
            assert!(lab.put("key", &value).await);
            match power {
                true => lab.node.power_off(),
                false => assert!(lab.node.kill()),
            }
            assert!(!lab.node.is_running() && lab.node.node().is_none());
            assert!(lab.node.start());
            assert_eq!(lab.get("key").await.unwrap(), value);
        }
        let reasons: Vec<_> = lab.node.ended().into_iter().map(|ended| ended.reason).collect();
        assert_eq!(reasons, ["killed", "power lost", "power lost", "killed"]);
    });
}

#[test]
fn a_failed_sync_of_the_log_ends_the_process_before_it_answers() {
    lab(|lab| async move {
        lab.node.disk_control().fail_after(0, Operation::Sync, 1);
        let (acknowledged, reason) = futures::join!(lab.put("key", "second"), lab.ended());
        assert!(!acknowledged);
        assert!(reason.contains("the log failed"), "{reason}");
        assert!(lab.node.ended()[0].by_itself());
        lab.node.start();
        assert!(lab.put("key", "third").await);
        assert_eq!(lab.get("key").await.unwrap(), "third");
    });
}

#[test]
fn a_failed_flush_ends_the_process() {
    lab(|lab| async move {
        lab.node
            .failpoints()
            .arm(0, Step::EngineFlush.before(), 1, Action::Error);
        let node = lab.node.node().unwrap();
        let host = lab.node.0.state.lock().running.as_ref().unwrap().host.clone();
        host.spawn(async move {
            if let Err(error) = maintenance::flush_now(&node).await {
                node.fail(error.to_string());
            }
        });
        let reason = lab.ended().await;
        assert!(reason.contains("at engine_flush.before"), "{reason}");
        lab.node.start();
        assert_eq!(lab.get("key").await.unwrap(), "first");
    });
}

#[test]
fn a_kill_around_a_flush_stops_the_process_there() {
    for (point, durable) in [
        (Step::EngineFlush.before(), false),
        (Step::EngineFlush.after(), true),
    ] {
        lab(|lab| async move {
            let engine = lab.node.engine();
            lab.node.failpoints().arm(0, point, 1, Action::Kill);
            let node = lab.node.node().unwrap();
            let host = lab.node.0.state.lock().running.as_ref().unwrap().host.clone();
            let flushing = host.spawn(async move {
                let _ = maintenance::flush_now(&node).await;
                sleep(Duration::from_millis(1)).await;
                "the process runs on"
            });
            flushing.await.unwrap_err();
            assert!(!lab.node.is_running());
            let rows = |engine: &SimEngine| !engine.is_empty().unwrap();
            assert_eq!(rows(&lab.node.engine()), durable, "{point}");
            lab.node.start();
            assert_eq!(lab.get("key").await.unwrap(), "first", "{point}");
            drop(engine);
        });
    }
}

#[test]
fn at_each_point_around_a_write_of_the_log_what_was_acknowledged_survives() {
    let steps = [Step::WalWrite, Step::WalSync];
    for point in steps.into_iter().flat_map(|step| [step.before(), step.after()]) {
        for action in [Action::Kill, Action::PowerLoss, Action::Error] {
            lab(|lab| async move {
                lab.node.failpoints().arm(0, point, 1, action);
                let (acknowledged, reason) = futures::join!(lab.put("key", "second"), lab.ended());
                assert!(!acknowledged, "{point} {action:?}");
                let is_told = reason.contains(&point.to_string());
                assert!(
                    is_told || action == Action::Error && reason.contains("the log failed"),
                    "{reason}"
                );
                lab.node.start();
                let found = lab.get("key").await.unwrap();
                // Nobody was told of the second one: it may be there or not.
                assert!(
                    found == "first" || found == "second",
                    "{point} {action:?}: {found:?}"
                );
                assert!(lab.put("key", "third").await);
                assert_eq!(lab.node.failpoints().fired(), [(point, action)]);
            });
        }
    }
}

#[test]
fn a_power_loss_before_a_sync_may_tear_the_log_and_the_next_start_cuts_it() {
    lab(|lab| async move {
        let large = "x".repeat(5_000);
        for _ in 0..20 {
            lab.node
                .failpoints()
                .arm(0, Step::WalSync.before(), 1, Action::PowerLoss);
            futures::join!(lab.put("key", &large), lab.ended());
            lab.node.start();
            assert!(lab.get("key").await.is_some());
        }
        assert!(lab.node.found()[&Found::TornLog] > 2, "{:?}", lab.node.found());
    });
}

#[test]
fn a_wiped_node_begins_as_a_stranger() {
    lab(|lab| async move {
        lab.node.wipe();
        lab.node.start();
        sleep(Duration::from_secs(2)).await;
        let node = lab.node.node().unwrap();
        assert!(node.identity().is_none());
    });
}

#[test]
fn a_disk_that_is_given_back_has_what_it_had() {
    lab(|lab| async move {
        lab.node.take_disk();
        lab.node.start();
        sleep(Duration::from_secs(2)).await;
        assert!(lab.node.node().unwrap().identity().is_none());
        lab.node.give_disk_back();
        lab.node.start();
        assert_eq!(lab.get("key").await.unwrap(), "first");
    });
}

#[test]
fn a_member_that_lost_its_log_does_not_start() {
    lab(|lab| async move {
        lab.node.kill();
        let disk = lab.node.disk();
        for path in disk.paths().iter().filter(|path| path.starts_with("wal/")) {
            kvsvr::disk::Disk::remove(&disk, path).await.unwrap();
        }
        lab.node.start();
        let reason = lab.ended().await;
        assert!(reason.contains("has no log any more"), "{reason}");
    });
}

#[test]
fn a_paused_node_answers_when_it_goes_on() {
    lab(|lab| async move {
        lab.node.pause();
        let resuming = async {
            sleep(Duration::from_secs(1)).await;
            lab.node.resume();
            tokio::time::Instant::now()
        };
        let reading = async { (lab.get("key").await, tokio::time::Instant::now()) };
        let ((value, read_at), resumed_at) = futures::join!(reading, resuming);
        assert_eq!(value.unwrap(), "first");
        assert!(read_at > resumed_at);
    });
}

#[test]
fn an_orderly_stop_flushes() {
    lab(|lab| async move {
        lab.node.stop().await.unwrap();
        assert!(!lab.node.engine().is_empty().unwrap());
        assert_eq!(lab.node.ended()[0].reason, "stopped");
        lab.node.start();
        assert_eq!(lab.get("key").await.unwrap(), "first");
    });
}

#[test]
fn a_paused_node_can_be_killed() {
    lab(|lab| async move {
        lab.node.pause();
        sleep(Duration::from_secs(1)).await;
        assert!(lab.node.kill());
        lab.node.start();
        assert_eq!(lab.get("key").await.unwrap(), "first");
    });
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room() {
    lab(|lab| async move {
        lab.node.set_disk_capacity(0);
        sleep(Duration::from_secs(2)).await;
        assert!(!lab.put("key", "second").await);
        assert_eq!(lab.get("key").await.unwrap(), "first");
        lab.node.set_disk_capacity(u64::MAX);
        sleep(Duration::from_secs(2)).await;
        assert!(lab.put("key", "third").await);
        assert!(lab.node.is_running());
    });
}

#[test]
fn stamps_follow_the_machines_wall_clock() {
    lab(|lab| async move {
        let wall = |lab: &Lab| {
            let host = lab.node.0.state.lock().running.as_ref().unwrap().host.clone();
            host.spawn(async { wall_clock_ms() })
        };
        let shard = |lab: &Lab| lab.node.node().unwrap().shards().pop().unwrap();
        let before = wall(&lab).await.unwrap();
        lab.node.clock().set_wall_offset_ms(60_000);
        assert!(lab.put("key", "second").await);
        assert!(shard(&lab).head().stamp() >= before + 60_000);
        // The clock is the machine's: the next process has it too.
        lab.node.kill();
        lab.node.start();
        assert!(wall(&lab).await.unwrap() >= before + 60_000);
    });
}

#[test]
fn a_power_loss_takes_what_was_not_synced_and_a_kill_does_not() {
    lab(|lab| async move {
        let mut lost = 0;
        for number in 0..40 {
            let path = format!("x{number}");
            let disk = lab.node.disk();
            let file = kvsvr::disk::Disk::open(&disk, &path, true).await.unwrap();
            let bytes = vec![Bytes::from_static(b"text")];
            file.write_at(0, bytes, false).await.unwrap();
            match number % 2 {
                0 => lab.node.power_off(),
                _ => assert!(lab.node.kill()),
            }
            let found = kvsvr::disk::Disk::read(&lab.node.disk(), &path).await;
            let there = found.is_ok_and(|found| found == "text");
            assert!(there || number % 2 == 0);
            lost += usize::from(!there);
            lab.node.start();
        }
        assert!((5..20).contains(&lost), "{lost}");
    });
}
