//! Which blobs a repository may serve.
//!
//! A blob is served through a repository only if the repository's upstream, with the credential of
//! its rule, has it: otherwise whoever knows a digest could read through a public repository what
//! came from a private one. Two records say so. A *link* (`images/<name>/_blobs`) is written when a
//! cached manifest refers to the blob; a *source's word* (`sources/<source>`) when that upstream
//! served or confirmed it. Together they allow it; one alone means a HEAD upstream.

use super::{Cache, Origin};
use crate::oci::Digest;
use crate::storage::{BlobLinkRecord, OpenBlob, RecordKey, SourceBlobRecord, StorageError};

/// What is known of a repository's right to a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may be served.
    Vouched,
    /// A cached manifest refers to it. The size is the descriptor's.
    Linked {
        /// Length of the blob.
        size_bytes: Option<u64>,
    },
    /// Nothing is known.
    Unknown,
}

impl Cache {
    /// What is known of `origin`'s right to a blob.
    pub(super) async fn standing(&self, origin: &Origin, digest: &Digest) -> Standing {
        let key = (origin.key(), *digest);
        if self.memory.vouched.contains_key(&key) {
            return Standing::Vouched;
        }
        let Some(size_bytes) = self.link(origin, digest).await else { return Standing::Unknown };
        let word = self.store.records.read(&RecordKey::source_blob(&origin.source, digest)).await;
        if self.or_miss(origin, word).is_some() {
            self.memory.vouched.insert(key, ());
            return Standing::Vouched;
        }
        Standing::Linked { size_bytes }
    }

    /// The repository's link to a blob, made through the same source: the size it states.
    pub(super) async fn link(&self, origin: &Origin, digest: &Digest) -> Option<Option<u64>> {
        let key = (origin.key(), *digest);
        if let Some(size_bytes) = self.memory.links.get(&key) {
            return Some(size_bytes);
        }
        let link = self.store.records.read(&RecordKey::blob_link(&origin.repository, digest)).await;
        let link = self.or_miss(origin, link).filter(|link| *link.source == *origin.source)?;
        Some(self.memory.links.entry(key).or_insert(link.size_bytes).into_value())
    }

    /// Notes that a cached manifest refers to a blob.
    pub(super) fn remember_link(&self, origin: &Origin, digest: Digest, size_bytes: Option<u64>) {
        self.memory.links.insert((origin.key(), digest), size_bytes);
    }

    /// Notes, for good, that upstream has the blob in this repository.
    pub(super) async fn vouch(&self, origin: &Origin, digest: Digest, size_bytes: Option<u64>) {
        self.remember_word(origin, digest, size_bytes);
        let link = BlobLinkRecord { source: origin.source.to_string(), size_bytes, linked_at: self.now_seconds() };
        let word = SourceBlobRecord { vouched_at: self.now_seconds() };
        let (link_key, word_key) = (RecordKey::blob_link(&origin.repository, &digest), RecordKey::source_blob(&origin.source, &digest));
        let records = &self.store.records;
        let written = futures::future::try_join(records.write_behind(&link_key, &link), records.write_behind(&word_key, &word));
        if let Err(error) = written.await {
            self.not_recorded(origin, &error);
        }
    }

    /// Notes the same in memory: who asked upstream has written it down.
    pub(super) fn remember_word(&self, origin: &Origin, digest: Digest, size_bytes: Option<u64>) {
        self.remember_link(origin, digest, size_bytes);
        self.memory.vouched.insert((origin.key(), digest), ());
    }

    /// A committed blob, open.
    pub(super) fn stored_blob(&self, origin: &Origin, digest: &Digest) -> Option<OpenBlob> {
        self.or_miss(origin, self.store.blobs.open(digest))
    }

    /// What the store cannot tell is a miss: clients are served for as long as upstream is there.
    pub(super) fn or_miss<T>(&self, origin: &Origin, read: Result<Option<T>, StorageError>) -> Option<T> {
        read.unwrap_or_else(|error| {
            origin.metrics.all().storage_failed(error.operation());
            tracing::warn!(repository = %origin.repository, %error, "the store cannot be read; upstream is asked instead");
            None
        })
    }

    /// A record could not be written: the content is served all the same, and fetched again later.
    pub(super) fn not_recorded(&self, origin: &Origin, error: &StorageError) {
        origin.metrics.all().storage_failed(error.operation());
        tracing::warn!(repository = %origin.repository, %error, "a record was not kept; it is written later, or fetched from upstream again");
    }
}
