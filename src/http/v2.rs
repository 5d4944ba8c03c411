//! The handlers of the distribution API: parse headers, call the registry, shape the answer.

pub(super) mod base;
pub(super) mod blob;
pub(super) mod catalog;
pub(super) mod manifest;
pub(super) mod paging;
pub(super) mod referrers;
pub(super) mod tags_list;

use axum::http::header::{CACHE_CONTROL, WARNING};
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::access::Action;
use crate::cache::{Demand, StaleReason};

/// Digest of what is answered (distribution specification).
pub(super) const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// What never changes may be kept for a year by whoever stands between.
pub(super) const IMMUTABLE: HeaderValue = HeaderValue::from_static("max-age=31536000, immutable");

/// A header value of text that is known to be visible ASCII.
pub(super) fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// How fresh the client wants it: `Cache-Control: no-cache` asks for upstream's word now.
pub(super) fn demand(headers: &HeaderMap) -> Demand {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let no_cache = values.flat_map(|value| value.split(',')).any(|directive| directive.trim().eq_ignore_ascii_case("no-cache"));
    if no_cache { Demand::Now } else { Demand::AsConfigured }
}

/// What a demand needs permission for.
pub(super) const fn action(demand: Demand) -> Action {
    match demand {
        Demand::AsConfigured => Action::Pull,
        Demand::Now => Action::Refresh,
    }
}

/// Tells the client that the answer may be out of date, and why (RFC 7234 §5.5.1).
pub(super) fn warn(headers: &mut HeaderMap, stale: Option<StaleReason>) {
    if let Some(reason) = stale {
        headers.insert(WARNING, text(&format!("110 headpond \"Response is stale: upstream did not confirm it ({})\"", reason.as_str())));
    }
}
