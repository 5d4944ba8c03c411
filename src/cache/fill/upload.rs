//! The way of blobs into the bucket.
//!
//! A blob that upstream sends is uploaded while it fills, in parts read from the staged file, and
//! becomes visible only once its digest holds. One that the bucket did not take stays on disk with a
//! note, and is tried again: after a while, and after a restart.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::task::{JoinError, JoinSet};

use super::{Fill, Phase, Progress};
use crate::oci::Digest;
use crate::storage::{BlobFiles, Bucket, BucketUpload, PendingUploads, StorageError};
use crate::tasks::Tasks;
use crate::telemetry::metrics::{BucketMetrics, Metrics};

/// Most parts that S3 takes for one object.
const MAX_PARTS: u64 = 10_000;
/// First pause before blobs that the bucket did not take are tried again; it doubles.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest such pause.
const MAX_RETRY: Duration = Duration::from_secs(60);

/// Limits of uploads; the configuration's `limits` name and default them.
#[derive(Clone, Debug)]
pub struct UploadLimits {
    /// Smallest part.
    pub part_bytes: u64,
    /// Parts in memory.
    pub max_parts: usize,
    /// Longest blob, for one whose length is not known.
    pub max_blob_bytes: u64,
}

/// Why a blob did not get into the bucket.
#[derive(Debug, Error)]
enum UploadError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the staged blob cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// The task of a part ended without a result.
    #[error("the task that sends a part is gone: {0}")]
    Part(#[from] JoinError),
    /// The fill ended without the blob.
    #[error("the transfer failed")]
    GivenUp,
}

/// The uploads of one process; cheap to clone.
#[derive(Clone)]
pub struct Uploads {
    shared: Arc<Shared>,
}

struct Shared {
    bucket: Bucket,
    blobs: BlobFiles,
    pending: PendingUploads,
    /// Whether blobs are kept on disk, so that they can be tried again.
    keeps_on_disk: bool,
    limits: UploadLimits,
    parts: Arc<Semaphore>,
    under_way: Mutex<HashSet<Digest>>,
    retry: Notify,
    tasks: Tasks,
    metrics: BucketMetrics,
}

/// What is uploaded.
enum Supply {
    /// A blob that fills.
    Filling(watch::Receiver<Progress>),
    /// A committed one.
    Whole { file: Arc<File>, length_bytes: u64 },
}

/// How much of it is there.
struct Ready {
    file: Arc<File>,
    /// Bytes below this are there.
    to: u64,
    /// Nothing comes after them, and the digest holds.
    is_all: bool,
}

