//! The plan on collected data, the files between the steps, and what a plan does to a log in memory that can lose power.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use kvsvr_core::{
    codec::{encode_batch, encode_command},
    command::{Command, Op},
    engine::Engine as _,
    machine::Machine,
    mem::MemEngine,
    types::{LogPosition, Partition, ShardId},
};
use prost::Message as _;
use tokio::sync::oneshot;

use super::{
    apply::actions,
    collect::{Still, collect_files},
    file::{encode, parse},
    *,
};
use crate::{
    disk::{DynDisk, mem::MemDisk},
    limits::RECOVERY_TERMS,
    raft::{apply::core_entry, convert, types::PeerNode},
    store::{Identity, ReplicaRecord, ReplicaState, Store},
    wal::{EntryKind, EntryRecord, Wal, WalOptions},
};

fn store_id(node: u64) -> StoreId {
    StoreId([node as u8; 16])
}

fn peer(node: u64) -> Peer {
    Peer {
        address: format!("n{node}:1"),
        store_id: store_id(node).to_string(),
        incarnation: 0,
    }
}

/// One set of voters, or two.
type Voters = &'static [&'static [u64]];

/// A replica of a group with these voters, whose log ends so, as (term, index).
fn replica(voters: Voters, last: (u64, u64), committed: u64) -> Replica {
    let (term, index) = last;
    let at = |index| Position { term, node: 9, index };
    let nodes = voters.iter().flat_map(|set| set.iter());
    Replica {
        incarnation: 0,
        members: Members {
            position: Some(at(0)),
            voters: voters.iter().map(|set| set.iter().copied().collect()).collect(),
            nodes: nodes.map(|id| (*id, peer(*id))).collect(),
        },
        vote: Some(Vote {
            term,
            node: 9,
            committed: true,
        }),
        last: Some(at(index)),
        committed: Some(at(committed)),
        applied: None,
        revision: index,
    }
}

fn node(id: u64, replicas: impl IntoIterator<Item = (u32, Replica)>) -> Collected {
    let rows = [(0, vec![1, 2, 3, 4, 5]), (1, vec![1, 2, 3]), (2, vec![1, 4, 5])];
    Collected {
        cluster_id: "00000000000000aa".into(),
        cluster_name: "orders".into(),
        node_id: id,
        store_id: store_id(id),
        replicas: replicas.into_iter().collect(),
        map: Some(Map {
            epoch: 7,
            nodes: (1..=5).map(|id| (id, format!("n{id}:1"))).collect(),
            shards: rows.into(),
        }),
    }
}

/// Two of five nodes are left.
fn survivors() -> Vec<Collected> {
    let (all, moving): (Voters, Voters) = (&[&[1, 2, 3, 4, 5]], &[&[1, 3, 4], &[1, 2, 3]]);
    let (first, last, even): (Voters, Voters, Voters) = (&[&[1, 2, 3]], &[&[1, 4, 5]], &[&[1, 2, 3, 4]]);
    vec![
        node(
            1,
            [
                (0, replica(all, (7, 100), 99)),
                (1, replica(first, (3, 5), 5)),
                (2, replica(last, (9, 50), 48)),
                (3, replica(moving, (4, 20), 20)),
                (4, replica(even, (8, 11), 11)),
            ],
        ),
        node(
            2,
            [
                // Longer, but of an older term than what node 1 has of shard 4.
                (0, replica(all, (7, 101), 100)),
                (1, replica(first, (3, 4), 4)),
                (3, replica(moving, (4, 20), 19)),
                (4, replica(even, (6, 30), 10)),
            ],
        ),
    ]
}

fn planned(collected: Vec<Collected>) -> Plan {
    plan(collected).unwrap().1.unwrap()
}

