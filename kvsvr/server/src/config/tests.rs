use super::{settings::SETTINGS, *};

type Flags = &'static [(&'static str, &'static str)];

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect()
}

fn sources(flags: &[(&str, &str)], environment: &[(&str, &str)], file: &str) -> Sources {
    Sources {
        flags: pairs(flags),
        environment: pairs(environment),
        file: Some(("node.toml".into(), file.into())),
    }
}

fn origin(effective: &Effective, key: &str) -> String {
    effective.origins[key].to_string()
}

/// The error of loading, or of validating what was loaded.
fn error(sources: Sources) -> String {
    match load(&sources) {
        Err(error) => error.to_string(),
        Ok(effective) => effective.config.validate().unwrap_err().to_string(),
    }
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let file = "listen = '1.1.1.1:1'\nworker_threads = 3\n[wal]\nsegment = '16MiB'";
    let environment = [
        ("KVSVR_LISTEN", "2.2.2.2:2"),
        ("KVSVR_WAL_SEGMENT", "32MiB"),
        ("PATH", "/bin"),
    ];
    let flags = [("listen", "3.3.3.3:3"), ("listen", "4.4.4.4:4")];
    for (with, listen, came_from) in [
        (sources(&flags, &environment, file), "4.4.4.4:4", "flag"),
        (
            sources(&[], &environment, file),
            "2.2.2.2:2",
            "environment KVSVR_LISTEN",
        ),
        (sources(&[], &[], file), "1.1.1.1:1", "file node.toml"),
        (Sources::default(), "127.0.0.1:7101", "default"),
    ] {
        let effective = load(&with).unwrap();
        assert_eq!(effective.config.listen, listen);
        assert_eq!(origin(&effective, "listen"), came_from);
    }
    let effective = load(&sources(&flags, &environment, file)).unwrap();
    assert_eq!(effective.config.wal.segment, 32 << 20);
    assert_eq!(effective.config.worker_threads, 3);
    assert_eq!(effective.warnings, Vec::<String>::new());
}

#[test]
fn values_that_follow_from_others() {
    let effective = load(&sources(
        &[("listen", "10.0.0.1:9000"), ("raft.timing", "slow")],
        &[],
        "",
    ))
    .unwrap();
    assert_eq!(effective.config.advertise, "10.0.0.1:9000");
    assert_eq!(effective.config.http.as_deref(), Some("10.0.0.1:10000"));
    assert_eq!(effective.config.raft.timing, Timing::SLOW);
    assert_eq!(origin(&effective, "advertise"), "from listen");
    assert_eq!(origin(&effective, "raft.heartbeat"), "from raft.timing");

    // A preset does not override a value that was given, whichever source each comes from.
    let file = "[raft]\nheartbeat = '150ms'";
    let effective = load(&sources(&[("raft.timing", "slow")], &[], file)).unwrap();
    assert_eq!(
        effective.config.raft.timing,
        Timing {
            heartbeat_ms: 150,
            ..Timing::SLOW
        }
    );

    assert_eq!(
        load(&sources(&[("http", "off")], &[], "")).unwrap().config.http,
        None
    );
    assert_eq!(
        load(&sources(&[("listen", "h:65000")], &[], ""))
            .unwrap()
            .config
            .http,
        None
    );
}

#[test]
fn errors_name_the_setting_and_what_is_possible() {
    let table: &[(Flags, &str, &[&str])] = &[
        (
            &[],
            "lisen = 'a:1'",
            &["lisen in node.toml", "did you mean listen?"],
        ),
        (
            &[],
            "[wal]\nsegmnt = 1",
            &["wal.segmnt", "did you mean wal.segment?"],
        ),
        (&[], "segment = '16MiB'", &["did you mean wal.segment?"]),
        (
            &[],
            "[xyzzy]\nplugh_quux = 1",
            &["xyzzy.plugh_quux", "kvsvr config print"],
        ),
        (
            &[],
            "[wal]\nsegment = true",
            &["wal.segment (file node.toml)", "boolean"],
        ),
        (&[], "[listen]\nport = 1", &["listen"]),
        (&[], "listen = ", &["node.toml is not TOML"]),
        (
            &[("wal.segment", "64MB")],
            "",
            &["wal.segment (flag)", "KiB, MiB or GiB"],
        ),
        (
            &[("raft.heartbeat", "100")],
            "",
            &["raft.heartbeat (flag)", "ms, s, m or h"],
        ),
        (&[("raft.timing", "quick")], "", &["\"fast\", \"slow\""]),
        (&[("log.format", "xml")], "", &["\"text\", \"json\""]),
        (&[("worker_threads", "-1")], "", &["whole number"]),
        (&[("listen", "")], "", &["must not be empty"]),
        (
            &[("nope.nope.nope", "1")],
            "",
            &["on the command line is not a setting"],
        ),
    ];
    for (flags, file, expected) in table {
        let text = load(&sources(flags, &[], file)).unwrap_err().to_string();
        assert!(text.starts_with("BAD_CONFIG: "), "{text}");
        for part in *expected {
            assert!(text.contains(part), "{text:?} lacks {part:?}");
        }
    }
    let text = error(sources(&[], &[("KVSVR_MAX_CONNECTIONS", "many")], ""));
    assert!(
        text.contains("max_connections (environment KVSVR_MAX_CONNECTIONS)"),
        "{text}"
    );
}

