//! Progress on standard error: shown on a terminal, silent elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

const STEP: Duration = Duration::from_millis(200);

/// A bar with rate and time left, or, without a known `total`, a counter with the rate.
pub fn bar(total: Option<u64>, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(total.unwrap_or(0));
    let template = match total {
        Some(_) => "{prefix} {wide_bar} {human_pos}/{human_len} {per_sec} ETA {eta}",
        None => "{prefix} {spinner} {human_pos} {per_sec} {elapsed}",
    };
    start(bar, template).with_prefix(what)
}

/// The same for a number of bytes.
pub fn byte_bar(total: u64, what: &'static str) -> ProgressBar {
    start(
        ProgressBar::new(total),
        "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} ETA {eta} {msg}",
    )
    .with_prefix(what)
}

/// A counter of bytes with the rate.
pub fn byte_counter(what: &'static str) -> ProgressBar {
    start(
        ProgressBar::new_spinner(),
        "{prefix} {spinner} {bytes} {bytes_per_sec} {elapsed} {msg}",
    )
    .with_prefix(what)
}

/// A line of text that changes.
pub fn spinner() -> ProgressBar {
    start(ProgressBar::new_spinner(), "{spinner} {msg}")
}

fn start(bar: ProgressBar, template: &str) -> ProgressBar {
    // Templates are constants of this file; should one be wrong, the default style serves as well.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    if !bar.is_hidden() {
        bar.enable_steady_tick(STEP);
    }
    bar
}

#[cfg(test)]
mod tests {
    use indicatif::ProgressStyle;

    #[test]
    fn templates_are_valid() {
        for template in [
            "{prefix} {wide_bar} {human_pos}/{human_len} {per_sec} ETA {eta}",
            "{prefix} {spinner} {human_pos} {per_sec} {elapsed}",
            "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} ETA {eta} {msg}",
            "{prefix} {spinner} {bytes} {bytes_per_sec} {elapsed} {msg}",
            "{spinner} {msg}",
        ] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
