//! Platforms, as indexes name them (image specification, "Image Index").

use std::fmt;

use serde::Deserialize;

use super::Digest;

/// `os/architecture` or `os/architecture/variant`, such as linux/arm64/v8.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Platform {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    digest: Digest,
    platform: Option<Platform>,
}

impl Platform {
    /// Longest text of a platform.
    const MAX_LENGTH: usize = 64;

    /// Reads `os/architecture[/variant]`; `None` if it is not of this form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_part =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'));
        let mut parts = text.split('/');
        let (os, architecture, variant) = (parts.next()?, parts.next()?, parts.next());
        let is_whole = parts.next().is_none() && text.len() <= Self::MAX_LENGTH;
        (is_whole && [Some(os), Some(architecture), variant].into_iter().flatten().all(is_part)).then(|| Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        })
    }

    /// Whether `other` is this platform; without a variant, any variant of it is.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.os == other.os && self.architecture == other.architecture && (self.variant.is_none() || self.variant == other.variant)
    }

    /// Whether it is none: attestations beside images are marked so.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" || self.architecture == "unknown"
    }

    /// The manifests of an index that are for a platform; none if it is no index.
    #[must_use]
    pub fn of_index(bytes: &[u8]) -> Vec<(Digest, Self)> {
        let Ok(index) = serde_json::from_slice::<Index>(bytes) else { return Vec::new() };
        index.manifests.into_iter().filter_map(|entry| Some((entry.digest, entry.platform?))).collect()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_have_two_or_three_parts() {
        for text in ["linux/amd64", "linux/arm64/v8", "windows/amd64"] {
            assert_eq!(Platform::parse(text).unwrap().to_string(), text);
        }
        for text in ["linux", "linux/", "/amd64", "linux/amd64/v1/x", "Linux/amd64", "linux/amd 64", &format!("linux/{}", "a".repeat(64))] {
            assert_eq!(Platform::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_platform_without_a_variant_covers_every_variant() {
        let platform = |text| Platform::parse(text).unwrap();
        assert!(platform("linux/arm64").covers(&platform("linux/arm64/v8")));
        assert!(!platform("linux/arm64/v8").covers(&platform("linux/arm64")));
        assert!(!platform("linux/arm64").covers(&platform("linux/arm")));
    }

    #[test]
    fn an_index_names_the_platforms_of_its_images() {
        let digest = Digest::of(b"x");
        let index = format!(
            r#"{{"manifests": [{{"digest": "{digest}", "platform": {{"os": "linux", "architecture": "arm64", "variant": "v8"}}}}, {{"digest": "{digest}"}}]}}"#
        );
        assert_eq!(Platform::of_index(index.as_bytes()), [(digest, Platform::parse("linux/arm64/v8").unwrap())]);
        assert!(Platform::of_index(b"{}").is_empty() && Platform::of_index(b"?").is_empty());
    }
}
