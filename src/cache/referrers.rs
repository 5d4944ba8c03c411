//! Lists of referrers: upstream's and what is cached, for a while; the last one known when upstream
//! is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;

use super::freshness::StaleReason;
use super::tags::Served;
use super::{Cache, CacheError, FlightAborted, Origin, fetched};
use crate::oci::{Digest, Referrer};
use crate::telemetry::metrics::CacheResult;
use crate::upstream::Purpose;

/// Cached referrers of one manifest that are looked at.
const MAX_CACHED: usize = 1000;
/// Of these, how many are read at a time.
const CONCURRENT_READS: usize = 8;

/// By digest, each once.
type Referrers = Arc<Vec<Referrer>>;

/// Under which a refused list is remembered.
fn refused_as(subject: &Digest) -> String {
    format!("referrers/{subject}")
}

impl Cache {
    /// Every manifest that says it is about `subject`. A manifest without referrers has an empty list.
    ///
    /// # Errors
    /// When upstream does not tell and none is known: that there are none would be a lie.
    pub async fn referrers(&self, origin: &Arc<Origin>, subject: &Digest) -> Result<Served<Referrers>, CacheError> {
        let key = (origin.key(), *subject);
        if let Some(known) = self.memory.referrers.get(&key) {
            return Ok(Served::new(known, CacheResult::Hit));
        }
        let old = self.memory.old_referrers.get(&key);
        if origin.upstream.is_none() {
            let known = match old {
                Some(old) => old,
                None => Arc::new(self.cached_referrers(origin, subject).await.into_values().collect()),
            };
            return Ok(Served::new(known, CacheResult::Hit));
        }
        if let Some(old) = old {
            return Ok(self.referrers_or(origin, subject, old).await);
        }
        match self.referrers_needed(origin, subject).await {
            Ok(served) => Ok(served),
            Err(error) => {
                let cached: Vec<_> = self.cached_referrers(origin, subject).await.into_values().collect();
                if cached.is_empty() { Err(error) } else { Ok(stale(origin, Arc::new(cached), StaleReason::of_cache(&error))) }
            }
        }
    }

    /// Upstream's list, where there is no other.
    async fn referrers_needed(&self, origin: &Arc<Origin>, subject: &Digest) -> Result<Served<Referrers>, CacheError> {
        self.refuse_again(origin, &refused_as(subject))?;
        let (cache, asking, of) = (self.clone(), Arc::clone(origin), *subject);
        let (role, landing) =
            self.referrer_lists.join((origin.key(), of), || async move { cache.referrers_upstream(&asking, &of, Purpose::Fetch).await });
        Ok(Served::new(landing.await??, fetched(role)))
    }

    /// Upstream's list, or its last one if the new one does not come in time.
    async fn referrers_or(&self, origin: &Arc<Origin>, subject: &Digest, old: Referrers) -> Served<Referrers> {
        let (cache, asking, of) = (self.clone(), Arc::clone(origin), *subject);
        let (role, landing) = self
            .referrer_lists
            .join((origin.key(), of), || async move { cache.referrers_upstream(&asking, &of, Purpose::Revalidate).await });
        match tokio::time::timeout(self.limits.revalidate_wait, landing).await {
            Ok(Ok(Ok(referrers))) => Served::new(referrers, fetched(role)),
            Ok(Ok(Err(error))) => stale(origin, old, StaleReason::of_cache(&error)),
            Ok(Err(FlightAborted)) => stale(origin, old, StaleReason::Unavailable),
            Err(_) => stale(origin, old, StaleReason::Slow),
        }
    }

    async fn referrers_upstream(&self, origin: &Arc<Origin>, subject: &Digest, purpose: Purpose) -> Result<Referrers, CacheError> {
        let key = (origin.key(), *subject);
        // What came in, or was refused, between this caller's look and now.
        if let Some(known) = self.memory.referrers.get(&key) {
            return Ok(known);
        }
        self.refuse_again(origin, &refused_as(subject))?;
        let upstream = origin.upstream.as_ref().ok_or(CacheError::Unreachable)?;
        let listed = upstream.list_referrers(&origin.remote, subject, purpose).await;
        let listed = listed.inspect_err(|error| self.remember_refusal(origin, &refused_as(subject), error))?;
        let mut merged = self.cached_referrers(origin, subject).await;
        for mut referrer in listed {
            let cached = merged.remove(&referrer.digest);
            // Some indexes that stand in for the API leave it out.
            referrer.artifact_type = referrer.artifact_type.or_else(|| cached?.artifact_type);
            merged.insert(referrer.digest, referrer);
        }
        let merged: Referrers = Arc::new(merged.into_values().collect());
        self.memory.referrers.insert(key.clone(), Arc::clone(&merged));
        self.memory.old_referrers.insert(key, Arc::clone(&merged));
        Ok(merged)
    }

    /// The referrers that were pulled. Their annotations are in the manifests alone.
    async fn cached_referrers(&self, origin: &Arc<Origin>, subject: &Digest) -> BTreeMap<Digest, Referrer> {
        let view = match self.view(&origin.repository).await {
            Ok(view) => view,
            Err(error) => {
                tracing::warn!(repository = %origin.repository, %error, "cached referrers cannot be listed; they are left out");
                return BTreeMap::new();
            }
        };
        let is_one = |(_, record): &(&Digest, &crate::storage::ManifestRecord)| {
            record.subject.as_ref() == Some(subject) && *record.source == *origin.source
        };
        let digests: Vec<Digest> = view.manifests().filter(is_one).map(|(digest, _)| *digest).take(MAX_CACHED).collect();
        let read = futures::stream::iter(digests).map(async |digest| {
            let manifest = self.cached_manifest(origin, &digest).await?;
            Some((digest, Referrer::of_manifest(digest, &manifest.media_type, &manifest.bytes)?))
        });
        read.buffer_unordered(CONCURRENT_READS).filter_map(std::future::ready).collect().await
    }
}

fn stale(origin: &Origin, referrers: Referrers, reason: StaleReason) -> Served<Referrers> {
    origin.metrics.served_stale(reason.as_str());
    Served { value: referrers, result: CacheResult::Stale, stale: Some(reason) }
}
