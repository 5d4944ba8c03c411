//! Blobs and records, on local disk or in a bucket with the disk as a tier in front of it.
//!
//! Blobs on disk are files, opened and read without a detour; records are small JSON objects behind
//! `object_store`. Every path and key is made in [`layout`]. This module knows nothing of upstreams:
//! `cache::fill` joins the two.

mod blob_files;
mod blocking;
mod bucket;
mod control_socket;
mod counted_objects;
mod disk;
mod error;
mod examine;
mod footprint;
mod gc_marks;
mod hosted_blobs;
mod index;
mod inventory;
mod layout;
mod leftovers;
mod listing;
mod lock;
mod pending;
mod preconditions;
mod quarantine;
mod read;
mod records;
mod repository_walk;
mod room;
mod small;
mod staged_blob;
mod versions;
mod view;
mod walk;
mod whole_list;
mod words;

pub use blob_files::{BlobFiles, OpenBlob};
pub use blocking::blocking;
pub use bucket::{
    Bucket, BucketClient, BucketEncryption, BucketLimits, BucketSettings, BucketStream, BucketUpload, Recoveries, StoredBlob,
};
pub use control_socket::{ControlSocket, connect_control};
pub use disk::{Disk, LocalDisk, Space};
pub use error::StorageError;
pub use examine::Examined;
pub use gc_marks::{Condemned, GcMarkRecord, GcMarks, GcState, Presence};
pub use inventory::{BlobCheck, Inventory};
pub use layout::Layout;
pub use pending::PendingUploads;
pub use preconditions::{KnownPreconditions, Preconditions, Support};
pub use read::PieceReader;
pub use records::{
    BlobLinkRecord, ManifestRecord, PulledRecord, RecordKey, Records, RepositoryKind, RepositoryRecord, SourceBlobRecord, TagRecord,
    ValidatedRecord,
};
pub use repository_walk::{Listed, RepositoryContents, RepositoryWalk};
pub use room::{Room, RoomLimits, RoomNumbers};
pub use staged_blob::StagedBlob;
pub use versions::{Conflict, Expected, IfChanged, Version};
pub use view::RepositoryView;
pub use words::ListedWord;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

use crate::clock::Clock;
use crate::oci::Digest;
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
    /// Whether committed blobs stay on disk. Without a bucket they always do.
    pub keeps_on_disk: bool,
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
    /// Whether committed blobs stay in the directory where a bucket has them too.
    pub keeps_on_disk: bool,
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
            keeps_on_disk: true,
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
        let bucket = parts.bucket.map(|client| Bucket::new(client.wrapped(parts.around)));
        let records = match &bucket {
            Some(bucket) => bucket.records(),
            None => Records::new((parts.around)(Arc::new(CountedObjects::new(local_objects(&layout)?, room.clone())))),
        };
        let blobs = BlobFiles::new(layout.clone(), parts.disk, room);
        let keeps_on_disk = parts.keeps_on_disk || bucket.is_none();
        if bucket.is_some() {
            PendingUploads::new(&layout, blobs.room().clone()).hold_all();
        }
        Ok(Self { blobs, bucket, records, keeps_on_disk, layout, _lock: lock })
    }

    /// The notes of blobs that the bucket has not taken yet.
    #[must_use]
    pub fn pending_uploads(&self) -> PendingUploads {
        PendingUploads::new(&self.layout, self.blobs.room().clone())
    }

    /// A small blob: from disk, or else from the bucket. `None` if it is in neither, or longer than `max_bytes`. Its
    /// digest is the caller's to check.
    ///
    /// # Errors
    /// When the store cannot say.
    pub async fn read_small(&self, digest: &Digest, max_bytes: usize) -> Result<Option<Bytes>, StorageError> {
        if let Some(blob) = self.blobs.open(digest)? {
            return small::read_file(blob, max_bytes).await;
        }
        let Some(bucket) = &self.bucket else { return Ok(None) };
        if let Some(bytes) = bucket.kept(digest) {
            return Ok(Some(bytes));
        }
        match bucket.read(digest, None).await? {
            Some(stream) => small::read_stream(stream, max_bytes).await,
            None => Ok(None),
        }
    }

    /// Stores a small blob whose digest the caller has computed: in the bucket, if there is one, and on disk. One that is
    /// there with other bytes is written anew.
    ///
    /// # Errors
    /// When the truth, bucket or disk, does not take it.
    pub async fn put_small(&self, digest: &Digest, bytes: Bytes) -> Result<(), StorageError> {
        if let Some(bucket) = &self.bucket {
            bucket.put_behind(digest, bytes.clone()).await?;
        }
        if !self.keeps_on_disk {
            return Ok(());
        }
        let on_disk = small::put_file(self.blobs.clone(), *digest, bytes).await;
        if self.bucket.is_some() { Ok(()) } else { on_disk }
    }

    /// Binds the socket on which the holder of the store takes commands. Blocks.
    ///
    /// # Errors
    /// When the directory's file system has no sockets.
    pub fn control_socket(&self) -> Result<ControlSocket, StorageError> {
        ControlSocket::bind(&self.layout)
    }

    /// Removes what a crash may have left among the records. Walks the whole store, so it is run
    /// behind a started server, on a blocking thread. Returns how many files it removed.
    pub fn leftovers(&self) -> impl FnOnce() -> u64 + Send + 'static {
        let layout = self.layout.clone();
        move || leftovers::remove_unfinished_records(&layout)
    }
}

fn local_objects(layout: &Layout) -> Result<LocalFileSystem, StorageError> {
    // Directories that the last record of a repository leaves empty go with it.
    LocalFileSystem::new_with_prefix(layout.root())
        .map(|objects| objects.with_automatic_cleanup(true))
        .map_err(|source| StorageError::Object { key: layout.root().display().to_string(), source: Arc::new(source) })
}
