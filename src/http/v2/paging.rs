//! Lists in pages: what a query asks for, and the link to what follows.

use axum::http::HeaderMap;
use axum::http::header::LINK;

use super::text;
use crate::http::error::HttpError;
use crate::registry::Page;

/// Most entries on one page; more are clamped, as ECR's refusal breaks clients.
pub(super) const MAX_PAGE: usize = 10_000;

/// The page that `n` and `last` ask for.
pub(super) fn page(query: &str) -> Result<Page, HttpError> {
    let n = parameter(query, "n").map(|n| {
        let is_number = !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
        if is_number { Ok(n.parse().unwrap_or(MAX_PAGE).min(MAX_PAGE)) } else { Err(HttpError::PageSize) }
    });
    Ok(Page { n: n.transpose()?, last: parameter(query, "last") })
}

/// Links to the page behind `last` of the list at `path`, with whatever else was asked.
pub(super) fn next(headers: &mut HeaderMap, path: &str, last: &str, n: Option<usize>, query: &str) {
    let rest = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name != "last" && name != "n");
    let n = n.map(|n| ("n".into(), n.to_string().into()));
    let mut next = form_urlencoded::Serializer::new(String::new());
    next.append_pair("last", last).extend_pairs(n.into_iter().chain(rest));
    headers.insert(LINK, text(&format!("<{path}?{}>; rel=\"next\"", next.finish())));
}

/// The first value of a query parameter.
pub(in crate::http) fn parameter(query: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}