impl Supply {
    /// Waits until the bytes below `target` are there, or all are, and verified.
    async fn ready(&mut self, target: u64) -> Result<Ready, UploadError> {
        let progress = match self {
            Self::Whole { file, length_bytes } => return Ok(Ready { file: Arc::clone(file), to: *length_bytes, is_all: true }),
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

    fn total_bytes(&self) -> Option<u64> {
        match self {
            Self::Whole { length_bytes, .. } => Some(*length_bytes),
            Self::Filling(progress) => progress.borrow().total_bytes,
        }
    }
}

impl Uploads {
    /// Uploads to `bucket`. With `keeps_on_disk`, what the bucket does not take is tried again from `blobs`.
    #[must_use]
    pub fn new(
        bucket: Bucket,
        blobs: BlobFiles,
        pending: PendingUploads,
        keeps_on_disk: bool,
        limits: UploadLimits,
        tasks: Tasks,
        metrics: &Metrics,
    ) -> Self {
        let parts = Arc::new(Semaphore::new(limits.max_parts.max(1)));
        let (under_way, retry, metrics) = (Mutex::default(), Notify::new(), metrics.bucket.clone());
        let shared = Shared { bucket, blobs, pending, keeps_on_disk, limits, parts, under_way, retry, tasks, metrics };
        Self { shared: Arc::new(shared) }
    }

    /// Begins the upload of a blob that upstream sends. Tells whether the bucket has taken it.
    pub(super) fn begin(&self, fill: &Fill) -> oneshot::Receiver<bool> {
        let (uploads, digest) = (self.clone(), *fill.digest());
        let supply = Supply::Filling(fill.progress.subscribe());
        let (ended, end) = oneshot::channel();
        let is_first = self.lock().insert(digest);
        self.shared.tasks.spawn_to_end("upload", async move {
            let taken = is_first && {
                uploads.note(digest).await;
                uploads.run(digest, supply).await
            };
            if is_first {
                uploads.lock().remove(&digest);
                // After that: what is under way is not tried again.
                uploads.shared.retry.notify_one();
            }
            let _ = ended.send(taken);
        });
        end
    }

    /// Whether committed blobs stay on disk.
    pub(super) fn keeps_on_disk(&self) -> bool {
        self.shared.keeps_on_disk
    }

    async fn run(&self, digest: Digest, supply: Supply) -> bool {
        self.shared.metrics.uploads_inflight.inc();
        let result = self.upload(digest, supply).await;
        self.shared.metrics.uploads_inflight.dec();
        match result {
            Ok(()) => {
                self.forget(digest).await;
                true
            }
            Err(UploadError::GivenUp) => {
                self.forget(digest).await;
                false
            }
            Err(error @ (UploadError::Storage(_) | UploadError::Read(_) | UploadError::Part(_))) => {
                let then = if self.shared.keeps_on_disk { "it is tried again" } else { "it is not kept" };
                tracing::warn!(%digest, %error, "the bucket did not take a blob; {then}");
                false
            }
        }
    }

    /// Sends a blob, as far as it is there, and makes it visible once it is complete.
    async fn upload(&self, digest: Digest, mut supply: Supply) -> Result<(), UploadError> {
        let part_bytes = self.part_bytes(supply.ready(1).await.map(|_| supply.total_bytes())?);
        let first = supply.ready(part_bytes).await?;
        if first.is_all && first.to <= part_bytes {
            let _permit = Arc::clone(&self.shared.parts).acquire_owned().await;
            let bytes = read(first.file, 0, first.to).await?;
            return Ok(self.shared.bucket.put(&digest, bytes).await?);
        }
        let mut upload = self.shared.bucket.begin_upload(&digest).await?;
        match self.send_parts(&mut upload, supply, part_bytes).await {
            Ok(()) => Ok(upload.complete().await?),
            Err(error) => {
                upload.abort().await;
                Err(error)
            }
        }
    }

    async fn send_parts(&self, upload: &mut BucketUpload, mut supply: Supply, part_bytes: u64) -> Result<(), UploadError> {
        let mut parts = JoinSet::new();
        let mut offset = 0;
        loop {
            let ready = supply.ready(offset + part_bytes).await?;
            let length = part_bytes.min(ready.to - offset);
            let permit = Arc::clone(&self.shared.parts).acquire_owned().await;
            let part = upload.put_part(read(ready.file, offset, length).await?);
            parts.spawn(async move {
                let sent = part.await;
                drop(permit);
                sent
            });
            while let Some(sent) = parts.try_join_next() {
                sent??;
            }
            offset += length;
            if ready.is_all && offset >= ready.to {
                break;
            }
        }
        while let Some(sent) = parts.join_next().await {
            sent??;
        }
        Ok(())
    }

    fn part_bytes(&self, total_bytes: Option<u64>) -> u64 {
        let longest = total_bytes.unwrap_or(self.shared.limits.max_blob_bytes);
        self.shared.limits.part_bytes.max(longest.div_ceil(MAX_PARTS))
    }

    /// Tries again, for as long as it runs, what the bucket did not take.
    pub async fn retry_pending(self) {
        let mut pause = FIRST_RETRY;
        loop {
            pause = if self.retry_all().await { FIRST_RETRY } else { (pause * 2).min(MAX_RETRY) };
            let pending = self.pending().await;
            let is_idle = pending.iter().all(|digest| self.lock().contains(digest));
            if is_idle {
                self.shared.retry.notified().await;
            }
            let _ = tokio::time::timeout(pause, self.shared.bucket.answers_again()).await;
        }
    }

    /// True if nothing failed.
    async fn retry_all(&self) -> bool {
        for digest in self.pending().await {
            if !self.lock().insert(digest) {
                continue;
            }
            let taken = self.retry_one(digest).await;
            self.lock().remove(&digest);
            if !taken {
                return false;
            }
        }
        true
    }

    async fn retry_one(&self, digest: Digest) -> bool {
        let opened = self.shared.blobs.open(&digest);
        let Ok(Some(blob)) = opened else {
            // Still on its way in, or gone before it could be sent: then it comes from upstream again.
            let pending = self.shared.pending.clone();
            let is_recent = tokio::task::spawn_blocking(move || pending.is_recent(&digest)).await.unwrap_or(false);
            if !is_recent {
                self.forget(digest).await;
            }
            return true;
        };
        match self.shared.bucket.stat(&digest).await {
            Ok(Some(length_bytes)) if length_bytes == blob.length_bytes => {
                self.forget(digest).await;
                true
            }
            Ok(_) => self.run(digest, Supply::Whole { file: blob.file, length_bytes: blob.length_bytes }).await,
            Err(_) => false,
        }
    }

    async fn pending(&self) -> Vec<Digest> {
        let pending = self.shared.pending.clone();
        tokio::task::spawn_blocking(move || pending.list()).await.unwrap_or_default()
    }

    /// Notes that a blob is on its way: a crash finds it on disk, or forgets it.
    async fn note(&self, digest: Digest) {
        if !self.shared.keeps_on_disk {
            return;
        }
        let pending = self.shared.pending.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || pending.add(&digest)).await {
            tracing::warn!(%digest, %error, "it cannot be noted that a blob is still to be sent to the bucket");
        }
    }

    async fn forget(&self, digest: Digest) {
        let pending = self.shared.pending.clone();
        let _ = tokio::task::spawn_blocking(move || pending.remove(&digest)).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<Digest>> {
        self.shared.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(file: Arc<File>, offset: u64, length: u64) -> Result<Bytes, UploadError> {
    let length = usize::try_from(length).map_err(std::io::Error::other)?;
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).map(|()| Bytes::from(bytes))
    });
    Ok(read.await.map_err(std::io::Error::other)??)
}
