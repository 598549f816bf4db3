//! Settings of the cluster, which can change while it runs: stored in the meta shard, known to all nodes.

use std::collections::HashMap;

use crate::limits::{MIN_REPAIR_AFTER_MS, NODE_SILENCE};

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

const REPAIR_AFTER: &str = "repair-after";

/// All settings, by name.
pub const SETTINGS: [Setting; 1] = [Setting {
    name: REPAIR_AFTER,
    default: "10m",
    what: "when a node has been silent for so long, other nodes are given its replicas; off = never",
    check: |value| span_ms(value).map(drop),
}];

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
    let set = span_ms(value(stored, &SETTINGS[0]));
    set.or_else(|_| span_ms(SETTINGS[0].default)).unwrap_or(None)
}

/// Milliseconds of `90s`, `10m`, `2h`; `None` of `off`.
fn span_ms(text: &str) -> Result<Option<u64>, String> {
    if text == "off" {
        return Ok(None);
    }
    let unit = text.chars().last().and_then(|unit| match unit {
        's' => Some(1_000u64),
        'm' => Some(60_000),
        'h' => Some(3_600_000),
        _ => None,
    });
    let number: Option<u64> = text
        .get(..text.len().saturating_sub(1))
        .and_then(|number| number.parse().ok());
    let span = number
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit));
    match span {
        Some(ms) if ms >= MIN_REPAIR_AFTER_MS => Ok(Some(ms)),
        _ => Err(format!(
            "{text:?} is not possible: type a time of at least {} s as 90s, 10m or 2h, or off (a node counts as silent after {:?})",
            MIN_REPAIR_AFTER_MS / 1_000,
            NODE_SILENCE
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_typed_with_a_unit() {
        assert_eq!(span_ms("90s"), Ok(Some(90_000)));
        assert_eq!(span_ms("10m"), Ok(Some(600_000)));
        assert_eq!(span_ms("2h"), Ok(Some(7_200_000)));
        assert_eq!(span_ms("off"), Ok(None));
        for bad in [
            "",
            "m",
            "10",
            "10d",
            "-5m",
            "1s",
            "99999999999999999999h",
            "5124095576030431h",
            "10m ",
            "\u{e4}",
        ] {
            assert!(span_ms(bad).is_err(), "{bad}");
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
    }
}
