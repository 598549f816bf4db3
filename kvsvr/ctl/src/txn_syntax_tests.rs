//! Golden tests of the script language: scripts and what they become, errors and where they are.

use std::fmt::Write as _;

use kvsvr_proto::v1::txn_op::Op as WireOp;
use proptest::prelude::*;

use super::*;

/// One line for each compare and operation, in a form that is easy to read in a test.
fn show(txn: Txn) -> String {
    let txn = txn.into_proto();
    let mut out = String::new();
    for c in &txn.compares {
        let _ = writeln!(
            out,
            "if {:?} {:?} {:?} value={:?} number={}",
            c.target(),
            c.key,
            c.operator(),
            c.value,
            c.number
        );
    }
    for (branch, ops) in [("then", &txn.then_ops), ("else", &txn.else_ops)] {
        for op in ops {
            let op = match op.op.as_ref().unwrap() {
                WireOp::Get(o) => format!("get {:?}", o.key),
                WireOp::Range(o) => format!(
                    "range {:?}..{:?} limit={} reverse={} keys_only={}",
                    o.start, o.end, o.limit, o.reverse, o.keys_only
                ),
                WireOp::Put(o) => format!("put {:?} {:?} ttl={} lease={}", o.key, o.value, o.ttl_ms, o.lease),
                WireOp::Delete(o) => format!("del {:?}", o.key),
                WireOp::DeleteRange(o) => format!("del-range {:?}..{:?}", o.start, o.end),
                WireOp::Increment(o) => format!("incr {:?} {}", o.key, o.delta),
                WireOp::Append(o) => format!("append {:?} {:?} ttl={}", o.prefix, o.value, o.ttl_ms),
            };
            let _ = writeln!(out, "{branch} {op}");
        }
    }
    out
}

#[track_caller]
fn check(script: &str, expected: &str) {
    let got = match parse(script) {
        Ok(txn) => show(txn),
        Err(error) => format!("{error}\n"),
    };
    let expected: String = expected
        .lines()
        .map(|l| format!("{}\n", l.trim()))
        .filter(|l| l != "\n")
        .collect();
    assert_eq!(got, expected, "script:\n{script}");
}

#[test]
fn every_condition() {
    check(
        r#"
        if value(k) == "a b"       # comment
        if value(k) != x and value(k) < "m" and value("k k") > a
        if version(k)=0
        if create_rev(k) > 5
        if mod_rev(x"00ff") < 18446744073709551615
        if exists(k)
        if not exists(user/1.name:x@y) and exists(b)
        then
        get k
        "#,
        r#"
        if Value b"k" Equal value=b"a b" number=0
        if Value b"k" NotEqual value=b"x" number=0
        if Value b"k" Less value=b"m" number=0
        if Value b"k k" Greater value=b"a" number=0
        if Version b"k" Equal value=b"" number=0
        if CreateRev b"k" Greater value=b"" number=5
        if ModRev b"\0\xff" Less value=b"" number=18446744073709551615
        if Exists b"k" Equal value=b"" number=0
        if Exists b"user/1.name:x@y" NotEqual value=b"" number=0
        if Exists b"b" Equal value=b"" number=0
        then get b"k"
        "#,
    );
}

#[test]
fn every_operation() {
    check(
        r#"
        put k v
        put "k\n\x00" "quoted # \" \\" ttl 1.5s lease 7
        put a=b (c)<d>#e   # words of operations may hold any mark
        del k
        del-range a
        del-range a b
        del-prefix a
        incr n
        incr n -5
        append log b64"AP8=" ttl 2m
        get "put"
        range a
        range a b limit 10 reverse keys-only
        range a "limit" limit 3
        range a limit 3
        prefix p reverse
        else
        get k
        "#,
        r#"
        then put b"k" b"v" ttl=0 lease=0
        then put b"k\n\0" b"quoted # \" \\" ttl=1500 lease=7
        then put b"a=b" b"(c)<d>#e" ttl=0 lease=0
        then del b"k"
        then del-range b"a"..b""
        then del-range b"a"..b"b"
        then del-range b"a"..b"b"
        then incr b"n" 1
        then incr b"n" -5
        then append b"log" b"\0\xff" ttl=120000
        then get b"put"
        then range b"a"..b"" limit=0 reverse=false keys_only=false
        then range b"a"..b"b" limit=10 reverse=true keys_only=true
        then range b"a"..b"limit" limit=3 reverse=false keys_only=false
        then range b"a"..b"" limit=3 reverse=false keys_only=false
        then range b"p"..b"q" limit=0 reverse=true keys_only=false
        else get b"k"
        "#,
    );
}

#[test]
fn branches_may_be_empty() {
    check(
        "if exists(k)\nelse\nput k v",
        "if Exists b\"k\" Equal value=b\"\" number=0\nelse put b\"k\" b\"v\" ttl=0 lease=0",
    );
    check("then\nput k \"\"", "then put b\"k\" b\"\" ttl=0 lease=0");
}

