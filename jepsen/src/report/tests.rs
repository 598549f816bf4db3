//! The page as a whole.

use super::*;
use crate::{
    check::{
        History, Verdict, linear,
        testing::{Script, call_read, call_write, change, changes, k, read, shard_of, write},
    },
    history::{Event, Seen},
};

fn history() -> Vec<Event> {
    const MS: u64 = 1_000_000;
    Script::new()
        .ok(1, (0, 2 * MS), write(k(7), 1, 1, 1))
        .ok(2, (3 * MS, 5 * MS), write(k(7), 2, 2, 2))
        .unknown(3, (4 * MS, 9 * MS), call_write(k(8), 3))
        .ok(1, (6 * MS, 7 * MS), read(k(7), 1, Some((1, 1, 1, 1))))
        .fail(4, (7 * MS, 8 * MS), call_read(k(7)))
        .seen(5, 8 * MS, changes(&[change(1, k(7), Some(1))], 1))
        .seen(5, 9 * MS + 1, Seen::Resumed)
        .events()
}

fn state(time: u64, node: u32, role: Role, indexes: (u64, u64)) -> NodeState {
    NodeState {
        time,
        node,
        shard: 1,
        role,
        term: 2,
        commit: indexes.0,
        applied: indexes.1,
    }
}

/// Of each judge one that holds and one that does not.
fn judgements(events: &[Event]) -> Vec<Judgement> {
    let context = crate::check::Context::new(&shard_of);
    let linear = linear::check(&History::new(events), &context);
    let stats = [("watches", 2), ("changes seen", 5)].into();
    vec![
        Judgement::new("linear", &linear),
        Judgement::new("watch", &Verdict::Valid { stats }),
        Judgement::of_invariant("log_matching", 900, None),
        Judgement::of_invariant("monotonic", 40, Some("monotonic at 4ms: the vote went back")),
    ]
}

/// A run with one of everything.
fn record() -> Record {
    let events = history();
    let cut = Fault {
        kind: "cut".to_owned(),
        text: "all messages are lost".to_owned(),
        from: 2_000_000,
        to: Some(6_000_000),
        place: Place::Link { from: 0, to: 1 },
    };
    let kill = Fault {
        kind: "kill".to_owned(),
        text: "kill -9".to_owned(),
        from: 4_000_000,
        to: None,
        place: Place::Nodes(vec![1]),
    };
    let message = Message {
        sent: 1_000_000,
        arrived: Some(1_400_000),
        from: 0,
        to: 1,
        kind: "append".to_owned(),
        bytes: 120,
        fate: String::new(),
    };
    let lost = Message {
        sent: 2_500_000,
        arrived: None,
        to: 2,
        fate: "cut".to_owned(),
        ..message.clone()
    };
    Record {
        title: "register & kill".to_owned(),
        version: "0.1.0 (commit 1234567)".to_owned(),
        details: [
            ("workload", "register"),
            ("not covered", "a disk"),
            ("not covered", "a clock"),
        ]
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .into(),
        seed: u64::MAX,
        plan: "{\"nodes\": 2}".to_owned(),
        replay: "sim replay 'plan.json'".to_owned(),
        cause: Some("linear: key [0 7] read 1 after 2 was written".to_owned()),
        ended: 10_000_000,
        judgements: judgements(&events),
        nodes: vec!["n1".to_owned(), "n2".to_owned()],
        clients: vec!["clients".to_owned()],
        states: vec![
            state(0, 0, Role::Leader, (0, 0)),
            state(0, 1, Role::Follower, (0, 0)),
            state(2_000_000, 0, Role::Leader, (2, 1)),
            state(4_000_000, 1, Role::Down, (0, 0)),
        ],
        faults: vec![cut, kill],
        marks: vec![Mark {
            time: 4_000_000,
            node: 1,
            text: "killed".to_owned(),
        }],
        operations: operations_of(&events),
        seen: seen_of(&events),
        messages: vec![message, lost],
        rates: rates_of(&events, 2_000_000),
        ..Record::default()
    }
}

/// The page without the parts that are the same in each.
fn without_assets(page: &str) -> String {
    page.replace(page::STYLE, "STYLE\n")
        .replace(page::SCRIPT, "SCRIPT\n")
}

