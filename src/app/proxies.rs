//! The proxies that the environment names.

use crate::upstream::Proxies;

/// `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` for whichever of them is not set, and `NO_PROXY`; also in lower
/// case. An empty variable is an unset one.
pub(super) fn from_environment() -> Proxies {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let either = |name: &str| set(name).or_else(|| set(&name.to_ascii_lowercase()));
    let all = either("ALL_PROXY");
    Proxies { http: either("HTTP_PROXY").or_else(|| all.clone()), https: either("HTTPS_PROXY").or(all), no_proxy: either("NO_PROXY") }
}
