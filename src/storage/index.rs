//! Which blobs the disk holds, and in which order they were last used.
//!
//! A pure data structure: no files, no clock. An exact list from the least to the most recently used,
//! in 64 bytes of slot and some 10 of table for each blob. While the disk is still being walked after
//! a start, what the walk has seen waits in lists of its own: its place in the order is known only
//! once all of it has been seen.

mod slots;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::oci::{Algorithm, Digest};
use slots::{List, Slot, Slots};

/// How often at most the file of a blob is told that it was used.
pub(super) const NOTED_EVERY_SECONDS: u32 = 600;
/// Largest blob that may be a manifest, as long as the records have not said which ones are.
const MAX_MANIFEST_BYTES: u64 = crate::oci::manifest::ManifestSummary::MAX_BYTES as u64;
/// While the walk goes on, the oldest of so many is taken for the oldest.
const SAMPLED: usize = 64;
/// So many blobs may be used before the walk has seen them; more keep the time of their file.
const MAX_USED_EARLY: usize = 100_000;
/// So many blobs may be on their way in that are to stay. More stay once their push looks for them.
const MAX_AWAITED: usize = 100_000;
/// `st_blocks` counts these.
const SECTOR_BYTES: u64 = 512;
/// First half of a sha512, or all of a sha256.
const KEY_BYTES: usize = 32;

/// A blob that was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// Its digest.
    pub(super) digest: Digest,
    /// What it has on disk.
    pub(super) disk_bytes: u64,
    /// When it was last used, in unix milliseconds.
    pub(super) used_ms: u64,
}

/// What the walk keeps of a blob until it knows the order of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Waiting {
    used_ms: u64,
    slot: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Index {
    slots: Slots,
    table: HashTable<u32>,
    hasher: RandomState,
    /// The second halves of sha512 digests, which are rare.
    long: HashMap<u32, [u8; KEY_BYTES]>,
    evictable_bytes: u64,
    pinned_bytes: u64,
    walk_is_over: bool,
    used_early: HashMap<Digest, u64>,
    /// Kept by somebody, whether they are there yet or not.
    held: HashSet<Digest>,
    /// To be pinned when they come.
    awaited: HashSet<Digest>,
}

impl Index {
    /// How many blobs there are.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// What those have on disk that may be evicted.
    pub(super) const fn evictable_bytes(&self) -> u64 {
        self.evictable_bytes
    }

    /// What those have on disk that stay.
    pub(super) const fn pinned_bytes(&self) -> u64 {
        self.pinned_bytes
    }

    /// Adds a blob that was just committed, as the most recently used one.
    pub(super) fn insert(&mut self, digest: &Digest, disk_bytes: u64, now_ms: u64) {
        let slot = self.slot_of(digest);
        let is_pinned = self.slots.list(slot) == List::Pinned || self.is_to_stay(digest);
        self.forget_bytes(slot);
        self.slots.unlink(slot);
        if let Some(it) = self.slots.get_mut(slot) {
            it.sectors = sectors(disk_bytes);
            it.used_ms = now_ms;
            it.noted_seconds = seconds(now_ms);
        }
        self.slots.push_newest(slot, if is_pinned { List::Pinned } else { List::Ordered });
        self.count_bytes(slot);
    }

    /// Notes a use. True if the blob's file should be told of it; `may_tell` is whether it can be.
    pub(super) fn touch(&mut self, digest: &Digest, now_ms: u64, may_tell: bool) -> bool {
        let Some(slot) = self.find(digest) else {
            if !self.walk_is_over && self.used_early.len() < MAX_USED_EARLY {
                self.used_early.insert(*digest, now_ms);
            }
            return false;
        };
        let Some(it) = self.slots.get_mut(slot) else { return false };
        it.used_ms = now_ms;
        let is_due = may_tell && it.noted_seconds.abs_diff(seconds(now_ms)) >= NOTED_EVERY_SECONDS;
        if is_due {
            it.noted_seconds = seconds(now_ms);
        }
        if matches!(it.list, List::Ordered | List::Walked) {
            self.slots.unlink(slot);
            self.slots.push_newest(slot, List::Ordered);
        }
        is_due
    }

    /// Keeps a blob from being evicted. False if it is not there.
    pub(super) fn pin(&mut self, digest: &Digest) -> bool {
        let Some(slot) = self.find(digest) else { return false };
        self.forget_bytes(slot);
        self.slots.unlink(slot);
        self.slots.push_newest(slot, List::Pinned);
        self.count_bytes(slot);
        true
    }

