//! Lookup of blobs.

use std::sync::Arc;

use super::fill::{FillError, Start, Verified};
use super::vouch::Standing;
use super::{Cache, CacheError, Follower, Origin, fetched};
use crate::oci::{ByteRange, Digest, RangeRequest};
use crate::storage::OpenBlob;
use crate::telemetry::metrics::{CacheResult, FillSource};
use crate::upstream::UpstreamError;

/// How a blob is delivered.
pub enum BlobDelivery {
    /// From a committed file.
    File(OpenBlob),
    /// From a fill, or past the store where it cannot be kept.
    Follow(Box<Follower>),
    /// Only the length was asked for.
    Head,
    /// From the bucket, under this URL, which is a secret for a while.
    Redirect(String),
}

/// A blob, or a part of it.
pub struct BlobAnswer {
    /// Where the bytes are.
    pub delivery: BlobDelivery,
    /// Length of the blob; `None` if upstream did not tell it.
    pub total_bytes: Option<u64>,
    /// The part that was asked for, if it was one.
    pub range: Option<ByteRange>,
    /// What the cache did.
    pub result: CacheResult,
}

/// Where a request's bytes lie.
struct Placed {
    /// Within the blob, if a part was asked for.
    range: Option<ByteRange>,
    length_bytes: Option<u64>,
    /// What is known now: upstream may have been asked.
    standing: Standing,
}

impl Cache {
    /// A blob of `origin`'s repository, or the range of it that was asked for.
    ///
    /// # Errors
    /// When it is not cached and cannot be fetched, or the range lies outside it.
    pub async fn blob(&self, origin: &Arc<Origin>, digest: &Digest, range: Option<RangeRequest>) -> Result<BlobAnswer, CacheError> {
        let standing = self.standing(origin, digest).await;
        if standing == Standing::Vouched
            && let Some(answer) = self.redirect(origin, digest, range).await
        {
            return Ok(answer);
        }
        if standing == Standing::Vouched
            && let Some(blob) = self.stored_blob(origin, digest)
        {
            return file_answer(blob, range);
        }
        let standing = self.standing_beside_bucket(origin, digest, standing).await?;
        if let Some(answer) = self.fill(origin, digest, standing, range).await? {
            return Ok(answer);
        }
        // The bytes are here, or on their way, through somebody else: upstream's word first.
        self.ask_for_word(origin, digest).await?;
        let answer = self.fill(origin, digest, Standing::Vouched, range).await?;
        answer.ok_or(CacheError::Fill(FillError::Dropped))
    }

    /// The length of a blob of `origin`'s repository.
    ///
    /// # Errors
    /// When it is not cached and upstream does not have it, or does not say.
    pub async fn blob_head(&self, origin: &Arc<Origin>, digest: &Digest) -> Result<BlobAnswer, CacheError> {
        let head = |total_bytes, result| BlobAnswer { delivery: BlobDelivery::Head, total_bytes, range: None, result };
        if self.standing(origin, digest).await == Standing::Vouched
            && let Some(blob) = self.stored_blob(origin, digest)
        {
            return Ok(head(Some(blob.length_bytes), CacheResult::Hit));
        }
        let (total_bytes, result) = self.ask_for_word(origin, digest).await?;
        Ok(head(total_bytes, result))
    }

    /// Asks upstream whether it has the blob, once for all who want to know now.
    pub(super) async fn ask_for_word(&self, origin: &Arc<Origin>, digest: &Digest) -> Result<(Option<u64>, CacheResult), CacheError> {
        self.refuse_again(origin, digest)?;
        if let Some(word) = self.blob_word_through(origin, digest).await {
            return word;
        }
        let (cache, asking, wanted) = (self.clone(), Arc::clone(origin), *digest);
        let (role, landing) = self.blob_heads.join((origin.key(), *digest), || async move {
            // What upstream said between this caller's look and now.
            cache.refuse_again(&asking, &wanted)?;
            if cache.memory.vouched.contains_key(&(asking.key(), wanted))
                && let Some(Some(size_bytes)) = cache.link(&asking, &wanted).await
            {
                return Ok(Some(size_bytes));
            }
            let upstream = asking.upstream.as_ref().ok_or(CacheError::Unreachable)?;
            match upstream.head_blob(&asking.remote, &wanted).await {
                Ok(size_bytes) => {
                    cache.vouch(&asking, wanted, size_bytes).await;
                    Ok(size_bytes)
                }
                Err(error) => {
                    cache.remember_absence(&asking, &wanted, &error);
                    Err(error.into())
                }
            }
        });
        Ok((landing.await??, fetched(role)))
    }

