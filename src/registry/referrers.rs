//! Listing referrers.

use super::pull::pulled;
use super::{Pulled, Registry, RegistryError};
use crate::access::Authorized;
use crate::oci::{Digest, Referrer};
use crate::rules::Target;
use crate::telemetry::metrics::CacheKind;

/// Most referrers on one page.
const PAGE_REFERRERS: usize = 1000;
/// And most bytes of them: clients take an index of 4 MiB at most.
const PAGE_BYTES: usize = 2 * 1024 * 1024;

/// A part of the list of referrers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferrersPage {
    /// The image index that is answered.
    pub index: Vec<u8>,
    /// The last digest on the page, if more follow.
    pub next: Option<Digest>,
}

impl Registry {
    /// A page of what refers to `subject`, by digest: all of it or one type of artifact, behind `last`.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn list_referrers(
        &self,
        target: Authorized<Target>,
        subject: &Digest,
        artifact_type: Option<&str>,
        last: Option<&Digest>,
    ) -> Result<Pulled<ReferrersPage>, RegistryError> {
        let origin = self.origin(target).await?;
        let all = pulled(&origin, CacheKind::Referrers, self.cache.referrers(&origin, subject).await)?;
        let is_wanted = |referrer: &&Referrer| artifact_type.is_none_or(|wanted| referrer.artifact_type.as_deref() == Some(wanted));
        let value = cut(all.value.iter().filter(is_wanted), last);
        Ok(Pulled { value, outcome: all.outcome, stale: all.stale, validated_at: None })
    }
}

/// What fits on one page; at least one entry does.
fn cut<'a>(all: impl Iterator<Item = &'a Referrer>, last: Option<&Digest>) -> ReferrersPage {
    let mut rest = all.filter(|referrer| last.is_none_or(|last| referrer.digest > *last)).peekable();
    let (mut page, mut bytes) = (Vec::new(), 0);
    while let Some(referrer) =
        rest.next_if(|referrer| page.is_empty() || (page.len() < PAGE_REFERRERS && bytes + referrer.weight_bytes() <= PAGE_BYTES))
    {
        bytes += referrer.weight_bytes();
        page.push(referrer);
    }
    let next = page.last().map(|referrer| referrer.digest).filter(|_| rest.peek().is_some());
    ReferrersPage { index: Referrer::index(&page), next }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn referrer(number: usize, annotation_bytes: usize) -> Referrer {
        Referrer {
            media_type: "a/b".to_owned(),
            digest: Digest::of(&number.to_le_bytes()),
            size_bytes: 1,
            artifact_type: None,
            annotations: Some([("k".to_owned(), "v".repeat(annotation_bytes))].into()),
        }
    }

    fn pages(all: &[Referrer]) -> Vec<usize> {
        let (mut pages, mut last) = (Vec::new(), None);
        loop {
            let page = cut(all.iter(), last.as_ref());
            pages.push(Referrer::parse_index(&page.index).unwrap().len());
            last = page.next;
            if last.is_none() {
                return pages;
            }
        }
    }

    #[test]
    fn pages_are_bounded_by_number_and_by_bytes() {
        let listed = |count: usize, annotation_bytes: usize| {
            let mut all: Vec<_> = (0..count).map(|number| referrer(number, annotation_bytes)).collect();
            all.sort_by_key(|referrer| referrer.digest);
            pages(&all)
        };
        assert_eq!(listed(0, 1), [0]);
        assert_eq!(listed(2001, 1), [1000, 1000, 1]);
        assert_eq!(listed(3, 1 << 20), [1, 1, 1]);
        assert_eq!(listed(2, 3 << 20), [1, 1], "one that is larger than a page has one of its own");
    }
}
