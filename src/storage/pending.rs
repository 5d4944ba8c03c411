//! Which blobs on disk are still to be sent to the bucket: a file each, named by the digest, written
//! before the blob is committed and removed once the bucket has it. So a crash, or a bucket that is gone
//! for hours, loses none. It is empty, or says that what the bucket has is
//! rotten, or that the bucket had the blob and lost it.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::{Layout, Room, StorageError};
use crate::oci::Digest;

/// What a note says of a blob whose object is rotten.
const REPLACES: &[u8] = b"replaces a rotten object\n";
/// What it says of one that the bucket had, and lost.
const LOST: &[u8] = b"lost by the bucket\n";

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

    /// Notes a blob, which is not evicted from now on, and whether it is to replace a rotten object.
    ///
    /// # Errors
    /// Of the system.
    pub fn add(&self, digest: &Digest, replaces: bool) -> Result<(), StorageError> {
        let path = self.file(digest);
        self.room.hold(digest);
        let text = if replaces { REPLACES } else { b"" };
        fs::write(&path, text).map_err(|error| {
            // Nobody would ever come back to it.
            self.room.release(digest);
            StorageError::file("create", &path, error)
        })
    }

    /// Notes a blob that the bucket had and has lost. It may be evicted all the same: it comes from upstream again, and a
    /// bucket that lost much would leave the disk nothing that could go.
    ///
    /// # Errors
    /// Of the system.
    pub fn add_lost(&self, digest: &Digest) -> Result<(), StorageError> {
        let path = self.file(digest);
        fs::write(&path, LOST).map_err(|error| StorageError::file("create", &path, error))
    }

    /// Whether a blob is noted.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.file(digest).exists()
    }

    /// Whether a noted blob is to replace a rotten object.
    #[must_use]
    pub fn replaces(&self, digest: &Digest) -> bool {
        fs::read(self.file(digest)).is_ok_and(|text| text == REPLACES)
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

    /// The noted blobs.
    #[must_use]
    pub fn list(&self) -> Vec<Digest> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| Digest::parse(&name.replacen('-', ":", 1)).ok()).collect()
    }

    /// Has what an earlier run has noted stay, but for what the bucket had before.
    pub(super) fn hold_all(&self) {
        let is_lost = |digest: &Digest| fs::read(self.file(digest)).is_ok_and(|text| text == LOST);
        self.list().iter().filter(|digest| !is_lost(digest)).for_each(|digest| self.room.hold(digest));
    }

    fn file(&self, digest: &Digest) -> PathBuf {
        self.directory.join(format!("{}-{}", digest.algorithm().as_str(), digest.hex()))
    }
}
