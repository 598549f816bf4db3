//! Histories for the tests of their forms.

use super::*;

fn key(partition: u32, key: u32) -> Key {
    Key { partition, key }
}

fn event(time: Nanos, process: Process, step: Step) -> Event {
    Event { time, process, step }
}

/// A few lines.
pub(crate) fn short() -> Vec<Event> {
    let call = Call::Write {
        key: key(0, 7),
        value: 5,
        ttl_ms: 0,
        lease: 0,
    };
    let read = Call::Read {
        key: key(0, 7),
        mode: Mode::AtLeast(11),
    };
    let reply = Reply::Written {
        revision: 11,
        version: 2,
    };
    let error = "TIMEOUT".to_owned();
    let seen = Seen::Resumed;
    vec![
        event(1, 3, Step::Invoke { call }),
        event(2, 3, Step::Ok { reply }),
        event(3, 3, Step::Invoke { call: read }),
        event(4, 3, Step::Info { error }),
        event(5, 4, Step::Seen { seen }),
    ]
}

fn data_calls() -> Vec<(Call, Reply)> {
    let key = key(1, 2);
    let mode = Mode::Linearizable;
    let row = Row {
        value: 5,
        create_rev: 3,
        mod_rev: 4,
        version: 2,
    };
    let written = |revision| Reply::Written { revision, version: 1 };
    let write = Call::Write {
        key,
        value: 5,
        ttl_ms: 100,
        lease: 0,
    };
    let gone = Reply::Deleted {
        revision: 6,
        existed: true,
    };
    let found = Reply::Row {
        revision: 4,
        row: Some(row),
        age_ms: 0,
    };
    let absent = Reply::Row {
        revision: 6,
        row: None,
        age_ms: 9,
    };
    let cas = Call::Cas { key, from: 5, to: 6 };
    let number = |revision, value| Reply::Number { revision, value };
    let items = Reply::Items {
        revision: 9,
        items: vec![(1, 8), (2, 9)],
    };
    let append = Call::Append { list: key, value: 8 };
    let (local, old) = (Mode::Local, Mode::At(6));
    let bounded = Mode::Bounded(500);
    let mismatch = Reply::Mismatch { revision: 5 };
    let list = Call::List { list: key, mode };
    let scan = Call::Scan { partition: 1, mode };
    vec![
        (write, written(4)),
        (Call::Read { key, mode }, found),
        (cas.clone(), written(5)),
        (cas, mismatch),
        (Call::Delete { key }, gone),
        (Call::Read { key, mode: bounded }, absent.clone()),
        (Call::Read { key, mode: local }, absent.clone()),
        (Call::Read { key, mode: old }, absent),
        (Call::Increment { key, delta: -3 }, number(7, -3)),
        (Call::Count { key }, number(7, -3)),
        (append, Reply::Appended { revision: 8, seq: 1 }),
        (list, items.clone()),
        (scan, items),
    ]
}

fn range_calls() -> Vec<(Call, Reply)> {
    let row = |value| Row {
        value,
        create_rev: 3,
        mod_rev: 4,
        version: 2,
    };
    let condition = |side, is| Condition {
        key: 2,
        side,
        is,
        number: 4,
    };
    let txn = Txn {
        partition: 1,
        conditions: vec![
            condition(Side::Value, Is::Equal),
            condition(Side::Version, Is::Other),
            condition(Side::CreateRev, Is::Less),
            condition(Side::ModRev, Is::Greater),
            condition(Side::Exists, Is::Equal),
        ],
        then: vec![Action::Put { key: 2, value: 9 }, Action::Get { key: 3 }],
        or_else: vec![Action::Delete { key: 3 }, Action::Add { key: 2, delta: -1 }],
    };
    let done = |succeeded, answers| {
        Reply::Txn(TxnDone {
            revision: 5,
            succeeded,
            answers,
        })
    };
    let found = Answer::Row { row: Some(row(7)) };
    let then = done(
        true,
        vec![Answer::Put { version: 3 }, found, Answer::Row { row: None }],
    );
    let or_else = done(
        false,
        vec![Answer::Deleted { deleted: 1 }, Answer::Sum { value: -2 }],
    );
    let pages = Pages {
        partition: 1,
        from: 0,
        to: 9,
        limit: 1,
        reverse: true,
        keys_only: false,
        mode: Mode::At(6),
    };
    let page = |key, value| vec![PageRow { key, row: row(value) }];
    let all = AllPages {
        revision: 6,
        pages: vec![page(2, 9), page(1, 7)],
    };
    vec![
        (Call::Txn(txn.clone()), then),
        (Call::Txn(txn), or_else),
        (Call::Pages(pages), Reply::Pages(all)),
    ]
}