#[test]
fn what_is_found_is_a_table() {
    let (findings, _) = plan(survivors()).unwrap();
    let lines = findings.lines();
    assert_eq!(
        lines[..4],
        [
            "cluster orders (00000000000000aa)",
            "survivors: nodes 1, 2",
            "lost: nodes 3 (n3:1), 4 (n4:1), 5 (n5:1). They must never be started again with the data directories that they had",
            "",
        ]
    );
    // Column by column: what is between them is white space.
    let words = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let table: Vec<String> = lines[4..10].iter().map(words).collect();
    assert_eq!(
        table,
        [
            "SHARD VOTERS LEARNERS SURVIVORS CHOSEN LAST COMMITTED",
            "0 (meta) 1,2,3,4,5 - 1:100@7 2:101@7 2 101 100 no majority; may have lost acknowledged writes",
            "1 1,2,3 - 1:5@3 2:4@3 - - - keeps its majority, untouched",
            "2 1,4,5 - 1:50@9 1 50 48 no majority; may have lost acknowledged writes",
            // A majority of the second set cannot be on the lost nodes.
            "3 1,2,3,4 - 1:20@4 2:20@4 1 20 20 no majority; all that was acknowledged is on a survivor",
            // Three of four have each acknowledged entry, two are lost.
            "4 1,2,3,4 - 1:11@8 2:30@6 1 11 11 no majority; all that was acknowledged is on a survivor",
        ]
    );
    // And one line as it is.
    assert_eq!(
        lines[7],
        "2         1,4,5      -         1:50@9           1       50    48         no majority; may have lost acknowledged writes"
    );
    let warnings = lines[11..].join("\n");
    assert!(warnings.starts_with("shards 0, 2: writes that were acknowledged may be lost"));
    assert!(
        warnings.contains("entries after COMMITTED up to LAST are kept"),
        "{warnings}"
    );
}

#[test]
fn the_most_advanced_survivor_goes_on_in_a_term_of_its_own() {
    let plan = planned(survivors());
    let recovered: Vec<(u32, u64, Vec<u64>)> = plan
        .shards
        .iter()
        .map(|(shard, r)| (*shard, r.chosen, r.retired.iter().copied().collect()))
        .collect();
    assert_eq!(
        recovered,
        [(0, 2, vec![1]), (2, 1, vec![]), (3, 1, vec![2]), (4, 1, vec![2])]
    );
    assert_eq!(
        plan.shards[&4].entry,
        Position {
            term: 8 + RECOVERY_TERMS,
            node: 1,
            index: 12
        }
    );
    // A vote counts as well as a log.
    let mut collected = survivors();
    collected[1].replicas.get_mut(&4).unwrap().vote = Some(Vote {
        term: 40,
        node: 2,
        committed: false,
    });
    assert_eq!(planned(collected).shards[&4].entry.term, 40 + RECOVERY_TERMS);
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    #[track_caller]
    fn refused(collected: Vec<Collected>, code: &str) {
        let error = match plan(collected) {
            Err(error) | Ok((_, Err(error))) => error.to_string(),
            Ok((_, Ok(plan))) => panic!("not refused: {plan:?}"),
        };
        assert!(error.starts_with(code), "{error}");
    }
    let mut other = survivors();
    other[1].cluster_id = "00000000000000bb".into();
    refused(other, "OTHER_CLUSTER: the files are of several clusters");
    let mut renamed = survivors();
    renamed[1].cluster_name = "payments".into();
    refused(renamed, "OTHER_CLUSTER: the files give one cluster several names");
    let mut nameless = survivors();
    for one in &mut nameless {
        one.cluster_name = String::new();
    }
    refused(nameless, "OTHER_CLUSTER: none of these nodes");
    let mut twice = survivors();
    twice.push(twice[0].clone());
    refused(twice, "SAME_NODE: node 1");
    // Node 2 alone has nothing of shard 2, which the map has on 1, 4 and 5.
    refused(survivors().split_off(1), "NO_SURVIVOR: of shard 2 ");
    let whole: Voters = &[&[1, 2, 3]];
    let three = (1..=2).map(|id| {
        let mut one = node(
            id,
            [(0, replica(whole, (3, 5), 5)), (1, replica(whole, (3, 5), 5))],
        );
        one.map = None;
        one
    });
    refused(three.collect(), "NOTHING_LOST");
}

