//! A look at one blob that a garbage collection has listed.

use std::sync::Arc;
use std::time::Duration;

use super::deletion::Due;
use crate::oci::Digest;
use crate::storage::{GcMarks, GcState, StorageError, StoredBlob, Version};
use crate::upkeep::UpkeepParts;

/// A look at one blob, to decide what is to become of it.
pub(super) struct Look {
    pub(super) blob: StoredBlob,
    /// Nothing refers to it, and it is past its grace.
    pub(super) is_unneeded: bool,
    /// The nonce of the mark that was there before the references were read.
    pub(super) mark: Option<u64>,
    pub(super) parts: Arc<UpkeepParts>,
    pub(super) marks: GcMarks,
    pub(super) grace: Duration,
    /// Since 1970.
    pub(super) now: Duration,
    pub(super) dry_run: bool,
}

/// What became of a listed blob.
pub(super) enum Looked {
    /// It is young, or something refers to it and it had no mark.
    Kept,
    Unmarked,
    Marked(StoredBlob),
    Waiting(StoredBlob),
    Due(Due),
}

impl Look {
    pub(super) async fn run(self) -> (Digest, Result<Looked, StorageError>) {
        let digest = self.blob.digest;
        (digest, self.parts.patiently(|| self.at(&digest)).await)
    }

    async fn at(&self, digest: &Digest) -> Result<Looked, StorageError> {
        if !self.is_unneeded {
            if self.mark.is_none() || self.dry_run {
                return Ok(Looked::Kept);
            }
            return self.marks.unmark(digest).await.map(|_| Looked::Unmarked);
        }
        match self.marks.read(digest).await? {
            // Somebody is deleting it.
            Some((found, _)) if found.state == GcState::Condemned => Ok(Looked::Kept),
            // It would wait for ever: it was marked before the clock was set back.
            Some((found, version))
                if found.state == GcState::Marked && Duration::from_secs(found.since) > self.now.saturating_add(self.grace) =>
            {
                self.mark(digest, Some(version)).await
            }
            Some((found, version)) if found.state == GcState::Marked => {
                let is_over = Duration::from_secs(found.since).saturating_add(self.grace) <= self.now;
                // A mark that came later was not followed by this look at the references.
                let was_there = self.mark == Some(found.nonce);
                Ok(if is_over && was_there {
                    Looked::Due(Due { blob: self.blob.clone(), mark: version })
                } else {
                    Looked::Waiting(self.blob.clone())
                })
            }
            found => self.mark(digest, found.map(|(_, version)| version)).await,
        }
    }

    async fn mark(&self, digest: &Digest, seen: Option<Version>) -> Result<Looked, StorageError> {
        let is_marked = self.dry_run || self.marks.mark(digest, seen).await?;
        Ok(if is_marked { Looked::Marked(self.blob.clone()) } else { Looked::Waiting(self.blob.clone()) })
    }
}
