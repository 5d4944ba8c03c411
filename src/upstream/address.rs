//! Hosts and origins of URLs, and how URLs are shown.

use reqwest::Url;

/// `host:port`, or `host` where the port is the scheme's own.
pub(super) fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Scheme, host and port are the same.
pub(super) fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme() && one.host_str() == other.host_str() && one.port_or_known_default() == other.port_or_known_default()
}

/// For messages: host, port and path. No user name and no query: those of presigned URLs are secret.
pub(super) fn shown(url: &Url) -> String {
    format!("{}{}", host_and_port(url), url.path())
}

/// The base of an upstream, which has neither user nor query.
pub(super) fn shown_base(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

/// Whether two URLs go from https down to http.
pub(super) fn is_downgrade(from: &Url, to: &Url) -> bool {
    from.scheme() == "https" && to.scheme() != "https"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_urls_hold_no_secrets() {
        let url = Url::parse("https://user:password@host:8443/a/b?X-Amz-Signature=secret#x").unwrap();
        assert_eq!(shown(&url), "host:8443/a/b");
    }

    #[test]
    fn default_ports_are_the_same_origin_and_schemes_are_not() {
        let url = |text| Url::parse(text).unwrap();
        assert!(same_origin(&url("https://a/x"), &url("https://A:443/y")));
        assert!(!same_origin(&url("https://a:80"), &url("http://a:80")));
        assert!(!same_origin(&url("http://a:1"), &url("http://a:2")));
        assert!(is_downgrade(&url("https://a"), &url("http://a")) && !is_downgrade(&url("http://a"), &url("http://a")));
    }
}
