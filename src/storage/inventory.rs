//! All blobs of the disk, or of the bucket: listed, checked, removed, put aside.

use std::fs::{self, File};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use rustix::fs::{Advice, fadvise};

use super::{BlobFiles, Bucket, BucketStream, StorageError, StoredBlob, blocking};
use crate::oci::{Algorithm, Digest, DigestHasher};

/// What is read and hashed in one go.
const PIECE_BYTES: usize = 1 << 20;

/// The blobs of one place; cheap to clone.
#[derive(Clone, Debug)]
pub enum Inventory {
    /// On disk: all there is, or what of the bucket is kept here.
    Disk(BlobFiles),
    /// In the bucket.
    Bucket(Bucket),
}

/// A blob that is being read and hashed.
pub enum BlobCheck {
    /// From disk.
    File(Box<FileCheck>),
    /// From the bucket.
    Stream(Box<StreamCheck>),
}

/// See [`BlobCheck::File`].
pub struct FileCheck {
    file: Arc<File>,
    path: PathBuf,
    offset: u64,
    /// What the last piece was read into, and what the pieces so far hash to.
    state: Option<(Vec<u8>, DigestHasher)>,
}

/// See [`BlobCheck::Stream`].
pub struct StreamCheck {
    stream: BucketStream,
    position: u64,
    hasher: DigestHasher,
}

impl Inventory {
    /// All blobs. On disk, what a directory held when it was read; one that cannot be read is an error among
    /// the others, which come behind it. In a bucket an error is the end.
    #[must_use]
    pub fn list(&self) -> BoxStream<'static, Result<StoredBlob, StorageError>> {
        match self {
            Self::Disk(blobs) => list_files(blobs),
            Self::Bucket(bucket) => bucket.list(),
        }
    }

    /// Begins to check a blob. `None` if it is not there.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn check(&self, digest: &Digest) -> Result<Option<BlobCheck>, StorageError> {
        let hasher = DigestHasher::new(digest.algorithm());
        match self {
            Self::Disk(blobs) => {
                let Some(blob) = blobs.open_unused(digest)? else { return Ok(None) };
                // Or the kernel would read ahead, and what it read would look as if somebody used it.
                let _ = fadvise(&blob.file, 0, None, Advice::Random);
                let (file, path) = (blob.file, blobs.path(digest));
                let check = FileCheck { file, path, offset: 0, state: Some((vec![0; PIECE_BYTES], hasher)) };
                Ok(Some(BlobCheck::File(Box::new(check))))
            }
            Self::Bucket(bucket) => {
                let stream = bucket.read(digest, None).await?;
                Ok(stream.map(|stream| BlobCheck::Stream(Box::new(StreamCheck { stream, position: 0, hasher }))))
            }
        }
    }

    /// Whether a blob is there.
    ///
    /// # Errors
    /// When the store cannot say.
    pub async fn has(&self, digest: &Digest) -> Result<bool, StorageError> {
        match self {
            Self::Disk(blobs) => blobs.open_unused(digest).map(|blob| blob.is_some()),
            Self::Bucket(bucket) => bucket.stat(digest).await.map(|length| length.is_some()),
        }
    }

    /// Removes a blob. One that is not there is no error.
    ///
    /// # Errors
    /// When the store cannot.
    pub async fn remove(&self, digest: &Digest) -> Result<(), StorageError> {
        match self {
            Self::Disk(blobs) => {
                let (blobs, digest) = (blobs.clone(), *digest);
                blocking(move || blobs.remove(&digest)).await
            }
            Self::Bucket(bucket) => bucket.delete(digest).await,
        }
    }

    /// Puts a rotten blob aside, and of what lies there keeps no more than `keep_bytes`. False if the
    /// blob is not the one that was checked any more.
    ///
    /// # Errors
    /// When the store cannot.
    pub async fn quarantine(&self, digest: &Digest, checked: BlobCheck, keep_bytes: u64) -> Result<bool, StorageError> {
        let digest = *digest;
        match (self, checked) {
            (Self::Disk(blobs), BlobCheck::File(check)) => {
                let blobs = blobs.clone();
                blocking(move || blobs.quarantine(&digest, &check.file, keep_bytes)).await
            }
            (Self::Bucket(bucket), BlobCheck::Stream(check)) => {
                let checked = check.stream.state().clone();
                bucket.quarantine(&digest, &checked, keep_bytes).await
            }
            (Self::Disk(_), BlobCheck::Stream(_)) | (Self::Bucket(_), BlobCheck::File(_)) => Ok(false),
        }
    }
}

