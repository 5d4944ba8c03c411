//! Lists of referrers: what says of itself that it is about another manifest (distribution
//! specification, "Listing Referrers").

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Digest, MediaType, Tag};

/// What an entry takes beside its texts.
const OVERHEAD_BYTES: usize = 200;
/// Longest hash in the tag of the fallback.
const TAG_HEX_DIGITS: usize = 64;

/// A manifest that refers to another one, as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// Its media type.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    #[serde(rename = "size")]
    pub size_bytes: u64,
    /// What kind of artifact it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Its annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// The image index that lists are answered with.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u32,
    media_type: &'static str,
    manifests: &'a [&'a Referrer],
}

/// The same as others send it.
#[derive(Deserialize)]
struct SentIndex {
    manifests: Option<Vec<Value>>,
}

/// What a manifest says of itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    artifact_type: Option<String>,
    config: Option<Config>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    media_type: Option<String>,
}

impl Referrer {
    /// The entry of a manifest: its own type, or its config's, and its annotations.
    #[must_use]
    pub fn of_manifest(digest: Digest, media_type: &MediaType, bytes: &[u8]) -> Option<Self> {
        let document: Document = serde_json::from_slice(bytes).ok()?;
        let own_type = document.artifact_type.filter(|own| !own.is_empty());
        Some(Self {
            media_type: media_type.to_string(),
            digest,
            size_bytes: bytes.len() as u64,
            artifact_type: own_type.or_else(|| document.config?.media_type),
            annotations: document.annotations,
        })
    }

    /// The entries of an image index. Those that are none, or whose digest is of an unknown algorithm,
    /// are left out; `None` if it is no index at all.
    #[must_use]
    pub fn parse_index(bytes: &[u8]) -> Option<Vec<Self>> {
        let index: SentIndex = serde_json::from_slice(bytes).ok()?;
        let entries = index.manifests.unwrap_or_default().into_iter();
        Some(entries.filter_map(|entry| serde_json::from_value(entry).ok()).collect())
    }

    /// The image index of these entries.
    #[must_use]
    pub fn index(entries: &[&Self]) -> Vec<u8> {
        serde_json::to_vec(&Index { schema_version: 2, media_type: MediaType::OCI_INDEX, manifests: entries }).unwrap_or_default()
    }

    /// About what it takes in memory, and in an answer.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        let annotations: usize = self.annotations.iter().flatten().map(|(key, value)| key.len() + value.len() + OVERHEAD_BYTES / 2).sum();
        OVERHEAD_BYTES + self.media_type.len() + self.artifact_type.as_ref().map_or(0, String::len) + annotations
    }

    /// The tag under which registries without the API keep the list for `subject` ("Referrers Tag Schema").
    #[must_use]
    pub fn fallback_tag(subject: &Digest) -> Option<Tag> {
        let hex = subject.hex();
        Tag::parse(&format!("{}-{}", subject.algorithm().as_str(), hex.get(..TAG_HEX_DIGITS)?)).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn index_keeps_types_and_annotations_and_leaves_out_what_is_no_descriptor() {
        let digest = Digest::of(b"x");
        let sent = format!(
            r#"{{"manifests":[{{"mediaType":"a/b","digest":"{digest}","size":3,"artifactType":"c/d","annotations":{{"k":"v"}},"data":"eA=="}},
                {{"mediaType":"a/b","digest":"blake3:00","size":3}},{{"digest":"{digest}"}},7]}}"#
        );
        let entries = Referrer::parse_index(sent.as_bytes()).unwrap();
        let again = Referrer::index(&entries.iter().collect::<Vec<_>>());
        let expected = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{{"mediaType":"a/b","digest":"{digest}","size":3,"artifactType":"c/d","annotations":{{"k":"v"}}}}]}}"#,
            MediaType::OCI_INDEX
        );
        assert_eq!(String::from_utf8(again).unwrap(), expected);
        assert_eq!(Referrer::parse_index(br#"{"manifests":null}"#), Some(Vec::new()));
        assert_eq!(Referrer::parse_index(b"<html>"), None);
    }

    #[test]
    fn fallback_tag_is_the_digest_with_a_dash() {
        let digest = Digest::of(b"");
        assert_eq!(Referrer::fallback_tag(&digest).unwrap().as_str(), format!("sha256-{}", digest.hex()));
        let long = Digest::parse(&format!("sha512:{}", "ab".repeat(64))).unwrap();
        assert_eq!(Referrer::fallback_tag(&long).unwrap().as_str(), format!("sha512-{}", "ab".repeat(32)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Referrer::parse_index(&bytes);
        }
    }
}
