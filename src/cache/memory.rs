//! What is kept in memory: manifests, tags, "not found", and which blobs may be served.
//!
//! All of it can be lost at any time; the store has what lasts.

use std::sync::Arc;

use moka::sync::Cache as Moka;

use super::manifests::{CachedManifest, ManifestHeader};
use super::tags::TagEntry;
use super::{CacheLimits, RepositoryDigest, RepositoryTag};
use crate::oci::{RepositoryName, Tag};
use crate::storage::RepositoryRecord;

/// Small entries of each kind.
const MAX_ENTRIES: u64 = 100_000;
/// Lists of tags.
const MAX_TAG_LISTS: u64 = 1_000;

/// The maps. Keys hold the canonical repository; values their source, which readers compare.
pub(super) struct Memory {
    pub(super) manifests: Moka<RepositoryDigest, Arc<CachedManifest>>,
    pub(super) tags: Moka<RepositoryTag, TagEntry>,
    /// References that upstream does not have.
    pub(super) absent: Moka<(RepositoryName, String), ()>,
    /// Tags that a HEAD has resolved, with their manifests not imported.
    pub(super) heads: Moka<RepositoryTag, (ManifestHeader, u64)>,
    /// The other way round: which tags to write once the manifest is imported.
    pub(super) head_tags: Moka<RepositoryDigest, Vec<(Tag, u64)>>,
    /// Blobs that a repository may serve, with the source that vouched.
    pub(super) vouched: Moka<RepositoryDigest, Arc<str>>,
    /// Blobs that a cached manifest refers to: source, and size by the descriptor.
    pub(super) links: Moka<RepositoryDigest, (Arc<str>, Option<u64>)>,
    /// Lists of tags as upstream sent them.
    pub(super) tag_lists: Moka<RepositoryName, Arc<Vec<Tag>>>,
    /// The last such list, for when upstream is gone.
    pub(super) old_tag_lists: Moka<RepositoryName, Arc<Vec<Tag>>>,
    /// What repositories are.
    pub(super) repositories: Moka<RepositoryName, Option<RepositoryRecord>>,
}

impl Memory {
    pub(super) fn new(limits: &CacheLimits) -> Self {
        let small = || MAX_ENTRIES;
        Self {
            manifests: Moka::builder()
                .max_capacity(limits.memory_bytes)
                .weigher(|_: &RepositoryDigest, manifest: &Arc<CachedManifest>| manifest.weight())
                .build(),
            tags: Moka::new(small()),
            absent: Moka::builder().max_capacity(small()).time_to_live(limits.negative_ttl).build(),
            heads: Moka::new(small()),
            head_tags: Moka::new(small()),
            vouched: Moka::new(small()),
            links: Moka::new(small()),
            tag_lists: Moka::builder().max_capacity(MAX_TAG_LISTS).time_to_live(limits.tags_list_ttl).build(),
            old_tag_lists: Moka::new(MAX_TAG_LISTS),
            repositories: Moka::new(small()),
        }
    }
}
