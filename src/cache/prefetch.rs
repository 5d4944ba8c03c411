//! Fetching what a client is about to ask for.
//!
//! Whoever asks for the first missing blob of an image wants the others too. Where the rule says so,
//! they begin to fill: few at a time, and nobody's. So they take only what clients leave of the
//! line, and are the first to be dropped where fills are too many. Under a rule's `quota_floor` nothing
//! is prefetched. Nothing here is waited for.

use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::Semaphore;

use super::{Cache, Origin, Standing};
use crate::config::Prefetch;
use crate::oci::manifest::{Descriptor, ManifestSummary};
use crate::oci::{Digest, Platform, Reference};

/// Images of one rule whose blobs are being prefetched at one time; those beyond are left to their clients.
const MAX_IMAGES: usize = 64;

/// Places for what is prefetched through one rule; cheap to clone. Of each rule, so that one whose line is busy, and
/// whose blobs wait for it, does not hold those of others.
#[derive(Clone)]
pub struct Prefetches {
    images: Arc<Semaphore>,
    blobs: Arc<Semaphore>,
    max_blobs: usize,
}

impl Prefetches {
    /// Places for `max_blobs` at one time.
    #[must_use]
    pub fn new(max_blobs: usize) -> Self {
        Self { images: Arc::new(Semaphore::new(MAX_IMAGES)), blobs: Arc::new(Semaphore::new(max_blobs)), max_blobs }
    }
}

impl Cache {
    /// A manifest has come in: the first of its blobs that is asked for will bring the others.
    pub(super) fn expect_pull(&self, origin: &Origin, manifest: Digest, summary: &ManifestSummary) {
        if origin.prefetch == Prefetch::Off || origin.forwarded {
            return;
        }
        let key = origin.key();
        for child in &summary.manifests {
            self.memory.indexed_by.insert((key.clone(), child.digest), manifest);
        }
        for blob in &summary.blobs {
            self.memory.named_by.insert((key.clone(), blob.digest), manifest);
        }
        if !summary.blobs.is_empty() {
            self.memory.cold_images.insert((key, manifest), ());
        }
    }

    /// A client waits for `blob`, which was not here.
    pub(super) fn prefetch_beside(&self, origin: &Arc<Origin>, blob: &Digest) {
        let key = origin.key();
        let Some(image) = self.memory.named_by.remove(&(key.clone(), *blob)) else { return };
        // Whoever takes it out is the first one.
        if self.memory.cold_images.remove(&(key, image)).is_none() {
            return;
        }
        let Ok(place) = Arc::clone(&origin.prefetches.images).try_acquire_owned() else { return };
        let (cache, origin) = (self.clone(), Arc::clone(origin));
        self.tasks.spawn("prefetch", async move {
            cache.prefetch_image(&origin, &image).await;
            cache.prefetch_siblings(&origin, &image).await;
            drop(place);
        });
    }

    async fn prefetch_image(&self, origin: &Arc<Origin>, image: &Digest) {
        let Some(manifest) = self.cached_manifest(origin, image).await else { return };
        let Ok(summary) = ManifestSummary::parse(&manifest.bytes, Some(manifest.media_type.as_str())) else { return };
        let blobs = futures::stream::iter(summary.blobs);
        blobs.for_each_concurrent(origin.prefetches.max_blobs, |blob| self.prefetch_blob(origin, blob)).await;
    }

    /// The same image for other platforms, where the rule names them.
    async fn prefetch_siblings(&self, origin: &Arc<Origin>, image: &Digest) {
        let is_wanted = |platform: &Platform| match &origin.prefetch {
            Prefetch::Off | Prefetch::Image => false,
            Prefetch::Platforms(wanted) => wanted.iter().any(|wanted| wanted.covers(platform)),
            Prefetch::All => !platform.is_unknown(),
        };
        if matches!(origin.prefetch, Prefetch::Off | Prefetch::Image) {
            return;
        }
        let Some(index) = self.memory.indexed_by.get(&(origin.key(), *image)) else { return };
        let Some(index) = self.cached_manifest(origin, &index).await else { return };
        for (sibling, platform) in Platform::of_index(&index.bytes) {
            if sibling != *image && is_wanted(&platform) && self.prefetch_manifest(origin, &sibling).await {
                self.memory.cold_images.invalidate(&(origin.key(), sibling));
                self.prefetch_image(origin, &sibling).await;
            }
        }
    }

    /// A manifest that no client waits for: there at the end, unless that spends what the rule keeps.
    async fn prefetch_manifest(&self, origin: &Arc<Origin>, digest: &Digest) -> bool {
        if self.cached_manifest(origin, digest).await.is_some() {
            return true;
        }
        if origin.is_saving() {
            return false;
        }
        // The owner knows what is left. Asked past the flights: a client would not be refused.
        let Some(owner) = origin.manifest_route().into_iter().next() else {
            return self.manifest_by_digest(origin, digest).await.is_ok();
        };
        let told = owner.for_nobody().get_manifest(&origin.repository, &Reference::Digest(*digest), false).await;
        told.is_ok_and(|told| self.adopt(origin, told.value).is_ok())
    }

    async fn prefetch_blob(&self, origin: &Arc<Origin>, blob: Descriptor) {
        if origin.is_saving() {
            return;
        }
        let standing = self.standing(origin, &blob.digest).await;
        // What the source is known to have, the bucket has too, or had.
        if standing == Standing::Vouched && self.store.bucket.is_some() {
            return;
        }
        // What would only wait for a connection is not begun: there is a bound on what nobody follows.
        origin.line.spare().await;
        // It is never closed.
        let Ok(_place) = origin.prefetches.blobs.acquire().await else { return };
        let verified = self.vouch_when_verified(origin, &blob.digest);
        let Some(fill) = self.fills.prefetch(origin, blob.digest, blob.size_bytes, standing, verified) else { return };
        origin.metrics.all().prefetches.inc();
        fill.ended().await;
    }
}
