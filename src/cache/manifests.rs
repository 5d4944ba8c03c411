//! Lookup of manifests by digest. A digest never changes what it names, so nothing here is ever
//! revalidated.

use std::sync::Arc;

use bytes::Bytes;

use super::evict::LastUse;
use super::tags::Served;
use super::{Cache, CacheError, Origin, fetched};
use crate::oci::manifest::{ManifestError, ManifestSummary};
use crate::oci::{Digest, MediaType, Reference};
use crate::storage::{ManifestRecord, RecordKey};
use crate::telemetry::metrics::CacheResult;
use crate::upstream::{ManifestBody, ManifestHead, Purpose};

/// What a map entry and the allocations around a manifest take beside its bytes.
const OVERHEAD_BYTES: usize = 512;

/// A manifest as upstream sent it.
#[derive(Debug)]
pub struct CachedManifest {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: MediaType,
    /// Exactly the bytes that came.
    pub bytes: Bytes,
    pub(super) last_use: LastUse,
}

impl CachedManifest {
    /// A manifest that was not served yet.
    pub(super) fn new(digest: Digest, media_type: MediaType, bytes: Bytes) -> Self {
        Self { digest, media_type, bytes, last_use: LastUse::default() }
    }

    pub(super) fn weight(&self) -> u32 {
        u32::try_from(self.bytes.len() + OVERHEAD_BYTES).unwrap_or(u32::MAX)
    }

    /// What HEAD tells of it.
    #[must_use]
    pub fn header(&self) -> ManifestHeader {
        ManifestHeader { digest: self.digest, media_type: self.media_type.clone(), length_bytes: self.bytes.len() as u64 }
    }
}

/// What HEAD tells of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHeader {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: MediaType,
    /// Its length.
    pub length_bytes: u64,
}

impl ManifestHeader {
    /// What upstream's answer to a HEAD tells; `None` if that is less than a GET would tell.
    pub(super) fn from_upstream(head: &ManifestHead) -> Result<Option<Self>, CacheError> {
        let media_type = head.content_type.as_deref().and_then(|text| MediaType::parse(text).ok());
        let Some(media_type) = media_type.filter(|media_type| !media_type.is_generic()) else { return Ok(None) };
        if media_type.is_schema1() {
            return Err(ManifestError::Schema1.into());
        }
        let length_bytes = head.length_bytes.filter(|_| head.body.is_none());
        Ok(length_bytes.map(|length_bytes| Self { digest: head.digest, media_type, length_bytes }))
    }
}

impl Cache {
    /// A manifest by digest.
    ///
    /// # Errors
    /// When it is not cached and cannot be fetched.
    pub async fn manifest_by_digest(&self, origin: &Arc<Origin>, digest: &Digest) -> Result<Served<Arc<CachedManifest>>, CacheError> {
        if let Some(manifest) = self.cached_manifest(origin, digest).await {
            return Ok(Served::new(manifest, CacheResult::Hit));
        }
        self.refuse_again(origin, digest)?;
        origin.refuse_unattended()?;
        if let Some(word) = self.manifest_through(origin, digest).await {
            return word;
        }
        let (cache, asking, wanted) = (self.clone(), Arc::clone(origin), *digest);
        let (role, landing) = self.digest_imports.join((origin.key(), *digest), || async move {
            // What came in, or was refused, between this caller's look and now.
            if let Some(manifest) = cache.memory.manifests.get(&(asking.key(), wanted)) {
                return Ok(manifest);
            }
            cache.refuse_again(&asking, &wanted)?;
            cache.import_digest(&asking, &wanted, Purpose::Fetch).await
        });
        Ok(Served::new(landing.await??, fetched(role)))
    }

    /// What HEAD tells of a manifest by digest; nothing is imported where upstream tells enough.
    ///
    /// # Errors
    /// When it is not cached and upstream does not tell.
    pub async fn manifest_head_by_digest(&self, origin: &Arc<Origin>, digest: &Digest) -> Result<Served<ManifestHeader>, CacheError> {
        if let Some(manifest) = self.cached_manifest(origin, digest).await {
            return Ok(Served::new(manifest.header(), CacheResult::Hit));
        }
        self.refuse_again(origin, digest)?;
        if let Some(word) = self.digest_head_through(origin, digest).await {
            return word;
        }
        let (cache, asking, wanted) = (self.clone(), Arc::clone(origin), *digest);
        let (role, landing) = self.digest_heads.join((origin.key(), *digest), || async move {
            cache.refuse_again(&asking, &wanted)?;
            let upstream = asking.upstream.as_ref().ok_or(CacheError::Unreachable)?;
            let head = upstream.head_manifest(&asking.remote, &Reference::Digest(wanted), Purpose::Fetch).await;
            match head.inspect_err(|error| cache.remember_refusal(&asking, &wanted, error)) {
                Ok(head) => cache.told_by(&asking, head).await,
                Err(failure) => cache.digest_by_mirror(&asking, &wanted, failure).await.map(|manifest| manifest.header()),
            }
        });
        Ok(Served::new(landing.await??, fetched(role)))
    }

    /// What HEAD tells; where upstream tells less by HEAD than by GET, the manifest is imported.
    pub(super) async fn told_by(&self, origin: &Arc<Origin>, head: ManifestHead) -> Result<ManifestHeader, CacheError> {
        if let Some(header) = ManifestHeader::from_upstream(&head)? {
            return Ok(header);
        }
        let manifest = match head.body {
            Some(bytes) => self.import(origin, ManifestBody { bytes, content_type: head.content_type, digest: head.digest })?,
            None => self.import_digest(origin, &head.digest, Purpose::Fetch).await?,
        };
        Ok(manifest.header())
    }

    /// A manifest from memory or the store.
    pub(super) async fn cached_manifest(&self, origin: &Origin, digest: &Digest) -> Option<Arc<CachedManifest>> {
        let key = (origin.key(), *digest);
        if let Some(manifest) = self.memory.manifests.get(&key) {
            self.used(origin, &manifest);
            return Some(manifest);
        }
        let record = self.store.records.read(&RecordKey::manifest(&origin.repository, digest)).await;
        let record = self.or_miss(origin, record).filter(|record| *record.source == *origin.source)?;
        let stored = self.store.read_small(digest, ManifestSummary::MAX_BYTES).await;
        let bytes = self.or_miss(origin, stored)?;
        let manifest = tokio::task::spawn_blocking({
            let digest = *digest;
            move || checked_manifest(bytes, digest, &record)
        });
        let Some(manifest) = manifest.await.ok().flatten().map(Arc::new) else {
            tracing::warn!(repository = %origin.repository, %digest, "a cached manifest is damaged; it is fetched again");
            return None;
        };
        self.used(origin, &manifest);
        self.memory.manifests.insert(key, Arc::clone(&manifest));
        Some(manifest)
    }
}

/// A stored manifest, checked against its digest: small, and done once while it stays in memory.
fn checked_manifest(bytes: Bytes, digest: Digest, record: &ManifestRecord) -> Option<CachedManifest> {
    let mut hasher = crate::oci::DigestHasher::new(digest.algorithm());
    hasher.update(&bytes);
    (hasher.finish() == digest).then_some(())?;
    let media_type = MediaType::parse(&record.media_type).ok()?;
    Some(CachedManifest::new(digest, media_type, bytes))
}
