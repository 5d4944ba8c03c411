//! Proxies between here and the upstreams.

use std::fmt;

use reqwest::{NoProxy, Proxy, Url};

use super::UpstreamBuildError;

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
    pub(super) fn build(&self) -> Result<Vec<Proxy>, UpstreamBuildError> {
        let direct = self.no_proxy.as_deref().and_then(NoProxy::from_string);
        let http = self.http.as_deref().map(|url| Proxy::http(url).map_err(|_| UpstreamBuildError::Proxy("HTTP_PROXY")));
        let https = self.https.as_deref().map(|url| Proxy::https(url).map_err(|_| UpstreamBuildError::Proxy("HTTPS_PROXY")));
        http.into_iter().chain(https).map(|proxy| Ok(proxy?.no_proxy(direct.clone()))).collect()
    }

    /// The hosts of the proxies themselves.
    pub(super) fn hosts(&self) -> Vec<String> {
        let host = |text: &String| {
            let url = Url::parse(text).ok().filter(Url::has_host).or_else(|| Url::parse(&format!("http://{text}")).ok());
            url.and_then(|url| url.host_str().map(str::to_owned))
        };
        self.http.iter().chain(&self.https).filter_map(host).collect()
    }
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
        for url in ["http://proxy.corp:3128", "proxy.corp:3128", "proxy.corp", "https://somebody:secret@proxy.corp/"] {
            assert_eq!(https(url).hosts(), ["proxy.corp"], "{url}");
        }
    }

    #[test]
    fn passwords_of_proxies_are_not_shown() {
        let shown = format!("{:?}", https("http://somebody:secret@proxy.corp:3128"));
        assert!(shown.contains("proxy.corp") && !shown.contains("secret"), "{shown}");
    }
}
