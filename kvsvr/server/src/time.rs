//! The node's clocks: all time in this crate is read and waited for through here.
//!
//! Normally these are tokio's own functions and the system's wall clock, re-exported. Under `--cfg madsim` each simulated node has
//! clocks of its own (`skewed`), with an offset and a rate that the simulator sets, so that leases, ages of reads and stamps are
//! tested against clocks that disagree. This file and `raft/runtime.rs` are the only ones that know of that cfg; a test here keeps
//! direct uses of tokio's or the standard library's clocks out of the others.
//!
//! What the node gives to the client library (its links to peers) is on tokio's clock there as here: see [`outside`].

#[cfg(madsim)]
pub mod skewed;

#[cfg(not(madsim))]
pub use real::{Instant, Sleep, outside, sleep, sleep_until, timeout, timeout_at, wall_clock_ms};
#[cfg(madsim)]
pub use skewed::{Instant, Sleep, outside, sleep, sleep_until, timeout, timeout_at, wall_clock_ms};

#[cfg(not(madsim))]
mod real {
    use std::time::{SystemTime, UNIX_EPOCH};

    pub use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout, timeout_at};

    /// Unix milliseconds by this node's wall clock. Only for stamps on entries and for people.
    pub fn wall_clock_ms() -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_millis() as u64)
    }

    /// A point of this node's clock as the libraries beside this crate count time.
    pub fn outside(at: Instant) -> tokio::time::Instant {
        at
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    /// What reads or waits for time past this module.
    const DIRECT: [&str; 7] = [
        "tokio::time",
        "client::time",
        "SystemTime",
        "std::time::Instant",
        "madsim::time",
        "thread::sleep",
        "std::time::{Duration,Instant",
    ];

    /// Its uses of the clocks in product code, without the white space.
    fn direct_uses(text: &str) -> Vec<String> {
        let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("");
        let dense: String = product.split_whitespace().collect();
        let mut found: Vec<String> = DIRECT
            .iter()
            .filter(|direct| dense.contains(*direct))
            .map(|direct| (*direct).to_owned())
            .collect();
        for (start, _) in dense.match_indices("usetokio::{") {
            let group = dense[start..].split(';').next().unwrap_or("");
            if group.contains("time::") {
                found.push("use tokio::{time}".to_owned());
            }
        }
        found
    }

    fn check(dir: &Path, wrong: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let here = path.ends_with("src/time.rs") || path.ends_with("src/time");
            if here || name == "tests" || name == "tests.rs" {
                continue;
            }
            if path.is_dir() {
                check(&path, wrong);
            } else if name.ends_with(".rs") {
                let uses = direct_uses(&fs::read_to_string(&path).unwrap());
                wrong.extend(uses.iter().map(|used| format!("{}: {used}", path.display())));
            }
        }
    }

    #[test]
    fn all_time_passes_through_here() {
        let mut wrong = Vec::new();
        check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut wrong);
        assert!(wrong.is_empty(), "use crate::time instead:\n{}", wrong.join("\n"));
    }

    #[test]
    fn direct_uses_are_found_however_they_are_written() {
        for text in [
            "let t = tokio::time::Instant::now();",
            "use tokio::{\n    sync::mpsc,\n    time::{Instant, sleep},\n};",
            "use std::time::{Duration, Instant};",
            "let t = std::time::Instant::now();",
            "use std::time::{SystemTime, UNIX_EPOCH};",
            "use kvsvr_client::time::timeout_at;",
        ] {
            assert!(!direct_uses(text).is_empty(), "{text}");
        }
        let fine =
            "use std::time::Duration;\nuse tokio::{sync::mpsc};\nuse crate::{limits::X, time::Instant};";
        assert!(direct_uses(fine).is_empty());
    }
}
