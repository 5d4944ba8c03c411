//! The fills under way: at most one for a digest, and a bounded number in all.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use moka::sync::Cache as Moka;

use super::bypass::Bypasses;
use super::source::Sources;
use super::suspects::{Rotten, Suspects};
use super::transfer::Transfer;
use super::upload::Uploads;
use super::{Fill, Follower};
use crate::cache::Origin;
use crate::cache::vouch::Standing;
use crate::oci::Digest;
use crate::storage::{BlobFiles, Bucket, OpenBlob};
use crate::tasks::Tasks;
use crate::telemetry::metrics::FillResult;

/// Limits of fills; the configuration's `limits` name and default them.
#[derive(Clone, Debug)]
pub struct FillLimits {
    /// Fills at a time.
    pub max_fills: usize,
    /// Of these, how many nobody follows.
    pub max_unfollowed: usize,
    /// Clients that are streamed blobs which are not kept.
    pub max_bypasses: usize,
    /// Longer blobs may come over several connections.
    pub parallel_above_bytes: u64,
    /// Failures in a row, without a byte between them, that end a fill.
    pub attempts: u32,
    /// Longest blob.
    pub max_blob_bytes: u64,
}

/// Runs once a blob's digest holds; it is told the blob's length. Before the blob is durable: a word
/// without its blob is a miss, a blob without its word would need upstream.
pub type Verified = Box<dyn FnOnce(u64) -> BoxFuture<'static, ()> + Send>;

/// What became of the wish to follow a fill.
pub enum Start {
    /// The blob has come in meanwhile.
    Here(OpenBlob),
    /// A fill has begun.
    Began(Follower),
    /// One was under way.
    Joined(Follower),
    /// The blob is here, or on its way, through an origin whose right this one does not share.
    NotYours,
}

struct Running {
    fill: Arc<Fill>,
    /// Through whom the blob comes.
    origin: Arc<Origin>,
    /// Order of beginning.
    number: u64,
}

/// The fills under way; cheap to clone.
#[derive(Clone)]
pub struct Fills {
    running: Arc<Mutex<HashMap<Digest, Running>>>,
    blobs: BlobFiles,
    /// Blobs that could not be kept a moment ago: the store is not tried again for each client.
    not_kept: Moka<Digest, ()>,
    /// The bucket, where there is one, and the way into it.
    bucket: Option<(Bucket, Uploads)>,
    /// Blobs of which others than upstream sent wrong bytes.
    rotten: Rotten,
    bypasses: Bypasses,
    limits: FillLimits,
    tasks: Tasks,
}

/// How long a blob that could not be kept is streamed past the store without another try.
const NOT_KEPT_FOR: Duration = Duration::from_secs(10);
/// So many such blobs are remembered.
const MAX_NOT_KEPT: u64 = 1_000;

impl Running {
    /// Whether `origin` may read what comes: its right is proven, or the answer of the very same
    /// upstream, to the same question or one that a manifest of it justifies, will prove it.
    fn admits(&self, origin: &Origin, standing: Standing) -> bool {
        let same_source = self.origin.source == origin.source;
        match standing {
            Standing::Vouched => true,
            Standing::Linked { .. } => same_source,
            Standing::Unknown => same_source && self.origin.repository == origin.repository,
        }
    }
}

impl Fills {
    /// No fills.
    #[must_use]
    pub fn new(blobs: BlobFiles, bucket: Option<(Bucket, Uploads)>, limits: FillLimits, tasks: Tasks) -> Self {
        let rotten = Rotten::new();
        let bypasses = Bypasses::new(&limits, rotten.clone());
        let not_kept = Moka::builder().max_capacity(MAX_NOT_KEPT).time_to_live(NOT_KEPT_FOR).build();
        Self { running: Arc::default(), blobs, not_kept, bucket, rotten, bypasses, limits, tasks }
    }

