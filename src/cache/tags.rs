//! Lookup of manifests by tag.

use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::flight::Landing;
use super::freshness::{Current, StaleReason};
use super::tag_records::TagOrigin;
use super::{Cache, CacheError, CachedManifest, Flights, ManifestHeader, Origin, Role, fetched};
use crate::oci::{Digest, Reference, Tag};
use crate::storage::{Expected, ValidatedRecord};
use crate::telemetry::metrics::CacheResult;
use crate::upstream::{Purpose, UpstreamError};

/// Tags noted for one manifest that is not here yet; the latest are kept.
const MAX_TAGS_OF_ONE_DIGEST: usize = 100;

/// How fresh an answer has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// As the rule's freshness says.
    AsConfigured,
    /// Confirmed now (`Cache-Control: no-cache`).
    Now,
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Joins a load that does for `demand`, or begins one: what began before does not tell what is so now.
    pub(super) fn join_for<F>(&self, demand: Demand, key: K, load: impl FnOnce() -> F) -> (Role, Landing<V>)
    where
        F: Future<Output = V> + Send + 'static,
    {
        match demand {
            Demand::AsConfigured => self.join(key, load),
            Demand::Now => self.join_next(key, load),
        }
    }
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
    /// When upstream was asked, in unix seconds, the last time that it confirmed it: its answer is about a moment after that,
    /// however late it came.
    pub(super) validated_at: u64,
    /// Since when upstream has said that it is gone.
    pub(super) gone_since: Option<u64>,
    /// The last attempt to confirm it, if that failed for a reason of its own.
    pub(super) failed: Option<FailedAttempt>,
    /// When the store was last asked whether it still says so; of a tag that was said, when that was.
    pub(super) seen_at: SystemTime,
    /// Where it comes from.
    pub(super) origin: TagOrigin,
}

/// A tag that a HEAD has resolved, with its manifest not imported.
#[derive(Clone, Debug)]
pub(super) struct HeadMemo {
    pub(super) header: ManifestHeader,
    /// When upstream was asked, in unix seconds.
    pub(super) asked_at: u64,
    /// What was in the tag's place before.
    pub(super) place: Option<Expected>,
}

/// An attempt that is not repeated for a while.
#[derive(Clone, Copy, Debug)]
pub(super) struct FailedAttempt {
    pub(super) reason: StaleReason,
    /// When it failed, in unix seconds.
    pub(super) failed_at: u64,
    pub(super) pause: Duration,
    pub(super) in_a_row: u32,
}

impl FailedAttempt {
    /// Whether it is too early for the next one. Not where the clock says less than when this one failed: it was set back.
    pub(super) fn holds_off(&self, now_seconds: u64) -> bool {
        now_seconds.checked_sub(self.failed_at).is_some_and(|age| age < self.pause.as_secs())
    }
}

impl TagEntry {
    /// A tag that upstream has named, when it was asked at `validated_at`, over what was in its place before.
    pub(super) const fn said(digest: Digest, validated_at: u64, seen_at: SystemTime, over: Option<Expected>) -> Self {
        Self { digest, validated_at, gone_since: None, failed: None, seen_at, origin: TagOrigin::Said { over } }
    }

