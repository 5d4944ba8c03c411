//! Lists of tags: upstream's, for a while; the last one known when upstream is gone.

use std::sync::Arc;

use super::freshness::StaleReason;
use super::tags::Served;
use super::{Cache, CacheError, FlightAborted, Origin, fetched};
use crate::oci::Tag;
use crate::telemetry::metrics::CacheResult;
use crate::upstream::Purpose;

/// Under which a refused list is remembered: no tag and no digest is called so.
const LIST: &str = "tags/list";

pub(super) type Tags = Arc<Vec<Tag>>;

impl Cache {
    /// All tags of `origin`'s repository, sorted.
    ///
    /// # Errors
    /// When upstream does not tell and nothing is cached.
    pub async fn tags(&self, origin: &Arc<Origin>) -> Result<Served<Tags>, CacheError> {
        if let Some(tags) = self.memory.tag_lists.get(&origin.key()) {
            return Ok(Served::new(tags, CacheResult::Hit));
        }
        let old = self.memory.old_tag_lists.get(&origin.key());
        if origin.upstream.is_none() {
            let tags = if old.is_some() { old } else { self.tags_pulled(origin).await };
            return tags.map(|tags| Served::new(tags, CacheResult::Hit)).ok_or(CacheError::Unreachable);
        }
        let word = self.tags_through(origin, old.as_ref()).await;
        if word.is_none()
            && let Some(old) = old
        {
            return Ok(self.tags_or(origin, old).await);
        }
        let listed = match word {
            Some(word) => word,
            None => self.tags_needed(origin).await,
        };
        match listed {
            Ok(served) => Ok(served),
            // Not the whole list: told only when there is no other to be had.
            Err(error) => match self.tags_pulled(origin).await {
                Some(tags) => Ok(stale_tags(origin, tags, StaleReason::of_cache(&error))),
                None => Err(error),
            },
        }
    }

    /// Upstream's list, where there is no other.
    async fn tags_needed(&self, origin: &Arc<Origin>) -> Result<Served<Tags>, CacheError> {
        self.refuse_again(origin, &LIST)?;
        let (cache, asking) = (self.clone(), Arc::clone(origin));
        let (role, landing) = self.tag_lists.join(origin.key(), || async move { cache.tags_upstream(&asking, Purpose::Fetch).await });
        Ok(Served::new(landing.await??, fetched(role)))
    }

    /// Upstream's list, or its last one if the new one does not come in time.
    async fn tags_or(&self, origin: &Arc<Origin>, old: Tags) -> Served<Tags> {
        let (cache, asking) = (self.clone(), Arc::clone(origin));
        let (role, landing) = self.tag_lists.join(origin.key(), || async move { cache.tags_upstream(&asking, Purpose::Revalidate).await });
        match tokio::time::timeout(self.limits.revalidate_wait, landing).await {
            Ok(Ok(Ok(tags))) => Served::new(tags, fetched(role)),
            Ok(Ok(Err(error))) => stale_tags(origin, old, StaleReason::of_cache(&error)),
            Ok(Err(FlightAborted)) => stale_tags(origin, old, StaleReason::Unavailable),
            Err(_) => stale_tags(origin, old, StaleReason::Slow),
        }
    }

    async fn tags_upstream(&self, origin: &Origin, purpose: Purpose) -> Result<Tags, CacheError> {
        // What came in, or was refused, between this caller's look and now.
        if let Some(tags) = self.memory.tag_lists.get(&origin.key()) {
            return Ok(tags);
        }
        self.refuse_again(origin, &LIST)?;
        let upstream = origin.upstream.as_ref().ok_or(CacheError::Unreachable)?;
        let listed = upstream.list_tags(&origin.remote, purpose).await;
        let tags = Arc::new(listed.inspect_err(|error| self.remember_refusal(origin, &LIST, error))?);
        self.memory.tag_lists.insert(origin.key(), Arc::clone(&tags));
        self.memory.old_tag_lists.insert(origin.key(), Arc::clone(&tags));
        Ok(tags)
    }

    /// The tags that were pulled through this origin's source; `None` if there are none. Others in the
    /// repository came through a rule that has named another upstream, or other credentials, since.
    async fn tags_pulled(&self, origin: &Origin) -> Option<Tags> {
        let view = match self.view(&origin.repository).await {
            Ok(view) => view,
            Err(error) => {
                tracing::warn!(repository = %origin.repository, %error, "cached tags cannot be listed; they are left out");
                return None;
            }
        };
        let mut tags: Vec<Tag> = view.tags().filter(|(_, record)| *record.source == *origin.source).map(|(tag, _)| tag.clone()).collect();
        tags.sort();
        Some(tags).filter(|tags| !tags.is_empty()).map(Arc::new)
    }
}

pub(super) fn stale_tags(origin: &Origin, tags: Tags, reason: StaleReason) -> Served<Tags> {
    origin.metrics.served_stale(reason.as_str());
    Served { value: tags, result: CacheResult::Stale, stale: Some(reason) }
}
