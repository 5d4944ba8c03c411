//! The closed sets that labels come from.

/// Result of a lookup, the label `result` of `headpond_cache_requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheResult {
    /// Served from the cache with no upstream request.
    Hit,
    /// Fetched from upstream.
    Miss,
    /// Served from a transfer that another request began.
    Coalesced,
    /// Served from the cache past its freshness, because upstream gave no answer.
    Stale,
    /// Served from the cache after upstream confirmed it.
    Revalidated,
    /// Answered "not found" from memory.
    Negative,
    /// Streamed through without being kept.
    Bypass,
}

impl CacheResult {
    pub(super) const ALL: [Self; 7] =
        [Self::Hit, Self::Miss, Self::Coalesced, Self::Stale, Self::Revalidated, Self::Negative, Self::Bypass];

    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Coalesced => "coalesced",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
            Self::Negative => "negative",
            Self::Bypass => "bypass",
        }
    }
}

/// What was asked for, the label `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheKind {
    /// A manifest by tag.
    Tag,
    /// A manifest by digest.
    Manifest,
    /// A blob.
    Blob,
    /// A list of tags.
    TagsList,
    /// A list of what refers to a manifest.
    Referrers,
}

impl CacheKind {
    pub(super) const ALL: [Self; 5] = [Self::Tag, Self::Manifest, Self::Blob, Self::TagsList, Self::Referrers];

    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tag => "tag",
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::TagsList => "tags_list",
            Self::Referrers => "referrers",
        }
    }
}

/// How a fill ended, the label `result` of `headpond_fills_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillResult {
    /// Verified and committed.
    Committed,
    /// Verified and delivered, but not kept (no space, or the store failed).
    NotKept,
    /// Upstream broke off for good.
    Failed,
    /// The bytes did not match their digest.
    DigestMismatch,
    /// Bytes of the bucket, another replica or a mirror among it, they did not match their digest.
    Rotten,
    /// Dropped because nobody followed it and room was needed, or by shutdown.
    Dropped,
}

impl FillResult {
    pub(super) const ALL: [Self; 6] = [Self::Committed, Self::NotKept, Self::Failed, Self::DigestMismatch, Self::Rotten, Self::Dropped];

    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::NotKept => "not_kept",
            Self::Failed => "failed",
            Self::DigestMismatch => "digest_mismatch",
            Self::Rotten => "rotten",
            Self::Dropped => "dropped",
        }
    }
}

/// Where a fill's bytes come from, the label `source` of `headpond_fill_bytes_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillSource {
    /// The bucket.
    Bucket,
    /// Another replica.
    Replica,
    /// The upstream.
    Upstream,
    /// A mirror of it.
    Mirror,
}

impl FillSource {
    pub(super) const ALL: [Self; 4] = [Self::Bucket, Self::Replica, Self::Upstream, Self::Mirror];

    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bucket => "bucket",
            Self::Replica => "replica",
            Self::Upstream => "upstream",
            Self::Mirror => "mirror",
        }
    }
}

/// What a mirror was good for, the label `result` of `headpond_mirror_requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorResult {
    /// It sent, or began to send, what it was asked for.
    Answered,
    /// It does not have it, or not for everybody.
    Absent,
    /// It gave no answer, or one that cannot be.
    Failed,
}

impl MirrorResult {
    pub(super) const ALL: [Self; 3] = [Self::Answered, Self::Absent, Self::Failed];

    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Absent => "absent",
            Self::Failed => "failed",
        }
    }
}

/// Why stale content was served, the label `reason` of `headpond_stale_served_total`.
pub const STALE_REASONS: [&str; 7] = ["slow", "unavailable", "too_many_requests", "quota", "denied", "not_found", "invalid"];
