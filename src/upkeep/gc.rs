//! Removes blobs that nothing refers to, beside replicas that write.
//!
//! A run reads the marks of earlier runs, then lists the blobs that are older than the grace
//! (*candidates*), then strikes out everything that some repository refers to. What is left is
//! marked, or, if it was marked before this run began to look and its grace is over, deleted. Why no
//! write can break is in `storage/gc_marks.rs` and docs/adr.
//!
//! Memory: 16 bytes of each candidate's digest (35 MB for a million), and 24 of each mark. Beyond
//! [`MAX_CANDIDATES`] the digests are gone through in slices. Two digests that meet in 16 bytes would only
//! be kept longer than need be.

mod deletion;
mod look;
mod references;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use super::UpkeepParts;
use super::report::{GcPhase, GcReport, Unneeded, UnneededState};
use super::run::Teller;
use crate::clock::unix_seconds;
use crate::oci::Digest;
use crate::storage::{GcMarkRecord, GcMarks, GcState, Inventory, StorageError, StoredBlob, Support, Version};
use deletion::Due;
use look::{Look, Looked};

/// Candidates in memory at one time: some 140 MB.
const MAX_CANDIDATES: usize = 4_000_000;
/// Slices of the digests, by their first byte.
const MAX_SLICES: u32 = 256;
/// Records read or written at a time.
const CONCURRENCY: usize = 16;
/// Blobs deleted together, after one wait.
const BATCH: usize = 256;
/// Released marks are kept this long at least: nobody is about to compare them any more.
const RELEASED_FOR: Duration = Duration::from_secs(60 * 60);
/// For the bucket to show what its conditional writes are worth.
const PROBE_WAIT: Duration = Duration::from_secs(30);

type Prefix = [u8; 16];

/// How a garbage collection is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GcOptions {
    /// Only tells what would go.
    pub dry_run: bool,
    /// How long what nothing refers to is kept, in milliseconds; the configuration's if none is
    /// named. Zero marks and deletes in one run, which spares no push that is under way.
    pub grace_ms: Option<u64>,
}

/// One garbage collection.
pub(super) struct Gc {
    parts: Arc<UpkeepParts>,
    dry_run: bool,
    grace: Duration,
    place: Inventory,
    marks: GcMarks,
    report: GcReport,
    teller: Teller<GcReport>,
}

/// A part of all digests.
#[derive(Clone, Copy, Debug)]
struct Slice {
    index: u32,
    of: u32,
}

impl Gc {
    pub(super) fn new(parts: Arc<UpkeepParts>, options: GcOptions, teller: Teller<GcReport>) -> Self {
        let grace = options.grace_ms.map_or(parts.limits.gc_grace, Duration::from_millis);
        let (place, marks) = (parts.truth(), parts.store.gc_marks(&parts.clock));
        let report = GcReport { dry_run: options.dry_run, ..GcReport::default() };
        Self { parts, dry_run: options.dry_run, grace, place, marks, report, teller }
    }

    /// Runs it to its end.
    pub(super) async fn run(mut self) -> (Teller<GcReport>, Result<GcReport, StorageError>) {
        let outcome = self.collect().await;
        match &outcome {
            Ok(()) => self.log_end(),
            Err(error) => tracing::warn!(%error, "a garbage collection could not go on; the next one does"),
        }
        (self.teller, outcome.map(|()| self.report))
    }

    async fn collect(&mut self) -> Result<(), StorageError> {
        self.check_preconditions().await?;
        // Without a grace what one round marks the next one deletes.
        let rounds = if self.grace.is_zero() && !self.dry_run { 2 } else { 1 };
        for _ in 0..rounds {
            self.round().await?;
            if self.report.is_incomplete {
                break;
            }
        }
        if !self.dry_run && !self.report.is_incomplete {
            self.parts.metrics.gc_ended(unix_seconds(self.parts.clock.now()));
        }
        Ok(())
    }

    /// Replicas keep apart by conditional writes. Where the bucket ignores them nothing may be condemned.
    async fn check_preconditions(&self) -> Result<(), StorageError> {
        if self.dry_run || matches!(self.place, Inventory::Disk(_)) {
            return Ok(());
        }
        let records = &self.parts.store.records;
        // Right after its start a server does not know yet.
        let _ = tokio::time::timeout(PROBE_WAIT, records.preconditions_tried()).await;
        let preconditions = records.preconditions();
        if [preconditions.create, preconditions.update].iter().all(|support| *support == Support::Honoured) {
            return Ok(());
        }
        let detail =
            "the bucket is not known to honour conditional writes (If-Match, If-None-Match), without which writers and the garbage \
                      collection cannot be kept apart; nothing was changed"
                .to_owned();
        Err(StorageError::Corrupt { key: "gc".to_owned(), detail })
    }

