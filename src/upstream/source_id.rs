//! Which upstream, and as whom: the name under which content is linked.

use std::fmt;

use reqwest::Url;

use super::address;
use crate::oci::Digest;

/// By what an upstream knows who asks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asker<'a> {
    /// A user name, or what tells one.
    pub(super) login: Option<&'a str>,
    /// Whom the client certificate names.
    pub(super) certificate: Option<&'a str>,
}

/// A stable name of a base URL and of who asks it: 16 lower-case hex digits, fit for a file name.
/// Holds no secret. Who asks is a user name, or what tells one: another password for the same user, and
/// another user in the same secret of Secrets Manager, are the same source. So are two client certificates
/// that name the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(String);

impl SourceId {
    /// 64 bits: far more than tell apart the rules of any installation.
    const HEX_DIGITS: usize = 16;

    pub(super) fn new(base: &Url, asker: Asker<'_>) -> Self {
        let path = base.path().trim_end_matches('/');
        let mut named = format!("{}://{}{path}\n{}", base.scheme(), address::host_and_port(base), asker.login.unwrap_or_default());
        if let Some(name) = asker.certificate {
            named = format!("{named}\ncertificate:{name}");
        }
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

    fn id(base: &str, login: Option<&str>) -> String {
        id_of(base, Asker { login, certificate: None })
    }

    fn id_of(base: &str, asker: Asker<'_>) -> String {
        SourceId::new(&Url::parse(base).unwrap(), asker).to_string()
    }

    #[test]
    fn spelling_of_one_base_does_not_matter() {
        assert_eq!(id("https://Registry.example/", None), id("https://registry.example:443", None));
        assert_eq!(id("https://a/base/", None), id("https://a/base", None));
        assert_eq!(id("https://a", None).len(), 16);
    }

    #[test]
    fn other_bases_and_users_are_other_sources() {
        let with = |login, certificate| id_of("https://a", Asker { login, certificate: Some(certificate) });
        let ids = [
            id("https://a", None),
            id("http://a", None),
            id("https://a:444", None),
            id("https://a/b", None),
            id("https://a", Some("u")),
            with(None, "u"),
            with(None, "v"),
            with(Some("u"), "v"),
        ];
        for (n, one) in ids.iter().enumerate() {
            assert!(ids.iter().skip(n + 1).all(|other| other != one), "{n}");
        }
    }
}
