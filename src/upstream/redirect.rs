//! Where a redirect may lead.

use std::sync::Arc;

use reqwest::Url;
use reqwest::header::{HeaderMap, LOCATION};

use super::UpstreamError;
use super::address;
use super::reach::Reach;

/// The redirects of one request so far.
pub(super) struct Trail {
    visited: Vec<Url>,
    max_redirects: usize,
    reach: Arc<Reach>,
}

impl Trail {
    pub(super) fn new(first: Url, max_redirects: usize, reach: &Arc<Reach>) -> Self {
        Self { visited: vec![first], max_redirects, reach: Arc::clone(reach) }
    }

    /// The next URL, from `Location`.
    ///
    /// # Errors
    /// [`UpstreamError::Lied`]: no usable `Location`, too many, a loop, from https to http, or to a private address.
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
        self.reach.check(&next).map_err(|private| UpstreamError::lied(format!("{asked} redirects to {target}: {private}")))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::UpstreamSettings;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn follow(from: &str, location: &str) -> Result<Url, UpstreamError> {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, location.parse().unwrap());
        Trail::new(url(from), 5, &reach(from)).follow(&url(from), &headers)
    }

    fn reach(base: &str) -> Arc<Reach> {
        Arc::new(Reach::new(&UpstreamSettings::of(url(base))))
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
        let mut trail = Trail::new(url("https://a/0"), 5, &reach("https://a"));
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, "https://a/0".parse().unwrap());
        assert!(trail.follow(&url("https://a/0"), &headers).unwrap_err().to_string().contains("circle"));
        for n in 1..=6 {
            headers.insert(LOCATION, format!("https://a/{n}").parse().unwrap());
            assert_eq!(trail.follow(&url("https://a/0"), &headers).is_ok(), n <= 5, "{n}");
        }
    }
}
