//! What a crash leaves behind, and its removal.

use std::fs;
use std::path::Path;

use super::{Layout, StorageError};

/// Removes staged blobs. One directory with as many files as there were fills: fast, so it is done
/// before anything is served.
pub(super) fn remove_staged(layout: &Layout) -> Result<(), StorageError> {
    let staging = layout.staging();
    let entries = fs::read_dir(&staging).map_err(|error| StorageError::file("list", &staging, error))?;
    for entry in entries.flatten() {
        fs::remove_file(entry.path()).map_err(|error| StorageError::file("remove", &entry.path(), error))?;
    }
    Ok(())
}

/// Removes records that were being written: `object_store` stages them beside their place as
/// `name#N`, and no key holds a `#`. Returns how many there were.
///
/// A record that this process is just writing is spared by its age.
pub(super) fn remove_unfinished_records(layout: &Layout) -> u64 {
    layout.record_trees().iter().map(|tree| remove_unfinished_below(tree)).sum()
}

/// How old an unfinished record must be; writing one takes milliseconds.
const UNFINISHED_FOR_SECONDS: u64 = 60;

fn remove_unfinished_below(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let mut removed = 0;
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            removed += remove_unfinished_below(&path);
        } else if is_unfinished(&entry) && fs::remove_file(&path).is_ok() {
            removed += 1;
        }
    }
    removed
}

fn is_unfinished(entry: &fs::DirEntry) -> bool {
    let is_staged = entry.file_name().to_string_lossy().contains('#');
    let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
    is_staged && age().is_some_and(|age| age.as_secs() >= UNFINISHED_FOR_SECONDS)
}
