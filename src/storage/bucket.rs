//! Blobs in a bucket: the truth that replicas share.
//!
//! Keys are those of the disk's layout, below the configured prefix. A blob becomes visible in one
//! step: by one PUT, or by completing an upload in parts. Every call goes through the guard: none
//! waits for a bucket that is known to be gone.

mod circuit;
mod client;
mod credentials;
mod failure;
mod guard;
mod guarded;
mod later;
mod presign;
mod probe;
mod routed;
mod sending;
mod upload;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload};
use tokio_util::task::TaskTracker;

pub use client::{BucketEncryption, BucketSettings};
pub(super) use failure::{Unavailable, may_pass};
pub use guard::Recoveries;
pub(super) use later::Later;
pub use upload::BucketUpload;

use super::whole_list::whole_list;
use super::{KnownPreconditions, RecordKey, Records, StorageError, layout};
use crate::oci::Digest;
use crate::telemetry::metrics::BucketMetrics;
use guard::Guard;
use guarded::Guarded;
use presign::Presigner;

/// Below this a call is not slow, whatever the limits say.
const MIN_SLOW: Duration = Duration::from_secs(1);

/// S3 copies objects up to this in one request.
pub(super) const MAX_COPIED_BYTES: u64 = 5 << 30;

/// How a bucket is reached.
#[derive(Clone)]
pub struct BucketClient {
    /// Objects below the prefix.
    pub objects: Arc<dyn ObjectStore>,
    /// Signs URLs that clients are sent to.
    presigner: Option<Presigner>,
    limits: BucketLimits,
    metrics: BucketMetrics,
}

/// Limits of requests to a bucket; the configuration's `limits` name and default them.
#[derive(Clone, Debug)]
pub struct BucketLimits {
    /// For a small request, with its retries.
    pub timeout: Duration,
    /// Attempts of one request.
    pub attempts: usize,
}

impl BucketClient {
    /// With something put around its objects, behind the guard: how tests fail the Nth call.
    #[must_use]
    pub fn wrapped(self, around: fn(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Self {
        Self { objects: around(self.objects), ..self }
    }

    /// A client of these objects, which cannot sign.
    #[must_use]
    pub fn over(objects: Arc<dyn ObjectStore>, limits: BucketLimits, metrics: BucketMetrics) -> Self {
        Self { objects, presigner: None, limits, metrics }
    }
}

/// A blob as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub length_bytes: u64,
    /// When it was last written.
    pub modified: SystemTime,
}

/// The blobs of one bucket; cheap to clone.
#[derive(Clone)]
pub struct Bucket {
    objects: Arc<dyn ObjectStore>,
    presigner: Option<Presigner>,
    preconditions: KnownPreconditions,
    /// What it is tried with: the same for all attempts, so that none leaves one behind.
    probe_key: Key,
    metrics: BucketMetrics,
    guard: Guard,
    later: Arc<Later>,
    /// Owns what gives up uploads that were dropped.
    aborts: TaskTracker,
}

/// The bytes of a blob, or of an interval of it.
pub struct BucketStream {
    /// The first byte that comes.
    pub start: u64,
    /// The byte after the last one that comes.
    pub end: u64,
    /// Length of the blob.
    pub total_bytes: u64,
    key: Key,
    state: ObjectState,
    bytes: BoxStream<'static, object_store::Result<Bytes>>,
}

/// Which of the objects that ever had a key it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ObjectState {
    e_tag: Option<String>,
    modified: SystemTime,
    pub(super) length_bytes: u64,
}

impl ObjectState {
    fn of(object: &ObjectMeta) -> Self {
        Self { e_tag: object.e_tag.clone(), modified: object.last_modified.into(), length_bytes: object.size }
    }
}

impl Bucket {
    /// The blobs that `client` reaches.
    #[must_use]
    pub fn new(client: BucketClient) -> Self {
        let attempts = u32::try_from(client.limits.attempts.max(1)).unwrap_or(u32::MAX);
        let slow_after = (client.limits.timeout / attempts).max(MIN_SLOW);
        let guard = Guard::new(slow_after, client.metrics.clone());
        let objects: Arc<dyn ObjectStore> = Arc::new(Guarded::new(client.objects, guard.clone(), client.limits.timeout));
        let later = Arc::new(Later::new(Arc::clone(&objects), guard.clone()));
        let (preconditions, aborts) = (KnownPreconditions::default(), TaskTracker::new());
        let probe_key = layout::probe();
        Self { objects, presigner: client.presigner, preconditions, probe_key, metrics: client.metrics, guard, later, aborts }
    }

    /// The records beside the blobs.
    #[must_use]
    pub fn records(&self) -> Records {
        Records::in_bucket(Arc::clone(&self.objects), self.preconditions.clone()).with_later(Arc::clone(&self.later))
    }

