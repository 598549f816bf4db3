//! A cluster of three nodes, changed, and what is wrong with it then.

use kvsvr_client::proto::NodeInfo;

use super::*;

fn replica(shard: u32, leader: u64, node: u64) -> ReplicaStatus {
    ReplicaStatus {
        shard,
        role: if leader == node { "leader" } else { "follower" }.into(),
        term: 5,
        leader,
        committed_index: 100_000,
        applied_index: 100_000,
        revision: 70,
        ..ReplicaStatus::default()
    }
}

/// Three nodes; shard n is led by node n + 1.
pub(crate) fn healthy() -> View {
    let node = |id: u64| NodeView {
        id,
        address: format!("n{id}:7101"),
        status: Ok(NodeStatus {
            node_id: id,
            cluster_id: "c".into(),
            disk_free_bytes: 100 << 30,
            fsync_p99_us: 1_500,
            reads: Some(0),
            writes: Some(0),
            reads_per_s: Some(20.0),
            writes_per_s: Some(2.0),
            replicas: (0..3)
                .map(|shard| replica(shard, u64::from(shard) + 1, id))
                .collect(),
            ..NodeStatus::default()
        }),
    };
    let shard = |id: u32| ShardInfo {
        id,
        replicas: vec![1, 2, 3],
        ..ShardInfo::default()
    };
    let map = ShardMap {
        cluster_id: "c".into(),
        nodes: (1..=3)
            .map(|id| NodeInfo {
                id,
                ..NodeInfo::default()
            })
            .collect(),
        shards: (0..3).map(shard).collect(),
        ..ShardMap::default()
    };
    View {
        map,
        nodes: (1..=3).map(node).collect(),
    }
}

/// The healthy cluster, changed.
pub(crate) fn view(change: impl FnOnce(&mut Vec<NodeView>)) -> View {
    let mut view = healthy();
    change(&mut view.nodes);
    view
}

#[track_caller]
fn check(view: &View, expected: &[(Severity, &str)]) {
    let problems = view.problems();
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, (severity, part)) in problems.iter().zip(expected) {
        assert!(
            problem.severity == *severity && problem.text.contains(part),
            "{problem:?}: {part}"
        );
    }
}

#[test]
fn a_healthy_cluster_has_no_problems() {
    check(&healthy(), &[]);
    assert_eq!(wrong(&healthy(), false), None);
    assert_eq!(healthy().leader(2), Some(3));
}

#[test]
fn one_node_down_is_degraded_once_another_leads() {
    let view = view(|nodes| {
        nodes[0].status = Err("connection refused".into());
        if let Ok(status) = &mut nodes[1].status {
            status.replicas[0] = replica(0, 2, 2);
        }
    });
    check(
        &view,
        &[
            (
                Severity::Degraded,
                "node 1 (n1:7101) does not answer: connection refused",
            ),
            (Severity::Degraded, "shard 1 has 2 of 3 replicas"),
            (Severity::Degraded, "shard 2 has 2 of 3 replicas"),
            (Severity::Degraded, "the meta shard has 2 of 3 replicas"),
        ],
    );
    assert!(view.is_serving());
    assert_eq!(wrong(&view, true), None);
    assert!(wrong(&view, false).unwrap().contains("node 1"));
}

#[test]
fn a_lost_majority_is_down() {
    // The one that is left goes on calling itself the leader of shard 2.
    let mut view = view(|nodes| {
        nodes[0].status = Err("gone".into());
        nodes[1].status = Err("gone".into());
    });
    let lost = |view: &View| -> Vec<String> {
        let problems = view.problems().into_iter();
        let down = problems.filter(|problem| problem.severity == Severity::Down);
        down.map(|problem| problem.text).collect()
    };
    let help = "If that cannot be: kvsvr recover, \"Lost quorum\" in docs/operations.md";
    assert_eq!(
        lost(&view),
        [format!(
            "shards 0, 1, 2 have no majority, so nobody leads them: 1 of 3 replicas answers, 2 are needed. Bring back node 1 (n1:7101) or \
             node 2 (n2:7101). {help}"
        )]
    );
    assert!(!view.is_serving());
    assert!(wrong(&view, true).unwrap().contains("Bring back node 1"));
    // One that lacks others is told apart.
    view.map.shards[1].replicas = vec![1, 2];
    view.map.shards[2].replicas = vec![2, 3, 1, 4, 5];
    let texts = lost(&view);
    assert_eq!(texts.len(), 3, "{texts:?}");
    assert_eq!(
        texts[0],
        format!(
            "shard 1 has no majority, so nobody leads it: 0 of 2 replicas answer, 2 are needed. Bring back node 1 (n1:7101) and node 2 (n2:7101). {help}"
        )
    );
    assert!(
        texts[1].contains("Bring back 2 of node 1 (n1:7101), node 2 (n2:7101), node 4, node 5."),
        "{texts:?}"
    );
    assert!(
        texts[2].starts_with("the meta shard has no majority"),
        "{texts:?}"
    );
}

#[test]
fn an_election_is_told_from_a_lost_majority() {
    let view = view(|nodes| {
        if let Ok(status) = &mut nodes[1].status {
            status.replicas[1].role = "candidate".into();
        }
    });
    check(&view, &[(Severity::Down, "shard 1 has no leader; an election")]);
}

#[test]
fn of_two_leaders_the_newer_counts() {
    let view = view(|nodes| {
        if let Ok(status) = &mut nodes[0].status {
            status.replicas[1].role = "leader".into();
            status.replicas[1].term = 6;
        }
    });
    assert_eq!(view.leader(1), Some(1));
}

#[test]
fn nodes_are_judged() {
    let changed = |change: fn(&mut NodeStatus)| {
        view(|nodes| {
            if let Ok(status) = &mut nodes[2].status {
                change(status);
            }
        })
    };
    check(
        &changed(|s| s.disk_free_bytes = 1000),
        &[(Severity::Warning, "1000 B of disk left")],
    );
    check(
        &changed(|s| s.fsync_p99_us = 90_000),
        &[(Severity::Warning, "p99 of fsync is 90.0ms")],
    );
    check(
        &changed(|s| s.messages = vec!["clock".into()]),
        &[(Severity::Warning, "(n3:7101): clock")],
    );
    check(
        &changed(|s| s.replicas[0].applied_index = 5),
        &[(Severity::Degraded, "99995 entries behind")],
    );
    check(
        &changed(|s| s.node_id = 9),
        &[
            (Severity::Degraded, "another process has its address"),
            (Severity::Degraded, "shard 1 has 2 of 3 replicas"),
            (Severity::Degraded, "shard 2 has 2 of 3 replicas"),
            (Severity::Degraded, "the meta shard has 2 of 3 replicas"),
        ],
    );
    check(
        &changed(|s| s.replicas.truncate(2)),
        &[(Severity::Down, "shard 2 has no leader")],
    );
    assert_eq!(wrong(&changed(|s| s.disk_free_bytes = 1000), false), None);
}

#[test]
fn a_cluster_without_shards_is_not_healthy() {
    let mut view = healthy();
    view.map.shards.clear();
    assert!(wrong(&view, false).is_some() && wrong(&view, true).is_some());
    assert!(view.shard(1).is_err());
}
