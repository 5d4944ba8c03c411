//! Registries that have what an upstream has, for when it fails.
//!
//! Content by digest may come from anywhere, as it is hashed here. What a tag points to, and what does
//! not exist, is for the upstream to say: a mirror answers for a tag only where the upstream gave no
//! answer and nothing is cached, and its word makes the tag no fresher than one that is due to be
//! checked. Which blobs there are is never a mirror's word, but its bytes (docs/adr/0016).

use std::ops::Range;
use std::sync::Arc;

use super::{Cache, CacheError, CachedManifest, Origin};
use crate::config::Prefix;
use crate::oci::{Digest, Reference, RepositoryName, Tag};
use crate::storage::Expected;
use crate::telemetry::metrics::MirrorResult;
use crate::upstream::{BlobStream, ManifestBody, Purpose, SourceId, Upstream, UpstreamError};

/// A mirror of one rule's upstream; cheap to clone.
#[derive(Clone)]
pub struct Mirror {
    upstream: Upstream,
    renaming: Option<Arc<Renaming>>,
}

/// Names at a mirror that has another prefix than the upstream.
#[derive(Debug)]
struct Renaming {
    from: Prefix,
    to: Prefix,
}

/// What is asked for content by digest.
pub(crate) enum Place {
    /// The upstream itself.
    Primary,
    /// One of its mirrors.
    Mirror(Mirror),
}

impl Mirror {
    /// A mirror with the upstream's names.
    #[must_use]
    pub const fn new(upstream: Upstream) -> Self {
        Self { upstream, renaming: None }
    }

    /// The same with the prefix `to` where names at the upstream have the prefix `from`.
    #[must_use]
    pub fn renamed(self, from: Prefix, to: Prefix) -> Self {
        Self { renaming: Some(Arc::new(Renaming { from, to })), ..self }
    }

    /// Which one it is.
    pub(super) fn id(&self) -> &SourceId {
        self.upstream.source()
    }

    /// Asks for a blob, as [`Upstream::get_blob`] does.
    pub(super) async fn get_blob(
        &self,
        remote: &RepositoryName,
        digest: &Digest,
        range: Option<Range<u64>>,
    ) -> Result<BlobStream, UpstreamError> {
        let got = match self.name(remote) {
            Ok(name) => self.upstream.get_blob(&name, digest, range).await,
            Err(error) => Err(error),
        };
        self.count(&got);
        got
    }

    /// Asks for a manifest, as [`Upstream::get_manifest`] does.
    async fn get_manifest(&self, remote: &RepositoryName, reference: &Reference) -> Result<ManifestBody, UpstreamError> {
        let got = match self.name(remote) {
            Ok(name) => self.upstream.get_manifest(&name, reference, Purpose::Fetch).await,
            Err(error) => Err(error),
        };
        self.count(&got);
        got
    }

    /// The name there of what the upstream calls `remote`.
    fn name(&self, remote: &RepositoryName) -> Result<RepositoryName, UpstreamError> {
        let Some(renaming) = &self.renaming else { return Ok(remote.clone()) };
        let bare = match &renaming.from {
            Prefix::Root => Some(remote.as_str()),
            Prefix::Name(from) => remote.as_str().strip_prefix(from.as_str()).and_then(|rest| rest.strip_prefix('/')),
        };
        let name = bare.and_then(|bare| match &renaming.to {
            Prefix::Root => RepositoryName::parse(bare).ok(),
            Prefix::Name(to) => RepositoryName::parse(&format!("{to}/{bare}")).ok(),
        });
        name.ok_or_else(|| UpstreamError::NotFound { detail: format!("{remote} has no name at the mirror") })
    }

    fn count<T>(&self, got: &Result<T, UpstreamError>) {
        self.upstream.metrics().mirror_asked(match got {
            Ok(_) => MirrorResult::Answered,
            Err(UpstreamError::NotFound { .. } | UpstreamError::Denied { .. }) => MirrorResult::Absent,
            Err(_) => MirrorResult::Failed,
        });
    }
}

impl Origin {
    /// The upstream and its mirrors, as they are asked for a manifest by digest: those that are well first,
    /// otherwise as they are configured.
    pub(super) fn manifest_places(&self) -> Vec<Place> {
        self.places(is_held_off)
    }

    /// The same for a blob, which is asked for at once. Those whose blobs failed lately come last too, but for
    /// one blob after a while, with which it is seen whether they come again.
    pub(super) fn blob_places(&self) -> Vec<Place> {
        let places = self.places(|upstream| is_held_off(upstream) || upstream.blobs_come_last());
        match places.first() {
            Some(Place::Primary) => self.upstream.iter().for_each(Upstream::blobs_asked_first),
            Some(Place::Mirror(mirror)) => mirror.upstream.blobs_asked_first(),
            None => {}
        }
        places
    }

