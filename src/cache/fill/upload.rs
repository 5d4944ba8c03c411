//! The way of blobs into the bucket.
//!
//! A blob that upstream sends is uploaded while it fills, in parts read from the staged file, and
//! becomes visible only once its digest holds. So many are under way at one time and no more, or a bucket that is slower
//! than upstream would end all of them late, and lose the parts of all at once. One that the bucket did not take, or that
//! came while all places were taken, stays on disk with a note, and is tried again: after a while, and after a restart.

mod parts;
mod retry;
mod supply;
mod turns;

use std::fs::File;
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, oneshot};
use tokio::task::{JoinError, JoinSet};

use self::parts::{PartMemory, UploadMemory};
use self::supply::Supply;
use self::turns::Turns;
use super::Fill;
use crate::oci::Digest;
use crate::storage::{BlobFiles, Bucket, BucketUpload, PendingUploads, StorageError};
use crate::tasks::Tasks;
use crate::telemetry::metrics::{BucketMetrics, Metrics};

/// Most parts that S3 takes for one object.
const MAX_PARTS: u64 = 10_000;

/// Limits of uploads; the configuration's `limits` name and default them.
#[derive(Clone, Debug)]
pub struct UploadLimits {
    /// Smallest part.
    pub part_bytes: u64,
    /// Parts in memory.
    pub max_parts: usize,
    /// Blobs on their way while they fill, and as many again from disk.
    pub max_uploads: usize,
    /// Longest blob, for one whose length is not known.
    pub max_blob_bytes: u64,
    /// Rotten blobs that are kept on disk, in bytes.
    pub quarantine_bytes: u64,
}

/// What a fill holds of its upload, until its blob is on disk, or is not to be.
pub(super) struct Upload {
    /// Ends once it is noted that the bucket is to get the blob.
    noted: Option<oneshot::Receiver<()>>,
    /// Whether the bucket has taken it.
    taken: oneshot::Receiver<bool>,
    /// Dropped with it.
    _filling: oneshot::Sender<()>,
}

impl Upload {
    /// Waits until a crash would find the note.
    pub(super) async fn noted(&mut self) {
        if let Some(noted) = self.noted.take() {
            let _ = noted.await;
        }
    }