    /// Whether it is not known to be gone.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.guard.answers()
    }

    /// Tells from now on when a bucket that did not answer does again.
    #[must_use]
    pub fn recoveries(&self) -> Recoveries {
        self.guard.recoveries()
    }

    /// Sends, for as long as it runs, what the bucket did not take when it was to be written behind.
    pub async fn send_later(self) {
        self.later.run().await;
    }

    /// Waits until nothing that was to be written behind is left to be sent of a blob and a record.
    pub async fn sent<R>(&self, digest: &Digest, record: &RecordKey<R>) {
        self.later.sent(&[layout::blob(digest), record.key().clone()]).await;
    }

    pub(super) fn objects(&self) -> &dyn ObjectStore {
        &*self.objects
    }

    /// The length of a blob. `None` if it is not there.
    ///
    /// # Errors
    /// When the bucket does not say.
    pub async fn stat(&self, digest: &Digest) -> Result<Option<u64>, StorageError> {
        let key = layout::blob(digest);
        match self.objects.head(&key).await {
            Ok(object) => Ok(Some(object.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(StorageError::object(&key, error)),
        }
    }

    /// A blob, or the interval `range` of it. `None` if it is not there.
    ///
    /// # Errors
    /// When the bucket does not answer, or the interval lies outside the blob.
    pub async fn read(&self, digest: &Digest, range: Option<Range<u64>>) -> Result<Option<BucketStream>, StorageError> {
        let key = layout::blob(digest);
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        match self.objects.get_opts(&key, options).await {
            Ok(found) => {
                let (range, total_bytes) = (found.range.clone(), found.meta.size);
                let state = ObjectState::of(&found.meta);
                Ok(Some(BucketStream { start: range.start, end: range.end, total_bytes, key, state, bytes: found.into_stream() }))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(StorageError::object(&key, error)),
        }
    }

    /// Whether a blob is the object that it was.
    ///
    /// # Errors
    /// When the bucket does not say.
    pub(super) async fn is_still(&self, digest: &Digest, state: &ObjectState) -> Result<bool, StorageError> {
        let key = layout::blob(digest);
        match self.objects.head(&key).await {
            Ok(object) => Ok(ObjectState::of(&object) == *state),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(StorageError::object(&key, error)),
        }
    }

    /// Stores a small blob, whose digest the caller has verified.
    ///
    /// # Errors
    /// When the bucket does not take it.
    pub async fn put(&self, digest: &Digest, bytes: Bytes) -> Result<(), StorageError> {
        let key = layout::blob(digest);
        let put = self.objects.put(&key, PutPayload::from_bytes(bytes)).await;
        put.map(|_| ()).map_err(|error| StorageError::object(&key, error))
    }

    /// The same for one that can be had again: kept in memory while the bucket does not answer.
    ///
    /// # Errors
    /// When the bucket does not take it, or too much is kept.
    pub async fn put_behind(&self, digest: &Digest, bytes: Bytes) -> Result<(), StorageError> {
        let key = layout::blob(digest);
        self.later.put(&key, bytes).await.map_err(|error| StorageError::object(&key, error))
    }

    /// A small blob that the bucket has not taken yet.
    #[must_use]
    pub fn kept(&self, digest: &Digest) -> Option<Bytes> {
        self.later.get(&layout::blob(digest))
    }

    /// A URL under which clients get a blob for a while, but no longer than the bucket's credentials
    /// hold. It serves ranges too. `None` if the bucket cannot sign.
    ///
    /// # Errors
    /// When there are no credentials to sign with.
    pub async fn presigned(&self, digest: &Digest, expires_in: Duration) -> Result<Option<String>, StorageError> {
        let Some(presigner) = &self.presigner else { return Ok(None) };
        let key = layout::blob(digest);
        presigner.url(&key, expires_in).await.map(Some).map_err(|error| StorageError::object(&key, error))
    }

    /// All blobs, in the order of their keys; taken up where a page is lost. Keys that name no digest are left out, and counted.
    pub fn list(&self) -> BoxStream<'static, Result<StoredBlob, StorageError>> {
        let (prefix, metrics) = (layout::blobs(), self.metrics.clone());
        let listed = whole_list(Arc::clone(&self.objects), prefix.clone()).map_err(move |error| StorageError::object(&prefix, error));
        let blobs = listed.try_filter_map(move |object| {
            let digest = layout::digest_of(&object.location);
            if digest.is_none() {
                metrics.skipped_keys.inc();
            }
            let blob = digest.map(|digest| StoredBlob { digest, length_bytes: object.size, modified: object.last_modified.into() });
            std::future::ready(Ok(blob))
        });
        blobs.boxed()
    }

    /// Removes a blob. One that is not there is no error.
    ///
    /// # Errors
    /// When the bucket does not do it.
    pub async fn delete(&self, digest: &Digest) -> Result<(), StorageError> {
        let key = layout::blob(digest);
        match self.objects.delete(&key).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(StorageError::object(&key, error)),
        }
    }

    /// Waits, for at most `deadline`, for uploads that were dropped to be given up.
    pub async fn settle(&self, deadline: Duration) {
        self.aborts.close();
        let _ = tokio::time::timeout(deadline, self.aborts.wait()).await;
    }
}

impl BucketStream {
    /// Which object it is of.
    pub(super) const fn state(&self) -> &ObjectState {
        &self.state
    }

    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, StorageError>> {
        let next = self.bytes.next().await?;
        Some(next.map_err(|error| StorageError::object(&self.key, error)))
    }
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket").field("objects", &self.objects.to_string()).finish_non_exhaustive()
    }
}
