//! Rotten blobs, put aside: out of the way of clients, but there for whoever wants to know what
//! happened to them. A bounded number of bytes is kept.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStoreExt};

use super::bucket::{MAX_COPIED_BYTES, ObjectState};
use super::footprint::disk_bytes;
use super::inventory::is_same_file;
use super::{BlobFiles, Bucket, StorageError, layout};
use crate::oci::Digest;

/// What the system counts the blocks of a file in.
const BLOCK_BYTES: u64 = 512;

impl BlobFiles {
    /// Moves a blob to the quarantine, if it still is `file`, and has no more than `keep_bytes` lie
    /// there. False if it is not. Blocks.
    ///
    /// # Errors
    /// When the disk cannot.
    pub fn quarantine(&self, digest: &Digest, file: &File, keep_bytes: u64) -> Result<bool, StorageError> {
        let (from, to) = (self.layout().blob_file(digest), self.layout().quarantined_file(digest));
        let wrap = |error| StorageError::file("quarantine", &from, error);
        if !is_same_file(&from, file).map_err(wrap)? {
            return Ok(false);
        }
        let parent = to.parent().unwrap_or(&to);
        self.disk().create_directory(parent).map_err(wrap)?;
        // First: once it is moved, the blob may come in again.
        let taken = self.room().removed(digest);
        let replaced_bytes = disk_bytes(&to).unwrap_or(0);
        if let Err(error) = self.disk().rename(&from, &to) {
            self.room().stays(taken.as_ref());
            return Err(wrap(error));
        }
        self.room().lies_aside(taken.as_ref());
        self.room().other_removed(replaced_bytes);
        // A move that a loss of power undoes is found again by the next scrub: nothing is synced.
        self.keep_quarantined(keep_bytes)?;
        Ok(true)
    }

    /// Removes the longest quarantined blobs until no more than `keep_bytes` are left.
    fn keep_quarantined(&self, keep_bytes: u64) -> Result<(), StorageError> {
        let mut kept: Vec<(i64, u64, PathBuf)> = Vec::new();
        for directory in fs::read_dir(self.layout().quarantine()).into_iter().flatten().flatten() {
            for entry in fs::read_dir(directory.path()).into_iter().flatten().flatten() {
                // The time of the last change is that of the move.
                kept.extend(entry.metadata().ok().map(|metadata| (metadata.ctime(), metadata.blocks() * BLOCK_BYTES, entry.path())));
            }
        }
        kept.sort();
        let mut bytes: u64 = kept.iter().map(|(_, disk_bytes, _)| *disk_bytes).sum();
        for (_, disk_bytes, path) in kept {
            if bytes <= keep_bytes {
                break;
            }
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { self.disk().remove(&path) };
            removed.map_err(|error| StorageError::file("remove", &path, error))?;
            self.room().other_removed(disk_bytes);
            bytes -= disk_bytes;
        }
        Ok(())
    }
}

impl Bucket {
    /// Copies a blob to the quarantine and removes it, if it still is `checked`, and has no more than `keep_bytes` lie there. False if it is not. One that cannot be copied
    /// is removed all the same: nobody is to get it.
    ///
    /// # Errors
    /// When the bucket does not do it; then the blob may still be in its place.
    pub(super) async fn quarantine(&self, digest: &Digest, checked: &ObjectState, keep_bytes: u64) -> Result<bool, StorageError> {
        let (from, to) = (layout::blob(digest), layout::quarantined(digest));
        if !self.is_still(digest, checked).await? {
            return Ok(false);
        }
        if checked.length_bytes <= MAX_COPIED_BYTES.min(keep_bytes)
            && let Err(error) = self.objects().copy(&from, &to).await
        {
            tracing::warn!(%digest, %error, "a rotten blob could not be copied to the quarantine");
        }
        // Copying takes a while, and what somebody put there meanwhile is not rotten.
        if !self.is_still(digest, checked).await? {
            return Ok(false);
        }
        self.delete(digest).await?;
        self.keep_quarantined(keep_bytes).await.map(|()| true)
    }

    /// Removes the longest quarantined blobs until no more than `keep_bytes` are left.
    async fn keep_quarantined(&self, keep_bytes: u64) -> Result<(), StorageError> {
        let prefix = layout::quarantine();
        let wrap = |error| StorageError::object(&prefix, error);
        let mut kept: Vec<ObjectMeta> = self.objects().list(Some(&prefix)).try_collect().await.map_err(wrap)?;
        kept.sort_by_key(|object| object.last_modified);
        let mut bytes: u64 = kept.iter().map(|object| object.size).sum();
        for object in kept {
            if bytes <= keep_bytes {
                break;
            }
            self.objects().delete(&object.location).await.map_err(wrap)?;
            bytes -= object.size;
        }
        Ok(())
    }
}
