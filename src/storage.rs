//! Blobs and records, on local disk or in a bucket with the disk as a tier in front of it.
//!
//! Blobs on disk are files, opened and read without a detour; records are small JSON objects behind
//! `object_store`. Every path and key is made in [`layout`]. This module knows nothing of upstreams:
//! `cache::fill` joins the two.

mod blob_files;
mod bucket;
mod counted_objects;
mod disk;
mod error;
mod footprint;
mod index;
mod layout;
mod leftovers;
mod lock;
mod read;
mod records;
mod room;
mod staged_blob;
mod walk;

pub use blob_files::{BlobFiles, OpenBlob};
pub use bucket::{Bucket, BucketClient, BucketStream, BucketUpload, StoredBlob};
pub use disk::{Disk, LocalDisk, Space};
pub use error::StorageError;
pub use layout::Layout;
pub use read::PieceReader;
pub use records::{
    BlobLinkRecord, ManifestRecord, RecordKey, Records, RepositoryKind, RepositoryRecord, SourceBlobRecord, TagRecord, ValidatedRecord,
    unix_seconds,
};
pub use room::{Room, RoomLimits, RoomNumbers};
pub use staged_blob::StagedBlob;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

use crate::clock::Clock;
use counted_objects::CountedObjects;

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
    /// How much the directory may hold.
    pub room: RoomLimits,
    /// When blobs were used.
    pub clock: Clock,
}

impl StoreParts {
    /// A directory, and the real disk.
    #[must_use]
    pub fn directory(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            disk: Arc::new(LocalDisk),
            bucket: None,
            around: |objects| objects,
            room: RoomLimits::default(),
            clock: Clock::system(),
        }
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
        let room = Room::new(layout.clone(), Arc::clone(&parts.disk), parts.clock, parts.room, parts.bucket.is_none());
        let bucket = parts.bucket.map(|client| BucketClient { objects: (parts.around)(client.objects), ..client });
        let objects = match &bucket {
            Some(client) => Arc::clone(&client.objects),
            None => (parts.around)(Arc::new(CountedObjects::new(local_objects(&layout)?, room.clone()))),
        };
        let blobs = BlobFiles::new(layout.clone(), parts.disk, room);
        Ok(Self { blobs, bucket: bucket.map(Bucket::new), records: Records::new(objects), layout, _lock: lock })
    }

    /// Removes what a crash may have left among the records. Walks the whole store, so it is run
    /// behind a started server, on a blocking thread. Returns how many files it removed.
    pub fn leftovers(&self) -> impl FnOnce() -> u64 + Send + 'static {
        let layout = self.layout.clone();
        move || leftovers::remove_unfinished_records(&layout)
    }
}

fn unix_milliseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn local_objects(layout: &Layout) -> Result<LocalFileSystem, StorageError> {
    LocalFileSystem::new_with_prefix(layout.root())
        .map_err(|source| StorageError::Object { key: layout.root().display().to_string(), source: Arc::new(source) })
}
