//! Error codes of the distribution specification ("Error Codes").

/// The `code` of an error envelope. Own codes are those of Distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorCode {
    /// Blob unknown to the registry.
    BlobUnknown,
    /// Provided digest is not a digest.
    DigestInvalid,
    /// Manifest unknown.
    ManifestUnknown,
    /// Manifest invalid.
    ManifestInvalid,
    /// Repository name is not a name.
    NameInvalid,
    /// Repository unknown.
    NameUnknown,
    /// `n` is not a number of results (Distribution).
    PaginationNumberInvalid,
    /// Tag is not a tag (Distribution).
    TagInvalid,
    /// Range cannot be satisfied (Distribution).
    RangeInvalid,
    /// Authentication required.
    Unauthorized,
    /// Access denied.
    Denied,
    /// The operation is not supported.
    Unsupported,
    /// Too many requests.
    TooManyRequests,
    /// The registry, or its upstream, cannot answer now (Distribution).
    Unavailable,
    /// Anything else (Distribution).
    Unknown,
}

impl ErrorCode {
    /// The code on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
        }
    }
}
