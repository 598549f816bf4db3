//! What a gateway measures, in the Prometheus text format.
//!
//! | metric | unit | labels | meaning |
//! |---|---|---|---|
//! | `chat_access_connections` | connections | | open now |
//! | `chat_access_sessions` | sessions | | known now, with or without a connection |
//! | `chat_access_request_seconds` | histogram, s | request | from when a request was read to its answer |
//! | `chat_access_refused_total` | requests | code | answered with an error |
//! | `chat_access_lagging_total` | times | | a client did not take its hints, and was told to sync |
//! | `chat_access_links` | processes | | services that there is a link to |

use std::time::Duration;

use chat_proto::v1::Code;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
    core::Collector,
};

/// Upper bounds of buckets, in seconds.
const SECONDS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// See the module.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    pub(crate) connections: IntGauge,
    pub(crate) sessions: IntGauge,
    requests: HistogramVec,
    refused: IntCounterVec,
    pub(crate) lagging: IntCounter,
    pub(crate) links: IntGauge,
}

impl Metrics {
    /// None yet.
    ///
    /// # Errors
    /// A name is none, or there twice: never, as a test shows.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let seconds = HistogramOpts::new(
            "chat_access_request_seconds",
            "From when a request was read to its answer",
        );
        let requests = HistogramVec::new(seconds.buckets(SECONDS.to_vec()), &["request"])?;
        let refused = Opts::new("chat_access_refused_total", "Requests answered with an error");
        let refused = IntCounterVec::new(refused, &["code"])?;
        let gauge = |name: &str, help: &str| add(&registry, IntGauge::new(name, help)?);
        Ok(Self {
            connections: gauge("chat_access_connections", "Open now")?,
            sessions: gauge("chat_access_sessions", "Known now, with or without a connection")?,
            links: gauge(
                "chat_access_links",
                "Processes of services that there is a link to",
            )?,
            lagging: add(
                &registry,
                IntCounter::new(
                    "chat_access_lagging_total",
                    "Times that a client did not take its hints, and was told to sync",
                )?,
            )?,
            requests: add(&registry, requests)?,
            refused: add(&registry, refused)?,
            registry,
        })
    }

    pub(crate) fn answered(&self, kind: &str, took: Duration, code: Option<Code>) {
        self.requests
            .with_label_values(&[kind])
            .observe(took.as_secs_f64());
        if let Some(code) = code {
            self.refused.with_label_values(&[code.as_str_name()]).inc();
        }
    }

    /// As Prometheus reads it.
    ///
    /// # Errors
    /// A metric cannot be written: never, as a test shows.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, made: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chat_proto::v1::Code;

    use super::Metrics;

    #[test]
    fn all_are_written() {
        let metrics = Metrics::new().unwrap();
        metrics.connections.set(3);
        metrics.answered("send", Duration::from_millis(7), None);
        metrics.answered("send", Duration::from_millis(7), Some(Code::Muted));
        let text = metrics.render().unwrap();
        for line in [
            "chat_access_connections 3",
            "chat_access_request_seconds_count{request=\"send\"} 2",
            "chat_access_refused_total{code=\"MUTED\"} 1",
            "chat_access_sessions 0",
            "chat_access_links 0",
            "chat_access_lagging_total 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
