use std::{
    cell::RefCell,
    collections::BTreeSet,
    future::Future,
    pin::pin,
    sync::atomic::AtomicBool,
    task::{Context, Poll, Wake, Waker},
};

use proptest::prelude::*;

use super::{
    testing::{Model, event, hub, publish},
    *,
};

/// The next answer, or `None` if there is nothing to answer: polls a few times, for the turns that a replay gives away.
fn poll_next(
    subscription: &mut Subscription,
    max_bytes: usize,
) -> Option<Result<EventBatch, SubscriptionError>> {
    let mut next = pin!(subscription.next(max_bytes));
    let mut context = Context::from_waker(Waker::noop());
    (0..4).find_map(|_| match next.as_mut().poll(&mut context) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    })
}

/// Takes one answer and checks it against the model: complete, in order, nothing twice, whole revisions. False: nothing to answer.
fn check_next(model: &Model, subscription: &mut Subscription, max_bytes: usize) -> bool {
    let after = subscription.position();
    let filter = subscription.filter.clone();
    match poll_next(subscription, max_bytes) {
        None => {
            assert!(
                after >= subscription.hub.head(),
                "nothing after {after}, but more was published"
            );
            false
        }
        Some(Ok(batch)) => {
            assert!(batch.up_to > after);
            assert_eq!(subscription.position(), batch.up_to);
            let got: Vec<Event> = batch.events().cloned().collect();
            assert_eq!(
                got,
                model.wanted(after, batch.up_to, &filter),
                "({after}, {}]",
                batch.up_to
            );
            let newest = got.last().map(|e| e.revision);
            let before: usize = got
                .iter()
                .filter(|e| Some(e.revision) != newest)
                .map(event_bytes)
                .sum();
            assert!(before <= max_bytes, "{before} bytes before the last revision");
            true
        }
        Some(Err(SubscriptionError::Compacted { floor })) => {
            assert!(after < floor && floor <= model.floor());
            *subscription = subscription.hub.subscribe(floor, (*filter).clone()).unwrap();
            true
        }
        Some(Err(e)) => panic!("{e}"),
    }
}

#[test]
fn follows_the_ring_without_the_engine() {
    let model = Arc::new(Model::default());
    let hub = hub(&model, 1 << 20);
    let mut subscription = hub.subscribe(0, EventFilter::default()).unwrap();
    assert!(!check_next(&model, &mut subscription, 1000));
    for i in 0..200 {
        publish(&hub, &model, &[1, i % 3 + 1]);
        if i % 5 == 0 {
            while check_next(&model, &mut subscription, 1000) {}
        }
    }
    while check_next(&model, &mut subscription, 1000) {}
    assert_eq!(subscription.position(), 400);
    assert_eq!(model.replays(), 0);
}

#[test]
fn a_late_subscriber_replays_until_it_meets_the_ring() {
    let model = Arc::new(Model::default());
    let hub = hub(&model, 3_000);
    for _ in 0..100 {
        publish(&hub, &model, &[1, 2]);
    }
    let mut subscription = hub.subscribe(0, EventFilter::default()).unwrap();
    while check_next(&model, &mut subscription, 2_000) {}
    assert_eq!(subscription.position(), 200);
    let replays = model.replays();
    assert!(replays > 1);
    publish(&hub, &model, &[1]);
    assert!(check_next(&model, &mut subscription, 2_000));
    assert_eq!(model.replays(), replays, "it stays with the ring");
}

#[test]
fn progress_without_a_matching_event() {
    let model = Arc::new(Model::default());
    let hub = hub(&model, 1 << 20);
    let filter = EventFilter {
        partition: Some(Partition::local("nobody")),
        key_prefix: Bytes::new(),
    };
    let mut subscription = hub.subscribe(0, filter).unwrap();
    publish(&hub, &model, &[1, 1, 1]);
    let batch = poll_next(&mut subscription, 1 << 20).unwrap().unwrap();
    assert_eq!(
        (batch.events().count(), batch.up_to, subscription.position()),
        (0, 3, 3)
    );
}

#[test]
fn below_the_floor_is_said() {
    let model = Arc::new(Model::default());
    let hub = hub(&model, 600);
    for _ in 0..20 {
        publish(&hub, &model, &[1]);
    }
    model.compact(10);
    let mut subscription = hub.subscribe(9, EventFilter::default()).unwrap();
    let answer = poll_next(&mut subscription, 1000).unwrap();
    assert!(
        matches!(answer, Err(SubscriptionError::Compacted { floor: 10 })),
        "{answer:?}"
    );
    assert_eq!(subscription.position(), 9);
    let mut subscription = hub.subscribe(10, EventFilter::default()).unwrap();
    assert!(check_next(&model, &mut subscription, 1000));
}

