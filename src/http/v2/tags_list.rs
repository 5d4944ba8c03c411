//! `GET /v2/<name>/tags/list`.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Response};
use serde::Serialize;

use super::paging::{next, page};
use super::warn;
use crate::access::Authorized;
use crate::http::error::HttpError;
use crate::http::request_record::RequestRecord;
use crate::oci::{RepositoryName, Tag};
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
    let mut response = Response::new(Body::from(serde_json::to_vec(&answer).unwrap_or_default()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    warn(headers, record.stale());
    if let Some(last) = listed.tags.last().filter(|_| listed.more) {
        next(headers, &format!("/v2/{asked}/tags/list"), last.as_str(), page.n, query);
    }
    Ok(response)
}
