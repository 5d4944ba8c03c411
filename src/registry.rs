//! The use cases: what a request wants, without HTTP.
//!
//! Each takes an [`Authorized`] target by value, finds its [`Origin`], asks the cache, and says how
//! it went in the registry's own words ([`RegistryError`]).

mod catalog;
mod error;
mod pull;
mod referrers;
mod tags;

use std::collections::HashMap;
use std::sync::Arc;

pub use catalog::CatalogPage;
pub use error::RegistryError;
pub use pull::{Outcome, Pulled};
pub use referrers::ReferrersPage;
pub use tags::{Page, TagsPage};

use crate::access::Authorized;
use crate::cache::{Cache, CacheError, Origin, Prefetches, RuleOrigin};
use crate::config::{FreshnessRule, Prefetch, Prefix};
use crate::oci::RepositoryName;
use crate::rules::Target;
use crate::telemetry::metrics::{Metrics, RuleMetrics};

/// Where the repositories of each rule come from, by the rule's prefix.
pub type RuleOrigins = HashMap<Prefix, Arc<RuleOrigin>>;

/// The label of requests that no rule answers.
const NO_RULE: &str = "";

/// The use cases over one cache and one set of rules. A reload makes another one, which stands
/// behind the same gate as its rules: so no request is let in by old rules and served by new ones.
pub struct Registry {
    cache: Cache,
    rules: RuleOrigins,
    no_rule: RuleMetrics,
}

impl Registry {
    /// A registry over `cache`.
    #[must_use]
    pub fn new(cache: Cache, rules: RuleOrigins, metrics: &Metrics) -> Self {
        Self { cache, rules, no_rule: metrics.for_rule(NO_RULE) }
    }

    /// Where the content of an authorized target comes from.
    async fn origin(&self, target: Authorized<Target>) -> Result<Arc<Origin>, RegistryError> {
        let (is_user, forwarded, unattended) = (target.is_user(), target.forwarded().map(str::to_owned), target.is_unattended());
        let origin = match target.into_target() {
            Target::Hosted { repository } => self.orphan(repository, is_user).await?,
            Target::PullThrough(target) => match self.rules.get(&target.rule.prefix) {
                None => self.orphan(target.repository, is_user).await?,
                Some(rule) => {
                    let rule = Arc::clone(rule);
                    Origin { repository: target.repository, remote: target.remote, rule, forwarded: false, unattended: false }
                }
            },
        };
        let Some(source) = forwarded else { return Ok(Arc::new(origin)) };
        // Its rules are newer or older than these: what came through another source is not what it wants.
        if *source != *origin.source || origin.upstream.is_none() {
            return Err(RegistryError::Unavailable { detail: "another replica asked for a source that no rule here has".to_owned() });
        }
        Ok(Arc::new(Origin { forwarded: true, unattended, ..origin }))
    }

    /// A repository without a rule: what was cached while there was one is still served.
    async fn orphan(&self, repository: RepositoryName, is_user: bool) -> Result<Origin, RegistryError> {
        let unknown = || RegistryError::NameUnknown { name: repository.to_string() };
        let record = self.cache.repository(&repository).await.map_err(CacheError::from)?.ok_or_else(unknown)?;
        if record.needs_user && !is_user {
            return Err(unknown());
        }
        let remote = RepositoryName::parse(&record.upstream_repository).map_err(|_| unknown())?;
        let rule = RuleOrigin {
            needs_user: record.needs_user,
            source: record.source.into(),
            upstream: None,
            mirrors: Vec::new(),
            line: Arc::default(),
            replicas: None,
            metrics: self.no_rule.clone(),
            freshness: FreshnessRule::default(),
            prefetch: Prefetch::Off,
            prefetches: Prefetches::new(0),
        };
        Ok(Origin { repository, remote, rule: Arc::new(rule), forwarded: false, unattended: false })
    }
}