fn money_calls() -> Vec<(Call, Reply)> {
    let (from, to) = (key(1, 1), key(2, 1));
    let (amount, id) = (10, 77);
    let written = |revision| Reply::Written { revision, version: 0 };
    let balances = Reply::Balances {
        revision: 12,
        balances: vec![(1, 90), (2, -1)],
    };
    let transfer = Call::Transfer {
        partition: 1,
        from: 1,
        to: 2,
        amount,
    };
    vec![
        (transfer.clone(), written(10)),
        (transfer, Reply::Mismatch { revision: 10 }),
        (Call::Send { from, to, amount, id }, written(11)),
        (Call::Receive { from, to, amount, id }, written(12)),
        (Call::Balances { partition: 1 }, balances),
    ]
}

fn other_calls() -> Vec<(Call, Reply)> {
    let lease = Reply::Lease {
        lease: 4,
        ttl_ms: 900,
    };
    let (partition, name, shard) = (1, "mail".to_owned(), 2);
    let watching = |epoch| Reply::Watching { after: 10, epoch };
    let ack = Call::Ack {
        shard,
        name: name.clone(),
        epoch: 3,
        revision: 12,
    };
    let grant = Call::Grant {
        partition,
        ttl_ms: 900,
    };
    let watch = Call::Watch { partition, after: 10 };
    let (reset, at) = (
        Call::Reset {
            shard,
            name: name.clone(),
            revision: 10,
        },
        Call::ConsumeAt {
            shard,
            name: name.clone(),
            start: 11,
        },
    );
    let forget = Call::Forget {
        shard,
        name: name.clone(),
    };
    vec![
        (at, watching(1)),
        (reset, watching(2)),
        (forget, Reply::Acked),
        (Call::WatchKeys { shard, after: 10 }, watching(0)),
        (grant, lease.clone()),
        (Call::KeepAlive { partition, lease: 4 }, lease.clone()),
        (Call::Revoke { partition, lease: 4 }, lease),
        (watch, watching(0)),
        (Call::Consume { shard, name }, watching(3)),
        (ack, Reply::Acked),
    ]
}

/// Each call, reply and other event at least once.
pub(crate) fn one_of_each() -> Vec<Event> {
    let mut history = Vec::new();
    let mut time = 0;
    let mut push = |process, step| {
        time += 10;
        history.push(event(time, process, step));
    };
    for (call, reply) in data_calls()
        .into_iter()
        .chain(range_calls())
        .chain(money_calls())
        .chain(other_calls())
    {
        push(1, Step::Invoke { call });
        push(1, Step::Ok { reply });
    }
    let change = Change {
        revision: 11,
        key: key(1, 2),
        value: Some(6),
        expired: false,
        create_rev: 9,
        version: 2,
        lease: 3,
    };
    let gone = Change {
        revision: 12,
        value: None,
        expired: true,
        create_rev: 0,
        version: 0,
        lease: 0,
        ..change
    };
    let changes = vec![change, gone];
    let seen = |seen| Step::Seen { seen };
    push(
        1,
        seen(Seen::Keys {
            changes: vec![Change {
                value: Some(0),
                ..change
            }],
            through: 11,
        }),
    );
    push(1, seen(Seen::Changes { changes, through: 12 }));
    push(1, seen(Seen::Resumed));
    push(1, seen(Seen::Compacted { resumed_after: 15 }));
    let code = "compacted".to_owned();
    push(1, seen(Seen::Ended { code, revision: 16 }));
    let list = Call::Count { key: key(1, 2) };
    for step in [
        Step::Fail {
            error: "NO_LEADER: \"none\"".to_owned(),
        },
        Step::Info {
            error: "TIMEOUT".to_owned(),
        },
        Step::Strange {
            what: "a value that is not a number".to_owned(),
        },
    ] {
        push(2, Step::Invoke { call: list.clone() });
        push(2, step);
    }
    history
}
