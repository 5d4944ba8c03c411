//! Which upstream, and as whom: the name under which content is linked.

use std::fmt;

use reqwest::Url;

use super::address;
use crate::oci::Digest;

/// A stable name of a base URL and of who asks it: 16 lower-case hex digits, fit for a file name.
/// Holds no secret. Who asks is a user name, or what tells one: another password for the same user, and
/// another user in the same secret of Secrets Manager, are the same source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(String);

impl SourceId {
    /// 64 bits: far more than tell apart the rules of any installation.
    const HEX_DIGITS: usize = 16;

    pub(super) fn new(base: &Url, asker: Option<&str>) -> Self {
        let path = base.path().trim_end_matches('/');
        let named = format!("{}://{}{path}\n{}", base.scheme(), address::host_and_port(base), asker.unwrap_or_default());
        Self(Digest::of(named.as_bytes()).hex().chars().take(Self::HEX_DIGITS).collect())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(base: &str, username: Option<&str>) -> String {
        SourceId::new(&Url::parse(base).unwrap(), username).to_string()
    }

    #[test]
    fn spelling_of_one_base_does_not_matter() {
        assert_eq!(id("https://Registry.example/", None), id("https://registry.example:443", None));
        assert_eq!(id("https://a/base/", None), id("https://a/base", None));
        assert_eq!(id("https://a", None).len(), 16);
    }

    #[test]
    fn other_bases_and_users_are_other_sources() {
        let ids =
            [id("https://a", None), id("http://a", None), id("https://a:444", None), id("https://a/b", None), id("https://a", Some("u"))];
        for (n, one) in ids.iter().enumerate() {
            assert!(ids.iter().skip(n + 1).all(|other| other != one), "{n}");
        }
    }
}
