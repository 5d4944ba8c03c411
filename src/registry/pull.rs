//! Pulling manifests and blobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Registry, RegistryError};
use crate::access::Authorized;
use crate::cache::{BlobAnswer, BlobDelivery, CacheError, CachedManifest, Demand, ManifestHeader, Origin, Served, StaleReason};
use crate::oci::{Digest, RangeRequest, Reference};
use crate::rules::Target;
use crate::telemetry::metrics::{CacheKind, CacheResult, RuleMetrics};

/// How a request went, for the log line and the counters that end it.
#[derive(Clone)]
pub struct Outcome {
    /// What was asked for.
    pub kind: CacheKind,
    /// What the cache did, as it looked when the answer began.
    result: CacheResult,
    /// Set when a body in transfer turned out not to fit the store.
    bypassing: Option<Arc<AtomicBool>>,
    /// Where it is counted.
    pub metrics: RuleMetrics,
}

impl Outcome {
    /// What the cache did.
    #[must_use]
    pub fn result(&self) -> CacheResult {
        let is_bypassing = self.bypassing.as_ref().is_some_and(|bypassing| bypassing.load(Ordering::Acquire));
        if is_bypassing { CacheResult::Bypass } else { self.result }
    }
}

/// An answer and how it came about.
pub struct Pulled<T> {
    /// The answer.
    pub value: T,
    /// How it came about.
    pub outcome: Outcome,
    /// Why it may be out of date, if it may.
    pub stale: Option<StaleReason>,
    /// When upstream last confirmed a tag, in unix seconds; told to other replicas only.
    pub validated_at: Option<u64>,
}

impl Registry {
    /// A manifest.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn pull_manifest(
        &self,
        target: Authorized<Target>,
        reference: &Reference,
        demand: Demand,
    ) -> Result<Pulled<Arc<CachedManifest>>, RegistryError> {
        let origin = self.origin(target).await?;
        let served = match reference {
            Reference::Tag(tag) => self.cache.manifest_by_tag(&origin, tag, demand).await,
            Reference::Digest(digest) => self.cache.manifest_by_digest(&origin, digest).await,
        };
        self.cache.refresh_repository(&origin, served.as_ref().is_ok_and(was_cached)).await;
        let mut pulled = pulled(&origin, manifest_kind(reference), served)?;
        pulled.validated_at = self.validated_at(&origin, reference, &pulled.value.digest);
        Ok(pulled)
    }

    /// What HEAD tells of a manifest.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn head_manifest(
        &self,
        target: Authorized<Target>,
        reference: &Reference,
        demand: Demand,
    ) -> Result<Pulled<ManifestHeader>, RegistryError> {
        let origin = self.origin(target).await?;
        let served = match reference {
            Reference::Tag(tag) => self.cache.manifest_head_by_tag(&origin, tag, demand).await,
            Reference::Digest(digest) => self.cache.manifest_head_by_digest(&origin, digest).await,
        };
        let mut pulled = pulled(&origin, manifest_kind(reference), served)?;
        pulled.validated_at = self.validated_at(&origin, reference, &pulled.value.digest);
        Ok(pulled)
    }

    fn validated_at(&self, origin: &Origin, reference: &Reference, digest: &Digest) -> Option<u64> {
        match reference {
            Reference::Tag(tag) if origin.forwarded => self.cache.validated_at(origin, tag, digest),
            Reference::Tag(_) | Reference::Digest(_) => None,
        }
    }

    /// A blob, or a range of it.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn pull_blob(
        &self,
        target: Authorized<Target>,
        digest: &Digest,
        range: Option<RangeRequest>,
    ) -> Result<Pulled<BlobAnswer>, RegistryError> {
        let origin = self.origin(target).await?;
        let answer = self.cache.blob(&origin, digest, range).await;
        let mut pulled = pulled(&origin, CacheKind::Blob, answer.map(served_blob))?;
        if let BlobDelivery::Follow(follower) = &pulled.value.delivery {
            pulled.outcome.bypassing = Some(follower.bypassing());
        }
        Ok(pulled)
    }

    /// The length of a blob.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn head_blob(&self, target: Authorized<Target>, digest: &Digest) -> Result<Pulled<BlobAnswer>, RegistryError> {
        let origin = self.origin(target).await?;
        let answer = self.cache.blob_head(&origin, digest).await;
        pulled(&origin, CacheKind::Blob, answer.map(served_blob))
    }
}

const fn manifest_kind(reference: &Reference) -> CacheKind {
    match reference {
        Reference::Tag(_) => CacheKind::Tag,
        Reference::Digest(_) => CacheKind::Manifest,
    }
}

/// Whether an answer was here before it was asked for.
const fn was_cached<T>(served: &Served<T>) -> bool {
    match served.result {
        CacheResult::Hit | CacheResult::Stale | CacheResult::Revalidated => true,
        CacheResult::Miss | CacheResult::Coalesced | CacheResult::Negative | CacheResult::Bypass => false,
    }
}

fn served_blob(answer: BlobAnswer) -> Served<BlobAnswer> {
    Served { result: answer.result, value: answer, stale: None }
}

/// Puts an answer, or its failure, into the registry's words. A failure is counted here: it has no
/// body whose end would count it.
pub(super) fn pulled<T>(origin: &Origin, kind: CacheKind, served: Result<Served<T>, CacheError>) -> Result<Pulled<T>, RegistryError> {
    match served {
        Ok(served) => Ok(Pulled {
            value: served.value,
            outcome: Outcome { kind, result: served.result, bypassing: None, metrics: origin.metrics.clone() },
            stale: served.stale,
            validated_at: None,
        }),
        Err(error) => {
            let result = if matches!(error, CacheError::Negative(_)) { CacheResult::Negative } else { CacheResult::Miss };
            origin.metrics.requested(kind, result);
            let has_credentials = origin.upstream.as_ref().is_some_and(crate::upstream::Upstream::has_credential);
            let error = RegistryError::of(error, kind, has_credentials);
            if let RegistryError::UpstreamDenied { detail } = &error
                && result != CacheResult::Negative
            {
                let (repository, rule) = (&origin.repository, origin.metrics.rule());
                tracing::warn!(%repository, rule, error = %detail, "upstream refused the credentials of a rule");
            }
            Err(error)
        }
    }
}