#[test]
fn a_small_run_is_shown_so() {
    let text = without_assets(&render(&record()));
    let path = format!("{}/testdata/timeline.html", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{path}");
}

#[test]
fn a_record_survives_json() {
    let record = record();
    let json = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
    assert_eq!(serde_json::from_str::<Record>("{}").unwrap(), Record::default());
}

#[test]
fn the_page_loads_nothing() {
    let page = render(&record());
    for way in [
        "http://",
        "https://",
        "src=",
        "href=",
        "url(",
        "@import",
        "import(",
        "fetch(",
        "innerHTML",
    ] {
        assert!(!page.contains(way), "{way}");
    }
}

#[test]
fn the_script_reads_every_column() {
    let page = render(&record());
    let (_, data) = page.split_once("id=\"data\">").unwrap();
    let (data, _) = data.split_once("</script>").unwrap();
    let data: serde_json::Map<_, _> = serde_json::from_str(data).unwrap();
    for (name, value) in &data {
        assert!(page::SCRIPT.contains(&format!("raw.{name}")), "{name}");
        for (column, _) in value.as_object().into_iter().flatten() {
            assert!(page::SCRIPT.contains(column), "{name}.{column}");
        }
    }
}

#[test]
fn no_text_becomes_markup() {
    const EVIL: &str = "</script><script>alert(1)</script><!--<b title='\"'>&amp;{data}";
    let evil = || EVIL.to_owned();
    let mut record = record();
    record.title = evil();
    record.version = evil();
    record.details = vec![(evil(), evil())];
    record.plan = evil();
    record.replay = evil();
    record.cause = Some(evil());
    record.nodes[0] = evil();
    record.clients[0] = evil();
    record.marks[0].text = evil();
    record.faults[0].kind = evil();
    record.faults[1].text = evil();
    record.judgements[0].checker = evil();
    record.judgements[0].text = evil();
    record.judgements[0].events = record.seen.iter().map(|seen| seen.event).collect();
    record.operations.iter_mut().for_each(|call| {
        call.call = evil();
        call.key = evil();
        call.result = evil();
    });
    record.seen.iter_mut().for_each(|seen| seen.text = evil());
    record.messages.iter_mut().for_each(|message| {
        message.kind = evil();
        message.fate = evil();
    });
    let page = without_assets(&render(&record));
    assert_eq!(page.matches("</script").count(), 2);
    assert_eq!(page.matches("<script").count(), 2);
    assert!(!page.contains("<!--") && !page.contains("<b "));
    let (_, data) = page.split_once("id=\"data\">").unwrap();
    let (data, _) = data.split_once("</script>").unwrap();
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["nodes"][0], EVIL);
    assert!(data["strings"].as_array().unwrap().contains(&EVIL.into()));
    assert!(!page::SCRIPT.contains("</script") && !page::STYLE.contains("</style"));
}

#[test]
fn only_what_was_shown_to_be_valid_has_passed() {
    let badge = |judgements: Vec<Judgement>, cause: Option<&str>| {
        let record = Record {
            judgements,
            cause: cause.map(str::to_owned),
            ..Record::default()
        };
        let page = render(&record);
        let (_, rest) = page.split_once("<h1><span class=\"badge ").unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    };
    let valid = || {
        let stats = [("reads", 3)].into();
        Judgement::new("linear", &Verdict::Valid { stats })
    };
    let unknown = || {
        let why = "too long".to_owned();
        Judgement::new("watch", &Verdict::Unknown { why })
    };
    assert_eq!(badge(vec![valid()], None), "passed");
    assert_eq!(badge(vec![valid(), unknown()], None), "unknown");
    assert_eq!(badge(vec![], None), "unknown");
    let invariant = |broken| Judgement::of_invariant("monotonic", 3, broken);
    assert_eq!(badge(vec![invariant(None)], None), "unknown");
    assert_eq!(badge(vec![valid(), invariant(None)], None), "passed");
    // Nobody changed members: that says nothing.
    let idle = Judgement::of_invariant("membership", 0, None);
    assert_eq!(badge(vec![valid(), idle.clone()], None), "passed");
    assert_eq!(badge(vec![idle], None), "unknown");
    assert_eq!(
        badge(vec![valid(), invariant(Some("it went back"))], None),
        "failed"
    );
    assert_eq!(badge(vec![valid()], Some("two leaders")), "failed");
    assert_eq!(badge(record().judgements, None), "failed");
}

