//! `GET /v2/<name>/tags/list`.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Response};
use serde::Serialize;

use super::paging::{next, page};
use super::{DOCKER_CONTENT_DIGEST, text, warn};
use crate::access::Authorized;
use crate::http::error::HttpError;
use crate::http::request_record::RequestRecord;
use crate::oci::{Digest, RepositoryName, Tag};
use crate::registry::Registry;
use crate::rules::Target;

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
    if let Some(last) = listed.tags.last().filter(|_| listed.more) {
        next(headers, &format!("/v2/{asked}/tags/list"), last.as_str(), page.n, query);
    }
    Ok(response)
}
