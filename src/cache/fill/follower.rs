//! A client of a fill.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::watch;

use super::bypass::{Bypass, Bypasses};
use super::{Fill, FillError, Fills, Phase, Progress};
use crate::cache::Origin;
use crate::oci::DigestHasher;
use crate::storage::PieceReader;
use crate::telemetry::metrics::FillSource;

/// Reads an interval of a blob on its way in, at its own pace.
///
/// Between two pieces it holds one of them and an offset: slow clients cost little and hold nobody
/// back. When the blob turns out not to fit the store, it goes on upstream by itself.
pub struct Follower {
    fill: Arc<Fill>,
    fills: Fills,
    progress: watch::Receiver<Progress>,
    origin: Arc<Origin>,
    bypasses: Bypasses,
    position: u64,
    pieces: PieceReader,
    demand: Range<u64>,
    bypass: Option<Box<Bypass>>,
    /// Told to whoever counts the request, because it may happen in mid-body.
    bypassing: Arc<AtomicBool>,
}

/// What a follower does next.
enum Step {
    Read { file: Arc<File>, to: u64 },
    Wait,
    Done,
    Leave { from: u64, hasher: DigestHasher, total_bytes: Option<u64> },
    Fail(FillError),
}

impl Follower {
    /// Follows `fill` for `demand`, half open; an end of `u64::MAX` is the blob's end. A replica of which no client
    /// waits gets what comes, and is no reason for it to come.
    pub(super) fn new(fill: Arc<Fill>, fills: Fills, origin: Arc<Origin>, bypasses: Bypasses, demand: Range<u64>) -> Self {
        if !origin.unattended {
            fill.follow();
            fill.add_demand(&demand);
            origin.metrics.all().followers_inflight.inc();
        }
        if origin.forwarded {
            fill.feed_replica();
        }
        let progress = fill.progress.subscribe();
        Self {
            fill,
            fills,
            progress,
            origin,
            bypasses,
            position: demand.start,
            pieces: PieceReader::default(),
            demand,
            bypass: None,
            bypassing: Arc::default(),
        }
    }

    /// What the first byte came from, once it is there.
    pub(in crate::cache) fn source(&self) -> Option<FillSource> {
        self.progress.borrow().source
    }

    /// Waits until the first byte can be sent, or it is clear that none will be. Returns the length
    /// of the blob; `None` if upstream did not tell it.
    ///
    /// Small blobs are held back as a whole, so a wrong one is still answered with an error.
    ///
    /// # Errors
    /// As the fill failed.
    pub async fn opened(&mut self) -> Result<Option<u64>, FillError> {
        loop {
            match self.step() {
                Step::Read { .. } | Step::Done => return Ok(self.progress.borrow().total_bytes),
                Step::Leave { from, hasher, total_bytes } => {
                    let total_bytes = self.leave(from, hasher, total_bytes).await?;
                    return Ok(total_bytes);
                }
                Step::Fail(error) => return Err(error),
                Step::Wait => self.changed().await?,
            }
        }
    }

    /// Whether this client is streamed a blob that is not kept; may become true in mid-body.
    #[must_use]
    pub fn bypassing(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.bypassing)
    }

    /// The next piece of at most `length` bytes. `None` at the end of the demand.
    ///
    /// # Errors
    /// As the fill failed; the client's body must then be broken off.
    pub async fn next(&mut self, length: usize) -> Option<Result<Bytes, FillError>> {
        loop {
            if let Some(bypass) = &mut self.bypass {
                return bypass.next().await;
            }
            match self.step() {
                Step::Read { file, to } => return Some(self.read(file, to, length).await),
                Step::Done => return None,
                Step::Fail(error) => return Some(Err(error)),
                Step::Leave { from, hasher, total_bytes } => {
                    if let Err(error) = self.leave(from, hasher, total_bytes).await {
                        return Some(Err(error));
                    }
                }
                Step::Wait => {
                    if let Err(error) = self.changed().await {
                        return Some(Err(error));
                    }
                }
            }
        }
    }

    fn step(&mut self) -> Step {
        let progress = self.progress.borrow_and_update();
        let end = progress.total_bytes.unwrap_or(u64::MAX).min(self.demand.end);
        // Nothing is missing of an empty blob, but its digest has to hold too.
        if self.position >= end && (end > 0 || matches!(progress.phase, Phase::Verified)) {
            return Step::Done;
        }
        let to = progress.readable_to(self.position).min(end);
        match (&progress.phase, &progress.file) {
            (Phase::Failed(error), _)
                if self.position == self.demand.start && self.fill.origin != self.origin.key() && !matches!(error, FillError::Dropped) =>
            {
                // What failed for another repository, or another upstream, may hold for this one.
                Step::Leave { from: 0, hasher: DigestHasher::new(self.fill.digest.algorithm()), total_bytes: None }
            }
            (Phase::Failed(error), _) => Step::Fail(error.clone()),
            (Phase::Opening, _) => Step::Wait,
            (_, Some(file)) if to > self.position => Step::Read { file: Arc::clone(file), to },
            (Phase::Unkept { from, hasher }, _) => Step::Leave { from: *from, hasher: hasher.clone(), total_bytes: progress.total_bytes },
            (Phase::Filling | Phase::Verified, _) => Step::Wait,
        }
    }

    async fn read(&mut self, file: Arc<File>, to: u64, length: usize) -> Result<Bytes, FillError> {
        let length = usize::try_from(to - self.position).unwrap_or(usize::MAX).min(length);
        let bytes = self.pieces.read(&file, self.position, length).await.map_err(|error| FillError::Read(error.to_string()))?;
        self.position += bytes.len() as u64;
        Ok(bytes)
    }

    async fn changed(&mut self) -> Result<(), FillError> {
        self.progress.changed().await.map_err(|_| FillError::Dropped)
    }

    /// Goes on upstream. A follower that stands where the hash does takes it over, and verifies what
    /// comes if it wants all of that; one of another interval gets its bytes without, as no part of
    /// a blob can be verified by itself.
    async fn leave(&mut self, from: u64, hasher: DigestHasher, total_bytes: Option<u64>) -> Result<Option<u64>, FillError> {
        if self.origin.unattended {
            return Err(FillError::Dropped);
        }
        let hasher = (self.position == from).then_some(hasher);
        let demand = self.position..self.demand.end;
        let total_bytes = total_bytes.or(self.fill.expected_bytes);
        let bucket = self.fill.bucket.clone();
        let bypass = self.bypasses.open(&self.origin, self.fill.digest, demand, hasher, total_bytes, bucket).await?;
        let total_bytes = bypass.total_bytes();
        self.bypass = Some(Box::new(bypass));
        self.bypassing.store(true, Ordering::Release);
        Ok(total_bytes)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if self.origin.unattended {
            return;
        }
        self.origin.metrics.all().followers_inflight.dec();
        self.fill.remove_demand(&self.demand);
        if self.fill.unfollow() {
            self.fills.unfollowed();
        }
    }
}
