//! How long a tag is believed, and what happens then.
//!
//! A tag is fresh for its rule's window since upstream last confirmed it. After that one HEAD asks
//! upstream, in a task of its own; a client waits for it only so long. Whatever is not an answer
//! leaves the cached content in service and the clock as it was.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use super::tag_records::OnConflict;
use super::tags::{Demand, FailedAttempt, Served, TagEntry};
use super::{Cache, CacheError, FlightAborted, Origin};
use crate::oci::{Digest, Reference, Tag};
use crate::telemetry::metrics::CacheResult;
use crate::upstream::{CircuitState, ManifestBody, Purpose, Unavailability, UpstreamError};

/// A window is shortened by up to this part of it, so that tags cached together are not checked
/// together.
const JITTER_PARTS: u64 = 10;
/// Longest pause between attempts to confirm a tag that upstream refuses.
const MAX_BACKOFF: Duration = Duration::from_secs(3600);

/// Why cached content could not be confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleReason {
    /// Upstream takes longer than clients are kept waiting.
    Slow,
    /// Upstream cannot be reached, or fails.
    Unavailable,
    /// Upstream wants to be asked less.
    TooManyRequests,
    /// What is left of upstream's quota is kept for what is not cached.
    Quota,
    /// Upstream refuses this server.
    Denied,
    /// Upstream no longer has it.
    NotFound,
    /// Upstream's answer makes no sense.
    Invalid,
}

impl StaleReason {
    /// The reason as a metric's label and in `Warning`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Unavailable => "unavailable",
            Self::TooManyRequests => "too_many_requests",
            Self::Quota => "quota",
            Self::Denied => "denied",
            Self::NotFound => "not_found",
            Self::Invalid => "invalid",
        }
    }

    /// The reason that another replica named.
    pub(super) fn parse(word: &str) -> Option<Self> {
        let all = [Self::Slow, Self::Unavailable, Self::TooManyRequests, Self::Quota, Self::Denied, Self::NotFound, Self::Invalid];
        all.into_iter().find(|reason| reason.as_str() == word)
    }

    /// The reason behind a failure of the cache.
    pub(super) const fn of_cache(error: &CacheError) -> Self {
        match error {
            CacheError::Upstream(error) | CacheError::Negative(error) => Self::of(error),
            CacheError::Manifest(_) => Self::Invalid,
            CacheError::Unreachable
            | CacheError::TooStale { .. }
            | CacheError::Fill(_)
            | CacheError::Storage(_)
            | CacheError::RangeNotSatisfiable { .. }
            | CacheError::Aborted(_) => Self::Unavailable,
        }
    }

    pub(super) const fn of(error: &UpstreamError) -> Self {
        match error {
            UpstreamError::NotFound { .. } => Self::NotFound,
            UpstreamError::Denied { .. } => Self::Denied,
            UpstreamError::TooManyRequests { .. } => Self::TooManyRequests,
            UpstreamError::Unavailable { kind: Unavailability::Timeout, .. } => Self::Slow,
            UpstreamError::Unavailable { kind: Unavailability::QuotaFloor, .. } => Self::Quota,
            UpstreamError::Unavailable { .. } => Self::Unavailable,
            UpstreamError::Lied { .. } => Self::Invalid,
        }
    }
}

/// A tag's digest, confirmed or as it is cached.
pub(super) type Current = Served<Digest>;

/// How asking upstream went.
#[derive(Clone, Debug)]
pub(super) enum Revalidation {
    /// Upstream says so.
    Said(Digest),
    Unconfirmed(StaleReason),
}

impl Cache {
    /// Whether a tag is within its window.
    pub(super) fn is_fresh(&self, origin: &Origin, tag: &Tag, entry: &TagEntry) -> bool {
        let window = origin.freshness.window(tag.as_str()).as_secs();
        let mut hasher = DefaultHasher::new();
        (&origin.repository, tag, entry.validated_at).hash(&mut hasher);
        let jitter = hasher.finish() % (window / JITTER_PARTS).max(1);
        // A validation in the future was made before the clock was set back: it counts for nothing.
        self.now_seconds().checked_sub(entry.validated_at).is_some_and(|age| age < window - jitter.min(window))
    }