    fn places(&self, is_held_off: impl Fn(&Upstream) -> bool) -> Vec<Place> {
        let primary = self.upstream.as_ref().map(|upstream| (is_held_off(upstream), Place::Primary));
        let mirrors = self.mirrors.iter().map(|mirror| (is_held_off(&mirror.upstream), Place::Mirror(mirror.clone())));
        let mut places: Vec<_> = primary.into_iter().chain(mirrors).collect();
        places.sort_by_key(|(is_held_off, _)| *is_held_off);
        places.into_iter().map(|(_, place)| place).collect()
    }
}

fn is_held_off(upstream: &Upstream) -> bool {
    upstream.held_off(Purpose::Revalidate).is_some()
}

/// Whether a mirror may help after the upstream has failed so. That something does not exist, or is
/// refused, is the upstream's answer.
const fn is_no_answer(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::Unavailable { .. } | UpstreamError::TooManyRequests { .. } => true,
        UpstreamError::NotFound { .. } | UpstreamError::Denied { .. } | UpstreamError::Lied { .. } => false,
    }
}

impl Cache {
    /// A manifest by digest, from the upstream or a mirror. What is told of a failure is the upstream's.
    pub(super) async fn fetch_digest(&self, origin: &Origin, digest: &Digest, purpose: Purpose) -> Result<ManifestBody, CacheError> {
        let reference = Reference::Digest(*digest);
        let mut failure = None;
        for place in origin.manifest_places() {
            match place {
                Place::Primary => match origin.reach()?.get_manifest(&origin.remote, &reference, purpose).await {
                    Err(error @ (UpstreamError::NotFound { .. } | UpstreamError::Denied { .. })) => return Err(error.into()),
                    Err(error) => failure = Some(error),
                    Ok(body) => return Ok(body),
                },
                Place::Mirror(mirror) => {
                    if let Ok(body) = mirror.get_manifest(&origin.remote, &reference).await {
                        return Ok(body);
                    }
                }
            }
        }
        Err(failure.map_or(CacheError::Unreachable, CacheError::from))
    }

    /// A manifest by a tag for which the upstream's answer was `failure`: a mirror's, if the upstream gave
    /// none and the tag is not cached.
    pub(super) async fn tag_by_mirror(
        &self,
        origin: &Arc<Origin>,
        tag: &Tag,
        asked_at: u64,
        place: Option<Expected>,
        failure: UpstreamError,
    ) -> Result<Arc<CachedManifest>, CacheError> {
        if origin.mirrors.is_empty() || !is_no_answer(&failure) || !self.is_unknown(origin, tag).await {
            return Err(failure.into());
        }
        // What the upstream has named by a HEAD counts, however long ago that was.
        let named = self.memory.heads.get(&(origin.key(), tag.clone())).map(|memo| Reference::Digest(memo.header.digest));
        let reference = named.unwrap_or_else(|| Reference::Tag(tag.clone()));
        let Some(manifest) = self.import_from_mirror(origin, &reference).await else { return Err(failure.into()) };
        self.set_unknown_tag(origin, tag, manifest.digest, asked_at, place);
        tracing::info!(
            repository = %origin.repository, %tag, digest = %manifest.digest, error = %failure,
            "upstream gave no answer for a tag; a mirror's is served, and upstream asked at the next pull",
        );
        Ok(manifest)
    }

    /// What HEAD of a digest could not tell, as the upstream's answer was `failure`. Of mirrors the bytes
    /// are believed alone, so the manifest is fetched.
    pub(super) async fn digest_by_mirror(
        &self,
        origin: &Arc<Origin>,
        digest: &Digest,
        failure: UpstreamError,
    ) -> Result<Arc<CachedManifest>, CacheError> {
        if !is_no_answer(&failure) {
            return Err(failure.into());
        }
        let manifest = self.import_from_mirror(origin, &Reference::Digest(*digest)).await;
        manifest.ok_or_else(|| failure.into())
    }

    /// A manifest of the first mirror that has it.
    async fn import_from_mirror(&self, origin: &Arc<Origin>, reference: &Reference) -> Option<Arc<CachedManifest>> {
        for place in origin.manifest_places() {
            if let Place::Mirror(mirror) = place
                && let Ok(body) = mirror.get_manifest(&origin.remote, reference).await
                && let Ok(manifest) = self.import(origin, body)
            {
                return Some(manifest);
            }
        }
        None
    }

    /// Whether a tag is not cached, as far as all say who may have it.
    async fn is_unknown(&self, origin: &Arc<Origin>, tag: &Tag) -> bool {
        self.tag_entry(origin, tag).await.is_none() && (!self.is_shared() || self.memory.places.contains_key(&(origin.key(), tag.clone())))
    }
}