    async fn round(&mut self) -> Result<(), StorageError> {
        self.report.phase = GcPhase::Blobs;
        let mut known = self.known_marks().await?;
        let mut slice = Slice { index: 0, of: 1 };
        let mut removes_links = !self.dry_run;
        while slice.index < slice.of {
            self.report.phase = GcPhase::Blobs;
            let Some(mut candidates) = self.candidates(slice).await? else {
                slice = Slice { index: 0, of: slice.of * 2 };
                continue;
            };
            self.report.phase = GcPhase::Repositories;
            self.strike_out(&mut candidates, removes_links).await?;
            if self.report.is_incomplete {
                return Ok(());
            }
            // They are the same in every slice.
            removes_links = false;
            self.report.phase = GcPhase::Marks;
            self.look_at_blobs(slice, &candidates, &mut known).await?;
            slice.index += 1;
        }
        if !self.dry_run {
            self.release_marks_without_blobs(&known).await?;
        }
        Ok(())
    }

    /// The marks there are before anything is looked at, with their nonces. What somebody condemned and
    /// left is deleted, and what was released long ago forgotten.
    async fn known_marks(&mut self) -> Result<HashMap<Prefix, u64>, StorageError> {
        let (mut known, mut abandoned) = (HashMap::new(), Vec::new());
        let now = unix_seconds(self.parts.clock.now());
        let marks = self.marks.clone();
        let parts = Arc::clone(&self.parts);
        let read = self.parts.store.records.marked_blobs().map(move |digest| {
            let (parts, marks) = (Arc::clone(&parts), marks.clone());
            async move {
                let digest = digest?;
                Ok::<_, StorageError>((digest, parts.patiently(|| marks.read(&digest)).await))
            }
        });
        let mut read = read.buffer_unordered(CONCURRENCY);
        while let Some((digest, found)) = read.try_next().await? {
            // A blob whose mark is not known waits for another run.
            let Some((mark, version)) = self.done_or_counted(&digest, found)?.flatten() else { continue };
            match mark.state {
                GcState::Marked => drop(known.insert(digest.prefix(), mark.nonce)),
                GcState::Condemned if !self.dry_run => abandoned.push((digest, mark, version)),
                GcState::Released if !self.dry_run && mark.since + self.grace.max(RELEASED_FOR).as_secs() <= now => {
                    let forgotten = self.marks.forget(&digest, &version).await;
                    self.done_or_counted(&digest, forgotten)?;
                }
                GcState::Condemned | GcState::Released => {}
            }
        }
        for (digest, mark, version) in abandoned {
            let taken_over = self.take_over(&digest, &mark, version).await;
            self.done_or_counted(&digest, taken_over)?;
        }
        Ok(known)
    }

    /// Deletes what somebody condemned and left.
    async fn take_over(&self, digest: &Digest, mark: &GcMarkRecord, version: Version) -> Result<(), StorageError> {
        if let Some(condemned) = self.marks.take_over(digest, mark, version).await? {
            let sources = self.parts.store.records.sources().await?;
            self.marks.delete(condemned, &sources).await?;
            (self.parts.forget_place)(digest);
        }
        Ok(())
    }

    /// What came of one blob. One that failed is counted and left for the next run; a bucket that is gone ends this one.
    fn done_or_counted<T>(&mut self, digest: &Digest, outcome: Result<T, StorageError>) -> Result<Option<T>, StorageError> {
        match outcome {
            Ok(done) => Ok(Some(done)),
            Err(error) if error.is_unavailable() => Err(error),
            Err(error) => {
                self.failed(digest, &error);
                Ok(None)
            }
        }
    }

    /// The blobs of a slice that are older than the grace. `None` if they are too many.
    async fn candidates(&mut self, slice: Slice) -> Result<Option<HashSet<Prefix>>, StorageError> {
        let mut candidates = HashSet::new();
        if slice.index == 0 {
            (self.report.blobs, self.report.bytes) = (0, 0);
        }
        let mut blobs = self.place.list();
        while let Some(blob) = blobs.next().await {
            let Some(blob) = self.listed_or_counted(blob, slice)? else { continue };
            if slice.index == 0 {
                self.report.blobs += 1;
                self.report.bytes += blob.length_bytes;
                self.teller.progress(&self.report);
            }
            if slice.holds(&blob.digest) && self.is_past_grace(&blob) {
                if candidates.len() == MAX_CANDIDATES && slice.of < MAX_SLICES {
                    return Ok(None);
                }
                candidates.insert(blob.digest.prefix());
            }
        }
        Ok(Some(candidates))
    }

    /// A listed blob. A directory of the disk that cannot be read is counted once, and its blobs stay; a list of a
    /// bucket has an end there.
    fn listed_or_counted(&mut self, listed: Result<StoredBlob, StorageError>, slice: Slice) -> Result<Option<StoredBlob>, StorageError> {
        match listed {
            Err(error) if matches!(self.place, Inventory::Disk(_)) => {
                if slice.index == 0 && self.report.phase == GcPhase::Blobs {
                    self.report.failed += 1;
                    tracing::warn!(%error, "some blobs cannot be listed; they are left for the next garbage collection");
                }
                Ok(None)
            }
            listed => listed.map(Some),
        }
    }

