//! Results, as tables and as JSON.

use std::{collections::BTreeMap, time::Duration};

use comfy_table::Table;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::crowd::Output;

/// Longer ones count as this.
const LONGEST: Duration = Duration::from_secs(600);

/// Many durations.
pub(super) struct Latencies(Histogram<u64>);

impl Default for Latencies {
    #[expect(clippy::expect_used, reason = "the bounds are constants that a test tries")]
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST.as_micros() as u64, 3);
        Self(histogram.expect("bounds of a histogram"))
    }
}

impl Latencies {
    pub(super) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(latency.as_micros().max(1) as u64);
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    /// In milliseconds.
    pub(super) fn quantile(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1_000.0
    }

    pub(super) fn words(&self) -> String {
        let [p50, p99, p999, max] = [0.5, 0.99, 0.999, 1.0].map(|quantile| self.quantile(quantile));
        format!("{p50:.1}, {p99:.1}, {p999:.1}, {max:.1}")
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "count": self.count(),
            "p50_ms": self.quantile(0.5),
            "p99_ms": self.quantile(0.99),
            "p999_ms": self.quantile(0.999),
            "max_ms": self.quantile(1.0),
        })
    }
}

/// What came of one rate.
pub(super) struct Loaded {
    /// Messages a second that were to be sent.
    pub(super) rate: u32,
    /// Messages.
    pub(super) sent: u64,
    /// Times that one was to arrive at a device.
    pub(super) expected: u64,
    /// From the first message to the last acknowledgement,
    pub(super) acked_in: Duration,
    /// and to the last arrival.
    pub(super) arrived_in: Duration,
    pub(super) acked: Latencies,
    pub(super) arrived: Latencies,
    /// Refusals by their codes.
    pub(super) errors: BTreeMap<String, u64>,
}

/// Shows what came of each rate.
#[expect(clippy::print_stdout, reason = "the result")]
pub(super) fn show_loads(what: &str, loads: &[Loaded], output: Output) {
    match output {
        Output::Json => {
            let loads: Vec<Value> = loads.iter().map(json_of).collect();
            println!("{}", json!({"what": what, "loads": loads}));
        }
        Output::Text => {
            let mut table = Table::new();
            table.set_header([
                "messages/s",
                "acknowledged/s",
                "deliveries/s",
                "ms to acknowledge: p50, p99, p99.9, max",
                "ms to a device",
                "not pushed",
                "errors",
            ]);
            for load in loads {
                let per_second = |count: u64, within: Duration| {
                    format!("{:.0}", count as f64 / within.as_secs_f64().max(f64::EPSILON))
                };
                let errors = load.errors.iter().map(|(code, count)| format!("{code} {count}"));
                table.add_row([
                    load.rate.to_string(),
                    per_second(load.acked.count(), load.acked_in),
                    per_second(load.arrived.count(), load.arrived_in),
                    load.acked.words(),
                    load.arrived.words(),
                    load.expected.saturating_sub(load.arrived.count()).to_string(),
                    errors.collect::<Vec<_>>().join(", "),
                ]);
            }
            println!("{what}, times from when a message was to be sent\n{table}");
        }
    }
}

fn json_of(load: &Loaded) -> Value {
    json!({
        "rate": load.rate,
        "sent": load.sent,
        "seconds_to_last_ack": load.acked_in.as_secs_f64(),
        "seconds_to_last_arrival": load.arrived_in.as_secs_f64(),
        "ack": load.acked.json(),
        "device": load.arrived.json(),
        "expected_at_devices": load.expected,
        "errors": load.errors,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Latencies;

    #[test]
    fn latencies_are_counted() {
        let mut latencies = Latencies::default();
        for ms in 1..=100 {
            latencies.record(Duration::from_millis(ms));
        }
        assert_eq!(latencies.count(), 100);
        assert!((latencies.quantile(0.5) - 50.0).abs() < 0.1);
    }
}
