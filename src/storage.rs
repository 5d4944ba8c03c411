//! Blobs and records, on local disk.
//!
//! Blobs are files, opened and read without a detour; records are small JSON objects behind
//! `object_store`. Every path and key is made in [`layout`]. This module knows nothing of upstreams:
//! `cache::fill` joins the two.

mod blob_files;
mod disk;
mod error;
mod layout;
mod leftovers;
mod listing;
mod lock;
mod read;
mod records;
mod staged_blob;

pub use blob_files::{BlobFiles, OpenBlob};
pub use disk::{Disk, LocalDisk};
pub use error::StorageError;
pub use layout::Layout;
pub use read::PieceReader;
pub use records::{
    BlobLinkRecord, ManifestRecord, RecordKey, Records, RepositoryKind, RepositoryRecord, SourceBlobRecord, TagRecord, ValidatedRecord,
    unix_seconds,
};
pub use staged_blob::StagedBlob;

use std::path::Path;
use std::sync::Arc;

use object_store::ObjectStore;

/// One store, held exclusively by this process.
#[derive(Debug)]
pub struct Store {
    /// Content, by digest.
    pub blobs: BlobFiles,
    /// What is known of it.
    pub records: Records,
    layout: Layout,
    _lock: lock::StoreLock,
}

impl Store {
    /// Opens, and where needed creates, the store at `path`, and takes its lock.
    ///
    /// # Errors
    /// When the directory cannot be made or written, or another process holds it.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        Self::open_with(path, Arc::new(LocalDisk), |records| records)
    }

    /// Opens the store over other file operations, and with `around` wrapped around the records'
    /// store: how tests fail the Nth call.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(
        path: &Path,
        disk: Arc<dyn Disk>,
        around: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>,
    ) -> Result<Self, StorageError> {
        let layout = Layout::new(path);
        layout.create()?;
        let lock = lock::StoreLock::take(&layout.lock_file())?;
        leftovers::remove_staged(&layout)?;
        let records = object_store::local::LocalFileSystem::new_with_prefix(layout.root())
            .map_err(|source| StorageError::Object { key: layout.root().display().to_string(), source: Arc::new(source) })?;
        Ok(Self { blobs: BlobFiles::new(layout.clone(), disk), records: Records::new(around(Arc::new(records))), layout, _lock: lock })
    }

    /// Removes what a crash may have left among the records. Walks the whole store, so it is run
    /// behind a started server, on a blocking thread. Returns how many files it removed.
    pub fn leftovers(&self) -> impl FnOnce() -> u64 + Send + 'static {
        let layout = self.layout.clone();
        move || leftovers::remove_unfinished_records(&layout)
    }
}