impl BlobCheck {
    /// Reads and hashes the next piece. Its length; `None` at the end.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn step(&mut self) -> Result<Option<u64>, StorageError> {
        match self {
            Self::File(check) => check.step().await,
            Self::Stream(check) => check.step().await,
        }
    }

    /// Whether the bytes up to the end were those of `digest`.
    #[must_use]
    pub fn holds(&self, digest: &Digest) -> bool {
        match self {
            Self::File(check) => check.state.as_ref().is_some_and(|(_, hasher)| hasher.clone().finish() == *digest),
            Self::Stream(check) => check.position == check.stream.total_bytes && check.hasher.clone().finish() == *digest,
        }
    }
}

impl FileCheck {
    async fn step(&mut self) -> Result<Option<u64>, StorageError> {
        let Some((mut buffer, mut hasher)) = self.state.take() else { return Ok(None) };
        let (file, offset) = (Arc::clone(&self.file), self.offset);
        let hashed = tokio::task::spawn_blocking(move || {
            let read = read_apart(&file, &mut buffer, offset);
            hasher.update(buffer.get(..*read.as_ref().unwrap_or(&0)).unwrap_or_default());
            (read, buffer, hasher)
        });
        let (read, buffer, hasher) = hashed.await.map_err(|error| StorageError::file("read", &self.path, io::Error::other(error)))?;
        self.state = Some((buffer, hasher));
        let read = read.map_err(|error| StorageError::file("read", &self.path, error))? as u64;
        self.offset += read;
        Ok((read > 0).then_some(read))
    }
}

impl StreamCheck {
    async fn step(&mut self) -> Result<Option<u64>, StorageError> {
        let Some(piece) = self.stream.next().await.transpose()? else { return Ok(None) };
        self.hasher.update(&piece);
        self.position += piece.len() as u64;
        Ok(Some(piece.len() as u64))
    }
}

/// Reads a piece, and has the page cache forget it if it was not there before: reading everything
/// must not drive out what clients use.
fn read_apart(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    #[cfg(target_os = "linux")]
    {
        use rustix::io::{ReadWriteFlags, preadv2};
        // A page that is here is used by somebody. Fewer bytes than asked for: the rest is not here.
        let cached = preadv2(file, &mut [io::IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT);
        if let Ok(read) = cached
            && read > 0
        {
            return Ok(read);
        }
    }
    let read = file.read_at(buffer, offset)?;
    // A file system without it keeps the pages.
    let _ = fadvise(file, offset, NonZeroU64::new(read as u64), Advice::DontNeed);
    Ok(read)
}

/// The files below `blobs/`, directory by directory.
fn list_files(blobs: &BlobFiles) -> BoxStream<'static, Result<StoredBlob, StorageError>> {
    let trees = blobs.layout().blob_trees();
    let directories = stream::iter(trees).then(|(algorithm, tree)| async move {
        let fans = blocking(move || sorted_entries(&tree)).await?;
        Ok::<_, StorageError>(stream::iter(fans.into_iter().map(move |fan| Ok((algorithm, fan)))))
    });
    let files = directories.try_flatten().and_then(|(algorithm, fan)| async move {
        let files = blocking(move || Ok(blobs_in(algorithm, &sorted_entries(&fan)?))).await?;
        Ok(stream::iter(files.into_iter().map(Ok)))
    });
    files.try_flatten().boxed()
}

/// The paths in a directory, sorted; none if it is not there.
fn sorted_entries(directory: &PathBuf) -> Result<Vec<PathBuf>, StorageError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => return Ok(Vec::new()),
        Err(error) => return Err(StorageError::file("list", directory, error)),
    };
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(|error| StorageError::file("list", directory, error))?;
    paths.sort();
    Ok(paths)
}

/// Those of the files whose names are digests, as far as they are still there.
fn blobs_in(algorithm: Algorithm, paths: &[PathBuf]) -> Vec<StoredBlob> {
    let blob = |path: &PathBuf| {
        let digest = Digest::from_hex(algorithm, path.file_name()?.to_str()?).ok()?;
        let metadata = fs::symlink_metadata(path).ok()?;
        Some(StoredBlob { digest, length_bytes: metadata.len(), modified: metadata.modified().ok()? })
    };
    paths.iter().filter_map(blob).collect()
}

/// Whether `path` still is the open file.
pub(super) fn is_same_file(path: &std::path::Path, file: &File) -> io::Result<bool> {
    let (named, open) = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        named => (named?, file.metadata()?),
    };
    Ok((named.dev(), named.ino()) == (open.dev(), open.ino()))
}