    /// The record of its last validation.
    pub(super) const fn as_validated(&self) -> ValidatedRecord {
        ValidatedRecord { digest: self.digest, validated_at: self.validated_at, upstream_gone_since: self.gone_since }
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
            // The tag is known but its manifest was lost.
            if let Some(served) = self.named_manifest(origin, &current.value).await? {
                return Ok(Served { stale: current.stale, ..served });
            }
        } else if let Some(header) = self.head_memo(origin, tag, demand)
            && let Some(served) = self.named_manifest(origin, &header.digest).await?
        {
            return Ok(served);
        }
        self.refuse_tag_again(origin, tag, demand)?;
        if let Some(word) = self.tag_through(origin, tag, demand).await {
            return word;
        }
        let (cache, asking, wanted) = (self.clone(), Arc::clone(origin), tag.clone());
        let (role, landing) = self.tag_imports.join_for(demand, (origin.key(), tag.clone()), || async move {
            // What came in, or was refused, between this caller's look and now.
            if let Some(manifest) = cache.just_imported(&asking, &wanted, demand) {
                return Ok(manifest);
            }
            cache.refuse_tag_again(&asking, &wanted, demand)?;
            cache.import_tag(&asking, &wanted).await
        });
        Ok(Served::new(landing.await??, fetched(role)))
    }

    /// The manifest that upstream has named for a tag; `None` if it no longer has it, and has named
    /// another one since.
    async fn named_manifest(&self, origin: &Arc<Origin>, digest: &Digest) -> Result<Option<Served<Arc<CachedManifest>>>, CacheError> {
        match self.manifest_by_digest(origin, digest).await {
            Err(CacheError::Upstream(UpstreamError::NotFound { .. }) | CacheError::Negative(UpstreamError::NotFound { .. })) => Ok(None),
            served => served.map(Some),
        }
    }

    /// A manifest that has come in by its tag, and is in memory.
    fn just_imported(&self, origin: &Origin, tag: &Tag, demand: Demand) -> Option<Arc<CachedManifest>> {
        let entry = self.memory.tags.get(&(origin.key(), tag.clone())).filter(|_| demand == Demand::AsConfigured)?;
        self.memory.manifests.get(&(origin.key(), entry.digest)).filter(|_| self.is_fresh(origin, tag, &entry))
    }

    /// What HEAD tells of a manifest by tag. On a miss upstream is asked, and nothing imported where it
    /// tells enough.
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
            match self.manifest_head_by_digest(origin, &current.value).await {
                // The tag has moved, and what it pointed to is gone: asked for by name below.
                Err(CacheError::Upstream(UpstreamError::NotFound { .. }) | CacheError::Negative(UpstreamError::NotFound { .. })) => {}
                served => return served.map(|served| Served { stale: current.stale, ..served }),
            }
        }
        if let Some(header) = self.head_memo(origin, tag, demand) {
            return Ok(Served::new(header, CacheResult::Hit));
        }
        self.refuse_tag_again(origin, tag, demand)?;
        if let Some(word) = self.tag_head_through(origin, tag, demand).await {
            return word;
        }
        let (cache, asking, wanted) = (self.clone(), Arc::clone(origin), tag.clone());
        let (role, landing) = self.tag_heads.join_for(demand, (origin.key(), tag.clone()), || async move {
            // What was told, or refused, between this caller's look and now.
            if let Some(header) = cache.head_memo(&asking, &wanted, demand) {
                return Ok(header);
            }
            if let Some(manifest) = cache.just_imported(&asking, &wanted, demand) {
                return Ok(manifest.header());
            }
            cache.refuse_tag_again(&asking, &wanted, demand)?;
            cache.head_tag(&asking, &wanted).await
        });
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

    /// When upstream last said that a tag points to `digest`, as far as memory knows.
    #[must_use]
    pub fn validated_at(&self, origin: &Origin, tag: &Tag, digest: &Digest) -> Option<u64> {
        let key = (origin.key(), tag.clone());
        let entry = self.memory.tags.get(&key).filter(|entry| entry.digest == *digest).map(|entry| entry.validated_at);
        entry.or_else(|| self.memory.heads.get(&key).filter(|memo| memo.header.digest == *digest).map(|memo| memo.asked_at))
    }

    /// What a HEAD told within the window.
    fn head_memo(&self, origin: &Origin, tag: &Tag, demand: Demand) -> Option<ManifestHeader> {
        let memo = self.memory.heads.get(&(origin.key(), tag.clone()))?;
        let age = self.now_seconds().checked_sub(memo.asked_at)?;
        (demand == Demand::AsConfigured && age < origin.freshness.window(tag.as_str()).as_secs()).then_some(memo.header)
    }

    async fn head_tag(&self, origin: &Arc<Origin>, tag: &Tag) -> Result<ManifestHeader, CacheError> {
        let upstream = origin.upstream.as_ref().ok_or(CacheError::Unreachable)?;
        let place = self.tag_place(origin, tag).await;
        let asked_at = self.now_seconds();
        let head = upstream.head_manifest(&origin.remote, &Reference::Tag(tag.clone()), Purpose::Fetch).await;
        let head = match head.inspect_err(|error| self.remember_refusal(origin, tag, error)) {
            Ok(head) => head,
            Err(failure) => return self.tag_by_mirror(origin, tag, asked_at, place, failure).await.map(|manifest| manifest.header()),
        };
        let header = self.told_by(origin, head).await?;
        // Noted first, looked after: an import that runs meanwhile finds the note, or is found.
        self.note_head(origin, tag, HeadMemo { header: header.clone(), asked_at, place: place.clone() });
        if self.cached_manifest(origin, &header.digest).await.is_some() {
            self.set_tag(origin, tag, header.digest, asked_at, place);
        }
        Ok(header)
    }

    /// Notes what a HEAD told of a tag, to be written once the manifest comes in.
    fn note_head(&self, origin: &Origin, tag: &Tag, memo: HeadMemo) {
        let digest = memo.header.digest;
        self.forget_refusal(origin, tag);
        self.memory.heads.insert((origin.key(), tag.clone()), memo);
        self.memory.head_tags.entry((origin.key(), digest)).and_upsert_with(|known| {
            let mut tags = known.map(moka::Entry::into_value).unwrap_or_default();
            tags.retain(|known| known != tag);
            tags.truncate(MAX_TAGS_OF_ONE_DIGEST - 1);
            tags.insert(0, tag.clone());
            tags
        });
    }

    fn refuse_tag_again(&self, origin: &Origin, tag: &Tag, demand: Demand) -> Result<(), CacheError> {
        if demand == Demand::AsConfigured { self.refuse_again(origin, tag) } else { Ok(()) }
    }
}