    /// Follows the fill of a blob, beginning it if need be. `None` if the blob is here, or coming,
    /// through somebody whose right this origin does not share.
    async fn fill(
        &self,
        origin: &Arc<Origin>,
        digest: &Digest,
        standing: Standing,
        range: Option<RangeRequest>,
    ) -> Result<Option<BlobAnswer>, CacheError> {
        self.refuse_again(origin, digest)?;
        let Placed { range: placed, length_bytes: expected_bytes, standing } = self.place(origin, digest, standing, range).await?;
        let demand = placed.map_or(0..u64::MAX, ByteRange::half_open);
        let verified = self.vouch_when_verified(origin, digest);
        let (mut follower, began) = match self.fills.start(origin, *digest, demand, expected_bytes, standing, verified) {
            Start::Here(blob) => return file_answer(blob, range).map(Some),
            Start::NotYours => return Ok(None),
            Start::Began(follower) => {
                if !origin.unattended {
                    self.prefetch_beside(origin, digest);
                }
                (follower, true)
            }
            Start::Joined(follower) => (follower, false),
        };
        let total_bytes = follower.opened().await.inspect_err(|error| {
            if let FillError::Upstream(error) = error {
                self.remember_absence(origin, digest, error);
            }
        })?;
        if placed.is_some() && total_bytes != expected_bytes {
            let detail = format!("upstream's {digest} has another length than the manifest that refers to it says");
            return Err(UpstreamError::Lied { detail }.into());
        }
        let result = match (follower.source(), began) {
            // Nothing was asked upstream.
            (Some(FillSource::Bucket), _) => CacheResult::Hit,
            (_, true) => CacheResult::Miss,
            (_, false) => CacheResult::Coalesced,
        };
        Ok(Some(BlobAnswer { delivery: BlobDelivery::Follow(Box::new(follower)), total_bytes, range: placed, result }))
    }

    /// Where a range lies. That needs the length: the descriptor's, or else upstream's word.
    async fn place(
        &self,
        origin: &Arc<Origin>,
        digest: &Digest,
        standing: Standing,
        range: Option<RangeRequest>,
    ) -> Result<Placed, CacheError> {
        let known_bytes = match standing {
            Standing::Linked { size_bytes } => size_bytes,
            Standing::Vouched => self.link(origin, digest).await.flatten(),
            Standing::Unknown => None,
        };
        let Some(range) = range else { return Ok(Placed { range: None, length_bytes: known_bytes, standing }) };
        let (length_bytes, standing) = match known_bytes {
            Some(bytes) => (Some(bytes), standing),
            None => (self.ask_for_word(origin, digest).await?.0, Standing::Vouched),
        };
        // A length nobody knows: the whole blob is sent, as RFC 9110 allows.
        let Some(total_bytes) = length_bytes else { return Ok(Placed { range: None, length_bytes, standing }) };
        let range = range.within(total_bytes).map_err(|_| CacheError::RangeNotSatisfiable { total_bytes })?;
        Ok(Placed { range: Some(range), length_bytes, standing })
    }

    /// Bytes that a repository's own upstream sent are its upstream's word.
    pub(super) fn vouch_when_verified(&self, origin: &Arc<Origin>, digest: &Digest) -> Verified {
        let (cache, origin, digest) = (self.clone(), Arc::clone(origin), *digest);
        Box::new(move |length_bytes| Box::pin(async move { cache.vouch(&origin, digest, Some(length_bytes)).await }))
    }
}

fn file_answer(blob: OpenBlob, range: Option<RangeRequest>) -> Result<BlobAnswer, CacheError> {
    let total_bytes = blob.length_bytes;
    let range = range.map(|range| range.within(total_bytes)).transpose().map_err(|_| CacheError::RangeNotSatisfiable { total_bytes })?;
    Ok(BlobAnswer { delivery: BlobDelivery::File(blob), total_bytes: Some(total_bytes), range, result: CacheResult::Hit })
}
