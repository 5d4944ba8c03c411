//! Where redirects of blobs led. Further ranges of a blob are asked for there at once: the registry
//! would cost a round trip for each.
//!
//! The URLs are signed, so they are secrets for a while: they are kept in memory only, and not shown.

use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache as Moka;
use reqwest::Url;

use crate::oci::{Digest, RepositoryName};

/// For so long the registry's word is taken. Signed URLs live for minutes; one that has expired
/// earlier is refused there, and the registry is asked again.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// What a map entry takes beside its name and URL.
const OVERHEAD_BYTES: usize = 256;

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
    /// No landings, and at most so many bytes of them: a signed URL may be kilobytes long. Those that were used longest ago
    /// go first.
    pub(super) fn new(max_bytes: u64) -> Self {
        let urls = Moka::builder()
            .max_capacity(max_bytes)
            .weigher(|(repository, _): &(RepositoryName, Digest), url: &Url| {
                u32::try_from(repository.as_str().len() + url.as_str().len() + OVERHEAD_BYTES).unwrap_or(u32::MAX)
            })
            .eviction_policy(EvictionPolicy::lru())
            .time_to_live(REMEMBERED_FOR)
            .build();
        Self { urls }
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

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    fn landings_of(landings: &Landings, count: usize, url_bytes: usize) -> Vec<Landing> {
        let repository = RepositoryName::parse("library/x").unwrap();
        let url = Url::parse(&format!("https://cdn.test/?signature={}", "a".repeat(url_bytes))).unwrap();
        let landings = (0..count).map(|number| {
            let landing = landings.of(&repository, &Digest::of(number.to_string().as_bytes()));
            landing.remember(url.clone());
            landing
        });
        landings.collect()
    }

    #[test]
    fn long_urls_count_by_their_bytes() {
        let landings = Landings::new(64 * KIB as u64);
        let remembered = landings_of(&landings, 200, 8 * KIB);
        landings.urls.run_pending_tasks();
        let kept = remembered.iter().filter(|landing| landing.url().is_some()).count();
        assert!((1..8).contains(&kept), "{kept} URLs of 8 KiB are remembered within 64 KiB");
        assert!(remembered.last().unwrap().url().is_some(), "the newest goes last");
    }

    #[test]
    fn a_url_longer_than_all_together_may_be_is_not_remembered() {
        let landings = Landings::new(KIB as u64);
        let remembered = landings_of(&landings, 1, 8 * KIB);
        landings.urls.run_pending_tasks();
        assert_eq!(remembered[0].url(), None);
    }
}
