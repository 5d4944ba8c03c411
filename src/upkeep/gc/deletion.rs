//! The deletion of a batch of blobs, which nothing interrupts: it goes on when nobody waits for it
//! any more, so that what is condemned is deleted soon.

use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::oneshot;

use super::{CONCURRENCY, Gc};
use crate::oci::Digest;
use crate::storage::{Condemned, GcMarks, StorageError, StoredBlob, Version};
use crate::upkeep::UpkeepParts;

/// A blob whose mark is old enough.
#[derive(Clone, Debug)]
pub(super) struct Due {
    pub(super) blob: StoredBlob,
    pub(super) mark: Version,
}

/// How a batch went.
#[derive(Debug, Default)]
struct Batch {
    deleted: u64,
    deleted_bytes: u64,
    /// Somebody took them back, or deletes them himself.
    unmarked: u64,
    failed: Vec<(Digest, StorageError)>,
}

impl Gc {
    /// Deletes a batch, or only counts it.
    pub(super) async fn delete(&mut self, due: Vec<Due>) {
        if self.dry_run {
            self.report.deleted += due.len() as u64;
            self.report.deleted_bytes += due.iter().map(|due| due.blob.length_bytes).sum::<u64>();
            return;
        }
        let (done, outcome) = oneshot::channel();
        let (parts, marks) = (Arc::clone(&self.parts), self.marks.clone());
        self.parts.tasks.spawn_to_end("delete garbage", async move {
            let batch = delete_batch(&parts, &marks, due).await;
            // Nobody may wait for it any more.
            let _ = done.send(batch);
        });
        // Its task ends with it, or with the process.
        let batch = outcome.await.unwrap_or_default();
        self.report.deleted += batch.deleted;
        self.report.deleted_bytes += batch.deleted_bytes;
        self.report.unmarked += batch.unmarked;
        for (digest, error) in &batch.failed {
            self.failed(digest, error);
        }
        self.teller.progress(&self.report);
    }
}

async fn delete_batch(parts: &UpkeepParts, marks: &GcMarks, due: Vec<Due>) -> Batch {
    let mut batch = Batch::default();
    let condemning = futures::stream::iter(due).map(|Due { blob, mark }| {
        let marks = marks.clone();
        async move {
            let condemned = marks.condemn(&blob.digest, mark).await;
            (blob, condemned)
        }
    });
    let condemned: Vec<_> = condemning.buffer_unordered(CONCURRENCY).collect().await;
    let mut doomed: Vec<(StoredBlob, Condemned)> = Vec::new();
    for (blob, condemned) in condemned {
        match condemned {
            Ok(Some(condemned)) => doomed.push((blob, condemned)),
            Ok(None) => batch.unmarked += 1,
            Err(error) => batch.failed.push((blob.digest, error)),
        }
    }
    if doomed.is_empty() {
        return batch;
    }
    // Who was told a moment ago that a blob is there may still open it.
    tokio::time::sleep(parts.limits.gc_settle).await;
    let sources = match parts.patiently(|| parts.store.records.sources()).await {
        Ok(sources) => Arc::new(sources),
        Err(error) => {
            batch.failed.extend(doomed.into_iter().map(|(blob, _)| (blob.digest, error.clone())));
            return batch;
        }
    };
    let deleting = futures::stream::iter(doomed).map(|(blob, condemned)| {
        let (marks, sources) = (marks.clone(), Arc::clone(&sources));
        async move {
            let deleted = marks.delete(condemned, &sources).await;
            (blob, deleted)
        }
    });
    let mut deleting = deleting.buffer_unordered(CONCURRENCY);
    while let Some((blob, deleted)) = deleting.next().await {
        (parts.forget_place)(&blob.digest);
        match deleted {
            Ok(true) => {
                batch.deleted += 1;
                batch.deleted_bytes += blob.length_bytes;
                parts.metrics.gc_deleted_blobs.inc();
                parts.metrics.gc_deleted_bytes.inc_by(blob.length_bytes);
                tracing::debug!(digest = %blob.digest, bytes = blob.length_bytes, "deleted a blob that nothing refers to");
            }
            Ok(false) => batch.unmarked += 1,
            Err(error) => batch.failed.push((blob.digest, error)),
        }
    }
    batch
}
