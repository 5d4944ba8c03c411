//! The file operations that durability rests on, behind one seam: a test puts a disk in its place
//! that fails the Nth call, or that notes in which order things were synced and renamed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, FallocateFlags, Timespec, Timestamps, UTIME_OMIT, fallocate, fdatasync, statvfs, utimensat};

/// File operations of the blob store. All block; callers are on blocking threads.
pub trait Disk: std::fmt::Debug + Send + Sync {
    /// Creates a new file, open for reading and writing.
    ///
    /// # Errors
    /// Of the system.
    fn create(&self, path: &Path) -> io::Result<File>;

    /// Reserves `length_bytes` for `file`. A file system that cannot reserve says so with
    /// [`io::ErrorKind::Unsupported`].
    ///
    /// # Errors
    /// `StorageFull` when there is not as much.
    fn reserve(&self, file: &File, length_bytes: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// Of the system.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Brings the file's data, and its length, to the medium.
    ///
    /// # Errors
    /// Of the system.
    fn sync_data(&self, file: &File) -> io::Result<()>;

    /// Creates a directory and its parents. True if it was not there.
    ///
    /// # Errors
    /// Of the system.
    fn create_directory(&self, path: &Path) -> io::Result<bool>;

    /// Moves a file into its place.
    ///
    /// # Errors
    /// Of the system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Brings a directory's entries to the medium.
    ///
    /// # Errors
    /// Of the system.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Of the system.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Sets when a file was modified, which stands for when it was used.
    ///
    /// # Errors
    /// Of the system.
    fn set_modified(&self, path: &Path, at: SystemTime) -> io::Result<()> {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let modified = Timespec { tv_sec: since.as_secs().cast_signed(), tv_nsec: since.subsec_nanos().into() };
        let times = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: modified };
        utimensat(CWD, path, &times, AtFlags::empty()).map_err(io::Error::from)
    }

    /// Asks how much space the file system of `directory` has.
    ///
    /// # Errors
    /// Of the system.
    fn space(&self, directory: &Path) -> io::Result<Space> {
        let told = statvfs(directory)?;
        let bytes = |blocks: u64| blocks.saturating_mul(told.f_frsize);
        Ok(Space { total_bytes: bytes(told.f_blocks), free_bytes: bytes(told.f_bavail), block_bytes: told.f_bsize.min(MAX_BLOCK_BYTES) })
    }
}

/// A file system that names more, as NFS does, means what it likes to send at a time.
const MAX_BLOCK_BYTES: u64 = 64 * 1024;

/// What a file system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// In all.
    pub total_bytes: u64,
    /// For others than root.
    pub free_bytes: u64,
    /// It gives files room in these.
    pub block_bytes: u64,
}

/// The real one.
#[derive(Clone, Copy, Debug)]
pub struct LocalDisk;

impl Disk for LocalDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).open(path)
    }

    fn reserve(&self, file: &File, length_bytes: u64) -> io::Result<()> {
        if length_bytes == 0 {
            return Ok(());
        }
        // The length stays what is written, so that a short blob can never look complete.
        fallocate(file, FallocateFlags::KEEP_SIZE, 0, length_bytes).map_err(io::Error::from)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        fdatasync(file).map_err(io::Error::from)
    }

    fn create_directory(&self, path: &Path) -> io::Result<bool> {
        if path.is_dir() {
            return Ok(false);
        }
        fs::create_dir_all(path).map(|()| true)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}
