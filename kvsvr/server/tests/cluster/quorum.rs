//! Two of three nodes are gone.

use std::time::Duration;

use kvsvr_client::{
    Client, ClientConfig, Code, GetOptions, ReadFrom, ReadMode,
    grpc::GrpcTransport,
    proto as pb,
    transport::{Class, Method, Transport as _, TransportError},
};
use tokio::time::Instant;

use crate::{
    harness::{Cluster, PATIENCE, eventually, report},
    load::partition,
};

/// What a node without quorum may take to say so.
const CLEAR_WITHIN: Duration = Duration::from_secs(2);

/// One unary call, no retries: what the node itself answers, and after how long.
async fn ask(
    address: &str,
    method: Method,
    request: &impl prost::Message,
) -> (Result<(), TransportError>, Duration) {
    let begun = Instant::now();
    let bytes = request.encode_to_vec().into();
    let answer = GrpcTransport::new()
        .call(address, Class::Data, method, bytes, PATIENCE)
        .await;
    (answer.map(drop), begun.elapsed())
}

fn api_code(answer: Result<(), TransportError>) -> (pb::ErrorCode, String) {
    match answer {
        Err(TransportError::Api { error, .. }) => (error.code(), error.message),
        other => panic!("an API error is expected, not {other:?}"),
    }
}

#[expect(clippy::too_many_lines, reason = "a scenario reads as one script")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_survivor_of_a_lost_majority() {
    let mut cluster = Cluster::start(3, 1, &[]).await;
    let client = cluster.client().await;
    let place = partition(0);
    client.put(&place, "k", "v").await.unwrap();
    // The leader survives: the harder case, it must find out that it leads nobody.
    let survivor = cluster.leader(1).await;
    let others: Vec<usize> = (0..3).filter(|i| *i != survivor).collect();
    cluster.kill(&others);
    let killed_at = Instant::now();
    let address = cluster.nodes[survivor].address.clone();
    // Writes and linearizable reads fail clearly, at any moment after the loss, too.
    let put = pb::PutRequest {
        partition: Some(place.to_proto()),
        put: Some(pb::Put {
            key: "k".into(),
            value: "lost".into(),
            ..Default::default()
        }),
    };
    let get = pb::GetRequest {
        partition: Some(place.to_proto()),
        key: "k".into(),
        ..Default::default()
    };
    let (first_read, first_read_took) = ask(&address, Method::KvGet, &get).await;
    if let Err(error) = &first_read {
        assert!(matches!(error, TransportError::Api { .. }), "{error}");
    }
    assert!(
        first_read_took <= CLEAR_WITHIN + Duration::from_secs(1),
        "{first_read_took:?}"
    );
    eventually(
        "the survivor's status says so",
        Duration::from_secs(20),
        async || {
            let messages = cluster.status(survivor).await?.messages;
            let (ready, _) = cluster.nodes[survivor].get("/readyz")?;
            (ready == 503 && messages.iter().any(|m| m.contains("shard 1 has no leader"))).then_some(())
        },
    )
    .await;
    let noticed = killed_at.elapsed();
    let (answer, write_took) = ask(&address, Method::KvPut, &put).await;
    let (code, message) = api_code(answer);
    assert_eq!(code, pb::ErrorCode::NoLeader, "{message}");
    assert!(message.contains("quorum"), "{message}");
    let (answer, read_took) = ask(&address, Method::KvGet, &get).await;
    let (code, message) = api_code(answer);
    assert_eq!(code, pb::ErrorCode::NoLeader, "{message}");
    assert!(
        write_took <= CLEAR_WITHIN && read_took <= CLEAR_WITHIN,
        "{write_took:?}, {read_took:?}"
    );
    // Through the client library: by its deadline, with the reason, and definite.
    let config = ClientConfig {
        read_from: ReadFrom::Any,
        ..ClientConfig::new([address])
    };
    let alone = Client::new(config).unwrap().with_timeout(CLEAR_WITHIN);
    let begun = Instant::now();
    let error = alone.get(&place, "k").await.unwrap_err();
    assert!(begun.elapsed() <= CLEAR_WITHIN + Duration::from_secs(1));
    assert!(
        matches!(error.code, Code::NoLeader | Code::NotLeader | Code::Unreachable),
        "{error}"
    );
    let error = alone.put(&place, "k", "lost").await.unwrap_err();
    assert!(!error.is_unknown(), "nothing was sent to a leader: {error}");

    // Bounded and local reads answer, and say how old they may be; they are refused when that is too old.
    let bounded = ReadMode::Bounded(Duration::from_secs(600));
    let read = alone
        .get_with(&place, "k", GetOptions::from(bounded))
        .await
        .unwrap();
    assert_eq!(read.value.unwrap().value, "v");
    assert!(
        read.age <= killed_at.elapsed() + Duration::from_secs(2),
        "{:?}",
        read.age
    );
    let age = read.age;
    let later = alone
        .get_with(&place, "k", GetOptions::from(bounded))
        .await
        .unwrap();
    assert!(
        later.age >= age,
        "the age grows while nobody confirms the state: {:?}, then {:?}",
        age,
        later.age
    );
    alone
        .get_with(&place, "k", GetOptions::from(ReadMode::Local))
        .await
        .unwrap();
    let fresh = ReadMode::Bounded(Duration::from_millis(1));
    let error = alone
        .get_with(&place, "k", GetOptions::from(fresh))
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::TooStale, "{error}");
    // Recovery.
    for i in &others {
        cluster.start_node(*i);
    }
    eventually("writes are taken again", PATIENCE, async || {
        client.put(&place, "k", "back").await.ok()
    })
    .await;
    assert_eq!(
        client.get(&place, "k").await.unwrap().value.unwrap().value,
        "back"
    );
    report(
        "lost-majority",
        format!(
            "bounded read answered with age {age:.0?}; loss noticed after {noticed:.0?}; write refused in {write_took:.0?}, linearizable read in {read_took:.0?}, first read after the loss in {first_read_took:.0?}"
        ),
    );
}
