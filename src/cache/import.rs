//! Bringing in a manifest: checked, remembered, and recorded behind the answer.

use std::sync::Arc;

use futures::StreamExt;

use super::{Cache, CacheError, CachedManifest, Origin};
use crate::oci::manifest::ManifestSummary;
use crate::oci::{Digest, Reference, Tag};
use crate::storage::{BlobLinkRecord, ManifestRecord, RecordKey, StorageError};
use crate::upstream::{ManifestBody, Purpose};

/// Records written at a time for one manifest.
const CONCURRENT_WRITES: usize = 8;

impl Cache {
    /// Fetches a manifest by digest and brings it in.
    pub(super) async fn import_digest(
        &self,
        origin: &Arc<Origin>,
        digest: &Digest,
        purpose: Purpose,
    ) -> Result<Arc<CachedManifest>, CacheError> {
        let body = self.fetch_digest(origin, digest, purpose).await;
        let body = body.inspect_err(|error| {
            if let CacheError::Upstream(error) = error {
                self.remember_refusal(origin, digest, error);
            }
        })?;
        self.import(origin, body)
    }

    /// Fetches a manifest by tag and brings both in.
    pub(super) async fn import_tag(&self, origin: &Arc<Origin>, tag: &Tag) -> Result<Arc<CachedManifest>, CacheError> {
        let upstream = origin.upstream.as_ref().ok_or(CacheError::Unreachable)?;
        let place = self.tag_place(origin, tag).await;
        let asked_at = self.now_seconds();
        let body = upstream.get_manifest(&origin.remote, &Reference::Tag(tag.clone()), Purpose::Fetch).await;
        let body = match body.inspect_err(|error| self.remember_refusal(origin, tag, error)) {
            Ok(body) => body,
            Err(failure) => return self.tag_by_mirror(origin, tag, asked_at, place, failure).await,
        };
        let manifest = self.import(origin, body)?;
        self.set_tag(origin, tag, manifest.digest, asked_at, place);
        Ok(manifest)
    }

    /// Checks a manifest that upstream sent, remembers it, and records it behind the answer.
    pub(super) fn import(&self, origin: &Arc<Origin>, body: ManifestBody) -> Result<Arc<CachedManifest>, CacheError> {
        let (manifest, summary) = self.take_in(origin, body)?;
        let (cache, origin, stored) = (self.clone(), Arc::clone(origin), Arc::clone(&manifest));
        self.tasks.spawn_to_end("record a manifest", async move {
            if let Err(error) = cache.record_manifest(&origin, &stored, &summary).await {
                cache.not_recorded(&origin, &error);
            }
        });
        Ok(manifest)
    }

    /// Checks a manifest that another replica sent, and remembers it: that one has recorded it.
    pub(super) fn adopt(&self, origin: &Arc<Origin>, body: ManifestBody) -> Result<Arc<CachedManifest>, CacheError> {
        self.take_in(origin, body).map(|(manifest, _)| manifest)
    }

    fn take_in(&self, origin: &Arc<Origin>, body: ManifestBody) -> Result<(Arc<CachedManifest>, ManifestSummary), CacheError> {
        let summary = ManifestSummary::parse(&body.bytes, body.content_type.as_deref())?;
        let manifest = Arc::new(CachedManifest::new(body.digest, summary.media_type.clone(), body.bytes));
        let key = (origin.key(), manifest.digest);
        // Until it is pulled again, that it came says the same.
        self.memory.pulled.insert(key.clone(), self.now_seconds());
        self.used(origin, &manifest);
        self.memory.manifests.insert(key.clone(), Arc::clone(&manifest));
        for named in summary.blobs.iter().chain(&summary.manifests) {
            self.forget_refusal(origin, &named.digest);
        }
        for blob in &summary.blobs {
            self.remember_link(origin, blob.digest, Some(blob.size_bytes));
        }
        self.expect_pull(origin, manifest.digest, &summary);
        for tag in self.memory.head_tags.remove(&key).unwrap_or_default() {
            // Unless the tag was told, or brought in, with another digest since.
            if let Some(memo) = self.memory.heads.get(&(origin.key(), tag.clone()))
                && memo.header.digest == manifest.digest
            {
                self.set_tag(origin, &tag, manifest.digest, memo.asked_at, memo.place);
            }
        }
        Ok((manifest, summary))
    }

    /// Records a manifest that is in memory.
    pub(super) async fn record_known_manifest(&self, origin: &Origin, digest: &Digest) -> Result<(), StorageError> {
        let Some(manifest) = self.memory.manifests.get(&(origin.key(), *digest)) else { return Ok(()) };
        let Ok(summary) = ManifestSummary::parse(&manifest.bytes, Some(manifest.media_type.as_str())) else { return Ok(()) };
        self.record_manifest(origin, &manifest, &summary).await
    }

    async fn record_manifest(&self, origin: &Origin, manifest: &CachedManifest, summary: &ManifestSummary) -> Result<(), StorageError> {
        self.store.put_small(&manifest.digest, manifest.bytes.clone()).await?;
        let links = futures::stream::iter(summary.blobs.clone()).map(|blob| async move {
            let link =
                BlobLinkRecord { source: origin.source.to_string(), size_bytes: Some(blob.size_bytes), linked_at: self.now_seconds() };
            self.store.records.write_behind(&RecordKey::blob_link(&origin.repository, &blob.digest), &link).await
        });
        let links: Vec<_> = links.buffer_unordered(CONCURRENT_WRITES).collect().await;
        links.into_iter().collect::<Result<(), _>>()?;
        let record = ManifestRecord {
            media_type: manifest.media_type.to_string(),
            size_bytes: manifest.bytes.len() as u64,
            source: origin.source.to_string(),
            cached_at: self.now_seconds(),
            subject: summary.subject,
            artifact_type: summary.artifact_type.clone(),
            references: summary.blobs.iter().chain(&summary.manifests).map(|it| (it.digest, it.size_bytes)).collect(),
        };
        self.store.records.write_behind(&RecordKey::manifest(&origin.repository, &manifest.digest), &record).await?;
        self.record_repository(origin).await
    }
}
