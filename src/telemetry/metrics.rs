//! Every metric. What the parts of the store count is in a file of each part.
//!
//! Labels come from closed sets and from the names of rules, never from a request. All label sets
//! of a rule are initialised to 0 when the rule is loaded ([`Metrics::for_rule`]).

mod bucket;
mod cluster;
mod credentials;
mod definitions;
mod eviction;
mod labels;
mod upkeep;

pub use bucket::{BucketMetrics, BucketOperation, BucketResult};
pub use cluster::{ClusterMetrics, ReplicaResult};
pub use credentials::CredentialMetrics;
pub use eviction::{DiskStanding, EvictionMetrics};
pub use labels::{CacheKind, CacheResult, FillResult, FillSource, MirrorResult, STALE_REASONS};
pub use upkeep::UpkeepMetrics;

use std::ops::Deref;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use definitions::Definitions;
use prometheus::{Encoder, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

/// All metrics of one process; cheap to clone. Not the global registry: tests run many servers in
/// one process.
#[derive(Clone)]
pub struct Metrics {
    families: Arc<Families>,
}

impl Deref for Metrics {
    type Target = Families;

    fn deref(&self) -> &Families {
        &self.families
    }
}

/// The metrics themselves.
pub struct Families {
    registry: Registry,
    cache_requests: IntCounterVec,
    cache_bytes: IntCounterVec,
    upstream_requests: IntCounterVec,
    upstream_ttfb: HistogramVec,
    circuit_state: IntGaugeVec,
    held_until: IntGaugeVec,
    quota_limit: IntGaugeVec,
    quota_remaining: IntGaugeVec,
    connections_waited_for: IntGaugeVec,
    token_requests: IntCounterVec,
    /// `headpond_fills_inflight`.
    pub fills_inflight: IntGauge,
    /// `headpond_prefetches_total`: blobs that began to come before a client asked.
    pub prefetches: IntCounter,
    /// `headpond_followers_inflight`.
    pub followers_inflight: IntGauge,
    /// `headpond_bypasses_inflight`.
    pub bypasses_inflight: IntGauge,
    fills: IntCounterVec,
    fill_bytes: IntCounterVec,
    /// `headpond_fill_resumes_total`: transfers that broke and were taken up again.
    pub fill_resumes: IntCounter,
    /// `headpond_digest_mismatch_total`.
    pub digest_mismatch: IntCounter,
    mirror_requests: IntCounterVec,
    stale_served: IntCounterVec,
    http_requests: HistogramVec,
    /// `headpond_http_ttfb_seconds`: from the request's head to the first byte of a blob or manifest.
    pub http_ttfb: Histogram,
    auth_attempts: IntCounterVec,
    storage_errors: IntCounterVec,
    config_reload_success: IntGauge,
    config_reload_timestamp: IntGauge,
    /// Of what is kept on disk, and what went.
    pub eviction: EvictionMetrics,
    /// Of the bucket.
    pub bucket: BucketMetrics,
    /// Of the other replicas.
    pub cluster: ClusterMetrics,
    /// Of credentials that are read.
    pub credentials: CredentialMetrics,
    /// Of scrubs and garbage collections.
    pub upkeep: UpkeepMetrics,
    proxy_requests: IntCounterVec,
    proxy_hits: IntCounterVec,
    proxy_misses: IntCounterVec,
    proxy_pulled_bytes: IntCounterVec,
    proxy_pushed_bytes: IntCounterVec,
}

/// Distribution's label `type`.
const DISTRIBUTION_TYPES: [&str; 2] = ["manifest", "blob"];
/// What a 429 holds off, the label `requests`: the first are manifests and lists.
const HELD_OFF: [&str; 2] = ["manifests", "blobs"];

impl Families {
    fn define(d: &mut Definitions) -> Option<Self> {
        let process = prometheus::process_collector::ProcessCollector::for_self();
        d.registry.register(Box::new(process)).map_err(|error| d.failure = Some(error)).ok()?;
        let build_info = d.register(IntGaugeVec::new(Opts::new("headpond_build_info", "The running version; always 1."), &["version"]))?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Some(Self {
            cache_requests: d.counters("headpond_cache_requests_total", "Requests by what the cache did.", &["rule", "kind", "result"])?,
            cache_bytes: d.counters("headpond_cache_bytes_total", "Bytes in from upstream and out to clients.", &["rule", "direction"])?,
            upstream_requests: d.counters(
                "headpond_upstream_requests_total",
                "Requests made upstream; code 0 is no answer.",
                &["rule", "method", "code"],
            )?,
            upstream_ttfb: d.seconds("headpond_upstream_ttfb_seconds", "From request to response head of an upstream.", &["rule"])?,
            circuit_state: d
                .register(IntGaugeVec::new(Opts::new("headpond_upstream_circuit_state", "0 well, 1 suspect, 2 open."), &["rule"]))?,
            held_until: d.register(IntGaugeVec::new(
                Opts::new("headpond_upstream_held_until_timestamp_seconds", "Until when a 429 of upstream holds; 0 where none does."),
                &["rule", "requests"],
            ))?,
            quota_limit: d.register(IntGaugeVec::new(
                Opts::new("headpond_upstream_quota_limit", "Pulls in each window, as upstream tells."),
                &["rule"],
            ))?,
            quota_remaining: d.register(IntGaugeVec::new(
                Opts::new("headpond_upstream_quota_remaining", "Pulls left, as upstream told last."),
                &["rule"],
            ))?,
            connections_waited_for: d.register(IntGaugeVec::new(
                Opts::new("headpond_upstream_connections_waited_for", "Blobs, with clients, that wait for one of max_connections."),
                &["rule"],
            ))?,
            token_requests: d.counters("headpond_upstream_token_requests_total", "Token requests by outcome.", &["rule", "outcome"])?,
            fills_inflight: d.gauge("headpond_fills_inflight", "Blobs on their way in.")?,
            prefetches: d.counter("headpond_prefetches_total", "Blobs that began to come before a client asked for them.")?,
            followers_inflight: d.gauge("headpond_followers_inflight", "Clients that read a blob on its way in.")?,
            bypasses_inflight: d.gauge("headpond_bypasses_inflight", "Clients that are streamed a blob which is not kept.")?,
            fills: d.counters("headpond_fills_total", "Fills by how they ended.", &["result"])?,
            fill_bytes: d.counters("headpond_fill_bytes_total", "Bytes that fills got, by where from.", &["source"])?,
            fill_resumes: d.counter("headpond_fill_resumes_total", "Transfers that broke and were taken up at the missing bytes.")?,
            digest_mismatch: d.counter("headpond_digest_mismatch_total", "Contents from upstream that did not match their digest.")?,
            mirror_requests: d.counters(
                "headpond_mirror_requests_total",
                "Manifests and blobs that mirrors were asked for.",
                &["rule", "result"],
            )?,
            stale_served: d.counters(
                "headpond_stale_served_total",
                "Stale tags served, by why upstream did not confirm.",
                &["rule", "reason"],
            )?,
            http_requests: d.seconds(
                "headpond_http_request_duration_seconds",
                "From the request's head to the last byte of the answer.",
                &["route", "method", "code"],
            )?,
            http_ttfb: d
                .seconds("headpond_http_ttfb_seconds", "From the request's head to the head of the answer.", &[])?
                .with_label_values::<&str>(&[]),
            auth_attempts: d.counters("headpond_auth_attempts_total", "Requests by how they authenticated.", &["outcome"])?,
            storage_errors: d.counters("headpond_storage_errors_total", "Operations of the store that failed.", &["operation"])?,
            config_reload_success: d.gauge("headpond_config_last_reload_successful", "1 if the last (re)load held.")?,
            config_reload_timestamp: d.gauge("headpond_config_last_reload_success_timestamp_seconds", "When the last good load was.")?,
            eviction: EvictionMetrics::define(d)?,
            bucket: BucketMetrics::define(d)?,
            cluster: ClusterMetrics::define(d)?,
            credentials: CredentialMetrics::define(d)?,
            upkeep: UpkeepMetrics::define(d)?,
            proxy_requests: d.counters("registry_proxy_requests_total", "Requests (as Distribution counts them).", &["type"])?,
            proxy_hits: d.counters("registry_proxy_hits_total", "Hits (as Distribution counts them).", &["type"])?,
            proxy_misses: d.counters("registry_proxy_misses_total", "Misses (as Distribution counts them).", &["type"])?,
            proxy_pulled_bytes: d.counters("registry_proxy_pulled_bytes_total", "Bytes from upstream.", &["type"])?,
            proxy_pushed_bytes: d.counters("registry_proxy_pushed_bytes_total", "Bytes to clients.", &["type"])?,
            registry: d.registry.clone(),
        })
    }
}

impl Metrics {
    /// Defines and registers every metric.
    ///
    /// # Errors
    /// When two definitions collide, which is a mistake in this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let mut define = Definitions { registry: Registry::new(), failure: None };
        let metrics = Families::define(&mut define).map(|families| Self { families: Arc::new(families) });
        match (metrics, define.failure) {
            (Some(metrics), None) => {
                metrics.initialise();
                Ok(metrics)
            }
            (_, failure) => Err(failure.unwrap_or_else(|| prometheus::Error::Msg("a metric was not defined".to_owned()))),
        }
    }

    /// Creates the label sets that need no rule.
    fn initialise(&self) {
        for result in FillResult::ALL {
            self.fills.with_label_values(&[result.as_str()]);
        }
        for source in FillSource::ALL {
            self.fill_bytes.with_label_values(&[source.as_str()]);
        }
        for kind in DISTRIBUTION_TYPES {
            for family in [&self.proxy_requests, &self.proxy_hits, &self.proxy_misses, &self.proxy_pulled_bytes, &self.proxy_pushed_bytes] {
                family.with_label_values(&[kind]);
            }
        }
        for outcome in ["anonymous", "accepted", "refused", "replica"] {
            self.auth_attempts.with_label_values(&[outcome]);
        }
    }

    /// The counters of one rule, all at 0 when new. `rule` is the rule's prefix.
    #[must_use]
    pub fn for_rule(&self, rule: &str) -> RuleMetrics {
        let requests =
            |kind: CacheKind| CacheResult::ALL.map(|result| self.cache_requests.with_label_values(&[rule, kind.as_str(), result.as_str()]));
        for result in MirrorResult::ALL {
            self.mirror_requests.with_label_values(&[rule, result.as_str()]);
        }
        for reason in STALE_REASONS {
            self.stale_served.with_label_values(&[rule, reason]);
        }
        let distribution = |kind: &str| DistributionCounters {
            requests: self.proxy_requests.with_label_values(&[kind]),
            hits: self.proxy_hits.with_label_values(&[kind]),
            misses: self.proxy_misses.with_label_values(&[kind]),
            pulled_bytes: self.proxy_pulled_bytes.with_label_values(&[kind]),
            pushed_bytes: self.proxy_pushed_bytes.with_label_values(&[kind]),
        };
        let counters = RuleCounters {
            rule: rule.to_owned(),
            cache_requests: CacheKind::ALL.map(requests),
            bytes_in: self.cache_bytes.with_label_values(&[rule, "in"]),
            bytes_out: self.cache_bytes.with_label_values(&[rule, "out"]),
            bytes_redirected: self.cache_bytes.with_label_values(&[rule, "redirected"]),
            upstream_ttfb: self.upstream_ttfb.with_label_values(&[rule]),
            circuit_state: self.circuit_state.with_label_values(&[rule]),
            connections_waited_for: self.connections_waited_for.with_label_values(&[rule]),
            held_until: HELD_OFF.map(|requests| self.held_until.with_label_values(&[rule, requests])),
            distribution: DISTRIBUTION_TYPES.map(distribution),
            all: self.clone(),
        };
        RuleMetrics { counters: Arc::new(counters) }
    }

    /// Counts the end of a fill.
    pub fn fill_ended(&self, result: FillResult) {
        self.fills.with_label_values(&[result.as_str()]).inc();
    }

    /// Counts bytes that a fill got.
    pub fn filled(&self, source: FillSource, bytes: u64) {
        self.fill_bytes.with_label_values(&[source.as_str()]).inc_by(bytes);
    }

    /// Observes an answered request. `route` and `method` come from closed sets.
    pub fn request_answered(&self, route: &str, method: &str, status: u16, seconds: f64) {
        with_status(status, |status| self.http_requests.with_label_values(&[route, method, status]).observe(seconds));
    }

    /// Counts an authentication: `anonymous`, `accepted`, `refused` or `replica`.
    pub fn authenticated(&self, outcome: &'static str) {
        self.auth_attempts.with_label_values(&[outcome]).inc();
    }

    /// Counts a failed operation of the store.
    pub fn storage_failed(&self, operation: &'static str) {
        self.storage_errors.with_label_values(&[operation]).inc();
    }

    /// Notes how a load of the configuration went.
    pub fn config_loaded(&self, now_unix_seconds: i64, success: bool) {
        self.config_reload_success.set(i64::from(success));
        if success {
            self.config_reload_timestamp.set(now_unix_seconds);
        }
    }

    /// The text exposition of all metrics.
    ///
    /// # Errors
    /// When a collector yields something that cannot be encoded.
    pub fn expose(&self) -> Result<Vec<u8>, prometheus::Error> {
        self.eviction.refresh();
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// A status as a label, without an allocation for every request.
fn with_status<T>(status: u16, then: impl FnOnce(&str) -> T) -> T {
    match http::StatusCode::from_u16(status) {
        Ok(status) => then(status.as_str()),
        Err(_) => then("0"),
    }
}

/// The metrics of one rule, with its label set; cheap to clone.
#[derive(Clone)]
pub struct RuleMetrics {
    counters: Arc<RuleCounters>,
}

struct RuleCounters {
    rule: String,
    cache_requests: [[IntCounter; 7]; 5],
    bytes_in: IntCounter,
    bytes_out: IntCounter,
    bytes_redirected: IntCounter,
    upstream_ttfb: Histogram,
    circuit_state: IntGauge,
    connections_waited_for: IntGauge,
    /// For manifests and for blobs.
    held_until: [IntGauge; 2],
    /// Distribution's, for manifests and for blobs.
    distribution: [DistributionCounters; 2],
    all: Metrics,
}

/// The `registry_proxy_*` counters of one type.
struct DistributionCounters {
    requests: IntCounter,
    hits: IntCounter,
    misses: IntCounter,
    pulled_bytes: IntCounter,
    pushed_bytes: IntCounter,
}

impl RuleMetrics {
    /// The rule's label.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.counters.rule
    }

    /// Counts a request and what the cache did; `registry_proxy_*` follow.
    pub fn requested(&self, kind: CacheKind, result: CacheResult) {
        let results = self.counters.cache_requests.get(kind as usize);
        if let Some(counter) = results.and_then(|results| results.get(result as usize)) {
            counter.inc();
        }
        let Some(distribution) = self.distribution(kind) else { return };
        distribution.requests.inc();
        match result {
            CacheResult::Hit | CacheResult::Stale | CacheResult::Revalidated => distribution.hits.inc(),
            CacheResult::Miss | CacheResult::Coalesced | CacheResult::Negative | CacheResult::Bypass => distribution.misses.inc(),
        }
    }

    /// Counts bytes received from upstream.
    pub fn received(&self, kind: CacheKind, bytes: u64) {
        self.counters.bytes_in.inc_by(bytes);
        if let Some(distribution) = self.distribution(kind) {
            distribution.pulled_bytes.inc_by(bytes);
        }
    }

    /// Counts bytes sent to clients.
    pub fn sent(&self, kind: CacheKind, bytes: u64) {
        self.counters.bytes_out.inc_by(bytes);
        if let Some(distribution) = self.distribution(kind) {
            distribution.pushed_bytes.inc_by(bytes);
        }
    }

    /// Counts bytes that a client is sent elsewhere for.
    pub fn redirected(&self, kind: CacheKind, bytes: u64) {
        self.counters.bytes_redirected.inc_by(bytes);
        if let Some(distribution) = self.distribution(kind) {
            distribution.pushed_bytes.inc_by(bytes);
        }
    }

    fn distribution(&self, kind: CacheKind) -> Option<&DistributionCounters> {
        let [manifests, blobs] = &self.counters.distribution;
        match kind {
            CacheKind::Tag | CacheKind::Manifest => Some(manifests),
            CacheKind::Blob => Some(blobs),
            CacheKind::TagsList | CacheKind::Referrers => None,
        }
    }

    /// Counts a request made upstream; `code` 0 is no answer.
    pub fn asked_upstream(&self, method: &str, code: u16, seconds_to_head: f64) {
        with_status(code, |code| self.counters.all.upstream_requests.with_label_values(&[self.rule(), method, code]).inc());
        self.counters.upstream_ttfb.observe(seconds_to_head);
    }

    /// Counts a token request: `issued`, `refused` or `failed`.
    pub fn asked_token(&self, outcome: &'static str) {
        self.counters.all.token_requests.with_label_values(&[self.rule(), outcome]).inc();
    }

    /// Shows the circuit: 0 well, 1 suspect, 2 open.
    pub fn circuit(&self, state: i64) {
        self.counters.circuit_state.set(state);
    }

    /// Shows until when a 429 holds manifests and lists, and blobs.
    pub fn held_until(&self, held_until: [Option<SystemTime>; 2]) {
        for (gauge, until) in self.counters.held_until.iter().zip(held_until) {
            let since_1970 = until.and_then(|until| until.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
            gauge.set(i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX));
        }
    }

    /// Shows what upstream told of its pull limit. Before that there is nothing to see: 0 would be none left.
    pub fn quota(&self, limit: Option<u64>, remaining: u64) {
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        if let Some(limit) = limit {
            self.counters.all.quota_limit.with_label_values(&[self.rule()]).set(gauge(limit));
        }
        self.counters.all.quota_remaining.with_label_values(&[self.rule()]).set(gauge(remaining));
    }

    /// One blob more waits for one of the rule's connections.
    pub fn waits_for_connection(&self) {
        self.counters.connections_waited_for.inc();
    }

    /// One less does.
    pub fn waited_for_connection(&self) {
        self.counters.connections_waited_for.dec();
    }

    /// Counts what a mirror was asked for.
    pub fn mirror_asked(&self, result: MirrorResult) {
        self.counters.all.mirror_requests.with_label_values(&[self.rule(), result.as_str()]).inc();
    }

    /// Counts a stale answer; `reason` is one of [`STALE_REASONS`].
    pub fn served_stale(&self, reason: &'static str) {
        self.counters.all.stale_served.with_label_values(&[self.rule(), reason]).inc();
    }

    /// The metrics that have no rule.
    #[must_use]
    pub fn all(&self) -> &Metrics {
        &self.counters.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_sets_of_a_rule_start_at_zero() {
        let metrics = Metrics::new().unwrap();
        metrics.for_rule("docker-hub").requested(CacheKind::Blob, CacheResult::Bypass);
        let text = String::from_utf8(metrics.expose().unwrap()).unwrap();
        assert!(text.contains(r#"headpond_cache_requests_total{kind="blob",result="bypass",rule="docker-hub"} 1"#));
        assert!(text.contains(r#"headpond_cache_requests_total{kind="tag",result="stale",rule="docker-hub"} 0"#));
        assert!(text.contains(r#"registry_proxy_hits_total{type="manifest"} 0"#));
        assert!(text.contains(r#"registry_proxy_misses_total{type="blob"} 1"#));
    }
}
