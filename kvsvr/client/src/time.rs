//! Durations on the wire.

use std::time::Duration;

/// Whole milliseconds, at least 1 unless zero, at most what fits.
pub(crate) fn millis(duration: Duration) -> u64 {
    if duration.is_zero() {
        return 0;
    }
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
