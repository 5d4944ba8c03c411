//! How metrics are made.

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Seconds, from a page-cache hit to a slow upstream.
pub(super) const SECONDS_BUCKETS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// Builds metrics and registers them; the first failure is kept, so that each call stays one line.
pub(super) struct Definitions {
    pub(super) registry: Registry,
    pub(super) failure: Option<prometheus::Error>,
}

impl Definitions {
    pub(super) fn register<M: prometheus::core::Collector + Clone + 'static>(&mut self, metric: Result<M, prometheus::Error>) -> Option<M> {
        let outcome = metric.and_then(|metric| self.registry.register(Box::new(metric.clone())).map(|()| metric));
        outcome.map_err(|error| self.failure = Some(error)).ok()
    }

    pub(super) fn counters(&mut self, name: &str, help: &str, labels: &[&str]) -> Option<IntCounterVec> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn counter(&mut self, name: &str, help: &str) -> Option<IntCounter> {
        self.register(IntCounter::new(name, help))
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str) -> Option<IntGauge> {
        self.register(IntGauge::new(name, help))
    }

    pub(super) fn seconds(&mut self, name: &str, help: &str, labels: &[&str]) -> Option<HistogramVec> {
        self.register(HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS_BUCKETS.to_vec()), labels))
    }
}