/// Scripts and their errors.
const ERRORS: &[(&str, &str)] = &[
    (
        "",
        "line 1, column 1: the script has no operation, such as: put KEY VALUE",
    ),
    (
        "# only\n\n",
        "line 2, column 1: the script has no operation, such as: put KEY VALUE",
    ),
    (
        "put k",
        "line 1, column 6: the line ends too early, expected a value",
    ),
    (
        "put k v w",
        "line 1, column 9: unknown option \"w\", known here: ttl, lease; quote values that contain spaces",
    ),
    (
        "del k v",
        "line 1, column 7: the line should end here; quote values that contain spaces",
    ),
    (
        "put k v ttl 10",
        "line 1, column 15: a time span needs a unit, as in 500ms, 10s, 5m, 1h, 2d",
    ),
    (
        "put k \"v",
        "line 1, column 7: the string has no closing quote in this line",
    ),
    (
        "put k \"v\\q\"",
        "line 1, column 9: unknown escape \\q: write \\n \\r \\t \\0 \\\\ \\\" or \\xNN; a backslash itself is \\\\",
    ),
    ("put k x\"0g\"", "line 1, column 10: 'g' is not a hex digit"),
    (
        "put k y\"00\"",
        "line 1, column 7: a string begins with a quote, or with x\" (hex) or b64\" (base64)",
    ),
    (
        "  jump k",
        "line 1, column 3: unknown operation \"jump\": use put, del, del-range, del-prefix, incr, append, get, range or prefix",
    ),
    ("\"put\" k v", "line 1, column 1: expected a word here"),
    ("incr n five", "line 1, column 8: \"five\" is not a whole number"),
    (
        "incr n 9223372036854775808",
        "line 1, column 8: \"9223372036854775808\" is not a whole number",
    ),
    (
        "get k\nif exists(k)",
        "line 2, column 1: conditions must come before `then`, `else` and the operations",
    ),
    (
        "get k\nthen",
        "line 2, column 1: `then` must come before the first operation, once",
    ),
    (
        "else\nget k\nthen",
        "line 3, column 1: `then` must come before `else`",
    ),
    (
        "get k\nelse\nelse",
        "line 3, column 1: there is one `else` already",
    ),
    (
        "if exists k",
        "line 1, column 11: expected ( after the condition's name, as in exists(KEY)",
    ),
    (
        "if exists(k",
        "line 1, column 12: the line ends too early, expected ) after the key",
    ),
    (
        "if exists()",
        "line 1, column 11: expected a key or value, found ); quote what contains it",
    ),
    (
        "if size(k) == 1",
        "line 1, column 4: unknown condition \"size\": use value, version, create_rev, mod_rev or exists",
    ),
    (
        "if version(k) == x",
        "line 1, column 18: \"x\" is not a version or revision: 0, 1, 2, ...",
    ),
    (
        "if version(k) 5",
        "line 1, column 15: a comparison is ==, !=, < or >",
    ),
    (
        "if version(k) ! 5",
        "line 1, column 15: a lone ! means nothing here: use != or not exists(KEY)",
    ),
    (
        "if not version(k) == 5",
        "line 1, column 8: `not` goes with exists(KEY) only; use != < > with the others",
    ),
    (
        "if",
        "line 1, column 3: the line ends too early, expected a condition such as exists(KEY) or version(KEY) == 0",
    ),
    (
        "if exists(k) or exists(j)",
        "line 1, column 14: the line should end here; quote values that contain spaces",
    ),
];

#[test]
fn errors_say_where() {
    for (script, expected) in ERRORS {
        check(script, expected);
    }
}

#[test]
fn errors_show_the_source() {
    let script = "get k\n\tput ü \"v";
    let error = parse(script).unwrap_err();
    assert_eq!(
        error.with_source(script),
        "line 2, column 8: the string has no closing quote in this line\n  \tput ü \"v\n  \t      ^"
    );
}

proptest! {
    #[test]
    fn any_script_is_parsed_or_refused(script in any::<String>()) {
        if let Err(error) = parse(&script) {
            let _ = error.with_source(&script);
        }
    }

    #[test]
    fn any_script_of_known_words_is_parsed_or_refused(
        words in proptest::collection::vec(
            proptest::sample::select(vec![
                "if ", "not ", "exists", "value", "(", ")", "k ", "== ", "1 ", "then\n", "else\n", "put ", "get ", "\n", "\"", "\\",
                "x\"", "limit ", "range ", "ttl ", "1s ", "# ",
            ]),
            0..30,
        )
    ) {
        let script = words.concat();
        if let Err(error) = parse(&script) {
            let _ = error.with_source(&script);
        }
    }

    #[test]
    fn quoted_bytes_come_through(key in proptest::collection::vec(any::<u8>(), 1..20)) {
        let shown = text::show_text(&key).replace('"', "\\\"");
        let txn = parse(&format!("get \"{shown}\"")).unwrap();
        let txn = txn.into_proto();
        let Some(WireOp::Get(get)) = &txn.then_ops[0].op else { panic!("{txn:?}") };
        prop_assert_eq!(&get.key[..], &key[..]);
    }
}