#[test]
fn reset_sends_subscribers_to_the_engine() {
    let model = Arc::new(Model::default());
    let hub = hub(&model, 1 << 20);
    let mut subscription = hub.subscribe(0, EventFilter::default()).unwrap();
    publish(&hub, &model, &[1, 1]);
    // The snapshot brings revisions that were never published here.
    let (head, _) = model.apply(&[2, 2, 2]);
    hub.reset(head);
    assert_eq!((hub.head(), hub.ring_bytes()), (5, 0));
    while check_next(&model, &mut subscription, 500) {}
    assert_eq!(subscription.position(), 5);
    publish(&hub, &model, &[1]);
    assert!(check_next(&model, &mut subscription, 500));
}

#[test]
fn what_replay_was_ahead_with_is_not_answered_twice() {
    let model = Arc::new(Model::default());
    let hub = hub(&model, 300);
    publish(&hub, &model, &[3, 3]);
    let pending = model.apply(&[1, 1]);
    let mut subscription = hub.subscribe(0, EventFilter::default()).unwrap();
    while check_next(&model, &mut subscription, 1 << 20) {}
    assert_eq!(subscription.position(), 4, "the engine was newer than the ring");
    hub.publish(pending.0, pending.1);
    assert!(!check_next(&model, &mut subscription, 1 << 20));
    publish(&hub, &model, &[1]);
    assert!(check_next(&model, &mut subscription, 1 << 20));
    assert_eq!(subscription.position(), 5);
}

#[test]
fn closing_ends_subscriptions_and_the_number_is_bounded() {
    let model = Arc::new(Model::default());
    let hub = hub(&model, 1 << 20);
    let mut all: Vec<_> = (0..HUB_MAX_SUBSCRIBERS)
        .map(|_| hub.subscribe(0, EventFilter::default()).unwrap())
        .collect();
    assert!(hub.subscribe(0, EventFilter::default()).is_err());
    let mut first = all.swap_remove(0);
    drop(all);
    assert_eq!(hub.subscribers(), 1);
    hub.subscribe(0, EventFilter::default()).unwrap();
    hub.close();
    assert!(matches!(
        poll_next(&mut first, 1),
        Some(Err(SubscriptionError::Closed))
    ));
}

#[test]
#[should_panic(expected = "published revisions 2..=2 up to 2 after 2")]
fn a_publication_out_of_order_is_refused() {
    let model = Arc::new(Model::default());
    let hub = hub(&model, 1 << 20);
    publish(&hub, &model, &[1, 1]);
    hub.publish(2, vec![event(2, 0)].into());
}

#[derive(Clone, Debug)]
enum Step {
    /// Written to the engine, not yet published.
    Apply(Vec<usize>),
    Publish,
    Next {
        who: usize,
        max_bytes: usize,
    },
    Subscribe {
        after: u64,
        partition: Option<u8>,
    },
    Compact {
        keep: u64,
    },
    Reset,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => prop::collection::vec(1..5_usize, 1..5).prop_map(Step::Apply),
        4 => Just(Step::Publish),
        6 => (0..4_usize, 0..4_000_usize).prop_map(|(who, max_bytes)| Step::Next { who, max_bytes }),
        1 => (0..100_u64, prop::option::of(0..4_u8))
            .prop_map(|(after, partition)| Step::Subscribe { after, partition }),
        1 => (0..60_u64).prop_map(|keep| Step::Compact { keep }),
        1 => Just(Step::Reset),
    ];
    prop::collection::vec(step, 1..150)
}

/// What was applied but not yet published.
#[derive(Default)]
struct Pending {
    revision: Revision,
    events: Vec<Event>,
}

fn run(steps: Vec<Step>, capacity: usize) {
    let model = Arc::new(Model::default());
    let hub = hub(&model, capacity);
    let mut subscriptions = vec![hub.subscribe(0, EventFilter::default()).unwrap()];
    let mut pending = Pending::default();
    for step in steps {
        match step {
            Step::Apply(sizes) => {
                let (revision, events) = model.apply(&sizes);
                pending.revision = revision;
                pending.events.extend(events.iter().cloned());
            }
            Step::Publish => hub.publish(pending.revision, std::mem::take(&mut pending.events).into()),
            Step::Next { who, max_bytes } => {
                let who = who % subscriptions.len();
                check_next(&model, &mut subscriptions[who], max_bytes);
            }
            Step::Subscribe { after, partition } => {
                let partition = partition.map(|p| Partition::local(format!("p{p}")));
                let key_prefix = if after % 2 == 0 {
                    Bytes::new()
                } else {
                    "key/1".into()
                };
                subscriptions.push(
                    hub.subscribe(
                        after,
                        EventFilter {
                            partition,
                            key_prefix,
                        },
                    )
                    .unwrap(),
                );
            }
            Step::Compact { keep } => model.compact(pending.revision.saturating_sub(keep)),
            Step::Reset => {
                pending.events.clear();
                hub.reset(pending.revision);
            }
        }
        assert!(hub.ring_bytes() <= capacity);
    }
    hub.publish(pending.revision, pending.events.into());
    for subscription in &mut subscriptions {
        while check_next(&model, subscription, 700) {}
        assert!(subscription.position() >= pending.revision);
    }
}

