//! Where a repository's content comes from.

use std::ops::Deref;
use std::sync::Arc;

use super::Mirror;
use super::fill::Line;
use super::prefetch::Prefetches;
use crate::config::{FreshnessRule, Prefetch};
use crate::oci::{Digest, RepositoryName};
use crate::telemetry::metrics::RuleMetrics;
use crate::upstream::{Replica, Replicas, Unavailability, Upstream, UpstreamError};

/// A repository, and where it comes from.
#[derive(Clone)]
pub struct Origin {
    /// The canonical name here.
    pub repository: RepositoryName,
    /// The name there.
    pub remote: RepositoryName,
    /// What it shares with the other repositories of its rule.
    pub rule: Arc<RuleOrigin>,
    /// Another replica asks: upstream is asked for it, and no third one.
    pub forwarded: bool,
    /// It asks for what no client waits for: that comes behind what clients wait for, if at all.
    pub unattended: bool,
}

/// What all repositories of a rule have in common; made once, when the rule is loaded.
pub struct RuleOrigin {
    /// Identifier of upstream and credential: records made through another one do not count.
    pub source: Arc<str>,
    /// `None` when the rule is gone and only what is cached can be served.
    pub upstream: Option<Upstream>,
    /// Its mirrors, in the order in which they are configured.
    pub mirrors: Vec<Mirror>,
    /// How much of the line to upstream its blobs may use.
    pub line: Arc<Line>,
    /// The other replicas; `None` where there are none.
    pub replicas: Option<Replicas>,
    /// How long tags are fresh.
    pub freshness: FreshnessRule,
    /// What the first missing blob of an image brings with it.
    pub prefetch: Prefetch,
    /// Places for what is prefetched.
    pub prefetches: Prefetches,
    /// Whether only users may pull what comes through it.
    pub needs_user: bool,
    /// Where requests are counted.
    pub metrics: RuleMetrics,
}

/// A repository as one source fills it. What is remembered of it goes by this: a rule that names
/// another upstream, or other credentials, from now on finds nothing of what the old one brought.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct OriginKey {
    source: Arc<str>,
    repository: RepositoryName,
}

impl OriginKey {
    /// The key of a repository as a record names its source.
    pub(super) fn of(source: &str, repository: &RepositoryName) -> Self {
        Self { source: source.into(), repository: repository.clone() }
    }
}

impl Deref for Origin {
    type Target = RuleOrigin;

    fn deref(&self) -> &RuleOrigin {
        &self.rule
    }
}

impl Origin {
    /// Under which it is remembered.
    pub(super) fn key(&self) -> OriginKey {
        OriginKey { source: Arc::clone(&self.source), repository: self.repository.clone() }
    }

    /// Whom to ask for a blob, in order, before asking upstream; nobody, if this replica owns it.
    #[must_use]
    pub fn blob_route(&self, digest: &Digest) -> Vec<Replica> {
        self.route(&digest.to_string())
    }

    /// Whom to ask for manifests, tags and their list. One replica owns all of a repository's: it alone
    /// knows which tag a HEAD has resolved when the manifest comes in by its digest.
    pub(super) fn manifest_route(&self) -> Vec<Replica> {
        self.route(self.repository.as_str())
    }

    fn route(&self, key: &str) -> Vec<Replica> {
        match &self.replicas {
            Some(replicas) if !self.forwarded && self.upstream.is_some() => replicas.route(key, &self.source),
            Some(_) | None => Vec::new(),
        }
    }

    /// Whether pulls are kept for what clients wait for: no more are left than the rule's `quota_floor`.
    pub(super) fn is_saving(&self) -> bool {
        self.upstream.as_ref().is_some_and(Upstream::is_saving)
    }

    /// Refuses what no client waits for, while pulls are kept for what they do.
    pub(super) fn refuse_unattended(&self) -> Result<(), UpstreamError> {
        if !self.unattended || !self.is_saving() {
            return Ok(());
        }
        let detail = "no client waits for it, and no more pulls are left than the rule's quota_floor".to_owned();
        Err(UpstreamError::Unavailable { kind: Unavailability::QuotaFloor, retry_after: None, detail })
    }

    /// The upstream.
    ///
    /// # Errors
    /// When no rule reaches it any more.
    pub fn reach(&self) -> Result<&Upstream, UpstreamError> {
        self.upstream
            .as_ref()
            .ok_or_else(|| UpstreamError::NotFound { detail: "no rule reaches the upstream of this repository any more".to_owned() })
    }
}
