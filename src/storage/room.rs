//! Room on the disk: what is used of it, who may use more, and what has to go for that.
//!
//! What counts is what `du` shows: the blocks of blobs, staged files, records and directories. Blobs
//! go, least recently used first; manifests and records stay, and so does what was pushed. Nothing is
//! written before its room is reserved, so the sum holds at every moment. Whoever has a blob open reads
//! on when it is evicted.

mod books;
mod reservation;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use tokio::sync::Notify;

use super::index::Taken;
use super::{Disk, Layout, Space, StorageError};
use crate::clock::{Clock, unix_milliseconds};
use crate::oci::Digest;
use books::Claim;
pub use books::RoomNumbers;
pub(super) use books::{Books, Seen};
pub(super) use reservation::Reservation;

/// Free space that is left where the configuration does not say: this part of the file system…
const DEFAULT_FREE_PART: u64 = 20;
/// …but not more than this.
const DEFAULT_FREE_BYTES: u64 = 1024 * 1024 * 1024;
/// What blobs leave of `max_size`, so that records, which cannot wait, always find room: this part…
const HEADROOM_PART: u64 = 64;
/// …but not more than this.
const MAX_HEADROOM_BYTES: u64 = 64 * 1024 * 1024;
/// Blobs that are taken out of the index at a time, while nobody else can look into it: who is served
/// a hit waits for no more.
const BATCH: usize = 8;
/// Blobs that are evicted in one go. Where more have to go, the processor and the disk are left to those who are
/// served a hit, most of the time; but not where others wait for the room.
const BURST: usize = 64;
/// Beyond that, so many times as long as evicting took nothing is evicted.
const REST: u32 = 3;
/// Uses that wait to be written to their files; more are written at a later use.
const MAX_NOTES: usize = 65_536;
/// How long the file system's word on its free space is believed.
const SPACE_MS: u64 = 1_000;
/// How often free space is asked for again after making some: open readers may hold on to it.
const FLOOR_ROUNDS: usize = 2;
/// How long somebody who needs room waits for the first walk, before the oldest of what it has seen goes.
const WALK_WAIT: Duration = Duration::from_secs(1);
/// Between two complaints that what cannot be evicted takes all the room.
const COMPLAINT_MS: u64 = 10 * 60 * 1000;

/// How much room there is.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoomLimits {
    /// Most bytes on disk; `None` is as many as there are.
    pub max_bytes: Option<u64>,
    /// Bytes left free on the file system; `None` is 5 % of it, at most 1 GiB.
    pub min_free_bytes: Option<u64>,
}

/// A claim was not granted.
struct NoRoom;

/// The room of one store; cheap to clone.
#[derive(Clone, Debug)]
pub struct Room {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    layout: Layout,
    disk: Arc<dyn Disk>,
    clock: Clock,
    /// There is no bucket behind: what was pushed is nowhere else, and manifests stay for the sake of their layers.
    is_all_there_is: bool,
    max_bytes: u64,
    headroom_bytes: u64,
    min_free_bytes: u64,
    block_bytes: u64,
    books: Mutex<Books>,
    /// The walk has gone on.
    walked: Condvar,
    /// Only one evicts at a time: two would each make room for both.
    evicting: Mutex<()>,
    /// Those that wait for that.
    waiting_to_evict: AtomicUsize,
    /// Headroom is used.
    tight: Notify,
    stopping: AtomicBool,
    evicted_blobs: AtomicU64,
    evicted_bytes: AtomicU64,
    evicted_age_seconds: AtomicU64,
    refused: AtomicU64,
}

