//! Lookup of manifests by digest. A digest never changes what it names, so nothing here is ever
//! revalidated.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use super::tags::Served;
use super::{Cache, CacheError, Origin, fetched};
use crate::oci::manifest::ManifestSummary;
use crate::oci::{Digest, MediaType, Reference};
use crate::storage::{ManifestRecord, OpenBlob, RecordKey};
use crate::telemetry::metrics::CacheResult;
use crate::upstream::{ManifestHead, Purpose};

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
    /// Identifier of the upstream and credential it came from.
    pub source: String,
}

impl CachedManifest {
    pub(super) fn weight(&self) -> u32 {
        u32::try_from(self.bytes.len() + OVERHEAD_BYTES).unwrap_or(u32::MAX)
    }

    /// What HEAD tells of it.
    #[must_use]
    pub fn header(&self) -> ManifestHeader {
        ManifestHeader { digest: self.digest, media_type: self.media_type.clone(), length_bytes: Some(self.bytes.len() as u64) }
    }
}

/// What HEAD tells of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHeader {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: MediaType,
    /// Its length; `None` if upstream did not tell.
    pub length_bytes: Option<u64>,
}

impl ManifestHeader {
    /// What upstream's answer to a HEAD tells.
    pub(super) fn from_upstream(head: &ManifestHead) -> Result<Self, CacheError> {
        if let Some(body) = &head.body {
            let media_type = ManifestSummary::parse(body, head.content_type.as_deref())?.media_type;
            return Ok(Self { digest: head.digest, media_type, length_bytes: Some(body.len() as u64) });
        }
        let text = head.content_type.as_deref().unwrap_or_default();
        let media_type = MediaType::parse(text).map_err(|error| CacheError::Manifest(error.to_string()))?;
        if media_type.is_schema1() {
            return Err(crate::oci::manifest::ManifestError::Schema1.into());
        }
        Ok(Self { digest: head.digest, media_type, length_bytes: head.length_bytes })
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
        if self.memory.absent.contains_key(&(origin.repository.clone(), digest.to_string())) {
            return Err(CacheError::Negative);
        }
        let (cache, asking, wanted) = (self.clone(), Arc::clone(origin), *digest);
        let (role, landing) = self
            .digest_imports
            .join((origin.repository.clone(), *digest), || async move { cache.import_digest(&asking, &wanted, Purpose::Fetch).await });
        Ok(Served::new(landing.await??, fetched(role)))
    }

    /// What HEAD tells of a manifest by digest; nothing is imported.
    ///
    /// # Errors
    /// When it is not cached and upstream does not tell.
    pub async fn manifest_head_by_digest(&self, origin: &Arc<Origin>, digest: &Digest) -> Result<Served<ManifestHeader>, CacheError> {
        if let Some(manifest) = self.cached_manifest(origin, digest).await {
            return Ok(Served::new(manifest.header(), CacheResult::Hit));
        }
        if self.memory.absent.contains_key(&(origin.repository.clone(), digest.to_string())) {
            return Err(CacheError::Negative);
        }
        let (cache, asking, wanted) = (self.clone(), Arc::clone(origin), *digest);
        let (role, landing) = self.digest_heads.join((origin.repository.clone(), *digest), || async move {
            let upstream = asking.upstream.as_ref().ok_or(CacheError::Unreachable)?;
            let head = upstream.head_manifest(&asking.remote, &Reference::Digest(wanted), Purpose::Fetch).await;
            let head = head.inspect_err(|error| cache.remember_absence(&asking, &wanted, error))?;
            ManifestHeader::from_upstream(&head)
        });
        Ok(Served::new(landing.await??, fetched(role)))
    }

    /// A manifest from memory or the store.
    pub(super) async fn cached_manifest(&self, origin: &Origin, digest: &Digest) -> Option<Arc<CachedManifest>> {
        let key = (origin.repository.clone(), *digest);
        if let Some(manifest) = self.memory.manifests.get(&key) {
            return (manifest.source == origin.source).then_some(manifest);
        }
        let record = self.store.records.read(&RecordKey::manifest(&origin.repository, digest)).await;
        let record = self.or_miss(origin, record).filter(|record| record.source == origin.source)?;
        let blob = self.stored_blob(origin, digest)?;
        let manifest = tokio::task::spawn_blocking({
            let digest = *digest;
            move || read_manifest(&blob, digest, record)
        });
        let Some(manifest) = manifest.await.ok().flatten().map(Arc::new) else {
            tracing::warn!(repository = %origin.repository, %digest, "a cached manifest is damaged; it is fetched again");
            return None;
        };
        self.memory.manifests.insert(key, Arc::clone(&manifest));
        Some(manifest)
    }
}

/// Reads a manifest and checks it against its digest: small, and done once while it stays in memory.
fn read_manifest(blob: &OpenBlob, digest: Digest, record: ManifestRecord) -> Option<CachedManifest> {
    let length = usize::try_from(blob.length_bytes).ok().filter(|length| *length <= ManifestSummary::MAX_BYTES)?;
    let mut bytes = vec![0; length];
    blob.file.read_exact_at(&mut bytes, 0).ok()?;
    let mut hasher = crate::oci::DigestHasher::new(digest.algorithm());
    hasher.update(&bytes);
    (hasher.finish() == digest).then_some(())?;
    let media_type = MediaType::parse(&record.media_type).ok()?;
    Some(CachedManifest { digest, media_type, bytes: bytes.into(), source: record.source })
}
