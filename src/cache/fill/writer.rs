//! Writes and hashes what a transfer fetched. Everything here blocks and runs on a blocking thread.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use super::{Fill, FillError};
use crate::oci::{Digest, DigestHasher};
use crate::storage::{StagedBlob, StorageError};

/// Read this much at a time of what has to be hashed after it was written.
const CATCH_UP_PIECE_BYTES: usize = 1024 * 1024;
/// Hash at most this much of it between two batches, so that the connections are not held up.
const CATCH_UP_BATCH_BYTES: u64 = 8 * 1024 * 1024;

/// Bytes and their place in the blob.
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

/// The staged file and the hash of its beginning.
pub(super) struct Writer {
    fill: Arc<Fill>,
    staged: StagedBlob,
    hasher: DigestHasher,
    /// Bytes below this are hashed.
    hashed_to: u64,
}

impl Writer {
    /// A writer into `staged`, whose file the followers are shown.
    pub(super) fn new(fill: Arc<Fill>, staged: StagedBlob) -> Self {
        let file = staged.file();
        fill.progress.send_modify(|progress| progress.file = Some(file));
        let hasher = DigestHasher::new(fill.digest.algorithm());
        Self { fill, staged, hasher, hashed_to: 0 }
    }

    /// Reserves room once the length is known.
    pub(super) fn reserve(&self, total_bytes: u64) -> Result<(), StorageError> {
        self.staged.reserve(total_bytes)
    }

    /// Writes what is not there yet, shows it to the followers, and hashes what has become contiguous.
    /// Returns how many bytes were new.
    ///
    /// No byte is ever written twice: followers may have read it, and the hash may have it.
    pub(super) fn write(&mut self, pieces: &[Piece]) -> Result<u64, StorageError> {
        let mut written_bytes = 0;
        for piece in pieces {
            let end = piece.offset + piece.bytes.len() as u64;
            let gaps: Vec<_> = self.fill.progress.borrow().coverage.gaps(piece.offset..end).collect();
            for gap in gaps {
                let within = |offset: u64| usize::try_from(offset - piece.offset).unwrap_or(usize::MAX).min(piece.bytes.len());
                self.write_gap(gap.start, &piece.bytes.slice(within(gap.start)..within(gap.end)))?;
                written_bytes += gap.end - gap.start;
            }
        }
        self.catch_up(CATCH_UP_BATCH_BYTES)?;
        Ok(written_bytes)
    }

    fn write_gap(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.staged.write_at(bytes, offset)?;
        let end = offset + bytes.len() as u64;
        self.fill.progress.send_modify(|progress| progress.coverage.add(offset..end));
        if offset == self.hashed_to {
            self.hasher.update(bytes);
            self.hashed_to = end;
        }
        Ok(())
    }

    /// Hashes all that is contiguous from the beginning.
    pub(super) fn hash_written(&mut self) -> Result<(), StorageError> {
        self.catch_up(u64::MAX)
    }

    /// Hashes bytes that were written before those in front of them had come.
    fn catch_up(&mut self, at_most_bytes: u64) -> Result<(), StorageError> {
        let target = self.fill.progress.borrow().coverage.covered_to(self.hashed_to).min(self.hashed_to.saturating_add(at_most_bytes));
        if target == self.hashed_to {
            return Ok(());
        }
        let file = self.staged.file();
        let mut piece = vec![0; CATCH_UP_PIECE_BYTES];
        while self.hashed_to < target {
            let wanted = usize::try_from(target - self.hashed_to).unwrap_or(usize::MAX).min(piece.len());
            let buffer = piece.get_mut(..wanted).unwrap_or_default();
            file.read_exact_at(buffer, self.hashed_to).map_err(|error| self.unreadable(error))?;
            self.hasher.update(buffer);
            self.hashed_to += wanted as u64;
        }
        Ok(())
    }

    fn unreadable(&self, error: std::io::Error) -> StorageError {
        StorageError::File { operation: "read", path: self.staged.path().to_owned(), source: Arc::new(error) }
    }

    /// Hashes the rest of a complete blob and compares.
    ///
    /// The outer error is the store's, the inner one upstream's fault.
    pub(super) fn verify(&mut self) -> Result<Result<(), FillError>, StorageError> {
        self.hash_written()?;
        let actual: Digest = self.hasher.clone().finish();
        let expected = self.fill.digest;
        Ok(if actual == expected {
            Ok(())
        } else {
            Err(FillError::DigestMismatch { expected: Box::new(expected), actual: Box::new(actual) })
        })
    }

    /// Up to where the beginning is hashed, and the state of the hash there.
    pub(super) fn hashed(&self) -> (u64, DigestHasher) {
        (self.hashed_to, self.hasher.clone())
    }

    /// Makes the verified blob visible.
    pub(super) fn commit(self) -> Result<(), StorageError> {
        self.staged.commit(&self.fill.digest)
    }
}
