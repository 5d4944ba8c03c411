//! Which token realms an upstream may name. Credentials go to the realm, so it is trusted only as
//! far as its upstream is.

use reqwest::Url;

use super::UpstreamError;
use super::address::{self, host_and_port};

/// Registries whose realm is on another host, by their own documents or answers.
const KNOWN_REALMS: [(&str, &str); 6] = [
    ("registry-1.docker.io", "auth.docker.io"),
    ("index.docker.io", "auth.docker.io"),
    ("docker.io", "auth.docker.io"),
    ("registry.gitlab.com", "gitlab.com"),
    ("docker.elastic.co", "docker-auth.elastic.co"),
    ("registry.redhat.io", "sso.redhat.com"),
];

/// Checks a realm named by the upstream at `base`. `allowed` are further hosts, as `host` or
/// `host:port`.
///
/// # Errors
/// [`UpstreamError::Lied`] when the realm goes from https to http, holds a user name, or is on a
/// host that is neither the upstream's, a known one, nor allowed.
pub(super) fn check(realm: &Url, base: &Url, allowed: &[String]) -> Result<(), UpstreamError> {
    let (upstream, named) = (host_and_port(base), address::shown(realm));
    if !matches!(realm.scheme(), "http" | "https") || address::is_downgrade(base, realm) {
        return Err(UpstreamError::lied(format!("{upstream} names the token realm {named}, which is not https")));
    }
    if !realm.username().is_empty() || realm.password().is_some() {
        return Err(UpstreamError::lied(format!("{upstream} names the token realm {named} with a user name in it")));
    }
    let (Some(home), Some(host)) = (base.host_str(), realm.host_str()) else {
        return Err(UpstreamError::lied(format!("{upstream} names a token realm without a host")));
    };
    let with_port = format!("{host}:{}", realm.port_or_known_default().unwrap_or_default());
    let is_allowed = |entry: &String| entry.eq_ignore_ascii_case(host) || entry.eq_ignore_ascii_case(&with_port);
    if home == host || KNOWN_REALMS.contains(&(home, host)) || allowed.iter().any(is_allowed) {
        return Ok(());
    }
    Err(UpstreamError::lied(format!(
        "{upstream} names the token realm {named}, which is another host; if that is right, add {host} to the rule's `realms`"
    )))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holds(base: &str, realm: &str, allowed: &[&str]) -> bool {
        let allowed: Vec<String> = allowed.iter().map(|host| (*host).to_owned()).collect();
        check(&Url::parse(realm).unwrap(), &Url::parse(base).unwrap(), &allowed).is_ok()
    }

    #[test]
    fn own_host_is_trusted_on_any_port() {
        assert!(holds("https://a.example", "https://A.example:8443/token?x=y", &[]));
        assert!(holds("http://127.0.0.1:5000", "http://127.0.0.1:5001/token", &[]));
        assert!(holds("http://a.example", "https://a.example/token", &[]));
    }

    #[test]
    fn known_pairs_are_trusted_one_way() {
        assert!(holds("https://registry-1.docker.io", "https://auth.docker.io/token", &[]));
        assert!(holds("https://registry.gitlab.com", "https://gitlab.com/jwt/auth", &[]));
        assert!(!holds("https://gitlab.com", "https://registry.gitlab.com/jwt/auth", &[]));
        assert!(!holds("https://quay.io", "https://auth.docker.io/token", &[]));
    }

    #[test]
    fn other_hosts_must_be_listed() {
        let realm = "https://auth.example/token";
        assert!(!holds("https://a.example", realm, &[]));
        assert!(!holds("https://a.example", "https://evil.a.example/token", &[]));
        assert!(!holds("https://a.example", "https://a.example.evil/token", &[]));
        assert!(holds("https://a.example", realm, &["Auth.example"]));
        assert!(holds("https://a.example", realm, &["auth.example:443"]));
        assert!(!holds("https://a.example", realm, &["auth.example:8443"]));
    }

    #[test]
    fn https_never_goes_down_and_user_names_are_refused() {
        assert!(!holds("https://a.example", "http://a.example/token", &["a.example"]));
        assert!(!holds("https://a.example", "ftp://a.example/token", &[]));
        assert!(!holds("https://a.example", "https://a.example@evil.example/token", &["evil.example"]));
    }

    proptest! {
        #[test]
        fn only_the_same_host_is_trusted_without_a_list(host in "[a-z]{1,8}(\\.[a-z]{1,8}){0,2}") {
            prop_assert_eq!(holds("https://registry.example", &format!("https://{host}/token"), &[]), host == "registry.example");
        }
    }
}
