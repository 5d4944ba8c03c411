//! Which blobs on disk are still to be sent to the bucket: a file each, named by the digest, written
//! before the blob is committed and removed once the bucket has it. So a crash, or a bucket that is gone
//! for hours, loses none. Its name also says if what the bucket has is rotten, or if the bucket had the
//! blob and lost it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use super::{Layout, Room, StorageError};
use crate::oci::Digest;

/// What a note is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A blob that the bucket has not had.
    New,
    /// One whose object is rotten, and is to be replaced.
    Rotten,
    /// One that the bucket had, and lost.
    Lost,
}

impl Kind {
    const ALL: [Self; 3] = [Self::New, Self::Rotten, Self::Lost];

    /// What comes after the digest in the name of a note. Notes are empty: what is in a file takes room.
    const fn suffix(self) -> &'static str {
        match self {
            Self::New => "",
            Self::Rotten => ".rotten",
            Self::Lost => ".lost",
        }
    }
}

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
        self.room.hold(digest);
        let noted = self.write(digest, if replaces { Kind::Rotten } else { Kind::New });
        if noted.is_err() {
            // Nobody would ever come back to it.
            self.room.release(digest);
        }
        noted
    }

    /// Notes a blob that the bucket had and has lost. It may be evicted all the same: it comes from upstream again, and a
    /// bucket that lost much would leave the disk nothing that could go.
    ///
    /// # Errors
    /// Of the system.
    pub fn add_lost(&self, digest: &Digest) -> Result<(), StorageError> {
        self.write(digest, Kind::Lost)
    }

    /// Whether a blob is noted.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        Kind::ALL.iter().any(|kind| self.file(digest, *kind).exists())
    }

    /// Whether a noted blob is to replace a rotten object.
    #[must_use]
    pub fn replaces(&self, digest: &Digest) -> bool {
        self.file(digest, Kind::Rotten).exists()
    }

    /// Forgets a blob. One that was not noted is no error.
    pub fn remove(&self, digest: &Digest) {
        self.room.release(digest);
        for path in Kind::ALL.map(|kind| self.file(digest, kind)) {
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "a note of a blob that the bucket has could not be removed");
            }
        }
    }

    /// The noted blobs, in the order of their digests.
    #[must_use]
    pub fn list(&self) -> Vec<Digest> {
        self.notes().into_iter().map(|(digest, _)| digest).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Has what an earlier run has noted stay, but for what the bucket had before.
    pub(super) fn hold_all(&self) {
        self.notes().iter().filter(|(_, kind)| *kind != Kind::Lost).for_each(|(digest, _)| self.room.hold(digest));
    }

    fn notes(&self) -> Vec<(Digest, Kind)> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| parse(&name)).collect()
    }

    fn write(&self, digest: &Digest, kind: Kind) -> Result<(), StorageError> {
        let path = self.file(digest, kind);
        fs::write(&path, b"").map_err(|error| StorageError::file("create", &path, error))
    }

    fn file(&self, digest: &Digest, kind: Kind) -> PathBuf {
        self.directory.join(format!("{}-{}{}", digest.algorithm().as_str(), digest.hex(), kind.suffix()))
    }
}

fn parse(name: &str) -> Option<(Digest, Kind)> {
    let digest_end = name.find('.').unwrap_or(name.len());
    let (digest, suffix) = name.split_at_checked(digest_end)?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.suffix() == suffix)?;
    Some((Digest::parse(&digest.replacen('-', ":", 1)).ok()?, kind))
}
