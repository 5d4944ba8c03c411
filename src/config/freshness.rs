//! How long a tag is served before upstream is asked again.

use std::time::Duration;

use super::limits;
use super::pattern::Pattern;
use super::problems::Problems;
use super::raw::RawFreshness;

/// The freshness of a rule's tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreshnessRule {
    /// For every tag that no pattern names. Default: 24 h, as in ECR.
    pub default: Duration,
    /// By pattern, the most exact first: the first that matches counts.
    pub tags: Vec<(Pattern, Duration)>,
    /// Past this age since it was last confirmed, a tag is no longer served. Default: never.
    pub max_stale: Option<Duration>,
}

impl Default for FreshnessRule {
    fn default() -> Self {
        Self { default: Duration::from_secs(24 * 60 * 60), tags: Vec::new(), max_stale: None }
    }
}

impl FreshnessRule {
    /// How long `tag` is fresh after it was confirmed.
    #[must_use]
    pub fn window(&self, tag: &str) -> Duration {
        self.tags.iter().find(|(pattern, _)| pattern.matches(tag)).map_or(self.default, |(_, window)| *window)
    }
}

pub(super) fn validate(raw: RawFreshness, path: &str, problems: &mut Problems) -> FreshnessRule {
    let default = limits::duration(raw.default, &format!("{path}.default"), problems).unwrap_or(FreshnessRule::default().default);
    let mut tags = Vec::new();
    for (text, duration) in raw.tags.unwrap_or_default() {
        let path = format!("{path}.tags.{text}");
        let Some(pattern) = Pattern::parse(&text) else {
            problems.add(path, "is no pattern over tags", "letters, digits, '.', '_', '-', and `*` for any run of characters");
            continue;
        };
        if duration.is_none() {
            problems.add(&path, "has no duration", "such as 15m");
        }
        tags.extend(limits::duration(duration, &path, problems).map(|duration| (pattern, duration)));
    }
    // The file's order is not kept by YAML's data model, so it must not matter.
    tags.sort_by_key(|(pattern, _)| pattern.looseness());
    let max_stale = limits::duration(raw.max_stale, &format!("{path}.max_stale"), problems);
    if max_stale.is_some_and(|max_stale| max_stale < default) {
        problems.add(
            format!("{path}.max_stale"),
            "is shorter than the tags are fresh",
            "it counts from when upstream last confirmed the tag",
        );
    }
    FreshnessRule { default, tags, max_stale }
}