    /// Has a tag confirmed, or serves it as it is cached.
    pub(super) async fn revalidate(&self, origin: &Arc<Origin>, tag: &Tag, entry: TagEntry, demand: Demand) -> Result<Current, CacheError> {
        if demand == Demand::AsConfigured
            && let Some(failed) = entry.failed
            && failed.holds_off(self.now_seconds())
        {
            return self.stale(origin, &entry, failed.reason);
        }
        let key = (origin.key(), tag.clone());
        let waits = demand == Demand::Now || self.is_too_stale(origin, &entry);
        if let Some(word) = self.revalidate_through(origin, tag, &entry, demand, waits).await {
            return word;
        }
        if !waits && origin.reach()?.circuit_state() != CircuitState::Well && self.revalidations.is_under_way(&key) {
            return self.stale(origin, &entry, StaleReason::Slow);
        }
        if !waits && let Some(refusal) = origin.reach()?.held_off(Purpose::Revalidate) {
            return self.stale(origin, &entry, StaleReason::of(&refusal));
        }
        let (cache, asking, asked, known) = (self.clone(), Arc::clone(origin), tag.clone(), entry.clone());
        let check = || async move { cache.ask_upstream(&asking, &asked, known, demand, OnConflict::AskAgain).await };
        let (_, landing) = self.revalidations.join_for(demand, key.clone(), check);
        let landed = if waits {
            landing.await
        } else {
            match tokio::time::timeout(self.limits.revalidate_wait, landing).await {
                Ok(landed) => landed,
                Err(_) => {
                    // The check goes on behind; the next clients do not wait for it.
                    origin.reach()?.mark_slow();
                    return self.stale(origin, &entry, StaleReason::Slow);
                }
            }
        };
        match landed {
            Ok(Revalidation::Said(digest)) if digest == entry.digest => Ok(Served::new(digest, CacheResult::Revalidated)),
            Ok(Revalidation::Said(digest)) => Ok(Served::new(digest, CacheResult::Miss)),
            // A check that this one waited for may have moved or confirmed it.
            Ok(Revalidation::Unconfirmed(reason)) => self.stale(origin, &self.memory.tags.get(&key).unwrap_or(entry), reason),
            Err(FlightAborted) => self.stale(origin, &entry, StaleReason::Unavailable),
        }
    }

    /// Whether a tag may not be served any more unless upstream confirms it.
    fn is_too_stale(&self, origin: &Origin, entry: &TagEntry) -> bool {
        let age = self.now_seconds().saturating_sub(entry.validated_at);
        origin.freshness.max_stale.is_some_and(|max_stale| age > max_stale.as_secs())
    }

    pub(super) fn stale(&self, origin: &Origin, entry: &TagEntry, reason: StaleReason) -> Result<Current, CacheError> {
        if self.is_too_stale(origin, entry) {
            return Err(CacheError::TooStale { reason });
        }
        origin.metrics.served_stale(reason.as_str());
        Ok(Served { value: entry.digest, result: CacheResult::Stale, stale: Some(reason) })
    }

    /// One HEAD to the primary upstream; the manifest only if the tag has moved. None where another
    /// replica has asked meanwhile.
    pub(super) async fn ask_upstream(
        &self,
        origin: &Arc<Origin>,
        tag: &Tag,
        known: TagEntry,
        demand: Demand,
        on_conflict: OnConflict,
    ) -> Revalidation {
        let known = match demand {
            Demand::AsConfigured => match self.landed_meanwhile(origin, tag, &known) {
                Some(landed) => return landed,
                None => known,
            },
            // What landed meanwhile may have begun before this caller came.
            Demand::Now => self.memory.tags.get(&(origin.key(), tag.clone())).unwrap_or(known),
        };
        let entry = self.before_asking(origin, tag, &known).await;
        if demand == Demand::AsConfigured && self.is_fresh(origin, tag, &entry) {
            return Revalidation::Said(entry.digest);
        }
        let asked_at = self.now_seconds();
        match self.digest_upstream(origin, tag, &entry).await {
            Ok(digest) if digest == entry.digest => {
                let entry = TagEntry { validated_at: asked_at, gone_since: None, failed: None, ..entry };
                self.memory.tags.insert((origin.key(), tag.clone()), entry.clone());
                self.record_validation(origin, tag, entry.as_validated()).await;
                Revalidation::Said(digest)
            }
            Ok(digest) => {
                let moved = TagEntry::said(digest, asked_at, self.clock.now(), entry.origin.place());
                self.move_tag(origin, tag, moved, on_conflict);
                Revalidation::Said(digest)
            }
            Err(error) => Revalidation::Unconfirmed(self.unconfirmed(origin, tag, entry, &error).await),
        }
    }