    /// Waits for its end. True if the bucket has the blob.
    pub(super) async fn taken(self) -> bool {
        self.taken.await.unwrap_or(false)
    }
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
    /// As many as may be are under way; it is sent from disk, in turn.
    #[error("as many blobs as may be are on their way to the bucket")]
    NoPlace,
    /// The fill ended without the blob.
    #[error("the transfer failed")]
    GivenUp,
    /// What lay on disk has another digest by now.
    #[error("its bytes on disk have another digest")]
    Rotten,
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
    parts: PartMemory,
    /// Of blobs that fill.
    places: Semaphore,
    turns: Turns,
    retry: Notify,
    tasks: Tasks,
    metrics: BucketMetrics,
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
        let (parts, places) = (PartMemory::new(limits.max_parts), Semaphore::new(limits.max_uploads.max(1)));
        let (turns, retry, metrics) = (Turns::default(), Notify::new(), metrics.bucket.clone());
        let shared = Shared { bucket, blobs, pending, keeps_on_disk, limits, parts, places, turns, retry, tasks, metrics };
        Self { shared: Arc::new(shared) }
    }

    /// Begins the upload of a blob that upstream sends.
    ///
    /// The upload of an earlier fill of it may be ending still: that is waited for. Nobody else tries the
    /// blob before its fill has ended, since until then it is neither here nor gone: one that found no place neither.
    pub(super) fn begin(&self, fill: &Fill) -> Upload {
        let (uploads, digest, replaces) = (self.clone(), *fill.digest(), fill.replaces);
        let supply = Supply::Filling(fill.progress.subscribe());
        let (tell_noted, noted) = oneshot::channel();
        let (tell_taken, taken) = oneshot::channel();
        let (filling, filled) = oneshot::channel();
        self.shared.tasks.spawn_to_end("upload", async move {
            let turn = uploads.shared.turns.take(digest).await;
            uploads.note(digest, replaces).await;
            let _ = tell_noted.send(());
            let is_taken = uploads.run(digest, supply, replaces).await.is_ok();
            let _ = tell_taken.send(is_taken);
            let _: Result<(), _> = filled.await;
            drop(turn);
            // After that: what has its turn is not tried again.
            uploads.shared.retry.notify_one();
        });
        Upload { noted: Some(noted), taken, _filling: filling }
    }

    /// Notes a blob on disk that the bucket has lost, so that it is tried as one that it did not take. False if it is
    /// on its way already. Blocks.
    #[must_use]
    pub fn send_again(&self, digest: Digest) -> bool {
        let Some(turn) = self.shared.turns.try_take(digest) else { return false };
        let noted = (!self.shared.pending.has(&digest)).then(|| self.shared.pending.add_lost(&digest));
        drop(turn);
        // What was noted before has been passed over while this had its turn.
        self.shared.retry.notify_one();
        if let Some(Err(error)) = &noted {
            tracing::warn!(%digest, %error, "it cannot be noted that a blob is to be sent to the bucket again");
        }
        matches!(noted, Some(Ok(())))
    }

    /// Whether committed blobs stay on disk.
    pub(super) fn keeps_on_disk(&self) -> bool {
        self.shared.keeps_on_disk
    }

    /// Uploads a blob; what that leaves of its note is right afterwards.
    async fn run(&self, digest: Digest, supply: Supply, replaces: bool) -> Result<(), UploadError> {
        self.shared.metrics.uploads_inflight.inc();
        let result = self.upload(digest, supply, replaces).await;
        self.shared.metrics.uploads_inflight.dec();
        match &result {
            Ok(()) => self.forget(digest).await,
            Err(UploadError::GivenUp) => self.forget_unless_here(digest).await,
            Err(error @ UploadError::NoPlace) => tracing::debug!(%digest, %error, "a blob is sent to the bucket from disk, in turn"),
            Err(UploadError::Rotten) => {
                tracing::error!(%digest, "a blob rotted on disk before the bucket had it; it is put aside, and fetched from upstream again");
                self.forget(digest).await;
            }
            // The guard has said so, once for all blobs.
            Err(UploadError::Storage(error)) if error.is_unavailable() => {
                tracing::debug!(%digest, %error, "a blob did not get into the bucket, which does not answer");
            }
            Err(error @ (UploadError::Storage(_) | UploadError::Read(_) | UploadError::Part(_))) => {
                let then = if self.shared.keeps_on_disk { "it is tried again" } else { "it is not kept" };
                tracing::warn!(%digest, %error, "the bucket did not take a blob; {then}");
            }
        }
        result
    }

    /// Sends a blob, as far as it is there, and makes it visible once it is complete.
    async fn upload(&self, digest: Digest, mut supply: Supply, replaces: bool) -> Result<(), UploadError> {
        let memory = self.shared.parts.for_upload();
        let limits = &self.shared.limits;
        let longest = supply.ready(1).await.map(|_| supply.total_bytes())?.unwrap_or(limits.max_blob_bytes);
        let part_bytes = part_bytes(limits.part_bytes, longest);
        let first = supply.ready(part_bytes).await?;
        // Not before there is something to send: what waits for upstream keeps nobody else from the bucket.
        let _place = self.place(&mut supply).await?;
        if first.is_all && first.to <= part_bytes {
            let length = first.to;
            let _permit = memory.permit().await;
            let bytes = supply.read(first, 0, length, memory.part()).await?;
            supply.verify(&digest)?;
            return Ok(self.shared.bucket.put(&digest, bytes).await?);
        }
        let mut upload = self.shared.bucket.begin_upload(&digest).await?;
        let sent = send_parts(&mut upload, &mut supply, &memory, part_bytes).await;
        match sent.and_then(|()| supply.verify(&digest)) {
            Ok(()) if replaces => Ok(upload.replace().await?),
            Ok(()) => Ok(upload.complete().await?),
            Err(error) => {
                upload.abort().await;
                Err(error)
            }
        }
    }

    /// A place among those that fill. Without one, a blob that stays on disk does not wait: its file would be open all the
    /// while. What comes from disk needs none, since so many are taken up at one time.
    async fn place(&self, supply: &mut Supply) -> Result<Option<SemaphorePermit<'_>>, UploadError> {
        if matches!(supply, Supply::Whole { .. }) {
            return Ok(None);
        }
        if self.shared.keeps_on_disk {
            return self.shared.places.try_acquire().map(Some).map_err(|_| UploadError::NoPlace);
        }
        tokio::select! {
            biased;
            () = supply.given_up() => Err(UploadError::GivenUp),
            place = self.shared.places.acquire() => place.map(Some).map_err(|_| UploadError::NoPlace),
        }
    }

    async fn pending(&self) -> Vec<Digest> {
        let pending = self.shared.pending.clone();
        tokio::task::spawn_blocking(move || pending.list()).await.unwrap_or_default()
    }

    /// Notes that the bucket is to get a blob, which a crash finds on disk, or forgets.
    async fn note(&self, digest: Digest, replaces: bool) {
        if !self.shared.keeps_on_disk {
            return;
        }
        let pending = self.shared.pending.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || pending.add(&digest, replaces)).await {
            tracing::warn!(%digest, %error, "it cannot be noted that a blob is still to be sent to the bucket");
        }
    }

    async fn replaces(&self, digest: Digest) -> bool {
        let pending = self.shared.pending.clone();
        tokio::task::spawn_blocking(move || pending.replaces(&digest)).await.unwrap_or(false)
    }

    async fn forget(&self, digest: Digest) {
        let pending = self.shared.pending.clone();
        let _ = tokio::task::spawn_blocking(move || pending.remove(&digest)).await;
    }

    /// Forgets a blob whose fill has failed, but for one that an earlier fill has brought and the bucket does not have.
    async fn forget_unless_here(&self, digest: Digest) {
        let blobs = self.shared.blobs.clone();
        let found = tokio::task::spawn_blocking(move || blobs.open_unused(&digest)).await;
        if matches!(found, Ok(Ok(None))) {
            self.forget(digest).await;
        }
    }

    async fn put_aside(&self, digest: Digest, file: Arc<File>) {
        let (blobs, keep_bytes) = (self.shared.blobs.clone(), self.shared.limits.quarantine_bytes);
        let put_aside = tokio::task::spawn_blocking(move || blobs.quarantine(&digest, &file, keep_bytes)).await;
        if let Ok(Err(error)) = put_aside {
            tracing::error!(%digest, %error, "a rotten blob could not be put aside; `headpond scrub` tries again");
        }
    }
}

