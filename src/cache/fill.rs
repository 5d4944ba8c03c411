//! A blob on its way in: the heart of the cache.
//!
//! [`transfer`] runs in its own task, in nobody's request; it fetches, writes, hashes and commits.
//! Every client, the first one too, is a [`Follower`]: it reads what is present, at its own pace,
//! from any offset. What the two share is [`Fill`]: a watched [`Progress`], and the demands.

mod bypass;
mod connection;
mod coverage;
mod fills;
mod follower;
mod lend;
mod line;
mod plan;
mod ramp;
mod source;
mod suspects;
mod transfer;
mod upload;
mod writer;

pub use bypass::Bypass;
pub use coverage::Coverage;
pub use fills::{FillLimits, Fills, Start, Verified};
pub use follower::Follower;
pub use line::{Line, LineLimits};
pub use plan::{Assignment, ConnectionId, Finished, Plan};
pub use upload::{UploadLimits, Uploads};

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::cache::origin::OriginKey;
use crate::oci::{Digest, DigestHasher};
use crate::storage::{Bucket, StorageError};
use crate::telemetry::metrics::FillSource;
use crate::upstream::UpstreamError;

/// How many bytes at the end of a blob followers get only once the digest holds, so that nobody
/// ever receives a complete blob that is wrong.
pub const HELD_BACK_BYTES: u64 = 64 * 1024;

/// Why a fill, or a bypass, could not deliver.
#[derive(Clone, Debug, Error)]
pub enum FillError {
    /// Upstream failed, and kept failing.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The bytes are not those that were asked for.
    #[error("upstream sent content with digest {actual} for {expected}")]
    DigestMismatch {
        /// What was asked for.
        expected: Box<Digest>,
        /// What came.
        actual: Box<Digest>,
    },
    /// The blob is longer than what its manifest says, or than is allowed.
    #[error("upstream sends more than {limit_bytes} bytes for {digest}")]
    TooLong {
        /// The blob.
        digest: Box<Digest>,
        /// The limit that it went past.
        limit_bytes: u64,
    },
    /// A client's read of what was staged failed.
    #[error("the staged blob cannot be read: {0}")]
    Read(String),
    /// The fill was dropped: shutdown, or nobody followed it and room was needed.
    #[error("the transfer was dropped; ask again")]
    Dropped,
    /// Every connection that the rule may have upstream was in use, all the time.
    #[error("no connection to upstream became free within {waited:?}: as many as the rule's max_connections are in use; ask again later")]
    NoConnection {
        /// `limits.connection_wait`.
        waited: Duration,
    },
    /// Too many clients are being streamed blobs that cannot be kept.
    #[error("too many blobs that cannot be kept are being streamed; ask again later")]
    TooManyBypasses,
}

/// How far a fill is.
#[derive(Clone)]
pub(crate) enum Phase {
    /// Upstream has not answered yet.
    Opening,
    /// Bytes are coming.
    Filling,
    /// The digest holds: everything may be read.
    Verified,
    /// The store cannot hold it. Followers read up to `from` and go on upstream by themselves.
    Unkept {
        /// Bytes below this are present and hashed.
        from: u64,
        /// The state of the hash at `from`.
        hasher: DigestHasher,
    },
    /// It is over.
    Failed(FillError),
}

/// What followers see.
pub(crate) struct Progress {
    pub(crate) phase: Phase,
    /// Length, once known.
    pub(crate) total_bytes: Option<u64>,
    /// Bytes that may be read from `file`, but for what is held back.
    pub(crate) coverage: Coverage,
    pub(crate) file: Option<Arc<File>>,
    /// What the first byte came from.
    pub(crate) source: Option<FillSource>,
}

impl Progress {
    /// How far a follower at `position` may read; `position` itself if it has to wait.
    pub(crate) fn readable_to(&self, position: u64) -> u64 {
        let covered = self.coverage.covered_to(position);
        match &self.phase {
            Phase::Verified => covered,
            // The rest comes through a bypass, which holds back for itself.
            Phase::Unkept { from, .. } => covered.min(*from).max(position),
            Phase::Opening | Phase::Filling | Phase::Failed(_) => {
                // While the length is unknown, any byte may turn out to be among the last.
                let end = self.total_bytes.unwrap_or_else(|| self.coverage.end());
                covered.min(end.saturating_sub(HELD_BACK_BYTES)).max(position)
            }
        }
    }
}

/// What a transfer and its followers share.
pub struct Fill {
    digest: Digest,
    /// Through whom it comes; what upstream refuses there it may have elsewhere.
    origin: OriginKey,
    /// Length by the manifest that refers to it, if one is cached.
    expected_bytes: Option<u64>,
    /// The bucket, where the blob may be taken from it.
    bucket: Option<Bucket>,
    /// What the bucket has of it may be rotten.
    replaces: bool,
    progress: watch::Sender<Progress>,
    /// Intervals asked for, with how many ask for each.
    demands: Mutex<BTreeMap<(u64, u64), usize>>,
    /// A demand has come.
    demanded: Notify,
    followers: AtomicUsize,
    /// A client has followed it at some time.
    was_followed: AtomicBool,
    /// A follower has come.
    followed: Notify,
    /// The last one has gone.
    unfollowed: Notify,
    /// It waits for its first connection to upstream, or for one after it gave way.
    in_line: AtomicBool,
    /// Another replica follows it, so it may wait for none.
    feeds_replica: AtomicBool,
    dropped: CancellationToken,
}

