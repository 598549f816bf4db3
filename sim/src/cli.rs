//! What the command lines of both programs have in common: how their arguments are read, and which are refused.

use std::{ops::Range, time::Duration};

/// Most minutes that something may be told to take: two years, which any clock can count.
const MOST_MINUTES: f64 = 1e6;

/// `A..B`: from A on and below B.
///
/// # Errors
/// It is something else, or there is nothing in it.
pub fn seeds(text: &str) -> Result<Range<u64>, String> {
    let parsed = text
        .split_once("..")
        .and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed
        .filter(|seeds: &Range<u64>| !seeds.is_empty())
        .ok_or_else(|| "write A..B, as in 0..1000".into())
}

/// A number of minutes, which may have a fraction.
///
/// # Errors
/// It is no number, or nothing can be done in it.
pub fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: f64 = text.parse().map_err(|_| "write a number, as in 2.5".to_owned())?;
    if !(minutes > 0.0 && minutes <= MOST_MINUTES) {
        return Err(format!("it must be above 0, and {MOST_MINUTES} at most"));
    }
    Ok(Duration::from_secs_f64(minutes * 60.0))
}

/// Seconds in which something is to be done.
///
/// # Errors
/// It is no whole number, or nothing can be done in it.
pub fn seconds(text: &str) -> Result<Duration, String> {
    at_least_one(text, (MOST_MINUTES * 60.0) as u64).map(Duration::from_secs)
}

/// How many at a time.
///
/// # Errors
/// It is no whole number, or 0.
pub fn jobs(text: &str) -> Result<usize, String> {
    let jobs = at_least_one(text, 10_000)?;
    Ok(jobs as usize)
}

/// As many as there are cores.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn at_least_one(text: &str, most: u64) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("write a whole number from 1 to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_range_with_something_in_it() {
        assert_eq!(seeds("3..5"), Ok(3..5));
        for wrong in ["5..5", "5..3", "7", "a..b", "-1..3", ".."] {
            assert!(seeds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_is_done_in_no_time_or_by_nobody() {
        assert_eq!(minutes("0.5"), Ok(Duration::from_secs(30)));
        for wrong in ["0", "-1", "NaN", "inf", "1e9", "x", ""] {
            assert!(minutes(wrong).is_err(), "{wrong}");
        }
        assert_eq!(seconds("300"), Ok(Duration::from_secs(300)));
        for wrong in ["0", "-1", "0.5", "99999999999999999999", "x"] {
            assert!(seconds(wrong).is_err() && jobs(wrong).is_err(), "{wrong}");
        }
        assert_eq!(jobs("2"), Ok(2));
        assert!(jobs("0").unwrap_err().contains("from 1 to"));
    }
}
