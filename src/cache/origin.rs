//! Where a repository's content comes from.

use std::ops::Deref;
use std::sync::Arc;

use crate::config::FreshnessRule;
use crate::oci::RepositoryName;
use crate::telemetry::metrics::RuleMetrics;
use crate::upstream::{Upstream, UpstreamError};

/// A repository, and where it comes from.
#[derive(Clone)]
pub struct Origin {
    /// The canonical name here.
    pub repository: RepositoryName,
    /// The name there.
    pub remote: RepositoryName,
    /// What it shares with the other repositories of its rule.
    pub rule: Arc<RuleOrigin>,
}

/// What all repositories of a rule have in common; made once, when the rule is loaded.
pub struct RuleOrigin {
    /// Identifier of upstream and credential: records made through another one do not count.
    pub source: Arc<str>,
    /// `None` when the rule is gone and only what is cached can be served.
    pub upstream: Option<Upstream>,
    /// How long tags are fresh.
    pub freshness: FreshnessRule,
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