#[test]
fn the_head_is_short_and_numbers_are_explained() {
    let page = without_assets(&render(&record()));
    let title = "<h1><span class=\"badge failed\">failed</span> register &amp; kill</h1>";
    let version = "<dt>version</dt><dd>0.1.0 (commit 1234567)</dd>";
    let not_covered = "<dt>not covered</dt><dd>a disk</dd>\n<dd>a clock</dd>";
    let watches = "<tr><th>watch</th><td>watches</td><td>watches, each followed";
    let invariant =
        "<span class=\"badge valid\">valid</span></td><th>log_matching</th><td>valid moments=900</td>";
    let broken = "<span class=\"badge violated\">violated</span></td><th>monotonic</th>";
    for part in [title, version, not_covered, watches, invariant, broken] {
        assert!(page.contains(part), "{part} is not in\n{page}");
    }
}

#[test]
fn a_page_has_the_messages_around_its_witness() {
    let mut record = record();
    let one = record.messages[0].clone();
    let message = |n: u64| Message {
        sent: n * 1000,
        arrived: Some(n * 1000 + 10),
        ..one.clone()
    };
    record.messages = (0..50_000).map(message).collect();
    let page = render(&record);
    assert!(page.contains("<dd>50000, of which the 20000 within"), "not said");
    record.keep_messages(100);
    assert!(record.messages.len() <= 100 && record.messages.len() > 90);
    let moments = record.moments();
    let reach = record.messages_reach.unwrap();
    for message in &record.messages {
        assert!(
            moments
                .iter()
                .any(|at| message.sent <= at + reach && message.arrived.unwrap() + reach >= *at)
        );
    }
    assert_eq!(record.messages_left_out + record.messages.len() as u64, 50_000);
    let before = record.clone();
    record.keep_messages(100);
    assert_eq!(record, before);
}

#[test]
fn a_long_run_keeps_its_witness_and_counts_what_it_leaves_out() {
    let mut record = record();
    let (witnesses, _) = record.witnesses();
    assert!(!witnesses.is_empty());
    let one = record.operations[0].clone();
    for id in 1_000..3_000 {
        let outcome = [Outcome::Ok, Outcome::Ok, Outcome::Ok, Outcome::Fail][id % 4];
        let outcome = if id % 100 == 0 { Outcome::Info } else { outcome };
        record.operations.push(ShownCall {
            id,
            outcome,
            ..one.clone()
        });
    }
    let all = record.operations.len() as u64;
    record.keep_operations(200);
    let kept = record.operations.len();
    assert!((100..=200 + witnesses.len()).contains(&kept), "{kept}");
    assert_eq!(record.operations_left_out.iter().sum::<u64>() + kept as u64, all);
    assert_eq!(record.operations_left_out[2], 0, "unknown ones stay");
    let is_kept = |id: &usize| record.operations.iter().any(|one| one.id == *id);
    assert!(witnesses.iter().all(is_kept));
    let page = render(&record);
    assert!(page.contains(&format!("<dd>{all}: ")) && page.contains(&format!("{kept} operations are drawn")));
    let before = record.clone();
    record.keep_operations(10_000);
    assert_eq!(record, before);
}

#[test]
fn without_a_witness_the_failure_or_the_end_matters() {
    let mut record = record();
    record.judgements.clear();
    assert_eq!(record.moments(), [10_000_000]);
    record.failed_at = Some(5);
    assert_eq!(record.moments(), [5]);
}

#[test]
fn states_that_say_the_same_are_left_out() {
    let samples = [
        state(0, 0, Role::Leader, (1, 1)),
        state(1, 0, Role::Leader, (1, 1)),
        state(1, 1, Role::Leader, (1, 1)),
        state(2, 0, Role::Leader, (2, 1)),
        state(3, 0, Role::Leader, (1, 1)),
    ];
    let times: Vec<_> = changes_of(samples)
        .iter()
        .map(|state| (state.time, state.node))
        .collect();
    assert_eq!(times, [(0, 0), (1, 1), (2, 0), (3, 0)]);
}
