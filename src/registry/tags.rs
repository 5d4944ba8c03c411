//! Listing tags.

use super::pull::pulled;
use super::{Pulled, Registry, RegistryError};
use crate::access::Authorized;
use crate::oci::Tag;
use crate::rules::Target;
use crate::telemetry::metrics::CacheKind;

/// Which part of a list is asked for (distribution specification, "Listing Tags").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// At most so many; `None` is all.
    pub n: Option<usize>,
    /// Only those that sort behind this one.
    pub last: Option<String>,
}

/// A part of the list of tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagsPage {
    /// The canonical name of the repository.
    pub name: String,
    /// Sorted.
    pub tags: Vec<Tag>,
    /// Whether more follow.
    pub more: bool,
}

impl Registry {
    /// A page of a repository's tags.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn list_tags(&self, target: Authorized<Target>, page: &Page) -> Result<Pulled<TagsPage>, RegistryError> {
        let origin = self.origin(target).await?;
        let all = pulled(&origin, CacheKind::TagsList, self.cache.tags(&origin).await)?;
        let (tags, more) = cut(&all.value, page);
        let value = TagsPage { name: origin.repository.to_string(), tags, more };
        Ok(Pulled { value, outcome: all.outcome, stale: all.stale, validated_at: None })
    }
}

fn cut(all: &[Tag], page: &Page) -> (Vec<Tag>, bool) {
    let start = page.last.as_ref().map_or(0, |last| all.partition_point(|tag| tag.as_str() <= last.as_str()));
    let rest = all.get(start..).unwrap_or_default();
    let n = page.n.unwrap_or(rest.len()).min(rest.len());
    (rest.iter().take(n).cloned().collect(), n < rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_on_each_other_and_end() {
        let all: Vec<_> = ["a", "b", "c"].iter().map(|tag| Tag::parse(tag).unwrap()).collect();
        let page = |n, last: Option<&str>| {
            let (tags, more) = cut(&all, &Page { n, last: last.map(str::to_owned) });
            (tags.iter().map(Tag::to_string).collect::<String>(), more)
        };
        assert_eq!(page(None, None), ("abc".to_owned(), false));
        assert_eq!(page(Some(2), None), ("ab".to_owned(), true));
        assert_eq!(page(Some(2), Some("b")), ("c".to_owned(), false));
        assert_eq!(page(Some(0), None), (String::new(), true));
        assert_eq!(page(Some(9), Some("bb")), ("c".to_owned(), false));
        assert_eq!(page(None, Some("zz")), (String::new(), false));
    }
}
