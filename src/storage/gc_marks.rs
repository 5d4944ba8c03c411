//! What keeps a garbage collection and those who write apart, without a lock between them.
//!
//! A blob that nothing refers to is *marked*, by a record. When the grace is over, and another look at
//! all references has found none, it is *condemned*: from then on it counts as absent, whoever looks. Then it is
//! deleted, and the mark is *released*. Each step is written only over the one before it as it was seen.
//!
//! Whoever refers to a blob writes the reference first and looks at the mark after that; the
//! collector marks first and looks for references after that. So one of the two sees the other:
//!
//! | the writer finds | then |
//! |---|---|
//! | no mark, or a released one | a mark that comes later is followed by a look that sees the reference |
//! | a mark | it is released, and cannot be condemned any more |
//! | a condemned blob | it is not there: HEAD says so, and who has the bytes waits for the deletion and writes them |
//!
//! docs/adr/0011 has the whole argument, and what it rests on.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use super::{BlobLinkRecord, Conflict, Expected, Inventory, RecordKey, Records, StorageError, Store, Version, blocking};
use crate::clock::{Clock, unix_seconds};
use crate::oci::{Digest, RepositoryName};

/// Whoever condemned a blob deletes it before half of this has passed, or leaves it; after all of it
/// somebody else does, because whoever it was has died. The clocks of replicas must agree far better.
const ABANDONED_AFTER: Duration = Duration::from_secs(10 * 60);
/// How long a writer waits for the deletion of a blob that it wants to write.
const DELETION_WAIT: Duration = Duration::from_secs(30);
/// Between two looks while it waits.
const DELETION_LOOK: Duration = Duration::from_millis(100);
/// Attempts to change a mark that others change, too.
const ATTEMPTS: usize = 16;

/// What is to become of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GcState {
    /// Nothing referred to it when it was marked.
    Marked,
    /// It is about to be deleted, and counts as absent.
    Condemned,
    /// Something refers to it after all, or it was deleted: as if there were no mark.
    Released,
}

/// `gc/<algorithm>/<hex>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcMarkRecord {
    /// What is to become of the blob.
    pub state: GcState,
    /// Unix seconds.
    pub since: u64,
    /// No two writes have the same: stores tell states of a record apart by their content.
    pub nonce: u64,
}

/// Whether a blob that somebody refers to, or wants to refer to, stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Presence {
    /// If it is there, it stays.
    Kept,
    /// It counts as absent, and soon will be.
    Condemned,
}

/// A blob that this process has condemned.
#[derive(Debug)]
pub struct Condemned {
    digest: Digest,
    mark: Version,
    at: Instant,
}

/// The marks of one store; cheap to clone. What is for those who write is for pushes; what is cached is only linked.
#[derive(Clone, Debug)]
pub struct GcMarks {
    records: Records,
    /// Where the blobs are; with a bucket, what is on disk is a copy.
    place: Inventory,
    copies: Option<Inventory>,
    clock: Clock,
}

impl Store {
    /// The marks of this store's garbage collection.
    #[must_use]
    pub fn gc_marks(&self, clock: &Clock) -> GcMarks {
        let disk = Inventory::Disk(self.blobs.clone());
        let (place, copies) = match &self.bucket {
            Some(bucket) => (Inventory::Bucket(bucket.clone()), Some(disk)),
            None => (disk, None),
        };
        GcMarks { records: self.records.clone(), place, copies, clock: clock.clone() }
    }
}

/// For those who write.
impl GcMarks {
    /// Has a repository refer to a blob from now on: before any 200 to HEAD, mount or commit. A blob
    /// that is [`Presence::Kept`] and there stays for a grace.
    ///
    /// # Errors
    /// When the store cannot; then nothing is promised.
    pub async fn refresh(&self, repository: &RepositoryName, digest: &Digest, size_bytes: u64) -> Result<Presence, StorageError> {
        let link = BlobLinkRecord { source: String::new(), size_bytes: Some(size_bytes), linked_at: self.now() };
        self.records.write(&RecordKey::blob_link(repository, digest), &link).await?;
        self.keep(digest).await
    }

    /// The look at the mark that follows every reference that was written, of whatever kind: a
    /// manifest's record is one to the manifest and to all that it refers to. Without a bucket, eviction
    /// leaves the blob alone from now on; one that is under way is waited for.
    ///
    /// # Errors
    /// When the store cannot say; then nothing is promised.
    pub async fn keep(&self, digest: &Digest) -> Result<Presence, StorageError> {
        self.keep_on_disk(digest).await?;
        self.unmark(digest).await
    }

    /// Where the disk is all there is, what is referred to is not evicted.
    async fn keep_on_disk(&self, digest: &Digest) -> Result<(), StorageError> {
        let Inventory::Disk(blobs) = &self.place else { return Ok(()) };
        let (room, digest) = (blobs.room().clone(), *digest);
        blocking(move || {
            room.keep_hosted(&digest);
            Ok(())
        })
        .await
    }

