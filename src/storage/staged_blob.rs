//! A blob on its way in: a sparse file that becomes visible in one step, or not at all.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::footprint::{Footprint, file_disk_bytes};
use super::room::{Reservation, Room};
use super::{Disk, Layout, StorageError};
use crate::oci::Digest;

/// A staged file. Dropping it before [`StagedBlob::commit`] removes it; whoever still reads it keeps
/// reading, because the file is only unlinked.
#[derive(Debug)]
pub struct StagedBlob {
    file: Arc<File>,
    path: PathBuf,
    layout: Layout,
    disk: Arc<dyn Disk>,
    room: Reservation,
    committed: bool,
}

impl StagedBlob {
    /// Creates a staged file and reserves `length_bytes` for it, where the length is known.
    /// A file system that cannot reserve is written without.
    pub(super) fn create(layout: Layout, disk: Arc<dyn Disk>, room: &Room, length_bytes: Option<u64>) -> Result<Self, StorageError> {
        let path = layout.staged_file();
        let file = disk.create(&path).map_err(|error| StorageError::file("create", &path, error))?;
        let staged = Self { file: Arc::new(file), path, layout, disk, room: room.reservation(), committed: false };
        if let Some(length_bytes) = length_bytes {
            staged.reserve(length_bytes)?;
        }
        Ok(staged)
    }

    /// Reserves room for a blob whose length became known later; others are evicted for it. Blocks.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`] when there is not as much.
    pub fn reserve(&self, length_bytes: u64) -> Result<(), StorageError> {
        self.room.grow_to(length_bytes)?;
        match self.disk.reserve(&self.file, length_bytes) {
            Ok(()) => self.room.is_allocated(file_disk_bytes(&self.file)),
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {}
            Err(error) => return Err(StorageError::file("reserve", &self.path, error)),
        }
        Ok(())
    }

    /// The open file, for those who follow the fill.
    #[must_use]
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Where the bytes are while they are staged.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes bytes at their place. Blocks.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`], or the system's answer.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        self.room.cover(offset.saturating_add(bytes.len() as u64))?;
        self.disk.write_at(&self.file, bytes, offset).map_err(|error| StorageError::file("write", &self.path, error))?;
        self.room.is_written(bytes.len() as u64);
        Ok(())
    }

    /// Makes the blob visible under `digest`, which the caller has verified: data first, then the
    /// name, then the directory, so that after a loss of power a name never has other bytes. Blocks.
    ///
    /// # Errors
    /// When any of it fails; then nothing is visible and the staged file is removed.
    pub fn commit(self, digest: &Digest) -> Result<(), StorageError> {
        self.commit_as(digest, false)
    }

    /// Like [`StagedBlob::commit`], for a manifest, which is not evicted.
    pub(super) fn commit_manifest(self, digest: &Digest) -> Result<(), StorageError> {
        self.commit_as(digest, true)
    }

    fn commit_as(mut self, digest: &Digest, is_manifest: bool) -> Result<(), StorageError> {
        let to = self.layout.blob_file(digest);
        let parent = to.parent().unwrap_or(&to);
        self.disk.sync_data(&self.file).map_err(|error| StorageError::file("sync", &self.path, error))?;
        let before = Footprint::of(&to, self.layout.root());
        if self.disk.create_directory(parent).map_err(|error| StorageError::file("create", parent, error))? {
            self.sync_up_to_root(parent)?;
        }
        self.disk.rename(&self.path, &to).map_err(|error| StorageError::file("rename", &self.path, error))?;
        self.committed = true;
        self.disk.sync_directory(parent).map_err(|error| {
            // What may be gone after a loss of power is not kept, so that "kept" is never said wrongly.
            let _ = self.disk.remove(&to);
            StorageError::file("sync", parent, error)
        })?;
        let after = Footprint::of(&to, self.layout.root());
        self.room.commit(digest, self.disk_bytes(), after.directories_since(&before), is_manifest);
        Ok(())
    }

    /// What the file takes. Some file systems (ZFS) tell only seconds later how many blocks a file has, so its bytes
    /// count at least.
    fn disk_bytes(&self) -> u64 {
        let length_bytes = self.file.metadata().map_or(0, |metadata| metadata.len());
        file_disk_bytes(&self.file).max(length_bytes)
    }

    /// A new directory is itself an entry that must be on the medium.
    fn sync_up_to_root(&self, new: &Path) -> Result<(), StorageError> {
        for directory in new.ancestors().skip(1).take_while(|directory| directory.starts_with(self.layout.root())) {
            self.disk.sync_directory(directory).map_err(|error| StorageError::file("sync", directory, error))?;
        }
        Ok(())
    }
}

impl Drop for StagedBlob {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = self.disk.remove(&self.path)
        {
            self.room.stays(file_disk_bytes(&self.file));
            tracing::warn!(path = %self.path.display(), %error, "a staged blob could not be removed; it will be at the next start");
        }
    }
}