    /// Follows the fill of `digest`, beginning it unless it is under way. `verified` runs once the
    /// digest holds.
    ///
    /// When as many fills as allowed are under way and all are followed, the blob is streamed
    /// through without being kept.
    pub fn start(
        &self,
        origin: &Arc<Origin>,
        digest: Digest,
        demand: Range<u64>,
        expected_bytes: Option<u64>,
        standing: Standing,
        verified: Verified,
    ) -> Start {
        let running = self.lock();
        // One that is over without the blob is still here until its task has ended; it helps nobody.
        if let Some(found) = running.get(&digest).filter(|found| !found.fill.is_given_up()) {
            if !found.admits(origin, standing) {
                return Start::NotYours;
            }
            // Followed under the lock, so that it is not dropped for want of a follower.
            return Start::Joined(self.follow(Arc::clone(&found.fill), origin, demand));
        }
        // A fill leaves the map only after its blob is visible, so this look cannot miss it.
        // A store that cannot say is filled, and the clients served, for as long as upstream is there.
        if let Ok(Some(blob)) = self.blobs.open(&digest) {
            return if standing == Standing::Vouched { Start::Here(blob) } else { Start::NotYours };
        }
        let (suspects, bucket) = self.bucket_for(&digest, standing);
        let fill = Arc::new(Fill::new(digest, origin.key(), expected_bytes, bucket.clone(), suspects.others));
        let follower = self.follow(Arc::clone(&fill), origin, demand);
        if origin.unattended && (!self.has_room_unfollowed(&running, &digest) || origin.is_saving()) {
            fill.abandon();
            return Start::Began(follower);
        }
        if self.not_kept.contains_key(&digest) {
            fill.stream_past_the_store();
            return Start::Began(follower);
        }
        let max_fills = self.limits.max_fills;
        // The line first: nothing is dropped in vain for what it keeps out.
        if (bucket.is_none() && in_line_of(&running, origin).count() >= max_fills)
            || (counted(&running).count() >= max_fills && !drop_oldest_unfollowed(&running, |fill| !fill.is_in_line()))
        {
            drop(running);
            fill.refuse(max_fills);
            return Start::Began(follower);
        }
        let sources = Sources::new(Arc::clone(origin), digest, bucket, suspects);
        self.launch(running, fill, origin, sources, verified);
        Start::Began(follower)
    }

    /// Begins a fill that no client has asked for, where there is room for one. `None` if there is
    /// none, or the blob is here, on its way, or could not be kept.
    pub(in crate::cache) fn prefetch(
        &self,
        origin: &Arc<Origin>,
        digest: Digest,
        expected_bytes: u64,
        standing: Standing,
        verified: Verified,
    ) -> Option<Arc<Fill>> {
        let running = self.lock();
        let is_here = || !matches!(self.blobs.open(&digest), Ok(None));
        if !self.has_room_unfollowed(&running, &digest) || running.contains_key(&digest) || is_here() {
            return None;
        }
        let (suspects, bucket) = self.bucket_for(&digest, standing);
        let fill = Arc::new(Fill::new(digest, origin.key(), Some(expected_bytes), bucket.clone(), suspects.others));
        let sources = Sources::new(Arc::clone(origin), digest, bucket, suspects);
        self.launch(running, Arc::clone(&fill), origin, sources, verified);
        Some(fill)
    }

    /// Whether a blob may begin to come that no client has asked for.
    fn has_room_unfollowed(&self, running: &HashMap<Digest, Running>, digest: &Digest) -> bool {
        let unfollowed = under_way(running).filter(|running| running.fill.is_unfollowed()).count();
        let has_room = under_way(running).filter(|running| !running.fill.is_in_line()).count() < self.limits.max_fills
            && unfollowed < self.limits.max_unfollowed;
        has_room && !self.not_kept.contains_key(digest)
    }

    /// Who is not asked for a blob, and the bucket if it is. The bucket holds blobs of every source: what it
    /// has is taken only for those who may have it.
    fn bucket_for(&self, digest: &Digest, standing: Standing) -> (Suspects, Option<Bucket>) {
        let suspects = self.rotten.of(digest);
        let bucket = self.bucket.as_ref().filter(|_| standing == Standing::Vouched && !suspects.others);
        (suspects, bucket.map(|(bucket, _)| bucket.clone()))
    }

    fn launch(
        &self,
        mut running: MutexGuard<'_, HashMap<Digest, Running>>,
        fill: Arc<Fill>,
        origin: &Arc<Origin>,
        sources: Sources,
        verified: Verified,
    ) {
        let number = running.values().map(|running| running.number).max().unwrap_or_default() + 1;
        running.insert(*fill.digest(), Running { fill: Arc::clone(&fill), origin: Arc::clone(origin), number });
        drop(running);
        let arrival = Arrival { fills: self.clone(), fill: Arc::clone(&fill) };
        self.spawn(Transfer::new(fill, Arc::clone(origin), self.limits.clone(), sources, self.clone(), verified), arrival);
    }

    /// Whether a fill of `digest` brings it, or has just brought it.
    pub(in crate::cache) fn is_under_way(&self, digest: &Digest) -> bool {
        self.lock().get(digest).is_some_and(|found| !found.fill.is_given_up())
    }

    /// Whether the bucket, or a replica, sent other bytes for it a while ago.
    pub(in crate::cache) fn is_rotten(&self, digest: &Digest) -> bool {
        self.rotten.of(digest).others
    }

