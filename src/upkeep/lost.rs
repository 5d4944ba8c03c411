//! Blobs that are on disk, and that the bucket behind it has lost.
//!
//! A bucket may lose what it had: a lifecycle rule that is too wide, a restored backup, somebody's hand. Clients are
//! served from the disk, so nothing shows it until the disk has evicted the blob, and other replicas fetch it anew
//! each. A scrub of the disk reads every blob anyway, in its own time: there a HEAD for each is the least that tells,
//! and none of it is on the way of a client.
//!
//! What a garbage collection has deleted is absent, too, and may still be on the disks of other replicas: sent again
//! it would be deleted again, every time. So only what a repository refers to is sent, which one list at the end says,
//! and only where something is lost.

use std::sync::Arc;

use super::report::{Finding, Outcome, Wrong};
use super::scrub::Scrub;
use crate::oci::{Digest, RepositoryName};
use crate::storage::{StorageError, StoredBlob, blocking};

/// Lost blobs that one scrub sends again; the next one does the rest.
const MAX_LOST: usize = 100_000;

impl Scrub {
    /// Looks whether the bucket has a blob of the disk, where that is wanted.
    pub(super) async fn look_in_bucket(&mut self, blob: &StoredBlob) {
        let Some(bucket) = self.parts.store.bucket.clone() else { return };
        let Some(pace) = self.look_pace.as_mut() else { return };
        pace.spend(1).await;
        // A bucket that does not answer has lost nothing.
        let Ok(found) = bucket.stat(&blob.digest).await else { return };
        if found == Some(blob.length_bytes) || bucket.kept(&blob.digest).is_some() || self.lost.len() >= MAX_LOST {
            return;
        }
        // Nobody is to be sent there.
        (self.parts.forget_place)(&blob.digest);
        self.lost.insert(blob.digest, blob.length_bytes);
    }

    /// Has what the bucket lost, and some repository refers to, sent to it again.
    ///
    /// # Errors
    /// When the repositories cannot be listed; nothing more is sent then.
    pub(super) async fn send_lost_again(&mut self) -> Result<(), StorageError> {
        let mut walk = self.parts.store.records.walk();
        while !self.lost.is_empty() {
            let Some(contents) = walk.next().await? else { break };
            for listed in contents.links.iter().chain(&contents.manifests) {
                if let Some(length_bytes) = self.lost.remove(&listed.item) {
                    self.send_again(listed.item, length_bytes, &contents.name).await;
                }
            }
        }
        Ok(())
    }

    async fn send_again(&mut self, digest: Digest, length_bytes: u64, repository: &RepositoryName) {
        let parts = Arc::clone(&self.parts);
        if let Some(pace) = self.look_pace.as_mut() {
            pace.spend(1).await;
        }
        // What was only on its way when it was looked for has got there since.
        if let Some(bucket) = &parts.store.bucket
            && !matches!(bucket.stat(&digest).await, Ok(found) if found != Some(length_bytes))
        {
            return;
        }
        // False: it is on its way already.
        if !blocking(move || Ok((parts.send_again)(&digest))).await.unwrap_or(false) {
            return;
        }
        self.report.lost += 1;
        self.parts.metrics.lost_blobs.inc();
        tracing::warn!(%repository, %digest, "the bucket has lost a blob that is on disk; it is sent again");
        let detail = "it is on disk, and the bucket does not have it".to_owned();
        let (wrong, outcome, repository) = (Wrong::LostBlob, Outcome::SentAgain, Some(repository.to_string()));
        self.teller.found(Finding { wrong, outcome, digest: Some(digest), repository, tag: None, detail }).await;
    }
}