/// A replica that is not the member that the group means, or has nothing yet, is no survivor.
#[test]
fn strangers_and_empty_replicas_are_no_survivors() {
    let voters: Voters = &[&[1, 2, 3]];
    let survivors = |change: fn(&mut Replica)| {
        let mut two = replica(voters, (2, 3), 3);
        change(&mut two);
        let mut nodes = vec![node(1, [(1, replica(voters, (3, 5), 5))]), node(2, [(1, two)])];
        nodes.iter_mut().for_each(|node| {
            node.map.as_mut().unwrap().shards.retain(|shard, _| *shard == 1);
        });
        plan(nodes).unwrap().0.shards[&1].clone()
    };
    assert_eq!(survivors(|_| {}).fate, Fate::Kept);
    let stranger = survivors(|replica| replica.incarnation = 3);
    assert!(stranger.survivors.keys().eq([&1]), "{stranger:?}");
    assert!(matches!(stranger.fate, Fate::Recovered { .. }));
    let lost = plan(vec![{
        let mut one = node(1, [(1, replica(&[], (0, 0), 0))]);
        one.replicas.get_mut(&1).unwrap().last = None;
        one
    }]);
    assert_eq!(lost.unwrap().0.shards[&1].fate, Fate::Lost);
}

#[test]
fn files_keep_what_is_in_them_or_are_refused() {
    let one = node(1, [(2, replica(&[&[1, 4, 5]], (9, 50), 48))]);
    let text = encode(&one).unwrap();
    assert_eq!(parse::<Collected>(text.as_bytes()).unwrap(), one);
    // The stored form; white space does not matter.
    let plain: String = text.split_whitespace().collect();
    let (head, content) = plain.split_once(r#""content":"#).unwrap();
    assert!(
        head.starts_with(r#"{"kind":"kvsvr-recover-collected","format_version":1,"crc32c":""#),
        "{head}"
    );
    assert!(content.starts_with(
        r#"{"cluster_id":"00000000000000aa","cluster_name":"orders","map":{"epoch":7,"nodes":{"1":"n1:1","#
    ));
    assert!(content.contains(
        r#""last":{"index":50,"node":9,"term":9},"members":{"nodes":{"1":{"address":"n1:1","incarnation":0,"store_id":"01010101010101010101010101010101"}"#
    ), "{content}");
    assert_eq!(parse::<Collected>(plain.as_bytes()).unwrap(), one);
    for (from, to, part) in [
        (
            "\"index\": 50",
            "\"index\": 51",
            "damaged (its checksum does not match)",
        ),
        (
            "\"format_version\": 1",
            "\"format_version\": 2",
            "use one version of kvsvr",
        ),
        (
            "kvsvr-recover-collected",
            "photo",
            "one that `kvsvr recover collect` makes",
        ),
    ] {
        assert!(text.contains(from));
        let error = parse::<Collected>(text.replace(from, to).as_bytes()).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    let half = &text.as_bytes()[..text.len() / 2];
    assert!(parse::<Collected>(half).unwrap_err().contains("damaged"));
    assert!(
        parse::<Plan>(text.as_bytes())
            .unwrap_err()
            .contains("`kvsvr recover plan`")
    );
}

const SHARD: ShardId = ShardId(3);
const LAST: u64 = 9;

/// The log: who is in the group, then puts.
fn entry(index: u64) -> EntryRecord {
    let position = LogPosition {
        index,
        term: 4,
        node: 2,
    };
    if index == 0 {
        let node = |id: u64| PeerNode {
            address: format!("n{id}:1"),
            store_id: store_id(id).to_string(),
            incarnation: 0,
        };
        let membership = crate::raft::types::Membership::new(
            vec![[1, 2, 3].into()],
            std::collections::BTreeMap::from([1, 2, 3].map(|id| (id, node(id)))),
        );
        let payload = convert::pb_membership(&membership.unwrap()).encode_to_vec();
        return EntryRecord {
            position,
            kind: EntryKind::Membership,
            payload: payload.into(),
        };
    }
    let put = Command {
        partition: Partition::local("user"),
        session: None,
        op: Op::Put {
            key: Bytes::from(format!("key-{index}")),
            value: Bytes::from_static(b"v"),
            ttl_ms: 0,
            lease: 0,
        },
    };
    EntryRecord {
        position,
        kind: EntryKind::Batch,
        payload: encode_batch(1_000 + index, &[encode_command(&put)]),
    }
}

async fn open(disk: &MemDisk) -> std::io::Result<Wal> {
    let options = WalOptions {
        segment_bytes: 8 << 10,
        ..WalOptions::new(store_id(1), 5, Arc::new(|_| {}))
    };
    let disk: DynDisk = Arc::new(disk.clone());
    let opened = Wal::open(disk, options).await.map_err(std::io::Error::other)?;
    Ok(opened.0)
}

async fn append(wal: &Wal, shard: ShardId, entries: Vec<EntryRecord>) {
    let (told, done) = oneshot::channel();
    wal.append(shard, entries, Box::new(|result| drop(told.send(result))));
    done.await.unwrap().unwrap();
}

/// The files of node 1: its log of the shard ends with [`LAST`], of which it knows all but two entries to be committed.
async fn files() -> MemDisk {
    let disk = MemDisk::new(1);
    let shared: DynDisk = Arc::new(disk.clone());
    let mut store = Store::open(shared, store_id(1), 0).await.unwrap();
    let identity = Identity {
        cluster_id: 0xaa,
        node_id: 1,
    };
    store.set_identity(identity).await.unwrap();
    let wal = open(&disk).await.unwrap();
    append(&wal, SHARD, (0..=LAST).map(entry).collect()).await;
    wal.save_committed(SHARD, Some(entry(LAST - 2).position));
    append(&wal, ShardId(8), vec![entry(0)]).await;
    wal.shutdown().await;
    disk
}

async fn collected(disk: &MemDisk, engine: &Arc<MemEngine>) -> Collected {
    let mut collected = collect_files(Arc::new(disk.clone()), engine.clone() as Still, "n1")
        .await
        .unwrap();
    // As if it knew: the meta shard is not in these tests.
    collected.cluster_name = "orders".into();
    collected
}

async fn look<'a>(
    disk: &MemDisk,
    engine: &Arc<MemEngine>,
    plan: &'a Plan,
) -> Result<StoppedNode<'a>, RecoverError> {
    let engine: Still = engine.clone();
    StoppedNode::look(Arc::new(disk.clone()), engine, plan, PathBuf::from("n1")).await
}

#[tokio::test]
async fn what_is_collected_is_what_a_start_would_find() {
    let (disk, engine) = (files().await, Arc::<MemEngine>::default());
    let found = collected(&disk, &engine).await;
    let replica = &found.replicas[&SHARD.0];
    assert_eq!(replica.last, Some(entry(LAST).position.into()));
    assert_eq!(replica.committed, Some(entry(LAST - 2).position.into()));
    assert_eq!((replica.applied, replica.revision), (None, LAST - 2));
    assert_eq!(replica.members.voters, [[1, 2, 3].into()]);
    assert_eq!(replica.members.nodes[&2], peer(2));
    assert_eq!(
        (found.cluster_id.as_str(), found.node_id),
        ("00000000000000aa", 1)
    );
    // Reads only: all files are as they were.
    let paths = disk.paths();
    let content = |disk: &MemDisk| paths.iter().map(|path| disk.peek(path)).collect::<Vec<_>>();
    let was = content(&disk);
    assert_eq!(collected(&disk, &engine).await, found);
    assert_eq!(
        (content(&disk), disk.paths()),
        (was, paths.clone()),
        "nothing is written"
    );
}

#[tokio::test]
async fn a_log_is_continued_by_its_only_voter() {
    let (disk, engine) = (files().await, Arc::<MemEngine>::default());
    let before = collected(&disk, &engine).await;
    let plan = planned(vec![before.clone()]);
    let node = look(&disk, &engine, &plan).await.unwrap();
    assert_eq!(node.actions().len(), 2, "{:?}", node.actions());
    node.apply().await.unwrap();
    // A power failure now takes nothing back, and the second time there is nothing to do.
    let disk = disk.crash(7);
    let after = collected(&disk, &engine).await;
    let recovery = &plan.shards[&SHARD.0];
    assert_eq!(
        after.replicas[&SHARD.0],
        recovery.done(&before.replicas[&SHARD.0])
    );
    assert_eq!(
        (recovery.entry.term, recovery.entry.index),
        (4 + RECOVERY_TERMS, LAST + 1)
    );
    let again = look(&disk, &engine, &plan).await.unwrap();
    assert!(again.actions().is_empty());
    let operations = disk.paths();
    again.apply().await.unwrap();
    assert_eq!(disk.paths(), operations);
    assert_eq!(collected(&disk, &engine).await, after);
    // What openraft finds: everything that was there, the membership, and its leader's vote.
    let wal = open(&disk).await.unwrap();
    let log = wal.shard(SHARD);
    let vote = log.vote.unwrap();
    assert_eq!(
        (vote.term, vote.node, vote.committed),
        (4 + RECOVERY_TERMS, 1, true)
    );
    assert_eq!(log.committed, Some(entry(LAST - 2).position));
    let entries = wal.read(SHARD, 0..LAST + 2, usize::MAX).await.unwrap();
    assert_eq!(
        entries[..=LAST as usize],
        (0..=LAST).map(entry).collect::<Vec<_>>()
    );
    let newest = convert::entry(entries.last().unwrap().clone()).unwrap();
    let openraft::EntryPayload::Membership(membership) = newest.payload else {
        panic!("not a membership: {newest:?}");
    };
    assert_eq!(membership.get_joint_config(), &[[1].into()]);
    assert_eq!(membership.nodes().count(), 1);
}

/// Power fails at every operation in turn. What is left can be collected, and the plan goes on to its end.
#[tokio::test]
async fn a_plan_goes_on_after_a_power_failure_anywhere() {
    let engine = Arc::<MemEngine>::default();
    let mut interrupted = 0;
    for after in 1.. {
        let disk = files().await;
        let before = collected(&disk, &engine).await;
        let plan = planned(vec![before.clone()]);
        let node = look(&disk, &engine, &plan).await.unwrap();
        disk.fail_power_after(after);
        let ended = node.apply().await;
        let disk = disk.crash(after);
        let node = look(&disk, &engine, &plan).await.unwrap();
        if ended.is_ok() {
            assert!(node.actions().is_empty(), "what was acknowledged is there");
        } else {
            interrupted += 1;
        }
        node.apply().await.unwrap();
        let now = collected(&disk, &engine).await;
        for (shard, recovery) in &plan.shards {
            assert_eq!(
                now.replicas[shard],
                recovery.done(&before.replicas[shard]),
                "after {after} operations"
            );
        }
        if ended.is_ok() {
            break;
        }
    }
    assert!(interrupted > 5, "only {interrupted} places to fail at");
}

/// The engine has a snapshot that the log was not purged up to.
#[tokio::test]
async fn a_log_that_ends_before_what_is_applied_is_continued_after_it() {
    let (disk, engine) = (files().await, Arc::<MemEngine>::default());
    let mut machine = Machine::load(SHARD, &*engine).unwrap();
    let entries = (0..=LAST + 10).map(|index| core_entry(convert::entry(entry(index)).unwrap()));
    let applied = machine.apply(&*engine, &entries.collect::<Vec<_>>()).unwrap();
    engine.write(applied.batch).unwrap();
    let before = collected(&disk, &engine).await;
    assert_eq!(
        before.replicas[&SHARD.0].last,
        Some(entry(LAST + 10).position.into())
    );
    let plan = planned(vec![before]);
    look(&disk, &engine, &plan).await.unwrap().apply().await.unwrap();
    let wal = open(&disk).await.unwrap();
    let log = wal.shard(SHARD);
    assert_eq!(log.purged, Some(entry(LAST + 10).position));
    assert_eq!(log.last.map(|last| last.index), Some(LAST + 11));
    wal.shutdown().await;
    assert!(look(&disk, &engine, &plan).await.unwrap().actions().is_empty());
}

#[tokio::test]
async fn a_node_that_has_run_is_refused() {
    let (disk, engine) = (files().await, Arc::<MemEngine>::default());
    let plan = planned(vec![collected(&disk, &engine).await]);
    let wal = open(&disk).await.unwrap();
    append(&wal, SHARD, vec![entry(LAST + 1)]).await;
    wal.shutdown().await;
    let error = look(&disk, &engine, &plan).await.err().unwrap().to_string();
    assert!(
        error.starts_with("STATE_CHANGED: shard 3: its log ended with 9@4"),
        "{error}"
    );
    // Nor is another node, or one of another cluster.
    let mut other = plan.clone();
    other.cluster_id = "00000000000000bb".into();
    let error = look(&disk, &engine, &other).await.err().unwrap().to_string();
    assert!(error.starts_with("OTHER_CLUSTER"), "{error}");
    let mut without = plan;
    without.nodes.clear();
    let error = look(&disk, &engine, &without).await.err().unwrap().to_string();
    assert!(error.starts_with("NOT_PLANNED"), "{error}");
}

#[tokio::test]
async fn who_was_not_chosen_is_marked_as_being_destroyed() {
    let (disk, engine) = (files().await, Arc::<MemEngine>::default());
    let mine = collected(&disk, &engine).await;
    let mut ahead = mine.clone();
    (ahead.node_id, ahead.store_id) = (2, store_id(2));
    // Of one shard another survivor has more.
    ahead.replicas.retain(|shard, _| *shard == SHARD.0);
    ahead.replicas.get_mut(&SHARD.0).unwrap().last = Some(Position {
        term: 5,
        node: 2,
        index: 4,
    });
    // Two of three would be a majority.
    for one in ahead.replicas.values_mut() {
        one.members.voters = vec![(1..=5).collect()];
        one.members.nodes = (1..=5).map(|id| (id, peer(id))).collect();
    }
    let plan = planned(vec![mine.clone(), ahead]);
    let expected = [
        Action::Retire {
            shard: SHARD.0,
            incarnation: 0,
        },
        Action::Recover {
            shard: 8,
            before: Box::new(mine.replicas[&8].clone()),
        },
    ];
    assert_eq!(actions(&plan, &mine).unwrap(), expected);
    for _ in 0..2 {
        let node = look(&disk, &engine, &plan).await.unwrap();
        node.apply().await.unwrap();
        let shared: DynDisk = Arc::new(disk.clone());
        let store = Store::open_existing(shared).await.unwrap().unwrap();
        let record = ReplicaRecord {
            incarnation: 0,
            state: ReplicaState::Destroying,
        };
        assert!(
            store
                .replicas()
                .await
                .unwrap()
                .into_iter()
                .eq([(SHARD.0, record)])
        );
        assert!(look(&disk, &engine, &plan).await.unwrap().actions().is_empty());
    }
}
