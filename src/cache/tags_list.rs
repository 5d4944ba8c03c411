//! Lists of tags: upstream's, for a while; the last one known when upstream is gone.

use std::sync::Arc;

use super::freshness::StaleReason;
use super::tags::Served;
use super::{Cache, CacheError, Origin, fetched};
use crate::oci::Tag;
use crate::telemetry::metrics::CacheResult;

impl Cache {
    /// All tags of `origin`'s repository, sorted.
    ///
    /// # Errors
    /// When upstream does not tell and nothing is cached.
    pub async fn tags(&self, origin: &Arc<Origin>) -> Result<Served<Arc<Vec<Tag>>>, CacheError> {
        if let Some(tags) = self.memory.tag_lists.get(&origin.repository) {
            return Ok(Served::new(tags, CacheResult::Hit));
        }
        let (cache, asking) = (self.clone(), Arc::clone(origin));
        let (role, landing) = self.tag_lists.join(origin.repository.clone(), || async move { cache.tags_upstream(&asking).await });
        match landing.await? {
            Ok(tags) => Ok(Served::new(tags, fetched(role))),
            Err(error) => {
                let Some(tags) = self.tags_cached(origin).await else { return Err(error) };
                let reason = StaleReason::of_cache(&error);
                origin.metrics.served_stale(reason.as_str());
                Ok(Served { value: tags, result: CacheResult::Stale, stale: Some(reason) })
            }
        }
    }

    async fn tags_upstream(&self, origin: &Origin) -> Result<Arc<Vec<Tag>>, CacheError> {
        let upstream = origin.upstream.as_ref().ok_or(CacheError::Unreachable)?;
        let tags = Arc::new(upstream.list_tags(&origin.remote).await?);
        self.memory.tag_lists.insert(origin.repository.clone(), Arc::clone(&tags));
        self.memory.old_tag_lists.insert(origin.repository.clone(), Arc::clone(&tags));
        Ok(tags)
    }

    /// The last list upstream sent, else the tags that were pulled; `None` if there are none.
    async fn tags_cached(&self, origin: &Origin) -> Option<Arc<Vec<Tag>>> {
        if let Some(tags) = self.memory.old_tag_lists.get(&origin.repository) {
            return Some(tags);
        }
        let tags = self.store.records.list_tags(&origin.repository).await;
        self.or_miss(origin, tags.map(Some)).filter(|tags| !tags.is_empty()).map(Arc::new)
    }
}