#[test]
fn relations_between_settings_are_checked() {
    let valid = [("data", "/d"), ("listen", "127.0.0.1:7101")];
    load(&sources(&valid, &[], ""))
        .unwrap()
        .config
        .validate()
        .unwrap();
    let table: &[(Flags, &str)] = &[
        (
            &[("listen", "0.0.0.0:7101")],
            "advertise = \"0.0.0.0:7101\" is not an address that another machine",
        ),
        (
            &[("listen", "[::]:7101")],
            "is not an address that another machine",
        ),
        (&[("listen", "127.0.0.1:0")], "port 0"),
        (
            &[("listen", "127.0.0.1")],
            "listen = \"127.0.0.1\" is not HOST:PORT",
        ),
        (&[("listen", "::1:7101")], "is not HOST:PORT"),
        (&[("listen", "a b:7101")], "is not HOST:PORT"),
        (&[("http", "127.0.0.1:7101")], "have the same port"),
        (
            &[("raft.election_min", "150ms")],
            "less than twice raft.heartbeat",
        ),
        (
            &[("raft.election_max", "300ms")],
            "must be greater than raft.election_min",
        ),
        (&[("raft.heartbeat", "1ms")], "below 10ms"),
        (&[("max_connections", "0")], "max_connections"),
        (
            &[("memory.limit", "256MiB")],
            "the memory budgets need 960MiB, memory.limit is 256MiB",
        ),
        (&[("wal.segment", "1KiB")], "wal.segment = 1KiB must be between"),
        (&[("wal.flush", "32MiB")], "wal.flush (32MiB)"),
        (&[("history.revisions", "0")], "history.revisions"),
    ];
    for (flags, expected) in table {
        let text = error(sources(&[&valid[..1], flags].concat(), &[], ""));
        assert!(text.contains(expected), "{flags:?}: {text:?} lacks {expected:?}");
    }
    let text = error(sources(&[("max_connections", "0")], &[], ""));
    assert!(
        text.contains("--data DIR") && text.contains("max_connections"),
        "all that is wrong is listed: {text}"
    );
}

#[test]
fn what_is_printed_loads_to_the_same() {
    let flags = [
        ("data", "/var/lib/\"odd\\dir"),
        ("raft.timing", "slow"),
        ("http", "off"),
        ("memory.row_cache", "0"),
    ];
    let effective = load(&sources(&flags, &[("KVSVR_LOG_FORMAT", "json")], "")).unwrap();
    let printed = effective.to_toml();
    let again = load(&sources(&[], &[], &printed)).unwrap();
    assert_eq!(again.config, effective.config);
    assert!(
        printed.contains("value: environment KVSVR_LOG_FORMAT\nformat = \"json\""),
        "{printed}"
    );
    assert!(
        printed.contains("value: from raft.timing\nheartbeat = \"200ms\""),
        "{printed}"
    );

    // Without a data directory there is nothing to print for it but its meaning.
    assert!(
        load(&Sources::default())
            .unwrap()
            .to_toml()
            .contains("\n# data = \"\"\n")
    );
}

#[test]
fn every_setting_is_documented_once_and_printed_as_it_is_read() {
    let config = Config {
        data: "/d".into(),
        ..Config::default()
    };
    for setting in SETTINGS {
        assert_eq!(
            SETTINGS
                .iter()
                .filter(|other| other.variable() == setting.variable())
                .count(),
            1
        );
        assert!(
            setting.help.ends_with('.') && setting.help.len() > 20,
            "{}",
            setting.key
        );
        let printed = (setting.get)(&config);
        let mut again = config.clone();
        (setting.set)(&mut again, printed.trim_matches('"')).unwrap();
        assert_eq!(again, config, "{}", setting.key);
    }
}

#[test]
fn an_unknown_variable_is_a_warning() {
    let effective = load(&sources(
        &[],
        &[("KVSVR_LISTENN", "x"), ("KVSVR_CONFIG", "f")],
        "",
    ))
    .unwrap();
    assert_eq!(effective.warnings.len(), 1);
    assert!(effective.warnings[0].contains("KVSVR_LISTENN"));
}
