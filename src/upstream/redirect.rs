//! Where a redirect may lead.

use std::net::IpAddr;

use reqwest::Url;
use reqwest::header::{HeaderMap, LOCATION};

use super::UpstreamError;
use super::address;

/// The redirects of one request so far.
pub(super) struct Trail {
    visited: Vec<Url>,
    max_redirects: usize,
}

impl Trail {
    pub(super) fn new(first: Url, max_redirects: usize) -> Self {
        Self { visited: vec![first], max_redirects }
    }

    /// The next URL, from `Location`.
    ///
    /// # Errors
    /// [`UpstreamError::Lied`]: no usable `Location`, too many, a loop, from https to http, or to this machine.
    pub(super) fn follow(&mut self, from: &Url, headers: &HeaderMap) -> Result<Url, UpstreamError> {
        let asked = address::shown(from);
        let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let Some(next) = location.and_then(|location| from.join(location).ok()) else {
            return Err(UpstreamError::lied(format!("{asked} redirects to nowhere")));
        };
        let target = address::shown(&next);
        if !matches!(next.scheme(), "http" | "https") || address::is_downgrade(from, &next) {
            return Err(UpstreamError::lied(format!("{asked} redirects to {target}, which is not https")));
        }
        if !next.username().is_empty() || next.password().is_some() {
            return Err(UpstreamError::lied(format!("{asked} redirects to {target} with a user name in it")));
        }
        if next.host_str() != from.host_str() && is_this_machine(&next) {
            return Err(UpstreamError::lied(format!("{asked} redirects to {target}, an address of this machine")));
        }
        if self.visited.contains(&next) {
            return Err(UpstreamError::lied(format!("{asked} redirects in a circle")));
        }
        if self.visited.len() > self.max_redirects {
            return Err(UpstreamError::lied(format!("{asked} redirects once more after {} redirects", self.max_redirects)));
        }
        self.visited.push(next.clone());
        Ok(next)
    }
}

/// Loopback and link-local addresses: services of this machine and of its cloud (instance metadata)
/// answer there, and no content network does. Private networks are left: registries have stores there.
fn is_this_machine(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(v4)) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
        Ok(IpAddr::V6(v6)) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn follow(from: &str, location: &str) -> Result<Url, UpstreamError> {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, location.parse().unwrap());
        Trail::new(url(from), 5).follow(&url(from), &headers)
    }

    #[test]
    fn relative_and_absolute_locations_are_followed() {
        assert_eq!(follow("https://a/v2/x", "/y?z=1").unwrap(), url("https://a/y?z=1"));
        assert_eq!(follow("https://a/v2/x", "https://b/y").unwrap(), url("https://b/y"));
        assert_eq!(follow("http://a/v2/x", "https://b/y").unwrap(), url("https://b/y"));
        assert_eq!(follow("http://127.0.0.1:1/x", "http://127.0.0.1:2/x").unwrap(), url("http://127.0.0.1:2/x"));
    }

    #[test]
    fn locations_that_must_not_be_followed_are_refused() {
        for location in [
            "http://a/x",
            "file:///etc/passwd",
            "https://user:password@b/",
            "https://169.254.169.254/latest",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://localhost/",
            "https://",
        ] {
            assert!(matches!(follow("https://a/v2/x", location), Err(UpstreamError::Lied { .. })), "{location}");
        }
    }

    #[test]
    fn a_message_does_not_hold_the_query() {
        let refused = follow("https://a/v2/x?token=secret", "http://b/y?signature=secret").unwrap_err();
        assert!(!refused.to_string().contains("secret"), "{refused}");
    }

    #[test]
    fn circles_and_long_trails_end() {
        let mut trail = Trail::new(url("https://a/0"), 5);
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, "https://a/0".parse().unwrap());
        assert!(trail.follow(&url("https://a/0"), &headers).unwrap_err().to_string().contains("circle"));
        for n in 1..=6 {
            headers.insert(LOCATION, format!("https://a/{n}").parse().unwrap());
            assert_eq!(trail.follow(&url("https://a/0"), &headers).is_ok(), n <= 5, "{n}");
        }
    }
}
