//! Needs that the replica which owns them meets.
//!
//! Each `…_through` answers what another replica owns and can tell; `None` means that this replica has
//! to do what an owner does: ask upstream, and write down what it is told. What another one told is
//! kept in memory alone, as long as what any replica may have changed is believed.
//!
//! These needs have flights of their own. A need that another replica forwards goes upstream: would it
//! join one that waits for a replica, two that take each other for the owner would wait for ever.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use moka::ops::compute::Op;

use super::freshness::{Current, StaleReason};
use super::tags::{Demand, FailedAttempt, Served, TagEntry};
use super::tags_list::{Tags, stale_tags};
use super::{Cache, CacheError, CachedManifest, FlightAborted, Flights, ManifestHeader, Origin, OriginDigest, OriginTag, fetched};
use crate::cache::origin::OriginKey;
use crate::oci::{Digest, Reference, Tag};
use crate::tasks::Tasks;
use crate::telemetry::metrics::CacheResult;
use crate::upstream::{Replica, Told, Unavailability, UpstreamError};

/// How long a tag that its owner serves stale is served so without asking the owner. Short: that one
/// knows when upstream may be asked again.
const OWNER_PAUSE: Duration = Duration::from_secs(1);

/// What a flight brings: `None` if no replica could tell.
type Word<T> = Option<Result<T, CacheError>>;

/// Needs under way at other replicas.
#[derive(Clone)]
pub(super) struct Through {
    digests: Flights<OriginDigest, Word<Arc<CachedManifest>>>,
    tags: Flights<OriginTag, Word<Served<Arc<CachedManifest>>>>,
    digest_heads: Flights<OriginDigest, Word<ManifestHeader>>,
    tag_heads: Flights<OriginTag, Word<Served<ManifestHeader>>>,
    revalidations: Flights<OriginTag, Word<Current>>,
    blob_heads: Flights<OriginDigest, Word<Option<u64>>>,
    tag_lists: Flights<OriginKey, Word<Served<Tags>>>,
}

impl Through {
    pub(super) fn new(tasks: &Tasks) -> Self {
        Self {
            digests: Flights::new(tasks.clone()),
            tags: Flights::new(tasks.clone()),
            digest_heads: Flights::new(tasks.clone()),
            tag_heads: Flights::new(tasks.clone()),
            revalidations: Flights::new(tasks.clone()),
            blob_heads: Flights::new(tasks.clone()),
            tag_lists: Flights::new(tasks.clone()),
        }
    }
}

/// The first word that counts, of the replicas in their order.
async fn first_word<T, F>(route: Vec<Replica>, ask: impl Fn(Replica) -> F) -> Option<Result<T, UpstreamError>>
where
    F: Future<Output = Result<T, UpstreamError>>,
{
    for replica in route {
        match ask(replica).await {
            Ok(told) => return Some(Ok(told)),
            Err(error @ (UpstreamError::NotFound { .. } | UpstreamError::Denied { .. } | UpstreamError::TooManyRequests { .. })) => {
                return Some(Err(error));
            }
            // It is well, and cannot reach upstream. Perhaps this replica can; a third one is no better.
            Err(UpstreamError::Unavailable { kind: Unavailability::Status(_), .. }) => return None,
            Err(UpstreamError::Unavailable { .. } | UpstreamError::Lied { .. }) => {}
        }
    }
    None
}

/// Why what a replica told may be out of date, if it may.
fn staleness<T>(told: &Told<T>) -> Option<StaleReason> {
    told.stale.as_deref().map(|word| StaleReason::parse(word).unwrap_or(StaleReason::Unavailable))
}

impl Cache {
    /// A manifest by digest.
    pub(super) async fn manifest_through(&self, origin: &Arc<Origin>, digest: &Digest) -> Word<Served<Arc<CachedManifest>>> {
        let route = origin.manifest_route();
        if route.is_empty() {
            return None;
        }
        let (cache, asking, wanted) = (self.clone(), Arc::clone(origin), Reference::Digest(*digest));
        let (role, landing) = self.through.digests.join((origin.key(), *digest), || async move {
            let told = first_word(route, |replica| {
                let (origin, wanted) = (Arc::clone(&asking), wanted.clone());
                async move { replica.get_manifest(&origin.repository, &wanted, false).await }
            });
            Some(told.await?.map_err(CacheError::from).and_then(|told| cache.adopt(&asking, told.value)))
        });
        Some(landed(landing.await)?.map(|manifest| Served::new(manifest, fetched(role))))
    }