impl Room {
    /// The room of the store at `layout`. Until [`Room::walk`] is over it is taken to be full.
    /// Where it `is_all_there_is`, manifests and pushed blobs are never evicted.
    pub(super) fn new(layout: Layout, disk: Arc<dyn Disk>, clock: Clock, limits: RoomLimits, is_all_there_is: bool) -> Self {
        // A file system that does not tell has no floor.
        let space = disk.space(layout.root()).unwrap_or(Space { total_bytes: 0, free_bytes: u64::MAX, block_bytes: 4096 });
        let min_free_bytes = limits.min_free_bytes.unwrap_or_else(|| (space.total_bytes / DEFAULT_FREE_PART).min(DEFAULT_FREE_BYTES));
        let max_bytes = limits.max_bytes.unwrap_or(u64::MAX);
        let headroom_bytes = if limits.max_bytes.is_some() { (max_bytes / HEADROOM_PART).min(MAX_HEADROOM_BYTES) } else { 0 };
        let unknown_bytes = if limits.max_bytes.is_some() { max_bytes - headroom_bytes } else { 0 };
        let shared = Shared {
            layout,
            disk,
            clock,
            is_all_there_is,
            max_bytes,
            headroom_bytes,
            min_free_bytes,
            block_bytes: space.block_bytes.max(512),
            books: Mutex::new(Books::new(unknown_bytes)),
            walked: Condvar::new(),
            evicting: Mutex::default(),
            waiting_to_evict: AtomicUsize::new(0),
            tight: Notify::new(),
            stopping: AtomicBool::new(false),
            evicted_blobs: AtomicU64::new(0),
            evicted_bytes: AtomicU64::new(0),
            evicted_age_seconds: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Notes that a blob is used; it will be evicted after all that are used less recently. Cheap, and
    /// no file is touched.
    pub fn touch(&self, digest: &Digest) {
        self.books().touch(digest, self.now_ms());
    }

    /// Keeps a manifest that came in as a blob from being evicted, where that is not in a bucket.
    pub(super) fn keep_manifest(&self, digest: &Digest) {
        if self.shared.is_all_there_is {
            self.books().index.pin(digest);
        }
    }

    /// Keeps a pushed blob that is there, or is about to come, from being evicted. Blocks while others are.
    pub(super) fn keep_hosted(&self, digest: &Digest) {
        // What is on its way out is on disk, too.
        let _turn = self.turn_to_evict();
        self.books().index.keep(digest);
    }

    /// Keeps a blob that is there, or is about to come, from being evicted until it is released.
    pub(super) fn hold(&self, digest: &Digest) {
        self.books().index.hold(digest);
    }

    /// Lets a blob that was held be evicted.
    pub(super) fn release(&self, digest: &Digest) {
        self.books().index.release(digest);
    }

    /// A blob's file goes by other hands than eviction's. What [`Room::stays`] wants if it does not.
    pub(super) fn removed(&self, digest: &Digest) -> Option<Taken> {
        self.books().index.remove(digest)
    }

    /// A blob's file did not go after all.
    pub(super) fn stays(&self, blob: Option<&Taken>) {
        if let Some(blob) = blob {
            self.books().index.found(blob);
        }
    }

    /// A blob that was taken out lies somewhere else below the store's directory, where nothing is evicted.
    pub(super) fn lies_aside(&self, blob: Option<&Taken>) {
        self.books().other_changed(blob.map_or(0, |blob| blob.disk_bytes), 0);
    }

    /// Adds blobs that are on disk and were not known. Blocks.
    pub(super) fn take_in(&self, blobs: &[Taken], manifests: &HashSet<Digest>) {
        // What is on its way out is on disk, too.
        let _turn = self.turn_to_evict();
        for blob in blobs.iter().filter(|blob| self.shared.layout.blob_file(&blob.digest).exists()) {
            let mut books = self.books();
            books.index.found(blob);
            if manifests.contains(&blob.digest) {
                books.index.pin(&blob.digest);
            }
        }
    }

    /// What was set aside is gone, or something else that is not a blob.
    pub(super) fn other_removed(&self, disk_bytes: u64) {
        self.books().other_changed(0, disk_bytes);
    }

    /// How things stand. Asks the file system.
    #[must_use]
    pub fn numbers(&self) -> RoomNumbers {
        self.look_at_space();
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let shared = &self.shared;
        RoomNumbers {
            max_bytes: shared.max_bytes,
            evicted_blobs: load(&shared.evicted_blobs),
            evicted_bytes: load(&shared.evicted_bytes),
            evicted_age_seconds: load(&shared.evicted_age_seconds),
            refused: load(&shared.refused),
            ..self.books().numbers()
        }
    }

    /// Room for a file whose length is not known yet.
    pub(super) fn reservation(&self) -> Reservation {
        Reservation::none(self.clone())
    }

    /// Claims `bytes` more, evicting for them. Blocks.
    fn claim(&self, bytes: u64) -> Result<(), NoRoom> {
        if self.try_claim(bytes, self.shared.headroom_bytes) == Claim::Granted {
            return Ok(());
        }
        self.wait_for_walk();
        let _turn = self.turn_to_evict();
        let mut floor_rounds = 0;
        loop {
            let by_bytes = match self.try_claim(bytes, self.shared.headroom_bytes) {
                Claim::Granted => return Ok(()),
                Claim::Never | Claim::NeverFree => return Err(NoRoom),
                Claim::OverCap { by_bytes } => by_bytes,
                Claim::BelowFloor { .. } if floor_rounds == FLOOR_ROUNDS => return Err(NoRoom),
                Claim::BelowFloor { by_bytes } => {
                    floor_rounds += 1;
                    by_bytes
                }
            };
            if self.evict(by_bytes) == 0 {
                return Err(NoRoom);
            }
            self.ask_for_space();
        }
    }

    /// Claims `bytes` for a record, which evicts nothing: blobs leave headroom for it. False if that is used up.
    pub(super) fn claim_for_record(&self, bytes: u64) -> bool {
        self.look_at_space();
        let granted = self.books().claim(bytes, self.shared.max_bytes, None) == Claim::Granted;
        if self.is_tight() {
            self.shared.tight.notify_one();
        }
        granted
    }

    /// What a record has in truth, after `claimed_bytes` were claimed for it.
    pub(super) fn settle_record(&self, claimed_bytes: u64, more_bytes: u64, less_bytes: u64) {
        let mut books = self.books();
        books.give_back(claimed_bytes, claimed_bytes);
        books.other_changed(more_bytes, less_bytes);
    }

    fn try_claim(&self, bytes: u64, headroom_bytes: u64) -> Claim {
        self.look_at_space();
        let shared = &self.shared;
        self.books().claim(bytes, shared.max_bytes - headroom_bytes, Some(shared.min_free_bytes))
    }

    /// How much of `bytes` the cap leaves no room for, even with all evicted that can be.
    #[must_use]
    pub fn lacking_bytes(&self, bytes: u64) -> u64 {
        self.books().lacking_bytes(bytes, self.shared.max_bytes - self.shared.headroom_bytes)
    }

    /// Waits until blobs leave the headroom free again, and then for it to be used.
    pub async fn tightened(&self) {
        self.shared.tight.notified().await;
    }

    /// Evicts until the headroom, and the floor, are free. Blocks.
    pub fn tidy(&self) {
        let _turn = self.turn_to_evict();
        self.ask_for_space();
        for _ in 0..FLOOR_ROUNDS {
            let by_bytes = match self.try_claim(0, self.shared.headroom_bytes) {
                Claim::OverCap { by_bytes } | Claim::BelowFloor { by_bytes } => by_bytes,
                // What would not help does not go.
                Claim::Granted | Claim::NeverFree => return,
                Claim::Never => u64::MAX,
            };
            if self.evict(by_bytes) < by_bytes {
                return self.complain();
            }
            self.ask_for_space();
        }
    }

    /// Evicts all that may go. Blocks.
    pub fn clear(&self) {
        let _turn = self.turn_to_evict();
        self.evict(u64::MAX);
    }

    /// Waits for the turn to evict; whoever has it hurries meanwhile.
    fn turn_to_evict(&self) -> MutexGuard<'_, ()> {
        self.shared.waiting_to_evict.fetch_add(1, Ordering::Relaxed);
        let turn = self.shared.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.waiting_to_evict.fetch_sub(1, Ordering::Relaxed);
        turn
    }

    fn is_tight(&self) -> bool {
        self.books().used_bytes() > self.shared.max_bytes - self.shared.headroom_bytes
    }

    /// Evicts at least `wanted_bytes`, if there is as much. Returns how many it were. Whoever calls has
    /// the turn to evict.
    #[expect(clippy::disallowed_methods, reason = "on a blocking thread, which rests for as long as its work took")]
    fn evict(&self, wanted_bytes: u64) -> u64 {
        let (mut freed_bytes, mut count) = (0, 0);
        while freed_bytes < wanted_bytes && !self.is_stopping() {
            let began = Instant::now();
            let taken = self.books().take_oldest(wanted_bytes - freed_bytes, BATCH);
            if taken.is_empty() {
                break;
            }
            count += taken.len();
            let mut left = taken.into_iter();
            let failed = left.by_ref().find(|blob| {
                let is_removed = self.remove_file(&blob.digest);
                if is_removed {
                    self.books().is_gone(blob);
                    freed_bytes += blob.disk_bytes;
                    self.count_evicted(blob.disk_bytes, blob.used_ms);
                }
                !is_removed
            });
            if let Some(failed) = failed {
                self.books().stay(&failed, left.as_slice(), self.now_ms());
                break;
            }
            if count > BURST && self.shared.waiting_to_evict.load(Ordering::Relaxed) == 0 {
                std::thread::sleep(began.elapsed() * REST);
            }
        }
        freed_bytes
    }

    fn remove_file(&self, digest: &Digest) -> bool {
        let path = self.shared.layout.blob_file(digest);
        match self.shared.disk.remove(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "a blob could not be evicted");
                false
            }
            Ok(()) | Err(_) => true,
        }
    }

    fn count_evicted(&self, disk_bytes: u64, used_ms: u64) {
        self.shared.evicted_blobs.fetch_add(1, Ordering::Relaxed);
        self.shared.evicted_bytes.fetch_add(disk_bytes, Ordering::Relaxed);
        self.shared.evicted_age_seconds.store(self.now_ms().saturating_sub(used_ms) / 1000, Ordering::Relaxed);
    }

    /// Before the first walk is over nobody knows how much is used, nor what is oldest.
    fn wait_for_walk(&self) {
        let books = self.books();
        let is_walking = |books: &mut Books| books.is_walking() && !self.is_stopping();
        let _ = self.shared.walked.wait_timeout_while(books, WALK_WAIT, is_walking);
    }

    /// Counts, and tells, that there is no room.
    fn refuse(&self) -> StorageError {
        self.shared.refused.fetch_add(1, Ordering::Relaxed);
        self.complain();
        StorageError::NoSpace { operation: "reserve", path: self.shared.layout.root().to_owned() }
    }

    /// Says so, once in a while, if what cannot be evicted leaves no room.
    fn complain(&self) {
        let (now_ms, shared) = (self.now_ms(), &self.shared);
        let Some(kept_bytes) = self.books().complaint(shared.max_bytes - shared.headroom_bytes, now_ms, COMPLAINT_MS) else { return };
        tracing::error!(
            kept_bytes,
            max_bytes = shared.max_bytes,
            "what is not evicted (manifests, records, pushed blobs, blobs that the bucket does not have yet) takes all of storage.max_size: no blob is \
             kept. Raise storage.max_size, or see whether the bucket takes uploads"
        );
    }

    /// Asks the file system for its free space, unless it did a moment ago.
    fn look_at_space(&self) {
        if self.books().is_space_old(self.now_ms(), SPACE_MS) {
            self.ask_for_space();
        }
    }

    fn ask_for_space(&self) {
        let promised_bytes = self.books().promised_bytes();
        // One that does not tell is not asked for every claim.
        let free_bytes = self.shared.disk.space(self.shared.layout.root()).map_or(u64::MAX, |space| space.free_bytes);
        self.books().space_is(free_bytes, promised_bytes, self.now_ms());
    }

    /// Writes to the files of blobs that they were used, so that the order survives a restart. Blocks.
    pub fn note_uses(&self) {
        let notes = self.books().take_notes();
        for (digest, used_ms) in notes {
            let path = self.shared.layout.blob_file(&digest);
            // It may be gone; and if it cannot be noted, its order is lost with the process only.
            let _ = self.shared.disk.set_modified(&path, UNIX_EPOCH + Duration::from_millis(used_ms));
        }
    }

    /// Walks and waits end early from now on.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.walked.notify_all();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Acquire)
    }

    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        self.shared.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn walk_went_on(&self) {
        self.shared.walked.notify_all();
    }

    /// What files of `bytes` in all take, and `more_blocks`.
    pub(super) fn in_blocks(&self, bytes: u64, more_blocks: u64) -> u64 {
        bytes.div_ceil(self.shared.block_bytes).saturating_add(more_blocks).saturating_mul(self.shared.block_bytes)
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    pub(super) fn is_all_there_is(&self) -> bool {
        self.shared.is_all_there_is
    }

    fn now_ms(&self) -> u64 {
        unix_milliseconds(self.shared.clock.now())
    }
}
