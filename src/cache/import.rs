//! Bringing in a manifest: checked, remembered, and recorded behind the answer.

use std::sync::Arc;

use futures::StreamExt;

use super::tags::TagEntry;
use super::{Cache, CacheError, CachedManifest, Origin};
use crate::oci::manifest::ManifestSummary;
use crate::oci::{Digest, Reference, Tag};
use crate::storage::{
    BlobLinkRecord, ManifestRecord, RecordKey, RepositoryKind, RepositoryRecord, StorageError, TagRecord, ValidatedRecord,
};
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
        let upstream = origin.upstream.as_ref().ok_or(CacheError::Unreachable)?;
        let body = upstream.get_manifest(&origin.remote, &Reference::Digest(*digest), purpose).await;
        let body = body.inspect_err(|error| self.remember_refusal(origin, digest, error))?;
        self.import(origin, body)
    }

    /// Fetches a manifest by tag and brings both in.
    pub(super) async fn import_tag(&self, origin: &Arc<Origin>, tag: &Tag) -> Result<Arc<CachedManifest>, CacheError> {
        let upstream = origin.upstream.as_ref().ok_or(CacheError::Unreachable)?;
        let body = upstream.get_manifest(&origin.remote, &Reference::Tag(tag.clone()), Purpose::Fetch).await;
        let body = body.inspect_err(|error| self.remember_refusal(origin, tag, error))?;
        let manifest = self.import(origin, body)?;
        self.set_tag(origin, tag, manifest.digest, self.now_seconds());
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
        let manifest = Arc::new(CachedManifest { digest: body.digest, media_type: summary.media_type.clone(), bytes: body.bytes });
        let key = (origin.key(), manifest.digest);
        self.memory.manifests.insert(key.clone(), Arc::clone(&manifest));
        for named in summary.blobs.iter().chain(&summary.manifests) {
            self.forget_refusal(origin, &named.digest);
        }
        for blob in &summary.blobs {
            self.remember_link(origin, blob.digest, Some(blob.size_bytes));
        }
        for tag in self.memory.head_tags.remove(&key).unwrap_or_default() {
            // Unless the tag was told, or brought in, with another digest since.
            if let Some((header, told_at)) = self.memory.heads.get(&(origin.key(), tag.clone()))
                && header.digest == manifest.digest
            {
                self.set_tag(origin, &tag, manifest.digest, told_at);
            }
        }
        Ok((manifest, summary))
    }

    async fn record_manifest(&self, origin: &Origin, manifest: &CachedManifest, summary: &ManifestSummary) -> Result<(), StorageError> {
        self.store.put_small(&manifest.digest, manifest.bytes.clone()).await?;
        let links = futures::stream::iter(summary.blobs.clone()).map(|blob| async move {
            let link = BlobLinkRecord { source: origin.source.to_string(), size_bytes: Some(blob.size_bytes) };
            self.store.records.write(&RecordKey::blob_link(&origin.repository, &blob.digest), &link).await
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
        self.store.records.write(&RecordKey::manifest(&origin.repository, &manifest.digest), &record).await?;
        self.record_repository(origin).await
    }

    /// Writes what the repository is, unless that is known already.
    async fn record_repository(&self, origin: &Origin) -> Result<(), StorageError> {
        let is_known = |record: &RepositoryRecord| *record.source == *origin.source && record.needs_user == origin.needs_user;
        if self.repository(&origin.repository).await?.as_ref().is_some_and(is_known) {
            return Ok(());
        }
        let record = RepositoryRecord {
            kind: RepositoryKind::PullThrough,
            name: origin.repository.to_string(),
            source: origin.source.to_string(),
            upstream_repository: origin.remote.to_string(),
            needs_user: origin.needs_user,
            created_at: self.now_seconds(),
        };
        self.store.records.write(&RecordKey::repository(&origin.repository), &record).await?;
        self.memory.repositories.insert(origin.repository.clone(), record);
        Ok(())
    }

    /// Has a repository's record say what its rule says now, which holds on when the rule is gone.
    /// For repositories that are cached; others get their record with their first manifest.
    pub async fn refresh_repository(&self, origin: &Origin) {
        let is_outdated = |record: &RepositoryRecord| *record.source == *origin.source && record.needs_user != origin.needs_user;
        let known = self.repository(&origin.repository).await;
        if self.or_miss(origin, known).as_ref().is_some_and(is_outdated)
            && let Err(error) = self.record_repository(origin).await
        {
            self.not_recorded(origin, &error);
        }
    }

    /// What a repository is, if anything was ever stored under its name.
    ///
    /// # Errors
    /// When the store cannot say.
    pub async fn repository(&self, name: &crate::oci::RepositoryName) -> Result<Option<RepositoryRecord>, StorageError> {
        if let Some(known) = self.memory.repositories.get(name) {
            return Ok(Some(known));
        }
        let record = self.store.records.read(&RecordKey::repository(name)).await?;
        Ok(record.map(|record| self.memory.repositories.entry(name.clone()).or_insert(record).into_value()))
    }

    /// Points a tag at a digest that upstream named at `validated_at`, and records it behind.
    pub(super) fn set_tag(&self, origin: &Arc<Origin>, tag: &Tag, digest: Digest, validated_at: u64) {
        let (key, entry) = ((origin.key(), tag.clone()), TagEntry::validated(digest, validated_at));
        self.forget_refusal(origin, tag);
        self.memory.heads.invalidate(&key);
        self.memory.tags.insert(key, entry.clone());
        let (cache, origin, tag) = (self.clone(), Arc::clone(origin), tag.clone());
        self.tasks.spawn_to_end("record a tag", async move { cache.record_tag(&origin, &tag, entry).await });
    }

    /// Writes a tag. Two such tasks may run at once, in any order: whoever ends last sees that the tag
    /// is another one by now, and writes that.
    async fn record_tag(&self, origin: &Origin, tag: &Tag, mut entry: TagEntry) {
        loop {
            let record = TagRecord { digest: entry.digest, source: origin.source.to_string(), updated_at: self.now_seconds() };
            if let Err(error) = self.store.records.write(&RecordKey::tag(&origin.repository, tag), &record).await {
                return self.not_recorded(origin, &error);
            }
            let validated = ValidatedRecord { digest: entry.digest, validated_at: entry.validated_at, upstream_gone_since: None };
            self.record_validation(origin, tag, validated).await;
            match self.memory.tags.get(&(origin.key(), tag.clone())) {
                Some(current) if current.digest != entry.digest => entry = current,
                Some(_) | None => return,
            }
        }
    }

    /// Writes a tag's last validation.
    pub(super) async fn record_validation(&self, origin: &Origin, tag: &Tag, record: ValidatedRecord) {
        if let Err(error) = self.store.records.write(&RecordKey::validated(&origin.repository, tag), &record).await {
            self.not_recorded(origin, &error);
        }
    }
}