    /// A manifest by a tag that is not cached.
    pub(super) async fn tag_through(&self, origin: &Arc<Origin>, tag: &Tag, demand: Demand) -> Word<Served<Arc<CachedManifest>>> {
        let route = origin.manifest_route();
        if route.is_empty() {
            return None;
        }
        let (cache, asking, asked) = (self.clone(), Arc::clone(origin), tag.clone());
        let (role, landing) = self.through.tags.join_for(demand, (origin.key(), tag.clone()), || async move {
            let told = first_word(route, |replica| {
                let (origin, wanted) = (Arc::clone(&asking), Reference::Tag(asked.clone()));
                async move { replica.get_manifest(&origin.repository, &wanted, demand == Demand::Now).await }
            });
            let told = match told.await? {
                Ok(told) => told,
                Err(error) => return Some(Err(error.into())),
            };
            cache.note_tag(&asking, &asked, told.value.digest, told.validated_at);
            let stale = staleness(&told);
            Some(cache.adopt(&asking, told.value).map(|manifest| cache.served_by_replica(&asking, manifest, stale)))
        });
        Some(landed(landing.await)?.map(|served| as_fetched(served, fetched(role))))
    }

    /// What HEAD tells of a manifest by digest.
    pub(super) async fn digest_head_through(&self, origin: &Arc<Origin>, digest: &Digest) -> Word<Served<ManifestHeader>> {
        let route = origin.manifest_route();
        if route.is_empty() {
            return None;
        }
        let (asking, wanted) = (Arc::clone(origin), Reference::Digest(*digest));
        let (role, landing) = self.through.digest_heads.join((origin.key(), *digest), || async move {
            let told = first_word(route, |replica| {
                let (origin, wanted) = (Arc::clone(&asking), wanted.clone());
                async move { replica.head_manifest(&origin.repository, &wanted, false).await }
            });
            match told.await? {
                Ok(told) => ManifestHeader::from_upstream(&told.value).transpose(),
                Err(error) => Some(Err(error.into())),
            }
        });
        Some(landed(landing.await)?.map(|header| Served::new(header, fetched(role))))
    }

    /// What HEAD tells of a manifest by a tag that is not cached. Nothing is remembered of it: the owner
    /// waits for the manifest to come in, to write the tag then.
    pub(super) async fn tag_head_through(&self, origin: &Arc<Origin>, tag: &Tag, demand: Demand) -> Word<Served<ManifestHeader>> {
        let route = origin.manifest_route();
        if route.is_empty() {
            return None;
        }
        let (cache, asking, wanted) = (self.clone(), Arc::clone(origin), Reference::Tag(tag.clone()));
        let (role, landing) = self.through.tag_heads.join_for(demand, (origin.key(), tag.clone()), || async move {
            let told = first_word(route, |replica| {
                let (origin, wanted) = (Arc::clone(&asking), wanted.clone());
                async move { replica.head_manifest(&origin.repository, &wanted, demand == Demand::Now).await }
            });
            let told = match told.await? {
                Ok(told) => told,
                Err(error) => return Some(Err(error.into())),
            };
            let header = ManifestHeader::from_upstream(&told.value).transpose()?;
            Some(header.map(|header| cache.served_by_replica(&asking, header, staleness(&told))))
        });
        Some(landed(landing.await)?.map(|served| as_fetched(served, fetched(role))))
    }

    /// A stale tag, confirmed by its owner. A client that does not have to wait gets what is cached
    /// when that takes long.
    pub(super) async fn revalidate_through(
        &self,
        origin: &Arc<Origin>,
        tag: &Tag,
        entry: &TagEntry,
        demand: Demand,
        waits: bool,
    ) -> Word<Current> {
        let route = origin.manifest_route();
        if route.is_empty() {
            return None;
        }
        let (cache, asking, asked, known) = (self.clone(), Arc::clone(origin), tag.clone(), entry.clone());
        let (_, landing) = self.through.revalidations.join_for(demand, (origin.key(), tag.clone()), || async move {
            let told = first_word(route, |replica| {
                let (origin, wanted) = (Arc::clone(&asking), Reference::Tag(asked.clone()));
                async move { replica.head_manifest(&origin.repository, &wanted, demand == Demand::Now).await }
            });
            let told = match told.await? {
                Ok(told) => told,
                // A check that this one waited for may have moved or confirmed it.
                Err(error) => {
                    let entry = cache.memory.tags.get(&(asking.key(), asked.clone())).unwrap_or(known);
                    return Some(cache.stale(&asking, &entry, StaleReason::of(&error)));
                }
            };
            let digest = told.value.digest;
            cache.note_tag(&asking, &asked, digest, told.validated_at);
            Some(Ok(match staleness(&told) {
                Some(reason) => {
                    cache.ask_later(&asking, &asked, reason);
                    asking.metrics.served_stale(reason.as_str());
                    Served { value: digest, result: CacheResult::Stale, stale: Some(reason) }
                }
                None if digest == known.digest => Served::new(digest, CacheResult::Revalidated),
                None => Served::new(digest, CacheResult::Miss),
            }))
        });
        if waits {
            return landed(landing.await);
        }
        match tokio::time::timeout(self.limits.revalidate_wait, landing).await {
            Ok(word) => landed(word),
            // The owner is asked on behind this client.
            Err(_) => {
                self.ask_later(origin, tag, StaleReason::Slow);
                Some(self.stale(origin, entry, StaleReason::Slow))
            }
        }
    }