/// Length of the parts of a blob of so many bytes: `least`, or what it takes for no more of them than S3 takes.
fn part_bytes(least: u64, blob_bytes: u64) -> u64 {
    least.max(blob_bytes.div_ceil(MAX_PARTS))
}

async fn send_parts(upload: &mut BucketUpload, supply: &mut Supply, memory: &UploadMemory, part_bytes: u64) -> Result<(), UploadError> {
    let mut parts = JoinSet::new();
    let mut offset = 0;
    loop {
        let ready = supply.ready(offset + part_bytes).await?;
        let (length, is_last) = (part_bytes.min(ready.to - offset), ready.is_all && offset + part_bytes >= ready.to);
        let permit = memory.permit().await;
        let part = upload.put_part(supply.read(ready, offset, length, memory.part()).await?);
        parts.spawn(async move {
            let sent = part.await;
            drop(permit);
            sent
        });
        while let Some(sent) = parts.try_join_next() {
            sent??;
        }
        offset += length;
        if is_last {
            break;
        }
    }
    while let Some(sent) = parts.join_next().await {
        sent??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// S3 takes no smaller parts than 5 MiB, but for the last one, no larger ones than 5 GiB, and 10,000 of one object.
    #[test]
    fn a_blob_of_any_length_fits_into_as_many_parts_as_s3_takes() {
        for least in [5 * MIB, 8 * MIB] {
            let at_the_edge = least * 10_000;
            let gib = 1024 * MIB;
            for blob_bytes in [0, 1, least, 80 * gib - 1, 80 * gib, 80 * gib + 1, at_the_edge, at_the_edge + 1, 5 * 1024 * gib] {
                let part_bytes = part_bytes(least, blob_bytes);
                assert!(part_bytes * 10_000 >= blob_bytes, "{blob_bytes} bytes in parts of {part_bytes}");
                assert!((5 * MIB..=5 * gib).contains(&part_bytes), "{blob_bytes} bytes in parts of {part_bytes}");
                assert_eq!(part_bytes > least, blob_bytes > at_the_edge, "{blob_bytes} bytes in parts of {part_bytes}");
            }
        }
    }
}