    fn spawn(&self, transfer: Transfer, arrival: Arrival) {
        let (blobs, not_kept, rotten) = (self.blobs.clone(), self.not_kept.clone(), self.rotten.clone());
        self.tasks.spawn("fill", async move {
            let digest = *arrival.fill.digest();
            let (result, suspects) = transfer.run(blobs).await;
            match result {
                FillResult::NotKept => not_kept.insert(digest, ()),
                FillResult::Rotten => rotten.add(digest, suspects),
                FillResult::Committed | FillResult::Failed | FillResult::DigestMismatch | FillResult::Dropped => {}
            }
            drop(arrival);
        });
    }

    fn follow(&self, fill: Arc<Fill>, origin: &Arc<Origin>, demand: Range<u64>) -> Follower {
        Follower::new(fill, self.clone(), Arc::clone(origin), self.bypasses.clone(), demand)
    }

    /// A fill has lost its last follower. It goes on, but not too many do.
    pub(super) fn unfollowed(&self) {
        let running = self.lock();
        if under_way(&running).filter(|running| running.fill.is_unfollowed()).count() > self.limits.max_unfollowed {
            drop_oldest_unfollowed(&running, |_| true);
        }
    }

    /// What sends blobs to the bucket, if there is one.
    pub(super) fn uploads(&self) -> Option<Uploads> {
        self.bucket.as_ref().map(|(_, uploads)| uploads.clone())
    }

    /// Ends the oldest fills that have room on the disk, and wait for a connection while nobody waits for them, if
    /// another one can be kept then. Returns those that end.
    pub(super) fn drop_for(&self, wanted: &Fill, wanted_bytes: u64) -> Vec<Arc<Fill>> {
        let lacking_bytes = self.blobs.room().lacking_bytes(wanted_bytes);
        let running = self.lock();
        let may_go = |fill: &Fill| fill.digest() != wanted.digest() && fill.has_given_way();
        let (mut dropped, mut freed_bytes) = (Vec::new(), 0);
        for found in unfollowed(&running, may_go) {
            if freed_bytes < lacking_bytes {
                freed_bytes += found.fill.progress.borrow().total_bytes.unwrap_or(0);
                dropped.push(Arc::clone(&found.fill));
            }
        }
        if freed_bytes < lacking_bytes {
            return Vec::new();
        }
        dropped.iter().for_each(|fill| fill.drop_transfer());
        dropped
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The fills that fetch: neither given up, nor only being made durable.
fn under_way(running: &HashMap<Digest, Running>) -> impl Iterator<Item = &Running> {
    running.values().filter(|running| running.fill.is_fetching())
}

/// Those that count, which is all that has not failed. One that waits for its first connection takes none yet: else
/// the blobs of one rule, whose connections are all in use, would keep out those of all others.
fn counted(running: &HashMap<Digest, Running>) -> impl Iterator<Item = &Running> {
    running.values().filter(|running| !running.fill.is_given_up() && !running.fill.is_in_line())
}

/// Those that clients wait for, and that wait for their first connection through the same rule. Each has a file, if
/// an empty one, and so there are about as many of them as may be under way, and no more.
fn in_line_of<'a>(running: &'a HashMap<Digest, Running>, origin: &'a Origin) -> impl Iterator<Item = &'a Running> {
    running
        .values()
        .filter(|running| running.fill.is_in_line() && !running.fill.is_unfollowed() && Arc::ptr_eq(&running.origin.line, &origin.line))
}

/// Ends such a fill that nobody follows. True if there was one.
fn drop_oldest_unfollowed(running: &HashMap<Digest, Running>, may_go: impl Fn(&Fill) -> bool) -> bool {
    let oldest = unfollowed(running, may_go).into_iter().next();
    oldest.inspect(|oldest| oldest.fill.drop_transfer()).is_some()
}

/// Such fills that nobody follows, in the order in which they may go: first those that nobody ever followed, then those
/// that have been under way longest.
fn unfollowed(running: &HashMap<Digest, Running>, may_go: impl Fn(&Fill) -> bool) -> Vec<&Running> {
    let mut found: Vec<_> = under_way(running).filter(|running| running.fill.is_unfollowed() && may_go(&running.fill)).collect();
    found.sort_unstable_by_key(|running| (running.fill.was_followed(), running.number));
    found
}

/// Takes a fill out when it is over, however it ended: cancelled by shutdown, or by a panic, too.
struct Arrival {
    fills: Fills,
    fill: Arc<Fill>,
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.fill.abandon();
        let mut running = self.fills.lock();
        // One that was given up may have been replaced.
        if running.get(self.fill.digest()).is_some_and(|running| Arc::ptr_eq(&running.fill, &self.fill)) {
            running.remove(self.fill.digest());
        }
    }
}