proptest! {
    #[test]
    fn no_gap_no_duplicate_in_order(steps in steps(), capacity in 0..6_000_usize) {
        run(steps, capacity);
    }
}

/// Follows until `last`; the revisions it was told are compacted, and all others with their events.
async fn follow(
    hub: Arc<Hub>,
    model: Arc<Model>,
    seed: u64,
    last: Revision,
) -> (BTreeSet<Revision>, Vec<Event>) {
    let mut subscription = hub.subscribe(0, EventFilter::default()).unwrap();
    let (mut skipped, mut seen) = (BTreeSet::new(), Vec::new());
    let mut turn = seed;
    while subscription.position() < last {
        turn = turn
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        // Slow readers give the others a turn before each read, some many.
        for _ in 0..(turn >> 60) * (seed % 3) {
            tokio::task::yield_now().await;
        }
        let after = subscription.position();
        match subscription.next((turn >> 50) as usize % 5_000).await {
            Ok(batch) => seen.extend(batch.events().cloned()),
            Err(SubscriptionError::Compacted { floor }) => {
                assert!(floor <= model.floor());
                skipped.extend(after + 1..=floor);
                subscription = hub.subscribe(floor, EventFilter::default()).unwrap();
            }
            Err(e) => panic!("{e}"),
        }
    }
    (skipped, seen)
}

/// On real threads: applies, publishes, compacts, resets, while subscribers of different speeds follow.
fn check_concurrent(capacity: usize, keep: Revision) {
    const LAST: Revision = 6_000;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .build()
        .unwrap();
    let model = Arc::new(Model::default());
    let hub = hub(&model, capacity);
    let followers: Vec<_> = (0..6)
        .map(|seed| runtime.spawn(follow(hub.clone(), model.clone(), seed, LAST)))
        .collect();
    let apply = {
        let (hub, model) = (hub.clone(), model.clone());
        runtime.spawn(async move {
            for round in 0_u64.. {
                let left = (LAST - hub.head()) as usize;
                let sizes: Vec<usize> = (0..(round as usize % 7 + 1).min(left))
                    .map(|i| i % 4 + 1)
                    .collect();
                let (revision, events) = model.apply(&sizes);
                if round % 97 == 96 {
                    hub.reset(revision);
                } else {
                    hub.publish(revision, events);
                }
                model.compact(revision.saturating_sub(keep));
                if revision == LAST {
                    break;
                }
                tokio::task::yield_now().await;
            }
        })
    };
    runtime.block_on(async {
        apply.await.unwrap();
        for (i, follower) in followers.into_iter().enumerate() {
            let (skipped, seen) = follower.await.unwrap();
            let all = model.wanted(0, LAST, &EventFilter::default());
            let expected: Vec<Event> = all
                .into_iter()
                .filter(|e| !skipped.contains(&e.revision))
                .collect();
            assert!(seen == expected, "follower {i} saw something else");
            assert!(keep < LAST || skipped.is_empty());
        }
    });
    assert_eq!(hub.subscribers(), 0);
}

#[test]
fn followers_on_threads_with_a_large_ring() {
    check_concurrent(1 << 20, LONG);
}

#[test]
fn followers_on_threads_that_the_ring_outruns() {
    check_concurrent(4_000, LONG);
}

#[test]
fn followers_on_threads_that_compaction_outruns() {
    check_concurrent(2_000, 50);
}

type Hook = Box<dyn FnOnce()>;

thread_local! {
    /// What runs after the next looks at the ring that this thread takes, first to last.
    static AFTER_LOOK: RefCell<VecDeque<Hook>> = const { RefCell::new(VecDeque::new()) };
}

/// Called by the hub after each look at the ring.
pub(super) fn after_look() {
    if let Some(hook) = AFTER_LOOK.with_borrow_mut(VecDeque::pop_front) {
        hook();
    }
}

/// Publishes right after the subscriber's first or second look found nothing, when it is about to go to sleep.
#[test]
fn no_wake_up_is_lost() {
    for looks_before in 0..2 {
        let model = Arc::new(Model::default());
        let hub = hub(&model, 1 << 20);
        let mut subscription = hub.subscribe(0, EventFilter::default()).unwrap();
        let publishing: Hook = {
            let (hub, model) = (hub.clone(), model.clone());
            Box::new(move || publish(&hub, &model, &[1]))
        };
        AFTER_LOOK.with_borrow_mut(|hooks| {
            hooks.extend((0..looks_before).map(|_| Box::new(|| ()) as Hook));
            hooks.push_back(publishing);
        });
        let woken = Arc::new(Woken::default());
        {
            let mut next = pin!(subscription.next(1));
            let waker = Waker::from(woken.clone());
            let first = next.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(
                first.is_ready() || woken.0.load(Ordering::Relaxed),
                "asleep for ever"
            );
        }
        AFTER_LOOK.with_borrow(|hooks| assert!(hooks.is_empty(), "the publication happened"));
        assert!(check_next(&model, &mut subscription, 1) || subscription.position() == 1);
    }
}

/// Remembers that it was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Keeps everything.
const LONG: Revision = Revision::MAX;
