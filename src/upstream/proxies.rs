//! Proxies between here and the upstreams.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use reqwest::{NoProxy, Proxy, Url};

use super::UpstreamBuildError;

/// What the URL of a proxy may begin with. With `socks5` names are resolved here, with `socks5h` by the proxy;
/// the older two are told apart in the same way.
const SCHEMES: [&str; 6] = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// Proxies by the scheme of what is asked for, as `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` name them.
/// A URL may hold a name and a password, so that none is ever shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For http.
    pub http: Option<String>,
    /// For https, by CONNECT.
    pub https: Option<String>,
    /// Hosts, domains and networks that are reached directly, with commas.
    pub no_proxy: Option<String>,
}

impl Proxies {
    /// What the HTTP client makes of them.
    ///
    /// # Errors
    /// When one cannot be used: the client would pass over it, or fail at every request.
    pub(super) fn build(&self) -> Result<Vec<Proxy>, UpstreamBuildError> {
        let direct = self.no_proxy.as_deref().and_then(NoProxy::from_string);
        let build = |text: &Option<String>, variable, build: fn(String) -> reqwest::Result<Proxy>| {
            let text = text.as_deref()?;
            let usable = parsed(text).filter(|url| SCHEMES.contains(&url.scheme())).and_then(|_| build(text.to_owned()).ok());
            Some(usable.map(|proxy| proxy.no_proxy(direct.clone())).ok_or(UpstreamBuildError::Proxy(variable)))
        };
        let http = build(&self.http, "HTTP_PROXY", Proxy::http);
        let https = build(&self.https, "HTTPS_PROXY", Proxy::https);
        http.into_iter().chain(https).collect()
    }

    /// The proxy through which an upstream at `base` is asked, if it is through one.
    pub(super) fn of(&self, base: &Url) -> Option<Url> {
        let text = match base.scheme() {
            "http" => self.http.as_deref(),
            "https" => self.https.as_deref(),
            _ => None,
        };
        let host = base.host_str()?;
        text.filter(|_| !is_loopback(host) && !self.is_direct(host)).and_then(parsed)
    }

    /// The hosts of the proxies themselves.
    pub(super) fn hosts(&self) -> Vec<String> {
        let host = |text: &String| parsed(text).and_then(|url| url.host_str().map(str::to_owned));
        self.http.iter().chain(&self.https).filter_map(host).collect()
    }

    /// Whether `NO_PROXY` names a host, as the HTTP client understands it.
    fn is_direct(&self, host: &str) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        self.no_proxy.iter().flat_map(|list| list.split(',')).map(str::trim).any(|entry| match host.parse::<IpAddr>() {
            Ok(address) => entry.parse() == Ok(address) || entry.parse().is_ok_and(|network: IpNet| network.contains(&address)),
            Err(_) => entry == "*" || is_below(host, entry.strip_prefix('.').unwrap_or(entry)),
        })
    }
}

/// No proxy knows this machine's loopback.
pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host == "[::1]" || host.starts_with("127.")
}

/// Whether a name is `domain`, or one below it.
fn is_below(host: &str, domain: &str) -> bool {
    let (host, domain) = (host.to_ascii_lowercase(), domain.to_ascii_lowercase());
    !domain.is_empty() && host.strip_suffix(&domain).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// A proxy's URL. Without a scheme it is one of http.
fn parsed(text: &str) -> Option<Url> {
    let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("http://{text}")) };
    url.ok().filter(Url::has_host)
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies").field("hosts", &self.hosts()).field("no_proxy", &self.no_proxy).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn https(url: &str) -> Proxies {
        Proxies { https: Some(url.to_owned()), ..Proxies::default() }
    }

    #[test]
    fn the_host_of_a_proxy_is_known_however_it_is_written() {
        for url in
            ["http://proxy.corp:3128", "proxy.corp:3128", "proxy.corp", "https://somebody:secret@proxy.corp/", "socks5h://proxy.corp"]
        {
            assert_eq!(https(url).hosts(), ["proxy.corp"], "{url}");
        }
    }

    #[test]
    fn proxies_that_the_client_does_not_speak_to_are_refused() {
        for url in
            ["http://proxy.corp:3128", "proxy.corp:3128", "https://proxy.corp", "socks4://p", "socks4a://p", "socks5://p:1", "socks5h://p"]
        {
            assert_eq!(https(url).build().map(|proxies| proxies.len()), Ok(1), "{url}");
        }
        for url in ["socks://proxy.corp:1080", "ftp://proxy.corp", "http://", "http://:3128", "a b", "socks6://somebody:secret@proxy.corp"]
        {
            let refused = https(url).build().unwrap_err();
            assert_eq!(refused, UpstreamBuildError::Proxy("HTTPS_PROXY"), "{url}");
            assert!(!refused.to_string().contains("secret") && refused.to_string().contains("socks5://host:port"), "{refused}");
        }
    }

    #[test]
    fn the_proxy_of_an_upstream_is_known() {
        let proxies = Proxies {
            http: Some("http://plain.corp:3128".to_owned()),
            https: Some("proxy.corp:3128".to_owned()),
            no_proxy: Some("direct.example, .below.example,10.0.0.0/8 ,192.0.2.1,fd00::/8,".to_owned()),
        };
        let host = |base: &str| proxies.of(&Url::parse(base).unwrap()).and_then(|url| url.host_str().map(str::to_owned));
        for base in ["https://registry.example", "https://notdirect.example", "https://11.0.0.1", "https://[fe80::1]"] {
            assert_eq!(host(base).as_deref(), Some("proxy.corp"), "{base}");
        }
        assert_eq!(host("http://registry.example").as_deref(), Some("plain.corp"));
        for base in [
            "https://Direct.example",
            "https://a.direct.example:8443",
            "https://below.example",
            "https://a.below.example",
            "https://10.1.2.3",
            "https://192.0.2.1",
            "https://[fd00::1]",
            "https://127.0.0.1:5000",
            "https://localhost",
            "https://[::1]",
        ] {
            assert_eq!(host(base), None, "{base}");
        }
        let all = Proxies { no_proxy: Some("*".to_owned()), ..proxies.clone() };
        assert_eq!(all.of(&Url::parse("https://registry.example").unwrap()), None);
    }

    #[test]
    fn passwords_of_proxies_are_not_shown() {
        let shown = format!("{:?}", https("http://somebody:secret@proxy.corp:3128"));
        assert!(shown.contains("proxy.corp") && !shown.contains("secret"), "{shown}");
    }
}
