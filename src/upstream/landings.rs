//! Where redirects of blobs led. Further ranges of a blob are asked for there at once: the registry
//! would cost a round trip for each.
//!
//! The URLs are signed, so they are secrets for a while: they are kept in memory only, and not shown.

use std::time::Duration;

use moka::sync::Cache as Moka;
use reqwest::Url;

use crate::oci::{Digest, RepositoryName};

/// For so long the registry's word is taken. Signed URLs live for minutes; one that has expired
/// earlier is refused there, and the registry is asked again.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// URLs remembered, one for each blob on its way.
const MAX_REMEMBERED: u64 = 1_000;

/// The landings of one endpoint, which has one credential; cheap to clone.
#[derive(Clone)]
pub(super) struct Landings {
    urls: Moka<(RepositoryName, Digest), Url>,
}

/// A blob, and where it may have landed.
#[derive(Clone)]
pub(super) struct Landing {
    landings: Landings,
    key: (RepositoryName, Digest),
}

impl Landings {
    pub(super) fn new() -> Self {
        Self { urls: Moka::builder().max_capacity(MAX_REMEMBERED).time_to_live(REMEMBERED_FOR).build() }
    }

    pub(super) fn of(&self, repository: &RepositoryName, digest: &Digest) -> Landing {
        Landing { landings: self.clone(), key: (repository.clone(), *digest) }
    }
}

impl Landing {
    pub(super) fn url(&self) -> Option<Url> {
        self.landings.urls.get(&self.key)
    }

    pub(super) fn remember(&self, url: Url) {
        self.landings.urls.insert(self.key.clone(), url);
    }

    /// It refuses, or broke off: the registry is asked again.
    pub(super) fn forget(&self) {
        self.landings.urls.invalidate(&self.key);
    }
}
