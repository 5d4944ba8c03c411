//! Lookup of manifests by tag.

use std::sync::Arc;

use super::freshness::{Current, StaleReason};
use super::{Cache, CacheError, CachedManifest, ManifestHeader, Origin, fetched};
use crate::oci::{Digest, Reference, Tag};
use crate::storage::{RecordKey, ValidatedRecord};
use crate::telemetry::metrics::CacheResult;
use crate::upstream::Purpose;

/// How fresh an answer has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// As the rule's freshness says.
    AsConfigured,
    /// Confirmed now (`Cache-Control: no-cache`).
    Now,
}

/// An answer, and what the cache did for it.
#[derive(Clone, Debug)]
pub struct Served<T> {
    /// The answer.
    pub value: T,
    /// What the cache did.
    pub result: CacheResult,
    /// Why it may be out of date, if it may.
    pub stale: Option<StaleReason>,
}

impl<T> Served<T> {
    pub(super) const fn new(value: T, result: CacheResult) -> Self {
        Self { value, result, stale: None }
    }

    fn as_current<U>(&self, value: U) -> Served<U> {
        Served { value, result: self.result, stale: self.stale }
    }
}

/// A tag in memory.
#[derive(Clone, Debug)]
pub(super) struct TagEntry {
    pub(super) digest: Digest,
    pub(super) source: Arc<str>,
    /// When upstream last confirmed it, in unix seconds.
    pub(super) validated_at: u64,
    /// Since when upstream has said that it is gone.
    pub(super) gone_since: Option<u64>,
    /// The last attempt to confirm it, if that failed for a reason of its own.
    pub(super) failed: Option<FailedAttempt>,
}

/// An attempt that is not repeated before `retry_at`.
#[derive(Clone, Copy, Debug)]
pub(super) struct FailedAttempt {
    pub(super) reason: StaleReason,
    pub(super) retry_at: u64,
    pub(super) in_a_row: u32,
}

impl TagEntry {
    /// A tag that upstream has just confirmed.
    pub(super) fn validated(digest: Digest, source: &str, validated_at: u64) -> Self {
        Self { digest, source: source.into(), validated_at, gone_since: None, failed: None }
    }
}

impl Cache {
    /// A manifest by tag.
    ///
    /// # Errors
    /// When it is not cached and cannot be fetched, or is too stale to be served.
    pub async fn manifest_by_tag(
        &self,
        origin: &Arc<Origin>,
        tag: &Tag,
        demand: Demand,
    ) -> Result<Served<Arc<CachedManifest>>, CacheError> {
        if let Some(current) = self.current(origin, tag, demand).await? {
            if let Some(manifest) = self.cached_manifest(origin, &current.value).await {
                return Ok(current.as_current(manifest));
            }
            // The tag is known but its manifest was lost, or never imported.
            return self.manifest_by_digest(origin, &current.value).await;
        }
        if let Some(header) = self.head_memo(origin, tag, demand) {
            return self.manifest_by_digest(origin, &header.digest).await;
        }
        self.refuse_absent_tag(origin, tag, demand)?;
        let (cache, asking, wanted) = (self.clone(), Arc::clone(origin), tag.clone());
        let (role, landing) =
            self.tag_imports.join((origin.repository.clone(), tag.clone()), || async move { cache.import_tag(&asking, &wanted).await });
        Ok(Served::new(landing.await??, fetched(role)))
    }

    /// What HEAD tells of a manifest by tag. On a miss upstream is asked, and nothing imported.
    ///
    /// # Errors
    /// When it is not cached and upstream does not tell.
    pub async fn manifest_head_by_tag(
        &self,
        origin: &Arc<Origin>,
        tag: &Tag,
        demand: Demand,
    ) -> Result<Served<ManifestHeader>, CacheError> {
        if let Some(current) = self.current(origin, tag, demand).await? {
            if let Some(manifest) = self.cached_manifest(origin, &current.value).await {
                return Ok(current.as_current(manifest.header()));
            }
            return self.manifest_head_by_digest(origin, &current.value).await;
        }
        if let Some(header) = self.head_memo(origin, tag, demand) {
            return Ok(Served::new(header, CacheResult::Hit));
        }
        self.refuse_absent_tag(origin, tag, demand)?;
        let (cache, asking, wanted) = (self.clone(), Arc::clone(origin), tag.clone());
        let (role, landing) =
            self.tag_heads.join((origin.repository.clone(), tag.clone()), || async move { cache.head_tag(&asking, &wanted).await });
        Ok(Served::new(landing.await??, fetched(role)))
    }

