//! Blobs on their way to the bucket, in parts.

use std::future::Future;

use bytes::Bytes;
use object_store::path::Path as Key;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use tokio_util::task::TaskTracker;

use super::Bucket;
use crate::oci::Digest;
use crate::storage::{StorageError, layout};

/// A blob on its way to the bucket, in parts. Dropped before [`BucketUpload::complete`] it is
/// aborted; what a crash leaves, the bucket's lifecycle rule removes.
pub struct BucketUpload {
    bucket: Bucket,
    digest: Digest,
    key: Key,
    sent_bytes: u64,
    unfinished: Option<Unfinished>,
}

/// Aborts when it is dropped.
struct Unfinished {
    upload: Option<Box<dyn MultipartUpload>>,
    key: Key,
    aborts: TaskTracker,
}

impl Bucket {
    /// Begins a large blob.
    ///
    /// # Errors
    /// When the bucket does not take it.
    pub async fn begin_upload(&self, digest: &Digest) -> Result<BucketUpload, StorageError> {
        let key = layout::blob(digest);
        let upload = self.objects.put_multipart(&key).await.map_err(|error| StorageError::object(&key, error))?;
        let unfinished = Unfinished { upload: Some(upload), key: key.clone(), aborts: self.aborts.clone() };
        Ok(BucketUpload { bucket: self.clone(), digest: *digest, key, sent_bytes: 0, unfinished: Some(unfinished) })
    }
}

impl BucketUpload {
    /// Sends the next part; parts are in the order of these calls, and the futures may run at once.
    pub fn put_part(&mut self, bytes: Bytes) -> impl Future<Output = Result<(), StorageError>> + Send + 'static + use<> {
        self.sent_bytes += bytes.len() as u64;
        let upload = self.unfinished.as_mut().and_then(|unfinished| unfinished.upload.as_mut());
        let part = upload.map(|upload| upload.put_part(PutPayload::from_bytes(bytes)));
        let key = self.key.clone();
        async move {
            match part {
                Some(part) => part.await.map_err(|error| StorageError::object(&key, error)),
                None => Ok(()),
            }
        }
    }

    /// Makes the blob visible, whose digest the caller has verified and whose parts are all there.
    /// What the bucket has then is looked at: its length must be what was sent.
    ///
    /// # Errors
    /// When the bucket does not do it, or says that it did and has another length, which is removed. What it had before may be
    /// there still.
    pub async fn complete(self) -> Result<(), StorageError> {
        self.end(false).await
    }

    /// The same over an object that is rotten: that one of the right length is there says nothing.
    ///
    /// # Errors
    /// As [`BucketUpload::complete`].
    pub async fn replace(self) -> Result<(), StorageError> {
        self.end(true).await
    }

    async fn end(mut self, replaces: bool) -> Result<(), StorageError> {
        let Some(mut unfinished) = self.unfinished.take() else { return Ok(()) };
        let completed = match unfinished.upload.as_mut() {
            Some(upload) => upload.complete().await.map(|_| ()).map_err(|error| StorageError::object(&self.key, error)),
            None => Ok(()),
        };
        if completed.is_ok() {
            unfinished.upload = None;
        }
        let found = match (completed, self.bucket.stat(&self.digest).await) {
            // An answer may have been lost, and trying again found no upload.
            (completed, Ok(found)) if found == Some(self.sent_bytes) && (completed.is_ok() || !replaces) => return Ok(()),
            (Err(error), _) => return Err(error),
            (Ok(()), found) => found?,
        };
        if found.is_some() {
            self.bucket.delete(&self.digest).await?;
        }
        let found = found.map_or_else(|| "nothing".to_owned(), |length_bytes| format!("{length_bytes} bytes"));
        let detail = format!("{} bytes were sent, and the bucket has {found}", self.sent_bytes);
        Err(StorageError::Corrupt { key: self.key.to_string(), detail })
    }

    /// Gives the upload up.
    pub async fn abort(mut self) {
        if let Some(mut unfinished) = self.unfinished.take()
            && let Some(upload) = unfinished.upload.take()
        {
            abort(upload, &self.key).await;
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let key = self.key.clone();
            self.aborts.spawn_on(async move { abort(upload, &key).await }, &runtime);
        }
    }
}

async fn abort(mut upload: Box<dyn MultipartUpload>, key: &Key) {
    if let Err(error) = upload.abort().await {
        tracing::debug!(%key, %error, "an upload could not be aborted; the bucket's lifecycle rule removes it");
    }
}
