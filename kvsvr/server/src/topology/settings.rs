//! Settings of the cluster, which can change while it runs: stored in the meta shard, known to all nodes.

use std::collections::HashMap;

use crate::limits::{MIN_REPAIR_AFTER_MS, MIN_SLOW_DISK_MS, NODE_SILENCE};

/// A setting.
#[derive(Debug)]
pub struct Setting {
    /// What it is called.
    pub name: &'static str,
    /// If it was not set.
    pub default: &'static str,
    /// What it does, for people.
    pub what: &'static str,
    /// Why a value is not possible.
    pub check: fn(&str) -> Result<(), String>,
}

/// All settings, by name.
pub const SETTINGS: [Setting; 2] = [REPAIR_AFTER, SLOW_DISK];
const REPAIR_AFTER: Setting = Setting {
    name: "repair-after",
    default: "10m",
    what: "when a node has been silent for so long, other nodes are given its replicas; off = never",
    check: |value| repair_after(value).map(drop),
};
const SLOW_DISK: Setting = Setting {
    name: "slow-disk",
    default: "250ms",
    what: "when a node's writes of the log take so long on an average for 10 s, it leads nothing until they are twice as quick; off = never",
    check: |value| slow_disk(value).map(drop),
};

/// Finds a setting and checks a value; an empty one is its default.
pub fn check(name: &str, value: &str) -> Result<(), String> {
    let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) else {
        let names: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
        return Err(format!(
            "there is no setting {name}; settings are {}",
            names.join(", ")
        ));
    };
    if value.is_empty() {
        return Ok(());
    }
    (setting.check)(value)
}

/// A setting's value, or its default.
pub fn value<'a>(stored: &'a HashMap<String, String>, setting: &'a Setting) -> &'a str {
    stored.get(setting.name).map_or(setting.default, String::as_str)
}

/// After how much silence a node's replicas are made anew elsewhere; `None`: never.
pub fn repair_after_ms(stored: &HashMap<String, String>) -> Option<u64> {
    // A value that this version does not take was set by another one.
    let set = repair_after(value(stored, &REPAIR_AFTER));
    set.or_else(|_| repair_after(REPAIR_AFTER.default))
        .unwrap_or(None)
}

/// How long writes of a slow disk take; `None`: none is slow.
pub fn slow_disk_ms(stored: &HashMap<String, String>) -> Option<u64> {
    let set = slow_disk(value(stored, &SLOW_DISK));
    set.or_else(|_| slow_disk(SLOW_DISK.default)).unwrap_or(None)
}

fn repair_after(text: &str) -> Result<Option<u64>, String> {
    span_ms(text, MIN_REPAIR_AFTER_MS).ok_or_else(|| {
        format!(
            "{text:?} is not possible: type a time of at least {} s as 90s, 10m or 2h, or off (a node counts as silent after {:?})",
            MIN_REPAIR_AFTER_MS / 1_000,
            NODE_SILENCE
        )
    })
}

fn slow_disk(text: &str) -> Result<Option<u64>, String> {
    span_ms(text, MIN_SLOW_DISK_MS).ok_or_else(|| {
        format!(
            "{text:?} is not possible: type a time of at least {MIN_SLOW_DISK_MS} ms as 250ms or 1s, or off"
        )
    })
}

/// Milliseconds of `250ms`, `90s`, `10m`, `2h`, if they are as many as this at least; `None` of `off`.
fn span_ms(text: &str, least: u64) -> Option<Option<u64>> {
    if text == "off" {
        return Some(None);
    }
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let (number, unit) = units
        .into_iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    let span = number
        .parse::<u64>()
        .ok()
        .filter(|_| is_number)?
        .checked_mul(unit)?;
    (span >= least).then_some(Some(span))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_typed_with_a_unit() {
        assert_eq!(span_ms("90s", 5_000), Some(Some(90_000)));
        assert_eq!(span_ms("10m", 5_000), Some(Some(600_000)));
        assert_eq!(span_ms("2h", 5_000), Some(Some(7_200_000)));
        assert_eq!(span_ms("250ms", 10), Some(Some(250)));
        assert_eq!(span_ms("off", 5_000), Some(None));
        for bad in [
            "",
            "m",
            "10",
            "10d",
            "ms",
            "+9s",
            "4999ms",
            "-5m",
            "1s",
            "99999999999999999999h",
            "5124095576030431h",
            "10m ",
            "\u{e4}",
        ] {
            assert!(span_ms(bad, 5_000).is_none(), "{bad}");
        }
    }

    #[test]
    fn defaults_are_possible_and_names_are_told() {
        for setting in &SETTINGS {
            assert_eq!(check(setting.name, setting.default), Ok(()));
            assert_eq!(check(setting.name, ""), Ok(()));
        }
        assert!(check("nonsense", "1").unwrap_err().contains("repair-after"));
        assert!(check("repair-after", "soon").is_err());
        let stored = |value: &str| HashMap::from([("repair-after".to_owned(), value.to_owned())]);
        assert_eq!(repair_after_ms(&HashMap::new()), Some(600_000));
        assert_eq!(repair_after_ms(&stored("off")), None);
        assert_eq!(repair_after_ms(&stored("5s")), Some(5_000));
        assert_eq!(repair_after_ms(&stored("of a newer version")), Some(600_000));
        assert_eq!(slow_disk_ms(&HashMap::new()), Some(250));
        let never = HashMap::from([("slow-disk".to_owned(), "off".to_owned())]);
        assert_eq!(slow_disk_ms(&never), None);
        assert!(check("slow-disk", "9ms").is_err() && check("slow-disk", "10ms").is_ok());
    }
}