    /// Keeps a blob that is there, or is about to come, from being evicted for as long as it is there.
    pub(super) fn keep(&mut self, digest: &Digest) {
        if !self.pin(digest) && self.awaited.len() < MAX_AWAITED {
            self.awaited.insert(*digest);
        }
    }

    /// Keeps a blob that is there, or comes, from being evicted until it is released.
    pub(super) fn hold(&mut self, digest: &Digest) {
        self.held.insert(*digest);
        self.pin(digest);
    }

    /// Lets a held blob be evicted.
    pub(super) fn release(&mut self, digest: &Digest) {
        if self.held.remove(digest) {
            self.unpin(digest);
        }
    }

    /// Lets a pinned blob be evicted again, by when it was last used.
    pub(super) fn unpin(&mut self, digest: &Digest) {
        let Some(slot) = self.find(digest).filter(|slot| self.slots.list(*slot) == List::Pinned) else { return };
        self.forget_bytes(slot);
        self.slots.unlink(slot);
        self.slots.push_by_use(slot, List::Ordered);
        self.count_bytes(slot);
    }

    /// Takes a blob out. `None` if it is not there.
    pub(super) fn remove(&mut self, digest: &Digest) -> Option<Taken> {
        let slot = self.find(digest)?;
        self.take(slot)
    }

    /// Takes the least recently used blob out. `None` if there is none that may be evicted.
    pub(super) fn take_oldest(&mut self) -> Option<Taken> {
        let slot = self.slots.oldest_few(List::Walked, SAMPLED).min_by_key(|(_, slot)| slot.used_ms).map(|(number, _)| number);
        let slot = slot.or_else(|| self.slots.oldest_few(List::Ordered, 1).next().map(|(number, _)| number))?;
        self.take(slot)
    }

    /// Puts what was taken out back, as the least recently used blob.
    pub(super) fn put_back(&mut self, blob: &Taken) {
        self.insert(&blob.digest, blob.disk_bytes, blob.used_ms);
        if let Some(slot) = self.find(&blob.digest).filter(|slot| self.slots.list(*slot) == List::Ordered) {
            self.slots.unlink(slot);
            self.slots.push_oldest(slot, List::Ordered);
        }
    }

    /// Adds a blob that is on disk after all, unless it is known, as the least recently used one.
    pub(super) fn found(&mut self, blob: &Taken) {
        if !self.knows(&blob.digest) {
            self.put_back(blob);
        }
    }

    /// Whether a blob is there.
    pub(super) fn knows(&self, digest: &Digest) -> bool {
        self.find(digest).is_some()
    }

    /// Adds a blob that the walk found, unless it is known. Returns what the walk gives back to
    /// [`Index::settle`].
    pub(super) fn seen(&mut self, digest: &Digest, disk_bytes: u64, modified_ms: u64, length_bytes: u64) -> Option<Waiting> {
        if self.find(digest).is_some() {
            return None;
        }
        let used_early = self.used_early.remove(digest);
        let is_to_stay = self.is_to_stay(digest);
        let slot = self.slot_of(digest);
        let it = self.slots.get_mut(slot)?;
        it.sectors = sectors(disk_bytes);
        it.used_ms = used_early.unwrap_or(modified_ms);
        it.noted_seconds = seconds(modified_ms);
        let list = match length_bytes {
            _ if is_to_stay => List::Pinned,
            0..=MAX_MANIFEST_BYTES => List::Unsure,
            _ => List::Walked,
        };
        self.slots.push_newest(slot, list);
        self.count_bytes(slot);
        Some(Waiting { used_ms: modified_ms, slot })
    }

    /// Puts what the walk has found into its place. In all calls together the most recently used one
    /// comes first, and pins have been set before.
    pub(super) fn settle(&mut self, waiting: &[Waiting]) {
        for Waiting { used_ms, slot } in waiting.iter().copied() {
            let Some(it) = self.slots.get(slot).filter(|it| matches!(it.list, List::Walked | List::Unsure)) else { continue };
            let was_used_since = it.used_ms != used_ms;
            self.slots.unlink(slot);
            if was_used_since {
                self.slots.push_newest(slot, List::Ordered);
            } else {
                self.slots.push_oldest(slot, List::Ordered);
            }
        }
    }

