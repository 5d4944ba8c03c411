//! Room for one file that is being written.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{NoRoom, Room};
use crate::oci::Digest;
use crate::storage::StorageError;

/// What a file may take beside its bytes: blocks that say where it is, and its directory.
const OVERHEAD_BLOCKS: u64 = 4;
/// Where the length is not known, room is reserved in steps of this.
const STEP_BYTES: u64 = 8 * 1024 * 1024;

/// Room that is reserved; it is given back when it is dropped.
#[derive(Debug)]
pub(in crate::storage) struct Reservation {
    room: Room,
    /// The file may become as long as this.
    length_bytes: AtomicU64,
    claimed_bytes: AtomicU64,
    /// Of these, what the file system does not know of.
    promised_bytes: AtomicU64,
}

impl Reservation {
    /// No room.
    pub(in crate::storage) const fn none(room: Room) -> Self {
        Self { room, length_bytes: AtomicU64::new(0), claimed_bytes: AtomicU64::new(0), promised_bytes: AtomicU64::new(0) }
    }

    /// Makes it enough for a file of `length_bytes`. Blocks while others are evicted for it.
    pub(in crate::storage) fn grow_to(&self, length_bytes: u64) -> Result<(), StorageError> {
        self.try_grow_to(length_bytes).map_err(|NoRoom| self.room.refuse())
    }

    fn try_grow_to(&self, length_bytes: u64) -> Result<(), NoRoom> {
        if length_bytes <= self.length_bytes.load(Ordering::Acquire) {
            return Ok(());
        }
        let wanted_bytes = self.room.in_blocks(length_bytes, OVERHEAD_BLOCKS);
        let more_bytes = wanted_bytes.saturating_sub(self.claimed_bytes.load(Ordering::Acquire));
        self.room.claim(more_bytes)?;
        self.claimed_bytes.fetch_add(more_bytes, Ordering::AcqRel);
        self.promised_bytes.fetch_add(more_bytes, Ordering::AcqRel);
        self.length_bytes.store(length_bytes, Ordering::Release);
        Ok(())
    }

    /// Makes it enough for bytes up to `end`, and where there is room for some more to come.
    pub(in crate::storage) fn cover(&self, end: u64) -> Result<(), StorageError> {
        if end <= self.length_bytes.load(Ordering::Acquire) {
            return Ok(());
        }
        self.try_grow_to(end.saturating_add(STEP_BYTES)).or_else(|NoRoom| self.grow_to(end))
    }

    /// Bytes were written into what was not allocated before: the file system has taken them from its free space.
    pub(in crate::storage) fn is_written(&self, bytes: u64) {
        if self.promised_bytes.load(Ordering::Acquire) == 0 {
            return;
        }
        let less = |promised_bytes: u64| Some(promised_bytes.saturating_sub(bytes));
        let promised_bytes = self.promised_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).unwrap_or_default();
        self.room.books().is_allocated(promised_bytes.min(bytes), 0);
    }

    /// The file system has allocated what was reserved: the file has `disk_bytes`.
    pub(in crate::storage) fn is_allocated(&self, disk_bytes: u64) {
        let promised_bytes = self.promised_bytes.swap(0, Ordering::AcqRel);
        let unclaimed_bytes = disk_bytes.saturating_sub(self.claimed_bytes.load(Ordering::Acquire));
        self.claimed_bytes.fetch_add(unclaimed_bytes, Ordering::AcqRel);
        self.room.books().is_allocated(promised_bytes, unclaimed_bytes);
    }

    /// The file is now the blob `digest` of `disk_bytes`, and its directory takes `directory_bytes` more
    /// than before. A manifest is not evicted.
    pub(in crate::storage) fn commit(&self, digest: &Digest, disk_bytes: u64, directory_bytes: u64, is_manifest: bool) {
        let now_ms = self.room.now_ms();
        let mut books = self.room.books();
        self.empty(&mut books);
        books.index.insert(digest, disk_bytes, now_ms);
        if is_manifest && self.room.is_all_there_is() {
            books.index.pin(digest);
        }
        books.other_changed(directory_bytes, 0);
    }

    /// The file cannot be removed: what it has stays counted.
    pub(in crate::storage) fn stays(&self, disk_bytes: u64) {
        let mut books = self.room.books();
        self.empty(&mut books);
        books.add_reserved(disk_bytes);
    }

    fn empty(&self, books: &mut super::Books) {
        books.give_back(self.claimed_bytes.swap(0, Ordering::AcqRel), self.promised_bytes.swap(0, Ordering::AcqRel));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut books = self.room.books();
        self.empty(&mut books);
    }
}
