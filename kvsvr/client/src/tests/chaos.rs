//! Many callers, random faults: every certain success happened once, every certain failure never.

use std::collections::BTreeSet;

use kvsvr_proto::v1::ErrorCode;
use proptest::{prelude::*, test_runner::TestRunner};
use tokio::time::{Duration, sleep};

use crate::{
    Client, ClientConfig, Partition, Result,
    fake::{Fake, Fault, NODES, error},
};

const CALLERS: i64 = 8;
const CALLS: i64 = 12;

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        10 => Just(Fault::None),
        1 => Just(Fault::BreakBefore),
        1 => Just(Fault::BreakAfter),
        1 => Just(Fault::Silence),
        1 => Just(Fault::Answer(error(ErrorCode::NoLeader))),
        1 => Just(Fault::Answer(error(ErrorCode::Timeout))),
        1 => Just(Fault::Answer(error(ErrorCode::Overloaded))),
    ]
}

/// What happens to the cluster meanwhile.
#[derive(Clone, Debug)]
enum Act {
    Lead(u64),
    Kill(usize),
    Restart(usize),
    ForgetSessions,
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0u64..=3).prop_map(Act::Lead),
        1 => (0usize..3).prop_map(Act::Kill),
        2 => (0usize..3).prop_map(Act::Restart),
        1 => Just(Act::ForgetSessions),
        4 => (1u64..400).prop_map(Act::Wait),
    ]
}

async fn play(fake: Fake, acts: Vec<Act>) {
    for act in acts {
        match act {
            Act::Lead(node) => fake.lead(2, node),
            Act::Kill(node) => fake.kill(NODES[node]),
            Act::Restart(node) => fake.restart(NODES[node]),
            Act::ForgetSessions => fake.cluster.lock().shards.get_mut(&2).unwrap().sessions.clear(),
            Act::Wait(ms) => sleep(Duration::from_millis(ms)).await,
        }
    }
    for node in NODES {
        fake.restart(node);
    }
    fake.lead(2, 2);
}

async fn caller(client: Client) -> Vec<Result<i64>> {
    let alice = Partition::local("alice");
    let mut results = Vec::new();
    for _ in 0..CALLS {
        results.push(client.increment(&alice, "n", 1).await.map(|r| r.value));
    }
    results
}

async fn scene(sessions: bool, faults: Vec<Fault>, acts: Vec<Act>) -> std::result::Result<(), TestCaseError> {
    let fake = Fake::new();
    let config = ClientConfig {
        sessions,
        request_timeout: Duration::from_secs(3),
        ..ClientConfig::new(NODES)
    };
    let client = fake.client_with(config);
    fake.cluster.lock().faults = faults.into();
    let acting = tokio::spawn(play(fake.clone(), acts));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| tokio::spawn(caller(client.clone())))
        .collect();
    let (mut values, mut unknown) = (Vec::new(), 0);
    for task in callers {
        for result in task.await.unwrap() {
            match result {
                Ok(value) => values.push(value),
                Err(e) if e.is_unknown() => unknown += 1,
                Err(_) => {}
            }
        }
    }
    acting.await.unwrap();
    fake.cluster.lock().faults.clear();
    let total = client
        .with_timeout(Duration::from_secs(60))
        .increment(&Partition::local("alice"), "n", 0)
        .await;
    let total = total.unwrap().value;
    let distinct: BTreeSet<i64> = values.iter().copied().collect();
    prop_assert_eq!(
        distinct.len(),
        values.len(),
        "two callers were told the same number"
    );
    let known = values.len() as i64;
    prop_assert!(
        known <= total && total <= known + unknown,
        "{} known, {} unknown, {} in all",
        known,
        unknown,
        total
    );
    if sessions && unknown == 0 {
        prop_assert_eq!(total, known);
    }
    Ok(())
}

fn run(sessions: bool) {
    let input = (
        prop::collection::vec(fault(), 0..120),
        prop::collection::vec(act(), 0..25),
    );
    let mut runner = TestRunner::new(ProptestConfig::with_cases(60));
    let outcome = runner.run(&input, |(faults, acts)| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(scene(sessions, faults, acts))
    });
    outcome.unwrap();
}

#[test]
fn with_sessions() {
    run(true);
}

#[test]
fn without_sessions() {
    run(false);
}