    fn is_past_grace(&self, blob: &StoredBlob) -> bool {
        // One from the future is young.
        self.parts.clock.now().duration_since(blob.modified).is_ok_and(|age| age >= self.grace)
    }

    /// Marks, unmarks, and deletes.
    async fn look_at_blobs(
        &mut self,
        slice: Slice,
        candidates: &HashSet<Prefix>,
        known: &mut HashMap<Prefix, u64>,
    ) -> Result<(), StorageError> {
        let (mut due, mut blobs) = (Vec::new(), self.place.list());
        let mut listed = Vec::with_capacity(BATCH);
        loop {
            let blob = blobs.next().await;
            let is_end = blob.is_none();
            let blob = blob.map(|blob| self.listed_or_counted(blob, slice)).transpose()?.flatten();
            listed.extend(blob.filter(|blob| slice.holds(&blob.digest)));
            if listed.len() >= BATCH || is_end {
                let unneeded = |blob: &StoredBlob| candidates.contains(&blob.digest.prefix()) && self.is_past_grace(blob);
                let looks = listed.drain(..).map(|blob| Look {
                    is_unneeded: unneeded(&blob),
                    mark: known.remove(&blob.digest.prefix()),
                    blob,
                    parts: Arc::clone(&self.parts),
                    marks: self.marks.clone(),
                    grace: self.grace,
                    now: Duration::from_secs(unix_seconds(self.parts.clock.now())),
                    dry_run: self.dry_run,
                });
                let looks: Vec<Look> = looks.collect();
                let looked: Vec<_> = futures::stream::iter(looks).map(Look::run).buffer_unordered(CONCURRENCY).collect().await;
                for looked in looked {
                    self.count(looked, &mut due).await?;
                }
            }
            if due.len() >= BATCH || (is_end && !due.is_empty()) {
                self.report.phase = GcPhase::Deletion;
                self.delete(std::mem::take(&mut due)).await;
                self.report.phase = GcPhase::Marks;
            }
            if is_end {
                return Ok(());
            }
        }
    }

    async fn count(&mut self, looked: (Digest, Result<Looked, StorageError>), due: &mut Vec<Due>) -> Result<(), StorageError> {
        let (digest, looked) = looked;
        let told = match self.done_or_counted(&digest, looked)? {
            Some(Looked::Kept) | None => None,
            Some(Looked::Unmarked) => {
                self.report.unmarked += 1;
                None
            }
            Some(Looked::Marked(blob)) => {
                self.report.marked += 1;
                Some((blob, UnneededState::Marked))
            }
            Some(Looked::Waiting(blob)) => {
                self.report.waiting += 1;
                Some((blob, UnneededState::Waiting))
            }
            Some(Looked::Due(found)) => {
                let told = (found.blob.clone(), UnneededState::Deleted);
                due.push(found);
                Some(told)
            }
        };
        // Only a dry run lists them: there it is what was asked for.
        if let Some((blob, state)) = told.filter(|_| self.dry_run) {
            self.teller.unneeded(Unneeded { digest: blob.digest, length_bytes: blob.length_bytes, state }).await;
        }
        self.teller.progress(&self.report);
        Ok(())
    }

    fn failed(&mut self, digest: &Digest, error: &StorageError) {
        self.report.failed += 1;
        tracing::warn!(%digest, %error, "a blob is left for the next garbage collection");
    }

    /// Releases marks of blobs that went otherwise.
    async fn release_marks_without_blobs(&mut self, unseen: &HashMap<Prefix, u64>) -> Result<(), StorageError> {
        if unseen.is_empty() {
            return Ok(());
        }
        let mut marked = self.parts.store.records.marked_blobs();
        while let Some(digest) = marked.try_next().await? {
            if unseen.contains_key(&digest.prefix()) {
                let released = self.parts.patiently(|| self.release_without_blob(&digest)).await;
                self.done_or_counted(&digest, released)?;
            }
        }
        Ok(())
    }

    async fn release_without_blob(&self, digest: &Digest) -> Result<(), StorageError> {
        if !self.place.has(digest).await? {
            // Whoever condemned it meanwhile releases it, too.
            let _ = self.marks.unmark(digest).await?;
        }
        Ok(())
    }

    fn log_end(&self) {
        let report = &self.report;
        tracing::info!(
            dry_run = report.dry_run,
            repositories = report.repositories,
            blobs = report.blobs,
            marked = report.marked,
            waiting = report.waiting,
            unmarked = report.unmarked,
            links = report.links,
            deleted = report.deleted,
            deleted_bytes = report.deleted_bytes,
            failed = report.failed,
            "collected garbage"
        );
    }
}

impl Slice {
    fn holds(self, digest: &Digest) -> bool {
        let [first, ..] = digest.prefix();
        u32::from(first) * self.of / MAX_SLICES == self.index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_digest_is_in_one_slice() {
        for of in [1, 2, 64, MAX_SLICES] {
            for number in 0..200_u32 {
                let digest = Digest::of(&number.to_le_bytes());
                assert_eq!((0..of).filter(|index| Slice { index: *index, of }.holds(&digest)).count(), 1);
            }
        }
    }
}
