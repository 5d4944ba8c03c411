//! `GET /v2/_catalog`.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Response};
use serde::Serialize;

use super::paging::{MAX_PAGE, next, page};
use crate::access::Sight;
use crate::http::error::HttpError;
use crate::oci::RepositoryName;
use crate::registry::{Page, Registry};

#[derive(Serialize)]
struct Answer<'a> {
    repositories: Vec<&'a str>,
}

/// A page of the repositories that the client may pull. Without `n` it is as long as a page may be.
pub(in crate::http) async fn get(registry: &Registry, sight: &Sight<'_>, query: &str) -> Result<Response<Body>, HttpError> {
    let asked = page(query)?;
    let page = Page { n: asked.n.or(Some(MAX_PAGE)), ..asked };
    let listed = registry.catalog(sight, &page).await?;
    let answer = Answer { repositories: listed.names.iter().map(RepositoryName::as_str).collect() };
    let mut response = Response::new(Body::from(serde_json::to_vec(&answer).unwrap_or_default()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(last) = listed.names.last().filter(|_| listed.more) {
        next(headers, "/v2/_catalog", last.as_str(), page.n, query);
    }
    Ok(response)
}
