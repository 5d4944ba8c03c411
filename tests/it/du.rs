//! What a directory takes on disk, as `du` counts it.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Blocks of everything below `directory` and of itself, in bytes.
pub(crate) fn du(directory: &Path) -> u64 {
    let mut seen = HashSet::new();
    count(directory, &mut seen)
}

/// A file that is renamed while it is looked for is found once, or not at all.
fn count(path: &Path, seen: &mut HashSet<u64>) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    let own = if seen.insert(metadata.ino()) { metadata.blocks() * 512 } else { 0 };
    let below = fs::read_dir(path).into_iter().flatten().flatten();
    if metadata.is_dir() { own + below.map(|entry| count(&entry.path(), seen)).sum::<u64>() } else { own }
}
