//! What the bucket has, as far as a request needs to know it: whether to redirect there, and whether
//! upstream's word is all that is missing.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::vouch::Standing;
use super::{BlobAnswer, BlobDelivery, Cache, CacheError, FlightAborted, Origin};
use crate::oci::{Digest, RangeRequest};
use crate::storage::Bucket;
use crate::telemetry::metrics::CacheResult;

/// When and how blobs are delivered by a redirect to the bucket.
#[derive(Clone, Copy, Debug)]
pub struct Redirects {
    /// Smaller blobs are answered directly.
    pub min_bytes: u64,
    /// How long the URL holds.
    pub expires_in: Duration,
}

impl Cache {
    /// A redirect to the bucket, where that is wanted and the bucket has the blob.
    pub(super) async fn redirect(&self, origin: &Origin, digest: &Digest, range: Option<RangeRequest>) -> Option<BlobAnswer> {
        // Another replica wants the bytes; and nobody is sent to bytes that are known to be others.
        let redirects = self.limits.redirects.filter(|_| !origin.forwarded && !self.fills.is_rotten(digest))?;
        let bucket = self.store.bucket.as_ref()?;
        if !bucket.answers() {
            // Whoever is served without it does not wait for this look, which may be the one that finds it back.
            drop(self.look_in_bucket(bucket.clone(), *digest));
            return None;
        }
        let total_bytes = self.length_in_bucket(digest).await.filter(|length_bytes| *length_bytes >= redirects.min_bytes)?;
        // The client sends its range to the bucket; one that is outside the blob is answered here.
        let range = range.map(|range| range.within(total_bytes)).transpose().ok()?;
        match bucket.presigned(digest, redirects.expires_in).await {
            Ok(url) => {
                let delivery = BlobDelivery::Redirect(url?);
                Some(BlobAnswer { delivery, total_bytes: Some(total_bytes), range, result: CacheResult::Hit })
            }
            Err(error) => {
                tracing::warn!(%digest, %error, "no URL could be signed; the blob is sent through this server");
                None
            }
        }
    }

    /// The length of a blob in the bucket. `None` if it is not there, or the bucket does not say.
    async fn length_in_bucket(&self, digest: &Digest) -> Option<u64> {
        if let Some(length_bytes) = self.memory.in_bucket.get(digest) {
            return Some(length_bytes);
        }
        self.look_in_bucket(self.store.bucket.clone()?, *digest).await.ok().flatten()
    }

    /// Looks for a blob there, once for all who want to know now.
    fn look_in_bucket(&self, bucket: Bucket, digest: Digest) -> impl Future<Output = Result<Option<u64>, FlightAborted>> + Send + 'static {
        let memory = Arc::clone(&self.memory);
        let (_, landing) = self.bucket_looks.join(digest, move || async move {
            let length_bytes = bucket.stat(&digest).await.ok().flatten()?;
            memory.in_bucket.insert(digest, length_bytes);
            Some(length_bytes)
        });
        landing
    }

    /// The standing of a repository that has not been vouched for, where the bucket has the blob: then a
    /// word from upstream saves the transfer.
    pub(super) async fn standing_beside_bucket(
        &self,
        origin: &Arc<Origin>,
        digest: &Digest,
        standing: Standing,
    ) -> Result<Standing, CacheError> {
        let is_settled = standing == Standing::Vouched || self.store.bucket.is_none() || self.fills.is_under_way(digest);
        if is_settled || self.fills.is_rotten(digest) || self.length_in_bucket(digest).await.is_none() {
            return Ok(standing);
        }
        self.ask_for_word(origin, digest).await?;
        Ok(Standing::Vouched)
    }
}
