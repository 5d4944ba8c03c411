//! Media types of manifests.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// A media type without parameters, e.g. `application/vnd.oci.image.index.v1+json`. An open set:
/// artifacts bring their own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MediaType(Arc<str>);

/// The text is not a media type of at most [`MediaType::MAX_BYTES`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a media type is written type/subtype, in at most {max} characters", max = MediaType::MAX_BYTES)]
pub struct MediaTypeError;

impl MediaType {
    /// Longest media type (RFC 6838: 127 each side of the '/').
    pub const MAX_BYTES: usize = 255;
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// Docker schema 2 manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker schema 1, signed. Not cached: its digest is not the digest of its bytes.
    pub const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    /// Docker schema 1, unsigned.
    pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";

    /// The `Accept` sent upstream for manifests: what a registry may convert between comes first,
    /// `*/*` lets artifacts with types of their own through.
    pub const MANIFEST_ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
         application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, */*";

    /// Parses a `Content-Type` value; parameters such as `; charset=utf-8` are dropped.
    ///
    /// # Errors
    /// When it is not `type/subtype` in visible ASCII.
    pub fn parse(text: &str) -> Result<Self, MediaTypeError> {
        let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let is_token = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b));
        let holds = essence.len() <= Self::MAX_BYTES && essence.split_once('/').is_some_and(|(kind, sub)| is_token(kind) && is_token(sub));
        if holds { Ok(Self(essence.into())) } else { Err(MediaTypeError) }
    }

    /// The media type as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Docker schema 1, signed or not.
    #[must_use]
    pub fn is_schema1(&self) -> bool {
        matches!(self.as_str(), Self::DOCKER_SCHEMA1 | Self::DOCKER_SCHEMA1_SIGNED)
    }

    /// Whether the type says nothing about which kind of manifest it is.
    #[must_use]
    pub fn is_generic(&self) -> bool {
        matches!(self.as_str(), "application/json" | "application/octet-stream" | "text/plain" | "binary/octet-stream")
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_case_do_not_matter() {
        assert_eq!(MediaType::parse("Application/JSON; charset=utf-8").unwrap().as_str(), "application/json");
        assert_eq!(MediaType::parse(MediaType::OCI_INDEX).unwrap().as_str(), MediaType::OCI_INDEX);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "json", "a/", "/b", "a/b/c", "a b/c", &format!("a/{}", "b".repeat(254))] {
            assert_eq!(MediaType::parse(text), Err(MediaTypeError), "{text}");
        }
    }
}