impl Fill {
    fn new(digest: Digest, origin: OriginKey, expected_bytes: Option<u64>, bucket: Option<Bucket>, replaces: bool) -> Self {
        let progress = Progress { phase: Phase::Opening, total_bytes: None, coverage: Coverage::default(), file: None, source: None };
        Self {
            digest,
            origin,
            expected_bytes,
            bucket,
            replaces,
            progress: watch::Sender::new(progress),
            demands: Mutex::default(),
            demanded: Notify::new(),
            followers: AtomicUsize::new(0),
            was_followed: AtomicBool::new(false),
            followed: Notify::new(),
            unfollowed: Notify::new(),
            in_line: AtomicBool::new(false),
            feeds_replica: AtomicBool::new(false),
            dropped: CancellationToken::new(),
        }
    }

    /// The blob's digest.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Whether no client reads it.
    #[must_use]
    pub fn is_unfollowed(&self) -> bool {
        self.followers.load(Ordering::Acquire) == 0
    }

    /// Whether a client has asked for it at all.
    fn was_followed(&self) -> bool {
        self.was_followed.load(Ordering::Acquire)
    }

    /// A client follows it from now on.
    fn follow(&self) {
        self.followers.fetch_add(1, Ordering::AcqRel);
        self.was_followed.store(true, Ordering::Release);
        self.followed.notify_waiters();
    }

    /// A client no longer follows it. True if it was the last one.
    fn unfollow(&self) -> bool {
        let was_last = self.followers.fetch_sub(1, Ordering::AcqRel) == 1;
        if was_last {
            self.unfollowed.notify_waiters();
        }
        was_last
    }

    /// Waits until nothing more is fetched, however that came.
    pub(crate) async fn ended(&self) {
        let mut progress = self.progress.subscribe();
        // It cannot be closed while this is borrowed.
        let _ = progress.wait_for(|progress| !matches!(progress.phase, Phase::Opening | Phase::Filling)).await;
    }

    /// Another replica follows it from now on.
    fn feed_replica(&self) {
        if !self.feeds_replica.swap(true, Ordering::AcqRel) {
            self.demanded.notify_one();
        }
    }

    /// Whether it waits for a connection to upstream and has nothing yet, or clients that wait for it. One that nobody
    /// waits for keeps its room on the disk all the while, so it is one of those that may be dropped.
    fn is_in_line(&self) -> bool {
        self.in_line.load(Ordering::Acquire) && !self.has_given_way()
    }

    /// Whether it has bytes, and waits for a connection while nobody waits for it.
    fn has_given_way(&self) -> bool {
        self.in_line.load(Ordering::Acquire) && self.has_begun() && self.is_unfollowed()
    }

    /// Whether bytes of the blob are here.
    fn has_begun(&self) -> bool {
        self.progress.borrow().coverage.end() > 0
    }

    /// Whether bytes are coming, or are to come.
    fn is_fetching(&self) -> bool {
        !self.dropped.is_cancelled() && matches!(self.progress.borrow().phase, Phase::Opening | Phase::Filling)
    }

    /// Whether it ended, or is about to, without the blob: who comes now needs another one.
    fn is_given_up(&self) -> bool {
        match self.progress.borrow().phase {
            Phase::Opening | Phase::Filling => self.dropped.is_cancelled(),
            Phase::Verified | Phase::Unkept { .. } => false,
            Phase::Failed(_) => true,
        }
    }

    /// Ends the transfer, if it is still under way.
    pub(crate) fn drop_transfer(&self) {
        self.dropped.cancel();
    }

    /// There are too many fills: followers are streamed the blob past the store.
    fn refuse(&self, max_fills: usize) {
        tracing::warn!(digest = %self.digest, max_fills, "blob was not kept: limits.max_fills are under way and followed, or wait for a connection of its rule");
        self.stream_past_the_store();
    }

    /// Followers are streamed the blob past the store, from its first byte.
    fn stream_past_the_store(&self) {
        self.set_phase(Phase::Unkept { from: 0, hasher: DigestHasher::new(self.digest.algorithm()) });
    }

    /// Nothing will come any more: tells the followers, unless they know.
    fn abandon(&self) {
        self.progress.send_if_modified(|progress| {
            let is_unfinished = matches!(progress.phase, Phase::Opening | Phase::Filling);
            if is_unfinished {
                progress.phase = Phase::Failed(FillError::Dropped);
            }
            is_unfinished
        });
    }

    /// A source has answered, the first one.
    fn answered_by(&self, source: FillSource) {
        self.progress.send_modify(|progress| progress.source = Some(source));
    }

    fn set_phase(&self, phase: Phase) {
        self.progress.send_modify(|progress| progress.phase = phase);
    }

    fn add_demand(&self, demand: &Range<u64>) {
        let mut demands = self.demands.lock().unwrap_or_else(PoisonError::into_inner);
        let count = demands.entry((demand.start, demand.end)).or_insert(0);
        *count += 1;
        if *count == 1 {
            self.demanded.notify_one();
        }
    }

    fn remove_demand(&self, demand: &Range<u64>) {
        let mut demands = self.demands.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (demand.start, demand.end);
        if let Some(count) = demands.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                demands.remove(&key);
            }
        }
    }

    fn demands(&self) -> Vec<Range<u64>> {
        let demands = self.demands.lock().unwrap_or_else(PoisonError::into_inner);
        demands.keys().map(|(start, end)| *start..*end).collect()
    }
}

impl std::fmt::Debug for Fill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fill").field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// Why a blob in transfer was not kept, as it is logged.
fn not_kept_reason(error: &StorageError) -> &'static str {
    match error {
        StorageError::NoSpace { .. } => "the store is full",
        StorageError::Unavailable { .. } => "the bucket does not answer",
        StorageError::Locked { .. }
        | StorageError::File { .. }
        | StorageError::Object { .. }
        | StorageError::Bucket { .. }
        | StorageError::Corrupt { .. } => "the store failed",
    }
}
