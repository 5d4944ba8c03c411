//! Committed blobs: files named by their digest.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Disk, Layout, Room, StagedBlob, StorageError};
use crate::oci::Digest;

/// A committed blob, open. It stays readable when it is evicted.
#[derive(Clone, Debug)]
pub struct OpenBlob {
    /// The file.
    pub file: Arc<File>,
    /// Its length.
    pub length_bytes: u64,
}

/// The blobs of one store; cheap to clone.
#[derive(Clone, Debug)]
pub struct BlobFiles {
    layout: Layout,
    disk: Arc<dyn Disk>,
    room: Room,
}

impl BlobFiles {
    pub(super) const fn new(layout: Layout, disk: Arc<dyn Disk>, room: Room) -> Self {
        Self { layout, disk, room }
    }

    /// What decides which of them stay.
    #[must_use]
    pub const fn room(&self) -> &Room {
        &self.room
    }

    /// Opens a blob to be used. `None` if it is not there.
    ///
    /// # Errors
    /// As [`BlobFiles::open_unused`].
    pub fn open(&self, digest: &Digest) -> Result<Option<OpenBlob>, StorageError> {
        let opened = self.open_unused(digest);
        if let Ok(Some(_)) = opened {
            self.room.touch(digest);
        }
        opened
    }

    /// Opens a blob to be looked at, which does not count as a use. `None` if it is not there.
    ///
    /// Two short system calls, made on the calling thread: a hop to another one costs more than
    /// they do, even with a cold directory now and then.
    ///
    /// # Errors
    /// When the store cannot say.
    pub fn open_unused(&self, digest: &Digest) -> Result<Option<OpenBlob>, StorageError> {
        let path = self.layout.blob_file(digest);
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        match opened {
            Ok((length_bytes, file)) => Ok(Some(OpenBlob { file: Arc::new(file), length_bytes })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::file("open", &path, error)),
        }
    }

    /// Begins a blob of `length_bytes`, if the length is known. Blocks.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`] when there is no room for it.
    pub fn stage(&self, length_bytes: Option<u64>) -> Result<StagedBlob, StorageError> {
        StagedBlob::create(self.layout.clone(), Arc::clone(&self.disk), &self.room, length_bytes)
    }

    /// Stores a manifest whose digest the caller has computed; it is not evicted. Blocks.
    ///
    /// # Errors
    /// As [`StagedBlob::commit`].
    pub fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StorageError> {
        let staged = self.stage(Some(bytes.len() as u64))?;
        staged.write_at(bytes, 0)?;
        staged.commit_manifest(digest)
    }

    /// Removes a blob. One that is not there is no error. Whoever has it open goes on reading. Blocks.
    ///
    /// # Errors
    /// When the disk cannot.
    pub fn remove(&self, digest: &Digest) -> Result<(), StorageError> {
        let path = self.layout.blob_file(digest);
        // First: once the file is gone, the blob may come in again.
        let taken = self.room.removed(digest);
        match self.disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.room.stays(taken.as_ref());
                Err(StorageError::file("remove", &path, error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Where a blob is, for messages.
    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.layout.blob_file(digest)
    }

    pub(super) const fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }
}
