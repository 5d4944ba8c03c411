//! Views of repositories, kept for a while.

use std::sync::Arc;
use std::time::SystemTime;

use super::{Cache, CacheError};
use crate::oci::RepositoryName;
use crate::storage::RepositoryView;

/// A view, and when it was asked for.
#[derive(Clone)]
pub(super) struct KnownView {
    view: Arc<RepositoryView>,
    asked_at: SystemTime,
}

impl KnownView {
    pub(super) fn weight(&self) -> u32 {
        u32::try_from(self.view.weight_bytes()).unwrap_or(u32::MAX)
    }
}

impl Cache {
    /// What a repository holds. What others have changed is seen after `limits.view_ttl`.
    pub(super) async fn view(&self, name: &RepositoryName) -> Result<Arc<RepositoryView>, CacheError> {
        if let Some(known) = self.memory.views.get(name)
            && self.clock.now().duration_since(known.asked_at).is_ok_and(|age| age < self.limits.view_ttl)
        {
            return Ok(known.view);
        }
        self.view_now(name).await
    }

    /// What a repository holds now, or held when another caller asked that is still waiting.
    pub(super) async fn view_now(&self, name: &RepositoryName) -> Result<Arc<RepositoryView>, CacheError> {
        let (cache, asked) = (self.clone(), name.clone());
        let (_, landing) = self.view_reads.join(name.clone(), || async move {
            let asked_at = cache.clock.now();
            let known = cache.memory.views.get(&asked).map(|known| known.view).unwrap_or_default();
            let view = Arc::new(cache.store.records.view(&asked, &known).await?);
            cache.memory.views.insert(asked, KnownView { view: Arc::clone(&view), asked_at });
            Ok(view)
        });
        landing.await?
    }
}
