//! What is used of the disk, as numbers. Pure: no files, no clock.

use super::MAX_NOTES;
use crate::oci::Digest;
use crate::storage::index::{Index, Taken, Waiting};

/// How things stand, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoomNumbers {
    /// Bytes on disk, with those that are reserved.
    pub used_bytes: u64,
    /// Most there may be; `u64::MAX` is as many as there are.
    pub max_bytes: u64,
    /// Of `used_bytes`, what is not evicted: manifests, records, directories, pushed blobs, and in front of a bucket
    /// those that it does not have yet.
    pub kept_bytes: u64,
    /// Free on the file system.
    pub free_bytes: u64,
    /// Blobs on disk.
    pub blobs: u64,
    /// Blobs evicted since the start.
    pub evicted_blobs: u64,
    /// What they had on disk.
    pub evicted_bytes: u64,
    /// How long the last one had not been used.
    pub evicted_age_seconds: u64,
    /// How often there was no room.
    pub refused: u64,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is counted.
    Granted,
    /// So much has to go, and can.
    OverCap { by_bytes: u64 },
    /// So much has to become free on the file system.
    BelowFloor { by_bytes: u64 },
    /// Not even if all went that can.
    Never,
    /// Nor would that leave enough free on the file system: others use it.
    NeverFree,
}

/// A blob that the walk found.
#[derive(Clone, Copy, Debug)]
pub(in crate::storage) struct Seen {
    pub(in crate::storage) digest: Digest,
    pub(in crate::storage) disk_bytes: u64,
    pub(in crate::storage) length_bytes: u64,
    pub(in crate::storage) modified_ms: u64,
}

/// See the module.
#[derive(Debug)]
pub(in crate::storage) struct Books {
    pub(in crate::storage) index: Index,
    /// Records, directories, what others put there.
    other_bytes: u64,
    /// Claimed for files that are being written.
    reserved_bytes: u64,
    /// Of these, what the file system has not taken from its free space yet.
    promised_bytes: u64,
    /// Taken out of the index, and still on disk.
    leaving_bytes: u64,
    /// What may be there that the first walk has not seen yet.
    unknown_bytes: u64,
    is_walking: bool,
    /// Which blobs were pushed is known: as long as it is not, none goes.
    knows_hosted: bool,
    /// Free on the file system when it was last asked, less what was claimed since.
    free_bytes: u64,
    space_asked_ms: Option<u64>,
    complained_ms: Option<u64>,
    notes: Vec<(Digest, u64)>,
}

impl Books {
    pub(super) fn new(unknown_bytes: u64) -> Self {
        Self {
            index: Index::default(),
            other_bytes: 0,
            reserved_bytes: 0,
            promised_bytes: 0,
            leaving_bytes: 0,
            unknown_bytes,
            is_walking: true,
            knows_hosted: false,
            free_bytes: u64::MAX,
            space_asked_ms: None,
            complained_ms: None,
            notes: Vec::new(),
        }
    }

    pub(super) const fn used_bytes(&self) -> u64 {
        self.kept_bytes() + self.index.evictable_bytes() + self.reserved_bytes + self.leaving_bytes + self.unknown_bytes
    }

    const fn kept_bytes(&self) -> u64 {
        self.index.pinned_bytes() + self.other_bytes
    }

    pub(super) fn numbers(&self) -> RoomNumbers {
        RoomNumbers {
            used_bytes: self.used_bytes() - self.unknown_bytes,
            kept_bytes: self.kept_bytes(),
            free_bytes: self.free_bytes,
            blobs: self.index.len() as u64,
            ..RoomNumbers::default()
        }
    }

    /// Reserves `bytes`, if there is room for them below `max_bytes` and above `min_free_bytes`.
    pub(super) fn claim(&mut self, bytes: u64, max_bytes: u64, min_free_bytes: Option<u64>) -> Claim {
        let over_bytes = self.used_bytes().saturating_add(bytes).saturating_sub(max_bytes);
        let low_bytes = min_free_bytes.map_or(0, |floor| floor.saturating_add(bytes).saturating_sub(self.free_bytes));
        let can_go_bytes = self.can_go_bytes();
        if over_bytes > can_go_bytes {
            return Claim::Never;
        }
        if low_bytes > can_go_bytes {
            return Claim::NeverFree;
        }
        if over_bytes > 0 {
            return Claim::OverCap { by_bytes: over_bytes };
        }
        if low_bytes > 0 {
            return Claim::BelowFloor { by_bytes: low_bytes };
        }
        self.reserved_bytes += bytes;
        self.promised_bytes += bytes;
        self.free_bytes = self.free_bytes.saturating_sub(bytes);
        Claim::Granted
    }

    /// What is missing for a claim of `bytes` that never can be granted.
    pub(super) fn lacking_bytes(&self, bytes: u64, max_bytes: u64) -> u64 {
        let over_bytes = self.used_bytes().saturating_add(bytes).saturating_sub(max_bytes);
        over_bytes.saturating_sub(self.can_go_bytes())
    }

    fn can_go_bytes(&self) -> u64 {
        self.index.evictable_bytes() + self.leaving_bytes + self.unknown_bytes
    }

    /// The file system has allocated what was promised, and `unclaimed_bytes` more.
    pub(super) const fn is_allocated(&mut self, promised_bytes: u64, unclaimed_bytes: u64) {
        self.promised_bytes = self.promised_bytes.saturating_sub(promised_bytes);
        self.reserved_bytes += unclaimed_bytes;
    }

