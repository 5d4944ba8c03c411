//! Which blobs on disk are still to be sent to the bucket: an empty file each, named by the digest,
//! written before the blob is committed and removed once the bucket has it. So a crash, or a bucket
//! that is gone for hours, loses none.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::{Layout, Room, StorageError};
use crate::oci::Digest;

/// Longer than a transfer that is not worth waiting for.
const RECENT: Duration = Duration::from_secs(10 * 60);

/// The notes of one store; cheap to clone. Everything here blocks.
#[derive(Clone, Debug)]
pub struct PendingUploads {
    directory: PathBuf,
    room: Room,
}

impl PendingUploads {
    pub(super) fn new(layout: &Layout, room: Room) -> Self {
        Self { directory: layout.pending(), room }
    }

    /// Notes a blob, which is not evicted from now on.
    ///
    /// # Errors
    /// Of the system.
    pub fn add(&self, digest: &Digest) -> Result<(), StorageError> {
        let path = self.file(digest);
        self.room.hold(digest);
        File::create(&path).map(|_| ()).map_err(|error| StorageError::file("create", &path, error))
    }

    /// Forgets a blob. One that was not noted is no error.
    pub fn remove(&self, digest: &Digest) {
        let path = self.file(digest);
        self.room.release(digest);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "a note of a blob that the bucket has could not be removed");
        }
    }

    /// Whether a blob was noted so lately that its transfer may not have ended.
    #[must_use]
    pub fn is_recent(&self, digest: &Digest) -> bool {
        let noted_at = fs::metadata(self.file(digest)).and_then(|file| file.modified());
        noted_at.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < RECENT))
    }

    /// The noted blobs.
    #[must_use]
    pub fn list(&self) -> Vec<Digest> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| Digest::parse(&name.replacen('-', ":", 1)).ok()).collect()
    }

    /// Has what an earlier run has noted stay.
    pub(super) fn hold_all(&self) {
        self.list().iter().for_each(|digest| self.room.hold(digest));
    }

    fn file(&self, digest: &Digest) -> PathBuf {
        self.directory.join(format!("{}-{}", digest.algorithm().as_str(), digest.hex()))
    }
}
