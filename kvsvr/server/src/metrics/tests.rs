use std::collections::BTreeMap;

use kvsvr_proto::v1::ErrorCode;

use super::*;

/// Checks that `text` is Prometheus text whose every sample belongs to a family with HELP and TYPE, and returns the samples.
fn check(text: &str) -> BTreeMap<String, f64> {
    let (mut help, mut kind, mut samples) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, text) = rest.split_once(' ').expect(line);
            assert!(!text.is_empty());
            help.insert(name.to_owned(), text.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, text) = rest.split_once(' ').expect(line);
            kind.insert(name.to_owned(), text.to_owned());
        } else {
            let (series, value) = line.rsplit_once(' ').expect(line);
            let name = series.split('{').next().expect(line);
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| {
                    name.strip_suffix(suffix)
                        .filter(|family| kind.contains_key(*family))
                })
                .unwrap_or(name);
            assert!(
                help.contains_key(family) && kind.contains_key(family),
                "{line} has no HELP or TYPE"
            );
            samples.insert(series.to_owned(), value.parse().expect(line));
        }
    }
    assert_eq!(help.len(), kind.len());
    samples
}

/// Makes one observation of each kind. What is returned is counted as open while it lives.
fn observe_everything(metrics: &Metrics) -> [GaugeGuard; 3] {
    let shard = metrics.shard(ShardId(3));
    shard.committed(Duration::from_millis(2));
    shard.applied(7, Duration::from_micros(60));
    shard.queued(2, 100);
    shard.replication_lag(9);
    shard.apply_lag(1);
    shard.read(ReadKind::Bounded, 5);
    shard.wrote(4);
    shard.rejected(ErrorCode::Overloaded);
    shard.expired(6);
    shard.position(50, 10, true);
    metrics.wal_synced(Duration::from_micros(150));
    metrics.wal_wrote(4096, 12);
    metrics.wal_sizes(1000, 500);
    metrics.row_cache_looked_up(3, 1);
    metrics.row_cache_holds(8, 800);
    metrics.snapshot_sent(11);
    metrics.snapshot_received(12);
    metrics.exec_frame(64);
    metrics.forwarded(2);
    metrics.disk_free(77);
    metrics.process(88, Duration::from_secs(5));
    let listener = metrics.listener("grpc");
    listener.refused();
    [
        metrics.exec_stream_opened(),
        metrics.watch_opened(),
        listener.opened(),
    ]
}

const EXPECTED: [(&str, f64); 35] = [
    ("kvsvr_commit_seconds_bucket{shard=\"3\",le=\"0.001\"}", 0.0),
    ("kvsvr_commit_seconds_bucket{shard=\"3\",le=\"0.0025\"}", 1.0),
    ("kvsvr_apply_seconds_count{shard=\"3\"}", 1.0),
    ("kvsvr_apply_batch_commands_sum{shard=\"3\"}", 7.0),
    ("kvsvr_queue_commands{shard=\"3\"}", 2.0),
    ("kvsvr_queue_bytes{shard=\"3\"}", 100.0),
    ("kvsvr_replication_lag_entries{shard=\"3\"}", 9.0),
    ("kvsvr_apply_lag_entries{shard=\"3\"}", 1.0),
    ("kvsvr_reads_total{mode=\"bounded\",shard=\"3\"}", 5.0),
    ("kvsvr_writes_total{shard=\"3\"}", 4.0),
    ("kvsvr_rejected_total{code=\"overloaded\",shard=\"3\"}", 1.0),
    ("kvsvr_expired_total{shard=\"3\"}", 6.0),
    ("kvsvr_revision{shard=\"3\"}", 50.0),
    ("kvsvr_compaction_floor{shard=\"3\"}", 10.0),
    ("kvsvr_leader{shard=\"3\"}", 1.0),
    ("kvsvr_wal_fsync_seconds_count", 1.0),
    ("kvsvr_wal_written_bytes_total", 4096.0),
    ("kvsvr_wal_batch_records_sum", 12.0),
    ("kvsvr_wal_bytes", 1000.0),
    ("kvsvr_wal_unflushed_bytes", 500.0),
    ("kvsvr_row_cache_hits_total", 3.0),
    ("kvsvr_row_cache_misses_total", 1.0),
    ("kvsvr_row_cache_entries", 8.0),
    ("kvsvr_row_cache_bytes", 800.0),
    ("kvsvr_snapshot_sent_bytes_total", 11.0),
    ("kvsvr_snapshot_received_bytes_total", 12.0),
    ("kvsvr_exec_streams", 1.0),
    ("kvsvr_exec_frame_requests_count", 1.0),
    ("kvsvr_forwarded_total", 2.0),
    ("kvsvr_watch_subscribers", 1.0),
    ("kvsvr_connections{listener=\"grpc\"}", 1.0),
    ("kvsvr_connections_refused_total{listener=\"grpc\"}", 1.0),
    ("kvsvr_disk_free_bytes", 77.0),
    ("kvsvr_process_resident_bytes", 88.0),
    ("kvsvr_process_uptime_seconds", 5.0),
];

