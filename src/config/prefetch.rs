//! What is fetched before clients ask for it.

use super::problems::Problems;
use super::raw::RawPrefetch;
use super::shapes::{Text, TextOr};
use crate::oci::Platform;

/// Most platforms of one rule.
const MAX_PLATFORMS: usize = 32;
const HINT: &str = "off, image or all; or {platforms: [linux/amd64, linux/arm64]}";

/// What the first missing blob of an image brings with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Prefetch {
    /// Nothing.
    #[default]
    Off,
    /// The other blobs of the image.
    Image,
    /// These, and the same image for these platforms.
    Platforms(Vec<Platform>),
    /// The image for every platform.
    All,
}

pub(super) fn validate(raw: Option<TextOr<RawPrefetch>>, path: &str, problems: &mut Problems) -> Prefetch {
    match raw {
        None => Prefetch::Off,
        Some(TextOr::Text(text)) => match text.as_str() {
            // A YAML 1.1 reader makes a boolean of it.
            "off" | "false" => Prefetch::Off,
            "image" => Prefetch::Image,
            "all" => Prefetch::All,
            _ => {
                problems.add(path, format!("`{text}` is not known"), HINT);
                Prefetch::Off
            }
        },
        Some(TextOr::Mapping(raw)) => {
            let Some(raw) = raw.platforms.filter(|platforms| (1..=MAX_PLATFORMS).contains(&platforms.len())) else {
                problems.add(format!("{path}.platforms"), format!("must be 1 to {MAX_PLATFORMS} platforms"), HINT);
                return Prefetch::Off;
            };
            let mut platforms = Vec::new();
            for (path, Text(text)) in raw.entries(&format!("{path}.platforms")) {
                match Platform::parse(&text) {
                    Some(platform) => platforms.push(platform),
                    None => problems.add(path, format!("`{text}` is no platform"), "os/architecture, or with a variant: linux/arm64/v8"),
                }
            }
            Prefetch::Platforms(platforms)
        }
    }
}
