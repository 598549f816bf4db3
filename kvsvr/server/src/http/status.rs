//! A node's status as JSON: the fields of `kvsvr.v1.NodeStatus` by their names.
//!
//! Unlike protobuf's own JSON form, 64-bit numbers are numbers and fields at zero are shown: people and `jq` read this, and none of the
//! numbers passes 2^53 in practice. The messages are taken apart completely, so that a new field does not compile until it is shown.

use kvsvr_proto::v1::{NodeStatus, ReplicaStatus};
use serde_json::{Map, Value, json};

/// The status as a JSON object.
pub(super) fn to_json(status: NodeStatus) -> Value {
    let NodeStatus {
        node_id,
        cluster_id,
        store_id,
        address,
        version,
        uptime_s,
        map_epoch,
        disk_free_bytes,
        wal_bytes,
        data_bytes,
        fsync_p99_us,
        cache_hit_rate,
        rss_bytes,
        replicas,
        messages,
        mean_write_us,
        reads,
        writes,
        reads_per_s,
        writes_per_s,
    } = status;
    let replicas: Vec<Value> = replicas.into_iter().map(replica).collect();
    json!({
        "messages": messages,
        "node_id": node_id,
        "cluster_id": cluster_id,
        "store_id": store_id,
        "address": address,
        "version": version,
        "uptime_s": uptime_s,
        "map_epoch": map_epoch,
        "disk_free_bytes": disk_free_bytes,
        "wal_bytes": wal_bytes,
        "data_bytes": data_bytes,
        "fsync_p99_us": fsync_p99_us,
        "mean_write_us": mean_write_us,
        "cache_hit_rate": cache_hit_rate,
        "rss_bytes": rss_bytes,
        "reads": reads,
        "writes": writes,
        "reads_per_s": reads_per_s,
        "writes_per_s": writes_per_s,
        "replicas": replicas,
    })
}

fn replica(status: ReplicaStatus) -> Value {
    let ReplicaStatus {
        shard,
        role,
        term,
        leader,
        last_index,
        committed_index,
        applied_index,
        purged_index,
        flushed_index,
        revision,
        floor,
        queue,
        matched,
        snapshot,
    } = status;
    // An object's keys are strings; serde_json sorts them.
    let matched: Map<String, Value> = matched
        .into_iter()
        .map(|(node, index)| (node.to_string(), index.into()))
        .collect();
    json!({
        "shard": shard,
        "role": role,
        "term": term,
        "leader": leader,
        "last_index": last_index,
        "committed_index": committed_index,
        "applied_index": applied_index,
        "purged_index": purged_index,
        "flushed_index": flushed_index,
        "revision": revision,
        "floor": floor,
        "queue": queue,
        "matched": matched,
        "snapshot": snapshot,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_the_names_of_the_protocol() {
        let replica = ReplicaStatus {
            shard: 3,
            role: "leader".into(),
            matched: [(2, 40), (1, 41)].into_iter().collect(),
            ..Default::default()
        };
        let messages = vec!["shard 2 has no leader".to_owned()];
        let status = NodeStatus {
            node_id: 7,
            replicas: vec![replica],
            messages,
            ..Default::default()
        };
        let json = to_json(status);
        assert_eq!(json["node_id"], 7);
        assert_eq!(json["messages"][0], "shard 2 has no leader");
        assert_eq!(json["replicas"][0]["role"], "leader");
        assert_eq!(json["replicas"][0]["matched"], json!({ "1": 41, "2": 40 }));
        assert_eq!(json["wal_bytes"], 0, "a field at zero is shown");
    }
}
