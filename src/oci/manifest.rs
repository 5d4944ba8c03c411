//! What Headpond needs to know of a manifest. The bytes themselves are stored and served verbatim;
//! nothing is ever written back from these types.

use serde::Deserialize;
use thiserror::Error;

use super::{Digest, MediaType};

/// A reference from a manifest to content (image specification, "Content Descriptors").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Address of the content.
    pub digest: Digest,
    /// Its length in bytes.
    pub size_bytes: u64,
}

/// What a manifest says of itself and of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestSummary {
    /// Its media type: from upstream's header, else from the document.
    pub media_type: MediaType,
    /// Config and layers (of an image or an artifact). Blobs that live elsewhere (`urls`) are left out.
    pub blobs: Vec<Descriptor>,
    /// Manifests of an index.
    pub manifests: Vec<Descriptor>,
    /// The manifest this one is about.
    pub subject: Option<Digest>,
    /// `artifactType`, or the config's media type where that is missing.
    pub artifact_type: Option<String>,
}

/// Why a document is not a manifest that can be cached.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// Longer than [`ManifestSummary::MAX_BYTES`].
    #[error("the manifest has more than {max} bytes", max = ManifestSummary::MAX_BYTES)]
    TooLarge,
    /// Not JSON, or not of a manifest's shape.
    #[error("the manifest is not valid JSON of a manifest's shape: {0}")]
    Json(#[from] serde_json::Error),
    /// Neither header nor document nor shape tell what it is.
    #[error("the document has none of mediaType, config, layers or manifests")]
    NotAManifest,
    /// Docker schema 1, which no current client pulls.
    #[error("the manifest is Docker schema 1, which is not supported; push the image again with a current client")]
    Schema1,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u32>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<DocumentDescriptor>,
    #[serde(default)]
    layers: Option<Vec<DocumentDescriptor>>,
    #[serde(default)]
    blobs: Option<Vec<DocumentDescriptor>>,
    #[serde(default)]
    manifests: Option<Vec<DocumentDescriptor>>,
    subject: Option<DocumentDescriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DocumentDescriptor {
    media_type: Option<String>,
    digest: Digest,
    size: u64,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

impl ManifestSummary {
    /// Largest manifest, in bytes (ECR and Distribution: 4 MiB).
    pub const MAX_BYTES: usize = 4 * 1024 * 1024;

    /// Reads `bytes`. `content_type` is what came with them.
    ///
    /// # Errors
    /// When it is too large, not JSON, no manifest, or schema 1.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, ManifestError> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(ManifestError::TooLarge);
        }
        let document: Document = serde_json::from_slice(bytes)?;
        let media_type = media_type_of(&document, content_type)?;
        if media_type.is_schema1() {
            return Err(ManifestError::Schema1);
        }
        let artifact_type = document.artifact_type.or_else(|| document.config.as_ref().and_then(|config| config.media_type.clone()));
        let local = |descriptor: &&DocumentDescriptor| descriptor.urls.as_ref().is_none_or(Vec::is_empty);
        let blobs = document.config.iter().chain(document.layers.iter().flatten()).chain(document.blobs.iter().flatten());
        Ok(Self {
            media_type,
            blobs: blobs.filter(local).map(DocumentDescriptor::descriptor).collect(),
            manifests: document.manifests.iter().flatten().map(DocumentDescriptor::descriptor).collect(),
            subject: document.subject.map(|subject| subject.digest),
            artifact_type,
        })
    }
}

impl DocumentDescriptor {
    fn descriptor(&self) -> Descriptor {
        Descriptor { digest: self.digest, size_bytes: self.size }
    }
}

/// The header wins, as clients see it; then the document's own word; then its shape, since OCI
/// manifests may leave `mediaType` out.
fn media_type_of(document: &Document, content_type: Option<&str>) -> Result<MediaType, ManifestError> {
    if document.schema_version == Some(1) {
        return Err(ManifestError::Schema1);
    }
    let specific = |text: &str| MediaType::parse(text).ok().filter(|media_type| !media_type.is_generic());
    if let Some(media_type) = content_type.and_then(specific).or_else(|| document.media_type.as_deref().and_then(specific)) {
        return Ok(media_type);
    }
    let by_shape = if document.manifests.is_some() {
        MediaType::OCI_INDEX
    } else if document.config.is_some() || document.layers.is_some() {
        MediaType::OCI_MANIFEST
    } else {
        return Err(ManifestError::NotAManifest);
    };
    MediaType::parse(by_shape).map_err(|_| ManifestError::NotAManifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn image(extra: &str) -> String {
        format!(
            r#"{{"schemaVersion":2{extra},"config":{{"mediaType":"c/d","digest":"{DIGEST}","size":2}},"layers":[{{"digest":"{DIGEST}","size":3}},{{"digest":"{DIGEST}","size":4,"urls":["https://elsewhere"]}}]}}"#
        )
    }

    #[test]
    fn blobs_are_config_and_layers_that_live_here() {
        let summary = ManifestSummary::parse(image("").as_bytes(), None).unwrap();
        assert_eq!(summary.media_type.as_str(), MediaType::OCI_MANIFEST);
        assert_eq!(summary.blobs.iter().map(|blob| blob.size_bytes).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(summary.artifact_type.as_deref(), Some("c/d"));
    }

    #[test]
    fn header_wins_over_document_and_generic_header_does_not() {
        let document = image(r#","mediaType":"application/vnd.docker.distribution.manifest.v2+json""#);
        let with = |header| ManifestSummary::parse(document.as_bytes(), header).unwrap().media_type;
        assert_eq!(with(Some(MediaType::OCI_MANIFEST)).as_str(), MediaType::OCI_MANIFEST);
        assert_eq!(with(Some("application/json")).as_str(), MediaType::DOCKER_MANIFEST);
        assert_eq!(with(None).as_str(), MediaType::DOCKER_MANIFEST);
    }

    #[test]
    fn index_lists_its_manifests() {
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{DIGEST}","size":7}}]}}"#);
        let summary = ManifestSummary::parse(index.as_bytes(), None).unwrap();
        assert_eq!(summary.media_type.as_str(), MediaType::OCI_INDEX);
        assert_eq!(summary.manifests.len(), 1);
        assert!(summary.blobs.is_empty());
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let parse = |text: &str| ManifestSummary::parse(text.as_bytes(), None);
        assert!(matches!(parse("<html>"), Err(ManifestError::Json(_))));
        assert!(matches!(parse("[]"), Err(ManifestError::Json(_))));
        assert!(matches!(parse("{}"), Err(ManifestError::NotAManifest)));
        assert!(matches!(parse(r#"{"schemaVersion":1,"fsLayers":[]}"#), Err(ManifestError::Schema1)));
        let large = vec![b' '; ManifestSummary::MAX_BYTES + 1];
        assert!(matches!(ManifestSummary::parse(&large, None), Err(ManifestError::TooLarge)));
    }
}