    /// The word of a source that it has a blob.
    pub(super) async fn blob_word_through(&self, origin: &Arc<Origin>, digest: &Digest) -> Word<(Option<u64>, CacheResult)> {
        let route = origin.blob_route(digest);
        if route.is_empty() {
            return None;
        }
        let (cache, asking, wanted) = (self.clone(), Arc::clone(origin), *digest);
        let (role, landing) = self.through.blob_heads.join((origin.key(), *digest), || async move {
            let told = first_word(route, |replica| {
                let origin = Arc::clone(&asking);
                async move { replica.head_blob(&origin.repository, &wanted).await }
            });
            let told = told.await?.map_err(CacheError::from);
            Some(told.inspect(|size_bytes| cache.remember_word(&asking, wanted, *size_bytes)))
        });
        Some(landed(landing.await)?.map(|size_bytes| (size_bytes, fetched(role))))
    }

    /// The list of tags. `old` is told where the owner takes long.
    pub(super) async fn tags_through(&self, origin: &Arc<Origin>, old: Option<&Tags>) -> Word<Served<Tags>> {
        let route = origin.manifest_route();
        if route.is_empty() {
            return None;
        }
        let (cache, asking) = (self.clone(), Arc::clone(origin));
        let (role, landing) = self.through.tag_lists.join(origin.key(), || async move {
            let told = first_word(route, |replica| {
                let origin = Arc::clone(&asking);
                async move { replica.list_tags(&origin.repository).await }
            });
            Some(told.await?.map_err(CacheError::from).map(|told| {
                let (stale, tags) = (staleness(&told), Arc::new(told.value));
                cache.memory.old_tag_lists.insert(asking.key(), Arc::clone(&tags));
                cache.served_by_replica(&asking, tags, stale)
            }))
        });
        let word = match old {
            None => landed(landing.await)?,
            Some(old) => match tokio::time::timeout(self.limits.revalidate_wait, landing).await {
                Ok(word) => landed(word)?.or_else(|error| Ok(stale_tags(origin, Arc::clone(old), StaleReason::of_cache(&error)))),
                Err(_) => Ok(stale_tags(origin, Arc::clone(old), StaleReason::Slow)),
            },
        };
        Some(word.map(|served| as_fetched(served, fetched(role))))
    }

    /// Remembers what the owner says of a tag; it has written it down. Confirmed long ago it is stale
    /// here too.
    fn note_tag(&self, origin: &Origin, tag: &Tag, digest: Digest, validated_at: Option<u64>) {
        let Some(validated_at) = validated_at else { return };
        self.forget_refusal(origin, tag);
        let told = TagEntry::said(digest, validated_at, self.clock.now(), None);
        self.memory.tags.entry((origin.key(), tag.clone())).and_compute_with(|current| match current {
            // What is known here was confirmed later: the answer was long on its way.
            Some(current) if current.value().validated_at > validated_at => Op::Nop,
            Some(_) | None => Op::Put(told),
        });
    }

    /// The owner could not have a tag confirmed: until that may have changed it is not asked again.
    fn ask_later(&self, origin: &Origin, tag: &Tag, reason: StaleReason) {
        let failed = Some(FailedAttempt { reason, failed_at: self.now_seconds(), pause: OWNER_PAUSE, in_a_row: 0 });
        self.memory.tags.entry((origin.key(), tag.clone())).and_compute_with(|current| match current {
            Some(current) => Op::Put(TagEntry { failed, ..current.into_value() }),
            None => Op::Nop,
        });
    }

    /// An answer of a replica, with what that says of its age.
    fn served_by_replica<T>(&self, origin: &Origin, value: T, stale: Option<StaleReason>) -> Served<T> {
        if let Some(reason) = stale {
            origin.metrics.served_stale(reason.as_str());
        }
        Served { stale, ..Served::new(value, if stale.is_some() { CacheResult::Stale } else { CacheResult::Miss }) }
    }
}

/// An answer, for one of those who waited for it.
fn as_fetched<T>(served: Served<T>, result: CacheResult) -> Served<T> {
    let result = if served.stale.is_some() { CacheResult::Stale } else { result };
    Served { result, ..served }
}

fn landed<T>(word: Result<Word<T>, FlightAborted>) -> Word<T> {
    word.unwrap_or_else(|aborted| Some(Err(aborted.into())))
}
