//! `GET /v2/<name>/tags/list`.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, LINK};
use axum::http::{HeaderValue, Response};
use serde::Serialize;

use super::{DOCKER_CONTENT_DIGEST, text, warn};
use crate::access::Authorized;
use crate::http::error::HttpError;
use crate::http::request_record::RequestRecord;
use crate::oci::{Digest, RepositoryName, Tag};
use crate::registry::{Page, Registry};
use crate::rules::Target;

/// Most tags on one page; more are clamped, as ECR's refusal breaks clients.
const MAX_PAGE: usize = 10_000;

#[derive(Serialize)]
struct Answer<'a> {
    name: &'a str,
    tags: Vec<&'a str>,
}

/// A page of the tags that upstream has. `asked` is the name in the request, which the answer and
/// the link to the next page repeat.
pub(in crate::http) async fn get(
    registry: &Registry,
    target: Authorized<Target>,
    asked: &RepositoryName,
    query: &str,
    record: &mut RequestRecord,
) -> Result<Response<Body>, HttpError> {
    let page = page(query)?;
    let listed = record.outcome(registry.list_tags(target, &page).await?);
    let answer = Answer { name: asked.as_str(), tags: listed.tags.iter().map(Tag::as_str).collect() };
    let body = serde_json::to_vec(&answer).unwrap_or_default();
    // Another replica believes a list only if it is the one that the proof is about.
    let digest = record.replica().map(|_| Digest::of(&body));
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(digest) = digest {
        headers.insert(DOCKER_CONTENT_DIGEST, text(&digest.to_string()));
    }
    warn(headers, record.stale());
    if let Some((n, last)) = page.n.zip(listed.tags.last()).filter(|_| listed.more) {
        let ns = parameter(query, "ns").map(|ns| format!("&ns={}", encode(&ns))).unwrap_or_default();
        headers.insert(LINK, text(&format!("</v2/{asked}/tags/list?last={}&n={n}{ns}>; rel=\"next\"", encode(last.as_str()))));
    }
    Ok(response)
}

fn page(query: &str) -> Result<Page, HttpError> {
    let n = parameter(query, "n").map(|n| {
        let is_number = !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
        if is_number { Ok(n.parse().unwrap_or(MAX_PAGE).min(MAX_PAGE)) } else { Err(HttpError::PageSize) }
    });
    Ok(Page { n: n.transpose()?, last: parameter(query, "last") })
}

/// The first value of a query parameter.
pub(in crate::http) fn parameter(query: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn encode(value: &str) -> String {
    form_urlencoded::byte_serialize(value.as_bytes()).collect()
}