    /// The walk is over: what it has not seen is not there.
    pub(super) fn walk_is_over(&mut self) {
        self.walk_is_over = true;
        self.used_early = HashMap::new();
    }

    /// Whether a blob that comes in is pinned.
    fn is_to_stay(&mut self, digest: &Digest) -> bool {
        self.awaited.remove(digest) || self.held.contains(digest)
    }

    fn take(&mut self, slot: u32) -> Option<Taken> {
        let digest = self.digest_of(slot)?;
        let it = *self.slots.get(slot)?;
        self.forget_bytes(slot);
        let hash = self.hasher.hash_one(key(&digest));
        if let Ok(entry) = self.table.find_entry(hash, |number| *number == slot) {
            entry.remove();
        }
        self.long.remove(&slot);
        self.slots.free(slot);
        Some(Taken { digest, disk_bytes: bytes(it.sectors), used_ms: it.used_ms })
    }

    fn find(&self, digest: &Digest) -> Option<u32> {
        let key = key(digest);
        let hash = self.hasher.hash_one(key);
        self.table.find(hash, |number| is_digest(&self.slots, &self.long, *number, digest, key)).copied()
    }

    /// The slot of a digest, a new one if it has none.
    fn slot_of(&mut self, digest: &Digest) -> u32 {
        let key = key(digest);
        let hash = self.hasher.hash_one(key);
        let Self { slots, table, hasher, long, .. } = self;
        let is_it = |number: &u32| is_digest(slots, long, *number, digest, key);
        let rehash = |number: &u32| hasher.hash_one(slots.get(*number).map_or([0; KEY_BYTES], |slot| slot.key));
        let vacant = match table.entry(hash, is_it, rehash) {
            Entry::Occupied(found) => return *found.get(),
            Entry::Vacant(vacant) => vacant,
        };
        let is_long = digest.algorithm() == Algorithm::Sha512;
        let slot = slots.allocate(Slot::of(key, is_long));
        vacant.insert(slot);
        if is_long {
            long.insert(slot, half(digest.hash().get(KEY_BYTES..)));
        }
        slot
    }

    fn digest_of(&self, slot: u32) -> Option<Digest> {
        let it = self.slots.get(slot)?;
        if it.is_long {
            let hash = [it.key, *self.long.get(&slot)?].concat();
            return Digest::from_hash(Algorithm::Sha512, &hash);
        }
        Digest::from_hash(Algorithm::Sha256, &it.key)
    }

    fn count_bytes(&mut self, slot: u32) {
        let (list, bytes) = self.weight(slot);
        *self.total_of(list) += bytes;
    }

    fn forget_bytes(&mut self, slot: u32) {
        let (list, bytes) = self.weight(slot);
        let total = self.total_of(list);
        *total = total.saturating_sub(bytes);
    }

    fn weight(&self, slot: u32) -> (List, u64) {
        self.slots.get(slot).map_or((List::None, 0), |it| (it.list, bytes(it.sectors)))
    }

    const fn total_of(&mut self, list: List) -> &mut u64 {
        match list {
            List::Pinned => &mut self.pinned_bytes,
            List::None | List::Ordered | List::Walked | List::Unsure => &mut self.evictable_bytes,
        }
    }
}

fn is_digest(slots: &Slots, long: &HashMap<u32, [u8; KEY_BYTES]>, number: u32, digest: &Digest, key: [u8; KEY_BYTES]) -> bool {
    let Some(slot) = slots.get(number).filter(|slot| slot.key == key) else { return false };
    match digest.algorithm() {
        Algorithm::Sha256 => !slot.is_long,
        Algorithm::Sha512 => slot.is_long && long.get(&number).is_some_and(|rest| Some(rest.as_slice()) == digest.hash().get(KEY_BYTES..)),
    }
}

fn key(digest: &Digest) -> [u8; KEY_BYTES] {
    half(digest.hash().get(..KEY_BYTES))
}

fn half(bytes: Option<&[u8]>) -> [u8; KEY_BYTES] {
    bytes.and_then(|bytes| bytes.try_into().ok()).unwrap_or_default()
}

fn sectors(disk_bytes: u64) -> u32 {
    u32::try_from(disk_bytes.div_ceil(SECTOR_BYTES)).unwrap_or(u32::MAX)
}

const fn bytes(sectors: u32) -> u64 {
    sectors as u64 * SECTOR_BYTES
}

fn seconds(ms: u64) -> u32 {
    u32::try_from(ms / 1000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