    /// Something takes room for as long as this process lives.
    pub(super) const fn add_reserved(&mut self, bytes: u64) {
        self.reserved_bytes += bytes;
    }

    /// Gives a claim back; of it, `promised_bytes` were not allocated.
    pub(super) const fn give_back(&mut self, claimed_bytes: u64, promised_bytes: u64) {
        self.reserved_bytes = self.reserved_bytes.saturating_sub(claimed_bytes);
        self.promised_bytes = self.promised_bytes.saturating_sub(promised_bytes);
    }

    /// Records and directories take so much more, and so much less, than before.
    pub(super) const fn other_changed(&mut self, more_bytes: u64, less_bytes: u64) {
        self.other_bytes = (self.other_bytes + more_bytes).saturating_sub(less_bytes);
    }

    pub(super) fn touch(&mut self, digest: &Digest, now_ms: u64) {
        if self.index.touch(digest, now_ms, self.notes.len() < MAX_NOTES) {
            self.notes.push((*digest, now_ms));
        }
    }

    pub(super) fn take_notes(&mut self) -> Vec<(Digest, u64)> {
        std::mem::take(&mut self.notes)
    }

    /// The least recently used blobs: as many as have `wanted_bytes`, at most `count`.
    pub(super) fn take_oldest(&mut self, wanted_bytes: u64, count: usize) -> Vec<Taken> {
        if !self.knows_hosted {
            return Vec::new();
        }
        let mut taken = Vec::with_capacity(count);
        let mut taken_bytes = 0;
        while taken_bytes < wanted_bytes && taken.len() < count {
            let Some(blob) = self.index.take_oldest() else { break };
            taken_bytes += blob.disk_bytes;
            taken.push(blob);
        }
        self.leaving_bytes += taken_bytes;
        taken
    }

    /// A blob that was taken out has left the disk.
    pub(super) const fn is_gone(&mut self, blob: &Taken) {
        self.leaving_bytes = self.leaving_bytes.saturating_sub(blob.disk_bytes);
    }

    /// Blobs that were taken out are still there: one that does not go, which is not tried again soon, and
    /// those that were to go after it.
    pub(super) fn stay(&mut self, failed: &Taken, untried: &[Taken], now_ms: u64) {
        for blob in untried.iter().rev() {
            self.is_gone(blob);
            self.index.put_back(blob);
        }
        self.is_gone(failed);
        self.index.insert(&failed.digest, failed.disk_bytes, now_ms);
    }

    pub(super) const fn promised_bytes(&self) -> u64 {
        self.promised_bytes
    }

    pub(super) fn is_space_old(&self, now_ms: u64, after_ms: u64) -> bool {
        self.space_asked_ms.is_none_or(|asked_ms| now_ms.abs_diff(asked_ms) >= after_ms)
    }

    /// What the file system said when `promised_bytes` were not allocated yet; some of them may be by now.
    pub(super) fn space_is(&mut self, free_bytes: u64, promised_bytes: u64, now_ms: u64) {
        self.free_bytes = free_bytes.saturating_sub(self.promised_bytes.max(promised_bytes));
        self.space_asked_ms = Some(now_ms);
    }

    /// What cannot be evicted, if it takes more than there may be and nobody was told for a while.
    pub(super) fn complaint(&mut self, max_bytes: u64, now_ms: u64, every_ms: u64) -> Option<u64> {
        let is_due = self.complained_ms.is_none_or(|complained_ms| now_ms.abs_diff(complained_ms) >= every_ms);
        if self.is_walking || self.kept_bytes() <= max_bytes || !is_due {
            return None;
        }
        self.complained_ms = Some(now_ms);
        Some(self.kept_bytes())
    }

    pub(in crate::storage) const fn is_walking(&self) -> bool {
        self.is_walking
    }

    /// All pushed blobs that are on disk are pinned, or there are none.
    pub(in crate::storage) const fn hosted_is_known(&mut self) {
        self.knows_hosted = true;
    }

    /// The walk found blobs.
    pub(in crate::storage) fn saw(&mut self, blobs: &[Seen], waiting: &mut Vec<Waiting>) {
        for blob in blobs {
            if let Some(it) = self.index.seen(&blob.digest, blob.disk_bytes, blob.modified_ms, blob.length_bytes) {
                self.unknown_bytes = self.unknown_bytes.saturating_sub(blob.disk_bytes);
                waiting.push(it);
            }
        }
    }

    /// The first walk found something that is no blob.
    pub(in crate::storage) const fn saw_other(&mut self, bytes: u64) {
        self.unknown_bytes = self.unknown_bytes.saturating_sub(bytes);
        self.other_bytes += bytes;
    }

    /// A later walk found so much that is no blob; `before_bytes` is what was thought when it began.
    pub(in crate::storage) const fn recounted_other(&mut self, counted_bytes: u64, before_bytes: u64) {
        // What was written meanwhile may be counted twice, and is never missed.
        self.other_bytes = counted_bytes + self.other_bytes.saturating_sub(before_bytes);
    }

    pub(in crate::storage) const fn other_bytes(&self) -> u64 {
        self.other_bytes
    }

    /// Everything has been seen.
    pub(in crate::storage) fn walk_is_over(&mut self) {
        self.unknown_bytes = 0;
        self.is_walking = false;
        self.index.walk_is_over();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_out_before_it_is_known_what_was_pushed() {
        let mut books = Books::new(0);
        books.index.insert(&Digest::of(b"a"), 4096, 1);
        assert_eq!(books.take_oldest(1, 8), []);
        books.hosted_is_known();
        assert_eq!(books.take_oldest(1, 8).len(), 1);
    }
}
