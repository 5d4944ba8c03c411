//! What the fake holds.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use headpond::oci::{Digest, MediaType, Reference};

/// An image as it was put.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// Of the manifest.
    pub(crate) digest: Digest,
    /// The manifest.
    pub(crate) manifest: Bytes,
    /// Of the config blob.
    pub(crate) config: Digest,
    /// Of the layers, in order.
    pub(crate) layers: Vec<Digest>,
}

/// A manifest and its media type.
#[derive(Clone)]
pub(super) struct Manifest {
    pub(super) bytes: Bytes,
    pub(super) media_type: String,
}

pub(super) struct Content {
    blobs: HashMap<Digest, Bytes>,
    manifests: HashMap<(String, Digest), Manifest>,
    tags: HashMap<String, BTreeMap<String, Digest>>,
    pub(super) tags_per_page: usize,
    /// None: it does not have the API.
    pub(super) referrers_per_page: Option<usize>,
}

impl Default for Content {
    fn default() -> Self {
        Self { blobs: HashMap::new(), manifests: HashMap::new(), tags: HashMap::new(), tags_per_page: 1000, referrers_per_page: Some(1000) }
    }
}

impl Content {
    pub(super) fn put_blob(&mut self, bytes: Bytes) -> Digest {
        let digest = Digest::of(&bytes);
        self.blobs.insert(digest, bytes);
        digest
    }

    pub(super) fn put_manifest(&mut self, repository: &str, tag: &str, bytes: Bytes, media_type: &str) -> Digest {
        let digest = Digest::of(&bytes);
        self.manifests.insert((repository.to_owned(), digest), Manifest { bytes, media_type: media_type.to_owned() });
        self.move_tag(repository, tag, digest);
        digest
    }

    pub(super) fn put_image(&mut self, repository: &str, tag: &str, layers: &[Bytes]) -> Image {
        let descriptor =
            |media_type: &str, digest: Digest, size: usize| serde_json::json!({"mediaType": media_type, "digest": digest, "size": size});
        let layer_digests: Vec<Digest> = layers.iter().map(|layer| self.put_blob(layer.clone())).collect();
        let config = serde_json::json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": layer_digests}});
        let config_bytes = Bytes::from(config.to_string());
        let config = self.put_blob(config_bytes.clone());
        let layer = |(digest, bytes): (&Digest, &Bytes)| descriptor("application/vnd.oci.image.layer.v1.tar", *digest, bytes.len());
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", config, config_bytes.len()),
            "layers": layer_digests.iter().zip(layers).map(layer).collect::<Vec<_>>(),
        });
        let manifest = Bytes::from(manifest.to_string());
        let digest = self.put_manifest(repository, tag, manifest.clone(), MediaType::OCI_MANIFEST);
        Image { digest, manifest, config, layers: layer_digests }
    }

    /// An artifact about `subject`, without a tag.
    pub(super) fn put_referrer(&mut self, repository: &str, subject: &Digest, artifact_type: &str, note: &str) -> Digest {
        let empty = self.put_blob(Bytes::from_static(b"{}"));
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2},
            "layers": [],
            "subject": {"mediaType": MediaType::OCI_MANIFEST, "digest": subject, "size": 1},
            "annotations": {"note": note},
        });
        let bytes = Bytes::from(manifest.to_string());
        let digest = Digest::of(&bytes);
        self.manifests.insert((repository.to_owned(), digest), Manifest { bytes, media_type: MediaType::OCI_MANIFEST.to_owned() });
        digest
    }

    /// The descriptors of what is about `subject`, sorted.
    pub(super) fn referrers(&self, repository: &str, subject: &Digest) -> Vec<serde_json::Value> {
        let mut found: Vec<_> = self.manifests.iter().filter(|((name, _), _)| name == repository).collect();
        found.sort_by_key(|((_, digest), _)| *digest);
        let descriptor = |((_, digest), manifest): (&(String, Digest), &Manifest)| {
            let document: serde_json::Value = serde_json::from_slice(&manifest.bytes).ok()?;
            (document["subject"]["digest"] == serde_json::json!(subject)).then(|| {
                serde_json::json!({
                    "mediaType": manifest.media_type, "digest": digest, "size": manifest.bytes.len(),
                    "artifactType": document["artifactType"], "annotations": document["annotations"],
                })
            })
        };
        found.into_iter().filter_map(descriptor).collect()
    }

    pub(super) fn move_tag(&mut self, repository: &str, tag: &str, digest: Digest) {
        self.tags.entry(repository.to_owned()).or_default().insert(tag.to_owned(), digest);
    }

    pub(super) fn remove(&mut self, repository: &str, reference: &str) {
        match Reference::parse(reference).unwrap() {
            Reference::Tag(tag) => {
                self.tags.entry(repository.to_owned()).or_default().remove(tag.as_str());
            }
            Reference::Digest(digest) => {
                self.blobs.remove(&digest);
                self.manifests.remove(&(repository.to_owned(), digest));
            }
        }
    }

    pub(super) fn blob(&self, digest: &Digest) -> Option<Bytes> {
        self.blobs.get(digest).cloned()
    }

    pub(super) fn manifest(&self, repository: &str, reference: &str) -> Option<(Digest, Manifest)> {
        let digest = match Reference::parse(reference).ok()? {
            Reference::Tag(tag) => *self.tags.get(repository)?.get(tag.as_str())?,
            Reference::Digest(digest) => digest,
        };
        Some((digest, self.manifests.get(&(repository.to_owned(), digest))?.clone()))
    }

    /// One page of tags after `last`, and whether there are more.
    pub(super) fn tags(&self, repository: &str, last: Option<&str>, count: usize) -> Option<(Vec<String>, bool)> {
        let after = |tag: &&String| last.is_none_or(|last| tag.as_str() > last);
        let mut tags: Vec<String> = self.tags.get(repository)?.keys().filter(after).cloned().collect();
        let more = tags.len() > count;
        tags.truncate(count);
        Some((tags, more))
    }
}

/// Bytes that do not compress and are the same for the same seed.
pub(crate) fn pseudo_random(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    Bytes::from(bytes)
}
