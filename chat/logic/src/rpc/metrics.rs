//! What a process of services measures, in the Prometheus text format.
//!
//! | metric | unit | labels | meaning |
//! |---|---|---|---|
//! | `chat_logic_request_seconds` | histogram, s | request | from a request of a device to its answer |
//! | `chat_logic_refused_total` | requests | code | answered with an error |
//! | `chat_logic_gateways` | gateways | | linked |
//! | `chat_delivery_events_total` | changes | | that delivery workers of this process have told |
//! | `chat_delivery_failures_total` | times | | that not everything could be told, and was tried again |
//!
//! How far delivery is behind is known to the store, for all processes together: `kvctl consumer list`.

use std::sync::{Arc, OnceLock, atomic::Ordering};

use chat_proto::v1::Code;
use prometheus::{
    HistogramOpts, HistogramTimer, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder, core::Collector,
};

use crate::delivery::Counters;

/// Upper bounds of buckets, in seconds.
const SECONDS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// See the module.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    requests: HistogramVec,
    refused: IntCounterVec,
    gateways: IntGauge,
    told: IntCounter,
    failures: IntCounter,
    delivery: Arc<OnceLock<Arc<Counters>>>,
}

/// A request that is being done.
pub(super) struct Timer<'a> {
    timer: HistogramTimer,
    refused: &'a IntCounterVec,
}

impl Timer<'_> {
    pub(super) fn ends(self, code: Option<Code>) {
        self.timer.observe_duration();
        if let Some(code) = code {
            self.refused.with_label_values(&[code.as_str_name()]).inc();
        }
    }
}

impl Metrics {
    /// None yet.
    ///
    /// # Errors
    /// A name is none, or there twice: never, as a test shows.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let seconds = HistogramOpts::new(
            "chat_logic_request_seconds",
            "From a request of a device to its answer",
        );
        let requests = HistogramVec::new(seconds.buckets(SECONDS.to_vec()), &["request"])?;
        let refused = Opts::new("chat_logic_refused_total", "Requests answered with an error");
        let refused = IntCounterVec::new(refused, &["code"])?;
        let counter = |name: &str, help: &str| add(&registry, IntCounter::new(name, help)?);
        Ok(Self {
            gateways: add(
                &registry,
                IntGauge::new("chat_logic_gateways", "Linked gateways")?,
            )?,
            told: counter(
                "chat_delivery_events_total",
                "Changes that delivery workers have told",
            )?,
            failures: counter(
                "chat_delivery_failures_total",
                "Times that not everything could be told, and was tried again",
            )?,
            requests: add(&registry, requests)?,
            refused: add(&registry, refused)?,
            delivery: Arc::default(),
            registry,
        })
    }

    /// The delivery workers of this process, once.
    pub fn of_delivery(&self, counters: Arc<Counters>) {
        self.delivery.get_or_init(|| counters);
    }

    pub(super) fn begins(&self, kind: &str) -> Timer<'_> {
        Timer {
            timer: self.requests.with_label_values(&[kind]).start_timer(),
            refused: &self.refused,
        }
    }

    /// As Prometheus reads it.
    ///
    /// # Errors
    /// A metric cannot be written: never, as a test shows.
    pub fn render(&self, gateways: usize) -> Result<String, prometheus::Error> {
        self.gateways.set(gateways as i64);
        if let Some(delivery) = self.delivery.get() {
            let catch_up = |counter: &IntCounter, now: u64| counter.inc_by(now.saturating_sub(counter.get()));
            catch_up(&self.told, delivery.events.load(Ordering::Relaxed));
            catch_up(&self.failures, delivery.failures.load(Ordering::Relaxed));
        }
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, made: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::Ordering};

    use chat_proto::v1::Code;

    use super::Metrics;
    use crate::delivery::Counters;

    #[test]
    fn all_are_written() {
        let metrics = Metrics::new().unwrap();
        let counters = Arc::new(Counters::default());
        metrics.of_delivery(Arc::clone(&counters));
        metrics.begins("send").ends(Some(Code::Muted));
        counters.events.fetch_add(5, Ordering::Relaxed);
        metrics.render(0).unwrap();
        counters.events.fetch_add(2, Ordering::Relaxed);
        let text = metrics.render(2).unwrap();
        for line in [
            "chat_logic_request_seconds_count{request=\"send\"} 1",
            "chat_logic_refused_total{code=\"MUTED\"} 1",
            "chat_logic_gateways 2",
            "chat_delivery_events_total 7",
            "chat_delivery_failures_total 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
