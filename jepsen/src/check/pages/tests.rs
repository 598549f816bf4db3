//! Bad histories of ranges that are read page by page, and good ones beside them.

use super::{super::testing::*, check};
use crate::{
    check::{Commit, Context},
    history::{AllPages, Call, Mode, PageRow, Pages, Reply, Row},
};

const ASKED: Pages = Pages {
    partition: 0,
    from: 1,
    to: 9,
    limit: 2,
    reverse: false,
    keys_only: false,
    mode: Mode::Linearizable,
};

fn row(key: u32, value: u64) -> PageRow {
    let row = Row {
        value,
        create_rev: u64::from(key),
        mod_rev: u64::from(key),
        version: 1,
    };
    PageRow { key, row }
}

/// Pages of keys, each of which has ten times its number and was written at the revision of its number.
fn read(asked: Pages, revision: u64, pages: &[&[u32]]) -> (Call, Reply) {
    let value = |key: u32| if asked.keys_only { 0 } else { u64::from(key) * 10 };
    let page = |keys: &&[u32]| keys.iter().map(|key| row(*key, value(*key))).collect();
    let pages = pages.iter().map(page).collect();
    (Call::Pages(asked), Reply::Pages(AllPages { revision, pages }))
}

fn whole(pages: &[&[u32]]) -> (Call, Reply) {
    let asked = Pages {
        limit: 0,
        mode: Mode::At(5),
        ..ASKED
    };
    read(asked, 5, pages)
}

fn one(asked: Pages, pages: &[&[u32]]) -> Script {
    Script::new().ok(1, (1, 2), read(asked, 5, pages))
}

#[test]
fn pages_are_in_order_and_have_each_key_once() {
    let backwards = Pages {
        reverse: true,
        ..ASKED
    };
    valid(one(ASKED, &[&[1, 2], &[4, 8]]).check(check));
    valid(one(ASKED, &[&[1, 2], &[], &[4]]).check(check));
    valid(one(ASKED, &[&[]]).check(check));
    valid(one(backwards, &[&[8, 4], &[2, 1]]).check(check));
    // The last key of a page again on the next one.
    broken("order", one(ASKED, &[&[1, 2], &[2, 4]]).check(check));
    broken("order", one(backwards, &[&[8, 4], &[4, 2]]).check(check));
    broken("order", one(ASKED, &[&[8, 4]]).check(check));
    broken("order", one(backwards, &[&[1, 2]]).check(check));
    broken("order", one(ASKED, &[&[1, 9]]).check(check));
    broken("order", one(ASKED, &[&[0, 1]]).check(check));
}

#[test]
fn a_page_has_no_more_keys_than_were_asked_for() {
    broken("limit", one(ASKED, &[&[1, 2, 4]]).check(check));
    valid(one(Pages { limit: 0, ..ASKED }, &[&[1, 2, 4]]).check(check));
}

#[test]
fn the_pages_are_the_whole_range() {
    let then = |script: Script, pages: &[&[u32]]| script.ok(1, (3, 4), whole(pages));
    let paged = || one(ASKED, &[&[1, 2], &[4]]);
    valid(then(paged(), &[&[1, 2, 4]]).check(check));
    let left_out = broken("whole", then(paged(), &[&[1, 2, 3, 4]]).check(check));
    assert_eq!(left_out.operations, [0, 1]);
    broken("whole", then(paged(), &[&[1, 4]]).check(check));
    let keys_only = Pages {
        keys_only: true,
        ..ASKED
    };
    valid(then(one(keys_only, &[&[1, 2], &[4]]), &[&[1, 2, 4]]).check(check));
    broken(
        "whole",
        then(one(keys_only, &[&[1, 2]]), &[&[1, 2, 4]]).check(check),
    );
    // Of another revision it may differ.
    let other = read(Pages { limit: 0, ..ASKED }, 6, &[&[1]]);
    valid(paged().ok(1, (3, 4), other).check(check));
}

#[test]
fn only_what_both_were_asked_for_is_compared() {
    let upper = Pages {
        from: 3,
        to: 5,
        ..ASKED
    };
    let script = |pages| one(upper, pages).ok(1, (3, 4), whole(&[&[1, 2, 4, 8]]));
    valid(script(&[&[4]]).check(check));
    broken("whole", script(&[&[3], &[4]]).check(check));
}

#[test]
fn a_value_or_a_version_of_another_revision_differs() {
    let with = |row: PageRow| {
        let all = AllPages {
            revision: 5,
            pages: vec![vec![row]],
        };
        Script::new()
            .ok(1, (1, 2), (Call::Pages(ASKED), Reply::Pages(all)))
            .ok(1, (3, 4), whole(&[&[2]]))
    };
    let good = row(2, 20);
    valid(with(good).check(check));
    let mut other = good;
    other.row.value = 21;
    broken("whole", with(other).check(check));
    other = good;
    (other.row.mod_rev, other.row.version) = (4, 2);
    broken("whole", with(other).check(check));
}

#[test]
fn a_scan_is_a_read_of_the_whole() {
    let scanned = |items: &[(u64, u64)]| {
        let (call, _) = scan(5, &[]);
        let items = items.to_vec();
        one(ASKED, &[&[1, 2], &[4]]).ok(1, (3, 4), (call, Reply::Items { revision: 5, items }))
    };
    valid(scanned(&[(1, 10), (2, 20), (4, 40), (9, 90)]).check(check));
    broken(
        "whole",
        scanned(&[(1, 10), (2, 20), (3, 30), (4, 40)]).check(check),
    );
    broken("whole", scanned(&[(1, 10), (2, 21), (4, 40)]).check(check));
}

#[test]
fn what_is_found_is_the_state_of_the_revision() {
    let commit = |revision: u64, key, value| Commit {
        shard: 1,
        index: revision,
        revision,
        changes: vec![change(revision, k(key), value)],
    };
    let log = [
        commit(1, 1, Some(10)),
        commit(2, 2, Some(20)),
        commit(3, 3, Some(30)),
        commit(4, 3, None),
    ];
    let at = |revision, pages: &[&[u32]], log: &[Commit]| {
        let events = Script::new().ok(1, (1, 2), read(ASKED, revision, pages)).events();
        let context = Context {
            committed: Some(log),
            ..Context::new(&shard_of)
        };
        check(&super::History::new(&events), &context)
    };
    valid(at(4, &[&[1, 2]], &log));
    valid(at(3, &[&[1, 2], &[3]], &log));
    // A later page of a newer state, and one that leaves a key out.
    broken("state", at(3, &[&[1, 2]], &log));
    broken("state", at(4, &[&[1, 2], &[3]], &log));
    broken("state", at(4, &[&[2]], &log));
    // What the log does not have whole is not known.
    valid(at(4, &[&[2]], &log[1..]));
}
