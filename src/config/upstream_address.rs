//! Where an upstream registry is.

use std::fmt;

use thiserror::Error;

/// Address of an upstream registry; `Display` gives its URL, without a '/' at the end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamAddress {
    /// Plain or TLS. Default: https.
    pub scheme: Scheme,
    /// A DNS name in lower case or an IP address; IPv6 in brackets.
    pub host: String,
    /// The port, if it is written.
    pub port: Option<u16>,
    /// A path before `/v2/`, with a leading and without a trailing '/'; empty for none.
    pub base_path: String,
}

/// How an upstream is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// As in a URL.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Why a text is no address of an upstream. Never repeats it: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UpstreamAddressError {
    /// Neither `host[:port]` nor a URL.
    #[error("is neither host[:port] nor a URL")]
    Grammar,
    /// A scheme other than http and https.
    #[error("has a scheme that is neither http nor https")]
    Scheme,
    /// `user:password@` before the host.
    #[error("holds a user or password")]
    UserInfo,
    /// A '?' or '#'.
    #[error("holds a query or fragment")]
    Query,
}

impl UpstreamAddress {
    /// Parses `host[:port]`, which means https, or a URL.
    ///
    /// The names that Docker Hub's images go by, `docker.io` and `index.docker.io`, become the name
    /// its registry answers on, `registry-1.docker.io`.
    ///
    /// # Errors
    /// When the text is neither, or holds what does not belong into an address.
    pub fn parse(text: &str) -> Result<Self, UpstreamAddressError> {
        if text.contains('@') {
            return Err(UpstreamAddressError::UserInfo);
        }
        if text.contains(['?', '#']) {
            return Err(UpstreamAddressError::Query);
        }
        let (scheme, rest) = match text.split_once("://") {
            None => (Scheme::Https, text),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(_) => return Err(UpstreamAddressError::Scheme),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = parse_authority(authority).ok_or(UpstreamAddressError::Grammar)?;
        let path = path.trim_end_matches('/');
        let is_segment = |segment: &str| {
            !matches!(segment, "" | "." | "..") && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-~".contains(&b))
        };
        if !path.is_empty() && !path.split('/').all(is_segment) {
            return Err(UpstreamAddressError::Grammar);
        }
        let host = match host.as_str() {
            "docker.io" | "index.docker.io" => "registry-1.docker.io".to_owned(),
            _ => host,
        };
        let base_path = if path.is_empty() { String::new() } else { format!("/{path}") };
        Ok(Self { scheme, host, port, base_path })
    }

    /// `host` or `host:port`, as in a `Host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        self.port.map_or_else(|| self.host.clone(), |port| format!("{}:{port}", self.host))
    }

    /// The port, written or the scheme's own.
    #[must_use]
    pub fn port_or_default(&self) -> u16 {
        self.port.unwrap_or(match self.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        })
    }

    /// Whether both are one place, however the port is written.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let place = |address: &Self| (address.scheme, address.port_or_default());
        place(self) == place(other) && self.host == other.host && self.base_path == other.base_path
    }
}

/// Splits `host[:port]`; the host in lower case. Also the grammar of `rules[].hosts`.
pub(super) fn parse_authority(text: &str) -> Option<(String, Option<u16>)> {
    let authority: http::uri::Authority = text.parse().ok()?;
    let host = authority.host();
    let port = authority.port_u16().filter(|port| *port != 0);
    let is_host = |host: &str| {
        let is_label = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        let ipv6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        ipv6.map_or_else(|| host.split('.').all(is_label), |ipv6| ipv6.parse::<std::net::Ipv6Addr>().is_ok())
    };
    // `authority` takes a ':' with nothing after it, and a port that overflows, as no port.
    let is_whole = port.is_some() || authority.as_str() == host;
    (is_whole && is_host(host) && text.len() <= 255).then(|| (host.to_ascii_lowercase(), port))
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.as_str(), self.authority(), self.base_path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_to_their_url() {
        for (text, url) in [
            ("quay.io", "https://quay.io"),
            ("Quay.IO:8443", "https://quay.io:8443"),
            ("docker.io", "https://registry-1.docker.io"),
            ("https://index.docker.io/", "https://registry-1.docker.io"),
            ("http://127.0.0.1:5100", "http://127.0.0.1:5100"),
            ("http://[::1]:5100", "http://[::1]:5100"),
            ("https://host/base/more/", "https://host/base/more"),
            ("host/base", "https://host/base"),
        ] {
            assert_eq!(UpstreamAddress::parse(text).unwrap().to_string(), url);
        }
    }

    #[test]
    fn what_does_not_belong_into_an_address_is_refused() {
        use UpstreamAddressError::{Grammar, Query, Scheme, UserInfo};
        for (text, error) in [
            ("", Grammar),
            ("https://", Grammar),
            ("a b", Grammar),
            ("host:", Grammar),
            ("host:99999", Grammar),
            ("host:0", Grammar),
            ("host//x", Grammar),
            ("host/../x", Grammar),
            (".host", Grammar),
            ("[zz]:1", Grammar),
            ("ftp://host", Scheme),
            ("oci://host", Scheme),
            ("https://user:password@host", UserInfo),
            ("https://host?x=1", Query),
            ("https://host/#x", Query),
        ] {
            assert_eq!(UpstreamAddress::parse(text), Err(error), "{text}");
        }
    }
}
