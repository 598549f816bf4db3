//! Deadlines, and durations on the wire and in messages.

use std::time::Duration;

use tokio::time::{Instant, error::Elapsed, timeout};

/// Runs a future until a deadline. (The simulator's runtime has no function of its own for that.)
///
/// # Errors
/// The deadline passed first.
pub async fn timeout_at<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Elapsed> {
    timeout(deadline.saturating_duration_since(Instant::now()), future).await
}

/// Whole milliseconds, at least 1 unless zero, at most what fits.
pub(crate) fn millis(duration: Duration) -> u64 {
    if duration.is_zero() {
        return 0;
    }
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// For people: whole milliseconds below a second, tenths of a second above.
pub(crate) fn show(duration: &Duration) -> String {
    if *duration < Duration::from_secs(1) {
        format!("{} ms", millis(*duration))
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rounded_for_people() {
        assert_eq!(show(&Duration::from_nanos(959_715_401)), "959 ms");
        assert_eq!(show(&Duration::from_nanos(7_668_035_785)), "7.7 s");
    }
}
