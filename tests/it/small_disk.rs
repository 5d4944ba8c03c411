//! A disk of a given size.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use headpond::storage::{Disk, LocalDisk, Space};
use tempfile::TempDir;

use crate::du::du;

/// A file system of so many bytes, which does not sync: that would only take time.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    store: PathBuf,
    total_bytes: u64,
    /// What others have there.
    pub(crate) others_bytes: AtomicU64,
    /// How often it was asked for its space.
    pub(crate) asked: AtomicU64,
    /// No file is removed while somebody has this for writing.
    pub(crate) removals: RwLock<()>,
}

impl Disk for SmallDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        LocalDisk.create(path)
    }

    fn reserve(&self, file: &File, length_bytes: u64) -> io::Result<()> {
        LocalDisk.reserve(file, length_bytes)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        LocalDisk.write_at(file, bytes, offset)
    }

    fn sync_data(&self, _: &File) -> io::Result<()> {
        Ok(())
    }

    fn create_directory(&self, path: &Path) -> io::Result<bool> {
        LocalDisk.create_directory(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        LocalDisk.rename(from, to)
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let _turn = self.removals.read().unwrap();
        LocalDisk.remove(path)
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        self.asked.fetch_add(1, Ordering::AcqRel);
        let used_bytes = du(&self.store) + self.others_bytes.load(Ordering::Acquire);
        Ok(Space { total_bytes: self.total_bytes, free_bytes: self.total_bytes.saturating_sub(used_bytes), block_bytes: 4096 })
    }
}

impl SmallDisk {
    pub(crate) fn of(directory: &TempDir, total_bytes: u64) -> Arc<Self> {
        let store = directory.path().to_owned();
        Arc::new(Self { store, total_bytes, others_bytes: AtomicU64::new(0), asked: AtomicU64::new(0), removals: RwLock::default() })
    }
}