    /// How a check went that ended between a caller's look at `entry` and its own check.
    fn landed_meanwhile(&self, origin: &Origin, tag: &Tag, entry: &TagEntry) -> Option<Revalidation> {
        let current = self.memory.tags.get(&(origin.key(), tag.clone()))?;
        let attempts = |entry: &TagEntry| entry.failed.map_or(0, |failed| failed.in_a_row);
        if current.validated_at > entry.validated_at {
            return Some(Revalidation::Said(current.digest));
        }
        let failed = current.failed.filter(|_| attempts(&current) > attempts(entry))?;
        Some(Revalidation::Unconfirmed(failed.reason))
    }

    /// The digest upstream has for the tag; its manifest is imported if it is another one.
    async fn digest_upstream(&self, origin: &Arc<Origin>, tag: &Tag, entry: &TagEntry) -> Result<Digest, CacheError> {
        let upstream = origin.reach()?;
        // What may not be served unconfirmed is as good as not cached.
        let purpose = if self.is_too_stale(origin, entry) { Purpose::Fetch } else { Purpose::Revalidate };
        let head = upstream.head_manifest(&origin.remote, &Reference::Tag(tag.clone()), purpose).await?;
        if head.digest == entry.digest || self.cached_manifest(origin, &head.digest).await.is_some() {
            return Ok(head.digest);
        }
        match head.body {
            Some(bytes) => {
                let body = ManifestBody { bytes, content_type: head.content_type, digest: head.digest };
                self.import(origin, body)?;
            }
            None => {
                self.import_digest(origin, &head.digest, purpose).await?;
            }
        }
        Ok(head.digest)
    }

    /// Notes that a tag was not confirmed. The circuit paces what concerns the whole upstream;
    /// what concerns this tag alone is paced here.
    async fn unconfirmed(&self, origin: &Origin, tag: &Tag, mut entry: TagEntry, error: &CacheError) -> StaleReason {
        let CacheError::Upstream(error) = error else {
            tracing::warn!(repository = %origin.repository, %tag, %error, "a tag could not be checked and is served as it is cached");
            self.pace(origin, tag, entry, StaleReason::Invalid);
            return StaleReason::Invalid;
        };
        let reason = StaleReason::of(error);
        match reason {
            StaleReason::Slow | StaleReason::Unavailable | StaleReason::TooManyRequests | StaleReason::Quota => {
                tracing::debug!(repository = %origin.repository, %tag, %error, "a tag could not be checked and is served as it is cached");
            }
            StaleReason::NotFound | StaleReason::Denied | StaleReason::Invalid => {
                tracing::warn!(repository = %origin.repository, %tag, %error, "upstream does not confirm a tag; it is served as it is cached");
                if reason == StaleReason::NotFound && entry.gone_since.is_none() {
                    entry.gone_since = Some(self.now_seconds());
                    self.record_validation(origin, tag, entry.as_validated()).await;
                }
                self.pace(origin, tag, entry, reason);
            }
        }
        reason
    }

    fn pace(&self, origin: &Origin, tag: &Tag, mut entry: TagEntry, reason: StaleReason) {
        let key = (origin.key(), tag.clone());
        if self.memory.tags.get(&key).is_some_and(|current| current.validated_at > entry.validated_at) {
            return;
        }
        let in_a_row = entry.failed.map_or(0, |failed| failed.in_a_row) + 1;
        let pause = self.limits.revalidate_backoff.saturating_mul(1 << (in_a_row - 1).min(16)).min(MAX_BACKOFF);
        entry.failed = Some(FailedAttempt { reason, failed_at: self.now_seconds(), pause, in_a_row });
        self.memory.tags.insert(key, entry);
    }
}
