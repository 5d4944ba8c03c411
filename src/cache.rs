//! What is cached, how fresh it is, and how it comes in.
//!
//! `upstream` and `storage` do not know each other; they meet here. Everything below
//! [`Cache`] answers for one repository, its [`Origin`], which has been authorized before.

mod backoff;
mod blobs;
mod bucket;
mod catalog;
mod error;
mod evict;
pub mod fill;
mod flight;
mod freshness;
mod import;
mod manifests;
mod memory;
mod mirrors;
mod negative;
mod origin;
mod prefetch;
mod pulled;
mod referrers;
mod replicas;
mod repositories;
mod retire;
mod tag_records;
mod tags;
mod tags_list;
mod unrecorded;
mod view;
mod vouch;

pub use backoff::Backoff;
pub use blobs::{BlobAnswer, BlobDelivery};
pub use bucket::Redirects;
pub use error::CacheError;
pub use fill::{FillError, FillLimits, Follower, Line, LineLimits, UploadLimits};
pub use flight::{FlightAborted, Flights, Role};
pub use freshness::StaleReason;
pub use manifests::{CachedManifest, ManifestHeader};
pub use mirrors::Mirror;
pub(crate) use mirrors::Place;
pub use origin::{Origin, RuleOrigin};
pub use retire::Retired;
pub use tags::{Demand, Served};
pub use vouch::Standing;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::clock::{Clock, unix_seconds};
use crate::oci::{Digest, Referrer, RepositoryName, Tag};
use crate::storage::{RepositoryView, Store};
use crate::tasks::Tasks;
use crate::telemetry::metrics::{CacheResult, Metrics, UpkeepMetrics};
use fill::{Fills, Uploads};
use memory::Memory;
use origin::OriginKey;
pub use prefetch::Prefetches;
use replicas::Through;
use unrecorded::Unrecorded;

/// Limits of the cache; the configuration's `limits` name and default them.
#[derive(Clone, Debug)]
pub struct CacheLimits {
    /// How long a client waits for a stale tag to be confirmed.
    pub revalidate_wait: Duration,
    /// Pause after a tag could not be confirmed.
    pub revalidate_backoff: Duration,
    /// How long "not found" is remembered.
    pub negative_ttl: Duration,
    /// How long a list of tags or of referrers is served before upstream is asked again.
    pub tags_list_ttl: Duration,
    /// How long what other replicas may have changed is believed.
    pub view_ttl: Duration,
    /// How often at most it is written down that a manifest was pulled.
    pub pulled_interval: Duration,
    /// Records of what nobody pulled for so long are removed; zero keeps them.
    pub retire_after: Duration,
    /// Manifests in memory, in bytes.
    pub memory_bytes: u64,
    /// Those of fills.
    pub fills: FillLimits,
    /// Those of uploads to the bucket.
    pub uploads: UploadLimits,
    /// Redirects to the bucket; `None` where blobs are sent through this server.
    pub redirects: Option<Redirects>,
}

type OriginTag = (OriginKey, Tag);
type OriginDigest = (OriginKey, Digest);

/// The cache of one process; cheap to clone.
#[derive(Clone)]
pub struct Cache {
    store: Arc<Store>,
    memory: Arc<Memory>,
    fills: Fills,
    clock: Clock,
    tasks: Tasks,
    limits: Arc<CacheLimits>,
    pull_writes: Arc<Semaphore>,
    upkeep_metrics: UpkeepMetrics,
    through: Through,
    revalidations: Flights<OriginTag, freshness::Revalidation>,
    tag_reads: Flights<OriginTag, Option<tags::TagEntry>>,
    tag_imports: Flights<OriginTag, Result<Arc<CachedManifest>, CacheError>>,
    digest_imports: Flights<OriginDigest, Result<Arc<CachedManifest>, CacheError>>,
    tag_heads: Flights<OriginTag, Result<ManifestHeader, CacheError>>,
    digest_heads: Flights<OriginDigest, Result<ManifestHeader, CacheError>>,
    blob_heads: Flights<OriginDigest, Result<Option<u64>, CacheError>>,
    bucket_looks: Flights<Digest, Option<u64>>,
    tag_lists: Flights<OriginKey, Result<Arc<Vec<Tag>>, CacheError>>,
    referrer_lists: Flights<OriginDigest, Result<Arc<Vec<Referrer>>, CacheError>>,
    view_reads: Flights<RepositoryName, Result<Arc<RepositoryView>, CacheError>>,
    unrecorded: Arc<Unrecorded>,
    uploads: Option<Uploads>,
}

impl Cache {
    /// A cache over `store`.
    #[must_use]
    pub fn new(store: Arc<Store>, clock: Clock, tasks: Tasks, limits: CacheLimits, metrics: &Metrics) -> Self {
        let bucket = store.bucket.clone().map(|bucket| {
            let (blobs, pending, limits) = (store.blobs.clone(), store.pending_uploads(), limits.uploads.clone());
            let uploads = Uploads::new(bucket.clone(), blobs, pending, store.keeps_on_disk, limits, tasks.clone(), metrics);
            tasks.spawn("uploads", uploads.clone().retry_pending());
            (bucket, uploads)
        });
        let cache = Self {
            uploads: bucket.as_ref().map(|(_, uploads)| uploads.clone()),
            memory: Arc::new(Memory::new(&limits)),
            fills: Fills::new(store.blobs.clone(), bucket, limits.fills.clone(), tasks.clone()),
            through: Through::new(&tasks),
            revalidations: Flights::new(tasks.clone()),
            tag_reads: Flights::new(tasks.clone()),
            tag_imports: Flights::new(tasks.clone()),
            digest_imports: Flights::new(tasks.clone()),
            tag_heads: Flights::new(tasks.clone()),
            digest_heads: Flights::new(tasks.clone()),
            blob_heads: Flights::new(tasks.clone()),
            bucket_looks: Flights::new(tasks.clone()),
            tag_lists: Flights::new(tasks.clone()),
            referrer_lists: Flights::new(tasks.clone()),
            view_reads: Flights::new(tasks.clone()),
            unrecorded: Arc::new(Unrecorded::new(&tasks)),
            store,
            clock,
            tasks,
            limits: Arc::new(limits),
            pull_writes: Arc::new(Semaphore::new(pulled::CONCURRENT_WRITES)),
            upkeep_metrics: metrics.upkeep.clone(),
        };
        if cache.is_shared() {
            cache.tasks.spawn("unrecorded tags", cache.clone().record_unrecorded());
        }
        cache
    }

    /// Forgets where a blob is that was deleted, since nothing refers to it.
    pub fn forget_place(&self, digest: &Digest) {
        self.memory.forget_place(digest);
    }

    /// Has a blob on disk sent to the bucket, which has lost it. False if it is on its way already. Blocks.
    #[must_use]
    pub fn send_again(&self, digest: &Digest) -> bool {
        self.uploads.as_ref().is_some_and(|uploads| uploads.send_again(*digest))
    }

    /// Forgets all that is in memory of a blob that was put aside: what refers to it has to look for it again.
    pub fn forget(&self, digest: &Digest) {
        self.memory.forget(digest);
    }

    fn now_seconds(&self) -> u64 {
        unix_seconds(self.clock.now())
    }
}

/// What the cache did for somebody who needed upstream.
const fn fetched(role: Role) -> CacheResult {
    match role {
        Role::Leader => CacheResult::Miss,
        Role::Joined => CacheResult::Coalesced,
    }
}