#[test]
fn every_observation_shows_up() {
    let metrics = Metrics::new();
    let _open = observe_everything(&metrics);
    let samples = check(&metrics.render().unwrap());
    for (series, value) in EXPECTED {
        assert_eq!(samples.get(series), Some(&value), "{series}");
    }
    assert_eq!(metrics.row_cache_hit_rate(), 0.75);
    assert!(
        (140..=160).contains(&metrics.fsync_p99_us()),
        "{}",
        metrics.fsync_p99_us()
    );
}

#[test]
fn every_metric_is_in_the_table() {
    let metrics = Metrics::new();
    metrics.shard(ShardId(0));
    metrics.listener("grpc");
    let source = include_str!("../metrics.rs");
    let table: String = source.lines().filter(|line| line.starts_with("//! |")).collect();
    for family in metrics.registry.gather() {
        // Pairs share a row: `kvsvr_row_cache_hits_total`, `..._misses_total`.
        let name = family.name();
        let last_words = ["misses_total", "bytes", "received_bytes_total"];
        let listed = table.contains(&format!("`{name}`"))
            || last_words
                .iter()
                .any(|word| name.ends_with(word) && table.contains(&format!("`..._{word}`")));
        assert!(listed, "{name} is not described in the module's documentation");
    }
}

#[test]
fn guards_count_down_and_shards_are_shared() {
    let metrics = Metrics::new();
    drop(metrics.exec_stream_opened());
    metrics.shard(ShardId(1)).wrote(1);
    metrics.shard(ShardId(1)).wrote(1);
    let samples = check(&metrics.render().unwrap());
    assert_eq!(samples["kvsvr_exec_streams"], 0.0);
    assert_eq!(samples["kvsvr_writes_total{shard=\"1\"}"], 2.0);
}

#[test]
fn what_is_answered_is_counted_over_data_shards() {
    let metrics = Metrics::new();
    for shard in [0, 1, 2] {
        metrics.shard(ShardId(shard)).wrote(10 + u64::from(shard));
        metrics.shard(ShardId(shard)).read(ReadKind::Local, 1);
        metrics.shard(ShardId(shard)).read(ReadKind::Linearizable, 5);
    }
    let answered = metrics.answered();
    assert_eq!((answered.reads, answered.writes), (12, 23));
}

#[test]
fn every_error_code_has_a_counter() {
    let metrics = Metrics::new();
    let shard = metrics.shard(ShardId(1));
    for code in (0..1000).filter_map(|code| ErrorCode::try_from(code).ok()) {
        shard.rejected(code);
    }
}

#[test]
fn two_nodes_in_a_process_do_not_mix() {
    let (a, b) = (Metrics::new(), Metrics::new());
    a.forwarded(5);
    assert_eq!(check(&b.render().unwrap())["kvsvr_forwarded_total"], 0.0);
}

#[test]
fn resident_memory_is_read_from_proc() {
    assert_eq!(
        parse_resident("Name:\tx\nVmRSS:\t    1234 kB\n"),
        Some(1234 * 1024)
    );
    for bad in ["", "VmRSS:", "VmRSS: x kB", "VmRSS: 12"] {
        assert_eq!(parse_resident(bad), None, "{bad}");
    }
    if cfg!(target_os = "linux") {
        assert!(resident_bytes() > 100_000);
    }
}
