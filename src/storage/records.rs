//! Records: one small JSON object each, written whole.
//!
//! A record of pull-through content can be lost (upstream has the truth), so none is synced; one
//! that a loss of power tore is as good as none, and says so in the log.

use std::sync::Arc;

use object_store::path::Path as Key;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutPayload};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::bucket::Later;
use super::preconditions::{KnownPreconditions, Preconditions};
use super::versions::Locks;
use super::{GcMarkRecord, StorageError, layout};
use crate::oci::{Digest, RepositoryName, Tag};

/// What a repository is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RepositoryKind {
    /// A cache of an upstream's repository.
    PullThrough,
    /// Pushed to: nobody else has its content. Its records name no source.
    Hosted,
}

/// `repositories/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryRecord {
    /// What it is; the record wins over rules made later.
    pub kind: RepositoryKind,
    /// Its name (the key may hold a hash of it).
    pub name: String,
    /// Identifier of the upstream and credential.
    pub source: String,
    /// The repository's name there.
    pub upstream_repository: String,
    /// Whether only users may pull it, which holds when its rule is gone, too.
    #[serde(default)]
    pub needs_user: bool,
    /// Unix seconds.
    pub created_at: u64,
}

/// `images/<name>/_manifests/<algorithm>/<hex>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestRecord {
    /// As upstream sent it.
    pub media_type: String,
    /// Length of the manifest.
    pub size_bytes: u64,
    /// Identifier of the upstream and credential it came from.
    pub source: String,
    /// Unix seconds.
    pub cached_at: u64,
    /// `subject`, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    /// `artifactType`, or the config's media type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Blobs and manifests it refers to, with their sizes.
    pub references: Vec<(Digest, u64)>,
}

/// `images/<name>/_tags/<tag>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRecord {
    /// What the tag points to.
    pub digest: Digest,
    /// Identifier of the upstream and credential that said so.
    pub source: String,
    /// Unix seconds.
    pub updated_at: u64,
}

/// `images/<name>/_validated/<tag>`: a hint, ignored unless its digest is the tag's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidatedRecord {
    /// What upstream confirmed.
    pub digest: Digest,
    /// Unix seconds.
    pub validated_at: u64,
    /// Since when upstream has said that the tag is gone, in unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_gone_since: Option<u64>,
}

/// `images/<name>/_pulled/<algorithm>/<hex>`: a hint about a manifest, ignored where that is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulledRecord {
    /// Unix seconds.
    pub last_pulled_at: u64,
}

/// `images/<name>/_blobs/<algorithm>/<hex>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobLinkRecord {
    /// Identifier of the upstream and credential through which it was linked.
    pub source: String,
    /// Its length, from the descriptor or upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// When it was last written, in unix seconds: one that is written again differs from what it was.
    #[serde(default)]
    pub linked_at: u64,
}

/// `sources/<source>/<algorithm>/ab/<hex>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceBlobRecord {
    /// Unix seconds.
    pub vouched_at: u64,
}

/// A record's key and, by its type, its form.
#[derive(Clone, Debug)]
pub struct RecordKey<R> {
    key: Key,
    form: std::marker::PhantomData<fn() -> R>,
}

impl<R> RecordKey<R> {
    const fn new(key: Key) -> Self {
        Self { key, form: std::marker::PhantomData }
    }

    /// The record at a key that was listed.
    pub(super) const fn at(key: Key) -> Self {
        Self::new(key)
    }

    pub(super) const fn key(&self) -> &Key {
        &self.key
    }
}

impl<R> RecordKey<R> {
    /// The same place, for a record of another form.
    #[must_use]
    pub fn of_another_form<O>(&self) -> RecordKey<O> {
        RecordKey::new(self.key.clone())
    }
}

impl RecordKey<RepositoryRecord> {
    /// The record of a repository.
    #[must_use]
    pub fn repository(name: &RepositoryName) -> Self {
        Self::new(layout::repository(name))
    }
}

impl RecordKey<ManifestRecord> {
    /// The record of a manifest in a repository.
    #[must_use]
    pub fn manifest(name: &RepositoryName, digest: &Digest) -> Self {
        Self::new(layout::manifest(name, digest))
    }
}

impl RecordKey<TagRecord> {
    /// The record of a tag.
    #[must_use]
    pub fn tag(name: &RepositoryName, tag: &Tag) -> Self {
        Self::new(layout::tag(name, tag))
    }
}

