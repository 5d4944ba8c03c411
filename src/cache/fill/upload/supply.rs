//! What is uploaded, as far as it is there.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::UploadError;
use super::parts::Part;
use crate::cache::fill::{Phase, Progress};
use crate::oci::{Digest, DigestHasher};

/// What is uploaded.
pub(super) enum Supply {
    /// A blob that fills.
    Filling(watch::Receiver<Progress>),
    /// A committed one. It has lain there for a while: it is hashed on its way.
    Whole { file: Arc<File>, length_bytes: u64, hasher: Box<DigestHasher> },
}

/// How much of it is there.
pub(super) struct Ready {
    pub(super) file: Arc<File>,
    /// Bytes below this are there.
    pub(super) to: u64,
    /// Nothing comes after them, and the digest holds.
    pub(super) is_all: bool,
}

impl Supply {
    /// Waits until the bytes below `target` are there, or all are, and verified.
    pub(super) async fn ready(&mut self, target: u64) -> Result<Ready, UploadError> {
        let progress = match self {
            Self::Whole { file, length_bytes, .. } => return Ok(Ready { file: Arc::clone(file), to: *length_bytes, is_all: true }),
            Self::Filling(progress) => progress,
        };
        loop {
            {
                let now = progress.borrow_and_update();
                let to = now.coverage.covered_to(0);
                match (&now.phase, &now.file) {
                    (Phase::Failed(_) | Phase::Unkept { .. }, _) => return Err(UploadError::GivenUp),
                    (Phase::Verified, Some(file)) => return Ok(Ready { file: Arc::clone(file), to, is_all: true }),
                    // The last bytes wait for the digest.
                    (Phase::Filling, Some(file)) if to >= target && now.total_bytes.is_none_or(|total| target < total) => {
                        return Ok(Ready { file: Arc::clone(file), to, is_all: false });
                    }
                    (Phase::Opening | Phase::Filling | Phase::Verified, _) => {}
                }
            }
            progress.changed().await.map_err(|_| UploadError::GivenUp)?;
        }
    }

    /// Waits until nothing more will come of it; for ever, if all of it comes.
    pub(super) async fn given_up(&mut self) {
        if let Self::Filling(progress) = self
            && progress.wait_for(|now| matches!(now.phase, Phase::Failed(_) | Phase::Unkept { .. })).await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }

    pub(super) fn total_bytes(&self) -> Option<u64> {
        match self {
            Self::Whole { length_bytes, .. } => Some(*length_bytes),
            Self::Filling(progress) => progress.borrow().total_bytes,
        }
    }

    /// The next bytes to be sent, from `ready`.
    pub(super) async fn read(&mut self, ready: Ready, offset: u64, length: u64, mut part: Part) -> Result<Bytes, UploadError> {
        let length = usize::try_from(length).map_err(std::io::Error::other)?;
        let hasher = if let Self::Whole { hasher, .. } = self { Some(hasher.clone()) } else { None };
        let read = tokio::task::spawn_blocking(move || {
            let bytes = part.bytes_mut(length);
            ready.file.read_exact_at(bytes, offset)?;
            let hashed = hasher.map(|mut hasher| {
                hasher.update(bytes);
                hasher
            });
            Ok((part.into_bytes(), hashed))
        });
        let (bytes, hashed) = read.await.map_err(std::io::Error::other)?.map_err(UploadError::Read)?;
        if let (Self::Whole { hasher, .. }, Some(hashed)) = (&mut *self, hashed) {
            *hasher = hashed;
        }
        Ok(bytes)
    }

    /// Whether all that was read has the digest. What filled was verified before its last bytes were ready.
    pub(super) fn verify(&self, digest: &Digest) -> Result<(), UploadError> {
        match self {
            Self::Filling(_) => Ok(()),
            Self::Whole { hasher, .. } if hasher.clone().finish() == *digest => Ok(()),
            Self::Whole { .. } => Err(UploadError::Rotten),
        }
    }
}
