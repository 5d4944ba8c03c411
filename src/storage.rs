//! Blobs and records, on local disk or in a bucket with the disk as a tier in front of it.
//!
//! Blobs on disk are files, opened and read without a detour; records are small JSON objects behind
//! `object_store`. Every path and key is made in [`layout`]. This module knows nothing of upstreams:
//! `cache::fill` joins the two.

mod blob_files;
mod bucket;
mod disk;
mod error;
mod layout;
mod leftovers;
mod lock;
mod read;
mod records;
mod staged_blob;

pub use blob_files::{BlobFiles, OpenBlob};
pub use bucket::{Bucket, BucketClient, BucketStream, BucketUpload, StoredBlob};
pub use disk::{Disk, LocalDisk};
pub use error::StorageError;
pub use layout::Layout;
pub use read::PieceReader;
pub use records::{
    BlobLinkRecord, ManifestRecord, RecordKey, Records, RepositoryKind, RepositoryRecord, SourceBlobRecord, TagRecord, ValidatedRecord,
    unix_seconds,
};
pub use staged_blob::StagedBlob;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

/// One store, held exclusively by this process; its bucket may be shared.
#[derive(Debug)]
pub struct Store {
    /// Content on disk, by digest: all there is, or what of the bucket is kept here.
    pub blobs: BlobFiles,
    /// Content in the bucket, if there is one: then that is the truth.
    pub bucket: Option<Bucket>,
    /// What is known of it.
    pub records: Records,
    layout: Layout,
    _lock: lock::StoreLock,
}

/// What a store is opened over.
pub struct StoreParts {
    /// The directory.
    pub path: PathBuf,
    /// Operations on its files.
    pub disk: Arc<dyn Disk>,
    /// The bucket; without one, the directory is the truth.
    pub bucket: Option<BucketClient>,
    /// Wrapped around the object store: how tests fail the Nth call.
    pub around: fn(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>,
}

impl StoreParts {
    /// A directory, and the real disk.
    #[must_use]
    pub fn directory(path: &Path) -> Self {
        Self { path: path.to_owned(), disk: Arc::new(LocalDisk), bucket: None, around: |objects| objects }
    }
}

impl Store {
    /// Opens, and where needed creates, the store's directory, and takes its lock. Blocks. The bucket
    /// is not asked: a server starts without it.
    ///
    /// # Errors
    /// When the directory cannot be made or written, or another process holds it.
    pub fn open(parts: StoreParts) -> Result<Self, StorageError> {
        let layout = Layout::new(&parts.path);
        layout.create()?;
        let lock = lock::StoreLock::take(&layout.lock_file())?;
        leftovers::remove_staged(&layout)?;
        let bucket = parts.bucket.map(|client| BucketClient { objects: (parts.around)(client.objects), ..client });
        let objects = match &bucket {
            Some(client) => Arc::clone(&client.objects),
            None => (parts.around)(Arc::new(local_objects(&layout)?)),
        };
        let blobs = BlobFiles::new(layout.clone(), parts.disk);
        Ok(Self { blobs, bucket: bucket.map(Bucket::new), records: Records::new(objects), layout, _lock: lock })
    }

    /// Removes what a crash may have left among the records. Walks the whole store, so it is run
    /// behind a started server, on a blocking thread. Returns how many files it removed.
    pub fn leftovers(&self) -> impl FnOnce() -> u64 + Send + 'static {
        let layout = self.layout.clone();
        move || leftovers::remove_unfinished_records(&layout)
    }
}

fn local_objects(layout: &Layout) -> Result<LocalFileSystem, StorageError> {
    LocalFileSystem::new_with_prefix(layout.root())
        .map_err(|source| StorageError::Object { key: layout.root().display().to_string(), source: Arc::new(source) })
}
