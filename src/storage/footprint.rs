//! What a file and its directories take on disk, as `du` counts it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A file and the directories that it may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footprint {
    pub(super) file_bytes: u64,
    /// Its directory.
    directory_bytes: u64,
    /// Directories on the way to it that are not there.
    pub(super) missing_directories: u64,
}

impl Footprint {
    /// That of `path`, below `root`.
    pub(super) fn of(path: &Path, root: &Path) -> Self {
        let parent = path.parent().unwrap_or(path);
        let file_bytes = disk_bytes(path).unwrap_or(0);
        if let Some(directory_bytes) = disk_bytes(parent) {
            return Self { file_bytes, directory_bytes, missing_directories: 0 };
        }
        let missing = parent.ancestors().take_while(|directory| *directory != root && !directory.exists()).count();
        Self { file_bytes, directory_bytes: 0, missing_directories: missing as u64 }
    }

    /// What the directories take more than `before`. Where others make the same ones at the same time,
    /// all count them.
    pub(super) const fn directories_since(&self, before: &Self) -> u64 {
        let parents_bytes = before.missing_directories.saturating_sub(1) * self.directory_bytes;
        (self.directory_bytes + parents_bytes).saturating_sub(before.directory_bytes)
    }
}

/// Blocks of what lies at `path`, in bytes; `None` if nothing does.
pub(super) fn disk_bytes(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|metadata| metadata.blocks() * 512)
}

/// Blocks of an open file, in bytes.
pub(super) fn file_disk_bytes(file: &File) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.blocks() * 512)
}