impl RecordKey<ValidatedRecord> {
    /// A tag's last validation.
    #[must_use]
    pub fn validated(name: &RepositoryName, tag: &Tag) -> Self {
        Self::new(layout::validated(name, tag))
    }
}

impl RecordKey<PulledRecord> {
    /// When a manifest of a repository was last pulled.
    #[must_use]
    pub fn pulled(name: &RepositoryName, digest: &Digest) -> Self {
        Self::new(layout::pulled(name, digest))
    }
}

impl RecordKey<BlobLinkRecord> {
    /// A repository's link to a blob.
    #[must_use]
    pub fn blob_link(name: &RepositoryName, digest: &Digest) -> Self {
        Self::new(layout::blob_link(name, digest))
    }
}

impl RecordKey<GcMarkRecord> {
    /// The garbage collection's mark of a blob.
    #[must_use]
    pub fn gc_mark(digest: &Digest) -> Self {
        Self::new(layout::gc_mark(digest))
    }
}

impl<R> std::fmt::Display for RecordKey<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.key.fmt(f)
    }
}

impl RecordKey<SourceBlobRecord> {
    /// A source's word that it has a blob.
    #[must_use]
    pub fn source_blob(source: &str, digest: &Digest) -> Self {
        Self::new(layout::source_blob(source, digest))
    }
}

/// The records of one store; cheap to clone.
#[derive(Clone, Debug)]
pub struct Records {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) preconditions: KnownPreconditions,
    pub(super) is_bucket: bool,
    /// For records of a bucket that are written behind.
    pub(super) later: Option<Arc<Later>>,
    pub(super) locks: Arc<Locks>,
}

impl Records {
    /// Records in a store that this process alone writes to.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, preconditions: KnownPreconditions::of(Preconditions::NONE), is_bucket: false, later: None, locks: Arc::default() }
    }

    /// Records in a bucket that other processes write to as well.
    #[must_use]
    pub fn in_bucket(store: Arc<dyn ObjectStore>, preconditions: KnownPreconditions) -> Self {
        Self { store, preconditions, is_bucket: true, later: None, locks: Arc::default() }
    }

    /// Keeps what is written behind, while the bucket does not answer.
    #[must_use]
    pub(super) fn with_later(self, later: Arc<Later>) -> Self {
        Self { later: Some(later), ..self }
    }

    /// Reads a record. `None` if it is not there, or not of its form (which is logged).
    ///
    /// # Errors
    /// When the store cannot say.
    pub async fn read<R: DeserializeOwned>(&self, key: &RecordKey<R>) -> Result<Option<R>, StorageError> {
        let read = self.bytes(&key.key, GetOptions::default()).await?;
        Ok(read.and_then(|bytes| self.parse(key, &bytes.bytes)))
    }

    /// Writes a record whole, over what was there.
    ///
    /// # Errors
    /// When the store cannot.
    pub async fn write<R: Serialize>(&self, key: &RecordKey<R>, record: &R) -> Result<(), StorageError> {
        let json = Self::json(key, record)?;
        let _lock = self.write_lock(&key.key).await;
        let put = self.past_later(&key.key, self.store.put(&key.key, PutPayload::from(json))).await;
        put.map(|_| ()).map_err(|error| StorageError::object(&key.key, error))
    }

    /// Writes a record that can be made again: where a bucket does not answer it is kept in memory, read
    /// from there, and written once the bucket does.
    ///
    /// # Errors
    /// When the store cannot.
    pub async fn write_behind<R: Serialize>(&self, key: &RecordKey<R>, record: &R) -> Result<(), StorageError> {
        let Some(later) = &self.later else { return self.write(key, record).await };
        let json = Self::json(key, record)?;
        let _lock = self.write_lock(&key.key).await;
        later.put(&key.key, json.into()).await.map_err(|error| StorageError::object(&key.key, error))
    }

    /// A record as it is stored.
    pub(super) fn json<R: Serialize>(key: &RecordKey<R>, record: &R) -> Result<Vec<u8>, StorageError> {
        serde_json::to_vec(record).map_err(|error| StorageError::Corrupt { key: key.key.to_string(), detail: error.to_string() })
    }

    /// A record from what is stored; none, and a line in the log, if it is not of its form.
    pub(super) fn parse<R: DeserializeOwned>(&self, key: &RecordKey<R>, bytes: &[u8]) -> Option<R> {
        serde_json::from_slice(bytes)
            .inspect_err(|error| tracing::warn!(key = %key.key, %error, "a record is not of its form and is ignored"))
            .ok()
    }
}