    /// The digest a tag points to, fresh enough for `demand`; `None` if the tag is not cached.
    async fn current(&self, origin: &Arc<Origin>, tag: &Tag, demand: Demand) -> Result<Option<Current>, CacheError> {
        let Some(entry) = self.tag_entry(origin, tag).await else { return Ok(None) };
        if origin.upstream.is_none() || (demand == Demand::AsConfigured && self.is_fresh(origin, tag, &entry)) {
            return Ok(Some(Served::new(entry.digest, CacheResult::Hit)));
        }
        self.revalidate(origin, tag, entry, demand).await.map(Some)
    }

    /// A tag from memory or the store, if it was made through this origin's source.
    pub(super) async fn tag_entry(&self, origin: &Origin, tag: &Tag) -> Option<TagEntry> {
        let key = (origin.repository.clone(), tag.clone());
        if let Some(entry) = self.memory.tags.get(&key) {
            return (*entry.source == *origin.source).then_some(entry);
        }
        let record = self.store.records.read(&RecordKey::tag(&origin.repository, tag)).await;
        let record = self.or_miss(origin, record)?;
        let validated = self.store.records.read(&RecordKey::validated(&origin.repository, tag)).await;
        let validated: Option<ValidatedRecord> = self.or_miss(origin, validated).filter(|validated| validated.digest == record.digest);
        let entry = TagEntry {
            digest: record.digest,
            source: record.source.as_str().into(),
            validated_at: validated.as_ref().map_or(record.updated_at, |validated| validated.validated_at),
            gone_since: validated.and_then(|validated| validated.upstream_gone_since),
            failed: None,
        };
        self.memory.tags.insert(key, entry.clone());
        (record.source == origin.source).then_some(entry)
    }

    /// What a HEAD told within the window.
    fn head_memo(&self, origin: &Origin, tag: &Tag, demand: Demand) -> Option<ManifestHeader> {
        let (header, at) = self.memory.heads.get(&(origin.repository.clone(), tag.clone()))?;
        let age = self.now_seconds().saturating_sub(at);
        (demand == Demand::AsConfigured && age < origin.freshness.window(tag.as_str()).as_secs()).then_some(header)
    }

    async fn head_tag(&self, origin: &Arc<Origin>, tag: &Tag) -> Result<ManifestHeader, CacheError> {
        let upstream = origin.upstream.as_ref().ok_or(CacheError::Unreachable)?;
        let head = upstream.head_manifest(&origin.remote, &Reference::Tag(tag.clone()), Purpose::Fetch).await;
        let head = head.inspect_err(|error| self.remember_absence(origin, tag, error))?;
        let header = ManifestHeader::from_upstream(&head)?;
        let now = self.now_seconds();
        let key = (origin.repository.clone(), header.digest);
        if self.cached_manifest(origin, &header.digest).await.is_some() {
            self.set_tag(origin, tag, header.digest, now);
        } else {
            self.memory.heads.insert((origin.repository.clone(), tag.clone()), (header.clone(), now));
            self.memory.head_tags.entry(key).and_upsert_with(|known| {
                let mut tags = known.map(moka::Entry::into_value).unwrap_or_default();
                tags.retain(|(known, _)| known != tag);
                tags.push((tag.clone(), now));
                tags
            });
        }
        Ok(header)
    }

    fn refuse_absent_tag(&self, origin: &Origin, tag: &Tag, demand: Demand) -> Result<(), CacheError> {
        let is_absent = || self.memory.absent.contains_key(&(origin.repository.clone(), tag.to_string()));
        if demand == Demand::AsConfigured && is_absent() { Err(CacheError::Negative) } else { Ok(()) }
    }
}
