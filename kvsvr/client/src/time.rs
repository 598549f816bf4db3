//! Deadlines, and durations on the wire.

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
