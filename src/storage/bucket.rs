//! Blobs in a bucket: the truth that replicas share.
//!
//! Keys are those of the disk's layout, below the configured prefix. A blob becomes visible in one
//! step: by one PUT, or by completing an upload in parts.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use object_store::signer::Signer;
use object_store::{GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};

use super::{KnownPreconditions, Records, StorageError, layout};
use crate::oci::Digest;

/// How a bucket is reached.
#[derive(Clone)]
pub struct BucketClient {
    /// Objects below the prefix.
    pub objects: Arc<dyn ObjectStore>,
    /// Signs URLs that clients are sent to; it knows no prefix.
    pub signer: Option<Arc<dyn Signer>>,
    /// What all keys start with; may be empty.
    pub prefix: Key,
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
    client: BucketClient,
    preconditions: KnownPreconditions,
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
    bytes: BoxStream<'static, object_store::Result<Bytes>>,
}

/// A blob on its way to the bucket, in parts. Dropped before [`BucketUpload::complete`] it is
/// aborted; what a crash leaves, the bucket's lifecycle rule removes.
pub struct BucketUpload {
    key: Key,
    upload: Option<Box<dyn MultipartUpload>>,
}

impl Bucket {
    /// The blobs that `client` reaches.
    #[must_use]
    pub fn new(client: BucketClient) -> Self {
        Self { client, preconditions: KnownPreconditions::default() }
    }

    /// The records beside the blobs.
    #[must_use]
    pub fn records(&self) -> Records {
        Records::in_bucket(Arc::clone(&self.client.objects), self.preconditions.clone())
    }

    pub(super) fn objects(&self) -> &dyn ObjectStore {
        &*self.client.objects
    }

    /// The length of a blob. `None` if it is not there.
    ///
    /// # Errors
    /// When the bucket does not say.
    pub async fn stat(&self, digest: &Digest) -> Result<Option<u64>, StorageError> {
        let key = layout::blob(digest);
        match self.client.objects.head(&key).await {
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
        match self.client.objects.get_opts(&key, options).await {
            Ok(found) => {
                let (range, total_bytes) = (found.range.clone(), found.meta.size);
                Ok(Some(BucketStream { start: range.start, end: range.end, total_bytes, key, bytes: found.into_stream() }))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(StorageError::object(&key, error)),
        }
    }

    /// Stores a small blob, whose digest the caller has verified.
    ///
    /// # Errors
    /// When the bucket does not take it.
    pub async fn put(&self, digest: &Digest, bytes: Bytes) -> Result<(), StorageError> {
        let key = layout::blob(digest);
        let put = self.client.objects.put(&key, PutPayload::from_bytes(bytes)).await;
        put.map(|_| ()).map_err(|error| StorageError::object(&key, error))
    }

    /// Begins a large blob.
    ///
    /// # Errors
    /// When the bucket does not take it.
    pub async fn begin_upload(&self, digest: &Digest) -> Result<BucketUpload, StorageError> {
        let key = layout::blob(digest);
        let upload = self.client.objects.put_multipart(&key).await.map_err(|error| StorageError::object(&key, error))?;
        Ok(BucketUpload { key, upload: Some(upload) })
    }

    /// A URL under which clients get a blob for a while. `None` if the bucket cannot sign.
    ///
    /// # Errors
    /// When there are no credentials to sign with.
    pub async fn presigned(&self, digest: &Digest, expires_in: Duration) -> Result<Option<String>, StorageError> {
        let Some(signer) = &self.client.signer else { return Ok(None) };
        let key: Key = self.client.prefix.parts().chain(layout::blob(digest).parts()).collect();
        let url = signer.signed_url(http::Method::GET, &key, expires_in).await;
        url.map(|url| Some(url.to_string())).map_err(|error| StorageError::object(&key, error))
    }

    /// All blobs, in the order of their digests.
    pub fn list(&self) -> BoxStream<'static, Result<StoredBlob, StorageError>> {
        let prefix = layout::blobs();
        let listed = self.client.objects.list(Some(&prefix)).map_err(move |error| StorageError::object(&prefix, error));
        let blobs = listed.try_filter_map(async |object| {
            let digest = layout::digest_of(&object.location);
            Ok(digest.map(|digest| StoredBlob { digest, length_bytes: object.size, modified: object.last_modified.into() }))
        });
        blobs.boxed()
    }

    /// Removes a blob. One that is not there is no error.
    ///
    /// # Errors
    /// When the bucket does not do it.
    pub async fn delete(&self, digest: &Digest) -> Result<(), StorageError> {
        let key = layout::blob(digest);
        match self.client.objects.delete(&key).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(StorageError::object(&key, error)),
        }
    }
}

impl BucketStream {
    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, StorageError>> {
        let next = self.bytes.next().await?;
        Some(next.map_err(|error| StorageError::object(&self.key, error)))
    }
}

impl BucketUpload {
    /// Sends the next part; parts are in the order of these calls, and the futures may run at once.
    pub fn put_part(&mut self, bytes: Bytes) -> impl Future<Output = Result<(), StorageError>> + Send + 'static + use<> {
        let part = self.upload.as_mut().map(|upload| upload.put_part(PutPayload::from_bytes(bytes)));
        let key = self.key.clone();
        async move {
            match part {
                Some(part) => part.await.map_err(|error| StorageError::object(&key, error)),
                None => Ok(()),
            }
        }
    }

    /// Makes the blob visible, whose digest the caller has verified and whose parts are all there.
    ///
    /// # Errors
    /// When the bucket does not do it; then nothing is visible.
    pub async fn complete(mut self) -> Result<(), StorageError> {
        let Some(mut upload) = self.upload.take() else { return Ok(()) };
        upload.complete().await.map(|_| ()).map_err(|error| StorageError::object(&self.key, error))
    }

    /// Gives the upload up.
    pub async fn abort(mut self) {
        if let Some(mut upload) = self.upload.take()
            && let Err(error) = upload.abort().await
        {
            tracing::debug!(key = %self.key, %error, "an upload could not be aborted; the bucket's lifecycle rule removes it");
        }
    }
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket").field("objects", &self.client.objects.to_string()).finish_non_exhaustive()
    }
}
