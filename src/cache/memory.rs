//! What is kept in memory: manifests, tags, "not found", and which blobs may be served.
//!
//! All of it can be lost at any time; the store has what lasts. Whoever brings in something from
//! the store puts it in only where nothing is: what upstream said meanwhile is newer.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache as Moka;

use super::manifests::CachedManifest;
use super::origin::OriginKey;
use super::repositories::KnownRepository;
use super::tags::{HeadMemo, TagEntry};
use super::view::KnownView;
use super::{CacheLimits, OriginDigest, OriginTag};
use crate::oci::{Digest, Referrer, RepositoryName, Tag};
use crate::storage::Expected;
use crate::upstream::UpstreamError;

/// Small entries of each kind.
const MAX_ENTRIES: u64 = 100_000;
/// References that upstream refused. Fewer: anybody can ask for any, and each holds upstream's words.
const MAX_REFUSALS: u64 = 10_000;
/// Tags in all the lists that are remembered.
const MAX_LISTED_TAGS: u64 = 500_000;

/// Lists of referrers, in bytes.
const MAX_REFERRERS_BYTES: u64 = 32 * 1024 * 1024;
/// What an empty list takes there.
const ENTRY_BYTES: usize = 300;
/// Views of repositories, in bytes. One that is larger is read anew each time.
const MAX_VIEWS_BYTES: u64 = 32 * 1024 * 1024;
/// How long it is believed that the bucket has a blob: far less than the grace of garbage collection.
const IN_BUCKET_FOR: Duration = Duration::from_secs(600);

/// The maps.
pub(super) struct Memory {
    pub(super) manifests: Moka<OriginDigest, Arc<CachedManifest>>,
    pub(super) tags: Moka<OriginTag, TagEntry>,
    /// References that upstream does not have or show, with what it said.
    pub(super) absent: Moka<(OriginKey, String), UpstreamError>,
    /// Tags that a HEAD has resolved, with their manifests not imported.
    pub(super) heads: Moka<OriginTag, HeadMemo>,
    /// What a bucket has in the place of tags that are not cached.
    pub(super) places: Moka<OriginTag, Expected>,
    /// Which tags of `heads` to look up once a manifest is imported.
    pub(super) head_tags: Moka<OriginDigest, Vec<Tag>>,
    /// Blobs that a repository may serve. Not compared with the store, like the next: that a source has a
    /// blob is no less true when another replica retires the record, and a blob whose bytes are gone is a
    /// miss whatever stands here.
    pub(super) vouched: Moka<OriginDigest, ()>,
    /// Blobs that a cached manifest refers to: size by the descriptor.
    pub(super) links: Moka<OriginDigest, Option<u64>>,
    /// By blob, the image that named it last; only where rules prefetch, as are the next two.
    pub(super) named_by: Moka<OriginDigest, Digest>,
    /// By image, the index that named it last.
    pub(super) indexed_by: Moka<OriginDigest, Digest>,
    /// Images that have come in, and none of whose blobs was missed since.
    pub(super) cold_images: Moka<OriginDigest, ()>,
    /// Blobs that the bucket has: their lengths.
    pub(super) in_bucket: Moka<Digest, u64>,
    /// Lists of tags as upstream sent them.
    pub(super) tag_lists: Moka<OriginKey, Arc<Vec<Tag>>>,
    /// The last such list, for when upstream is gone.
    pub(super) old_tag_lists: Moka<OriginKey, Arc<Vec<Tag>>>,
    /// Lists of referrers, by what they refer to.
    pub(super) referrers: Moka<OriginDigest, Arc<Vec<Referrer>>>,
    /// The last such list, for when upstream is gone.
    pub(super) old_referrers: Moka<OriginDigest, Arc<Vec<Referrer>>>,
    /// When it was last written down that a manifest was pulled, in unix seconds.
    pub(super) pulled: Moka<OriginDigest, u64>,
    /// Views of repositories.
    pub(super) views: Moka<RepositoryName, KnownView>,
    /// What repositories are. That one is not known is not kept: it may be made at any moment.
    pub(super) repositories: Moka<RepositoryName, KnownRepository>,
}

impl Memory {
    pub(super) fn new(limits: &CacheLimits) -> Self {
        Self {
            manifests: Moka::builder()
                .max_capacity(limits.memory_bytes)
                .weigher(|_: &OriginDigest, manifest: &Arc<CachedManifest>| manifest.weight())
                .build(),
            tags: Moka::new(MAX_ENTRIES),
            absent: Moka::builder().max_capacity(MAX_REFUSALS).time_to_live(limits.negative_ttl).build(),
            heads: Moka::new(MAX_ENTRIES),
            places: Moka::new(MAX_ENTRIES),
            head_tags: Moka::new(MAX_ENTRIES),
            vouched: Moka::new(MAX_ENTRIES),
            links: Moka::new(MAX_ENTRIES),
            named_by: Moka::new(MAX_ENTRIES),
            indexed_by: Moka::new(MAX_ENTRIES),
            cold_images: Moka::new(MAX_ENTRIES),
            in_bucket: Moka::builder().max_capacity(MAX_ENTRIES).time_to_live(IN_BUCKET_FOR).build(),
            tag_lists: Moka::builder().max_capacity(MAX_LISTED_TAGS).weigher(listed_tags).time_to_live(limits.tags_list_ttl).build(),
            old_tag_lists: Moka::builder().max_capacity(MAX_LISTED_TAGS).weigher(listed_tags).build(),
            referrers: Moka::builder()
                .max_capacity(MAX_REFERRERS_BYTES)
                .weigher(listed_referrers)
                .time_to_live(limits.tags_list_ttl)
                .build(),
            old_referrers: Moka::builder().max_capacity(MAX_REFERRERS_BYTES).weigher(listed_referrers).build(),
            pulled: Moka::new(MAX_ENTRIES),
            views: Moka::builder().max_capacity(MAX_VIEWS_BYTES).weigher(|_, view: &KnownView| view.weight()).build(),
            repositories: Moka::new(MAX_ENTRIES),
        }
    }
}

impl Memory {
    /// Forgets that the bucket has a blob.
    pub(super) fn forget_place(&self, digest: &Digest) {
        self.in_bucket.invalidate(digest);
    }

    /// Forgets manifests with this digest, too, so that they are looked for in the store. Looks at every
    /// one: blobs seldom rot.
    pub(super) fn forget(&self, digest: &Digest) {
        self.forget_place(digest);
        for (key, _) in self.manifests.iter().filter(|(key, _)| key.1 == *digest) {
            self.manifests.invalidate(&*key);
        }
    }
}

fn listed_tags(_: &OriginKey, tags: &Arc<Vec<Tag>>) -> u32 {
    u32::try_from(tags.len() + 1).unwrap_or(u32::MAX)
}

fn listed_referrers(_: &OriginDigest, referrers: &Arc<Vec<Referrer>>) -> u32 {
    let bytes: usize = referrers.iter().map(Referrer::weight_bytes).sum();
    u32::try_from(bytes + ENTRY_BYTES).unwrap_or(u32::MAX)
}
