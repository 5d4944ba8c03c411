//! What a request is about.

use std::sync::Arc;

use crate::config::{Prefix, Rule};
use crate::oci::RepositoryName;

/// A canonical repository and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A rule names its upstream.
    PullThrough(PullThrough),
    /// No rule does: a hosted repository, or one whose rule is gone.
    Hosted {
        /// Its name.
        repository: RepositoryName,
    },
}

/// A repository of an upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct PullThrough {
    /// The rule.
    pub rule: Arc<Rule>,
    /// The canonical name here, e.g. `docker-hub/library/nginx`.
    pub repository: RepositoryName,
    /// The name there, e.g. `library/nginx`.
    pub remote: RepositoryName,
}

impl PullThrough {
    /// The name without the rule's prefix: what `allow` and `deny` are about.
    #[must_use]
    pub fn name(&self) -> &str {
        let prefixed = self.repository.as_str();
        match &self.rule.prefix {
            Prefix::Root => prefixed,
            Prefix::Name(prefix) => prefixed.strip_prefix(prefix.as_str()).and_then(|rest| rest.strip_prefix('/')).unwrap_or(prefixed),
        }
    }
}

impl Target {
    /// The canonical name.
    #[must_use]
    pub const fn repository(&self) -> &RepositoryName {
        match self {
            Self::PullThrough(target) => &target.repository,
            Self::Hosted { repository } => repository,
        }
    }

    /// The prefix of the rule, as metrics and logs show it; empty where no rule applies.
    #[must_use]
    pub fn rule_label(&self) -> &str {
        match self {
            Self::PullThrough(target) => target.rule.prefix.as_str(),
            Self::Hosted { .. } => "",
        }
    }
}