    /// Waits for a condemned blob to be deleted: only then may its bytes be written. One that
    /// whoever condemned it left is deleted here. False if it still is condemned after a while.
    ///
    /// # Errors
    /// When the store cannot say.
    pub async fn until_deleted(&self, digest: &Digest) -> Result<bool, StorageError> {
        let deadline = Instant::now() + DELETION_WAIT;
        let key = RecordKey::gc_mark(digest);
        loop {
            let mark = self.records.read_versioned(&key).await?.filter(|(mark, _)| mark.state == GcState::Condemned);
            let Some((mark, version)) = mark else { return Ok(true) };
            if let Some(condemned) = self.take_over(digest, &mark, version).await? {
                let sources = self.records.sources().await?;
                self.delete(condemned, &sources).await?;
            } else if Instant::now() >= deadline {
                return Ok(false);
            } else {
                tokio::time::sleep(DELETION_LOOK).await;
            }
        }
    }
}

/// For the collector.
impl GcMarks {
    /// The mark of a blob, and which state of it that is.
    ///
    /// # Errors
    /// When the store cannot say.
    pub async fn read(&self, digest: &Digest) -> Result<Option<(GcMarkRecord, Version)>, StorageError> {
        self.records.read_versioned(&RecordKey::gc_mark(digest)).await
    }

    /// Marks a blob that has no mark, or the released one that is `seen`. False if somebody else wrote one.
    ///
    /// # Errors
    /// When the store cannot.
    pub async fn mark(&self, digest: &Digest, seen: Option<Version>) -> Result<bool, StorageError> {
        let expected = seen.map_or(Expected::Absent, Expected::Version);
        let marked = self.record(GcState::Marked);
        self.records.write_if(&RecordKey::gc_mark(digest), &marked, expected).await.map(|written| written.is_ok())
    }

    /// Releases the mark of a blob that is referred to after all, or went otherwise. Eviction of it is as before.
    ///
    /// # Errors
    /// When the store cannot say; then nothing is promised.
    pub async fn unmark(&self, digest: &Digest) -> Result<Presence, StorageError> {
        let key = RecordKey::gc_mark(digest);
        for _ in 0..ATTEMPTS {
            match self.records.read_versioned(&key).await? {
                None => return Ok(Presence::Kept),
                Some((mark, version)) => match mark.state {
                    GcState::Released => return Ok(Presence::Kept),
                    GcState::Condemned => return Ok(Presence::Condemned),
                    GcState::Marked => {
                        let released = self.record(GcState::Released);
                        if self.records.write_if(&key, &released, Expected::Version(version)).await?.is_ok() {
                            return Ok(Presence::Kept);
                        }
                    }
                },
            }
        }
        Err(StorageError::Corrupt { key: key.to_string(), detail: "it changes all the time".to_owned() })
    }

    /// Condemns a blob, if its mark still is `seen`. From here on there is no way back.
    ///
    /// # Errors
    /// When the store cannot. It is not known then whether the blob is condemned; it is taken up later.
    pub async fn condemn(&self, digest: &Digest, seen: Version) -> Result<Option<Condemned>, StorageError> {
        // Before the write: the time it takes counts.
        let at = Instant::now();
        let condemned = self.record(GcState::Condemned);
        let written = self.records.write_if(&RecordKey::gc_mark(digest), &condemned, Expected::Version(seen)).await?;
        Ok(written.ok().map(|mark| Condemned { digest: *digest, mark, at }))
    }

    /// Condemns anew what somebody condemned and left. `None` if that is not so.
    ///
    /// # Errors
    /// As [`GcMarks::condemn`].
    pub async fn take_over(&self, digest: &Digest, mark: &GcMarkRecord, seen: Version) -> Result<Option<Condemned>, StorageError> {
        // So far ahead, the clock has been set back since.
        let is_abandoned = mark.since.abs_diff(self.now()) >= ABANDONED_AFTER.as_secs();
        if mark.state == GcState::Condemned && is_abandoned { self.condemn(digest, seen).await } else { Ok(None) }
    }

    /// Deletes what was condemned: the words of `sources` first, so that the next who brings the
    /// blob does not lose theirs; then the blob; then the mark is released. False if it is somebody
    /// else's by now.
    ///
    /// # Errors
    /// When the store cannot; then it is taken up later.
    pub async fn delete(&self, condemned: Condemned, sources: &[String]) -> Result<bool, StorageError> {
        let Condemned { digest, mark, at } = condemned;
        let key = RecordKey::gc_mark(&digest);
        let is_ours = |found: Option<(GcMarkRecord, Version)>| found.is_some_and(|(_, version)| version == mark);
        if !is_ours(self.records.read_versioned(&key).await?) {
            return Ok(false);
        }
        for source in sources {
            self.records.delete(&RecordKey::source_blob(source, &digest)).await?;
        }
        if at.elapsed() > ABANDONED_AFTER / 2 {
            return Ok(false);
        }
        self.place.remove(&digest).await?;
        if let Some(copies) = &self.copies {
            copies.remove(&digest).await?;
        }
        let released: Result<Version, Conflict> =
            self.records.write_if(&key, &self.record(GcState::Released), Expected::Version(mark)).await?;
        Ok(released.is_ok())
    }

    /// Forgets a released mark that is `seen`.
    ///
    /// # Errors
    /// When the store cannot.
    pub async fn forget(&self, digest: &Digest, seen: &Version) -> Result<(), StorageError> {
        self.records.delete_if(&RecordKey::gc_mark(digest), seen).await.map(|_| ())
    }

    fn record(&self, state: GcState) -> GcMarkRecord {
        GcMarkRecord { state, since: self.now(), nonce: Uuid::new_v4().as_u64_pair().0 }
    }

    fn now(&self) -> u64 {
        unix_seconds(self.clock.now())
    }
}
