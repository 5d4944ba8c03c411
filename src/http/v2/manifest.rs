//! `GET` and `HEAD /v2/<name>/manifests/<reference>`.

use axum::body::Body;
use axum::http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::{DOCKER_CONTENT_DIGEST, IMMUTABLE, demand, text, warn};
use crate::access::Authorized;
use crate::cache::ManifestHeader;
use crate::http::error::HttpError;
use crate::http::request_record::RequestRecord;
use crate::http::selection::{entity_tag, is_known, range};
use crate::oci::Reference;
use crate::registry::{Registry, RegistryError};
use crate::rules::Target;

/// The bytes of a manifest, exactly as upstream sent them.
pub(in crate::http) async fn get(
    registry: &Registry,
    target: Authorized<Target>,
    reference: &Reference,
    headers: &HeaderMap,
    record: &mut RequestRecord,
) -> Result<Response<Body>, HttpError> {
    let manifest = record.outcome(registry.pull_manifest(target, reference, demand(headers)).await?);
    let header = manifest.header();
    if is_known(headers, &manifest.digest) {
        return Ok(answer(StatusCode::NOT_MODIFIED, &header, reference, record, Body::empty()));
    }
    let total_bytes = manifest.bytes.len() as u64;
    let Some(range) = range(headers, &manifest.digest) else {
        return Ok(answer(StatusCode::OK, &header, reference, record, Body::from(manifest.bytes.clone())));
    };
    let part = range.within(total_bytes).map_err(|_| RegistryError::RangeNotSatisfiable { total_bytes })?;
    let interval = usize::try_from(part.first).unwrap_or(usize::MAX)..usize::try_from(part.last + 1).unwrap_or(usize::MAX);
    let body = Body::from(manifest.bytes.slice(interval));
    let header = ManifestHeader { length_bytes: part.length(), ..header };
    let mut response = answer(StatusCode::PARTIAL_CONTENT, &header, reference, record, body);
    response.headers_mut().insert(CONTENT_RANGE, text(&part.content_range(total_bytes)));
    Ok(response)
}

/// What GET would answer, without the bytes, and without having them fetched.
pub(in crate::http) async fn head(
    registry: &Registry,
    target: Authorized<Target>,
    reference: &Reference,
    headers: &HeaderMap,
    record: &mut RequestRecord,
) -> Result<Response<Body>, HttpError> {
    let header = record.outcome(registry.head_manifest(target, reference, demand(headers)).await?);
    let status = if is_known(headers, &header.digest) { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    Ok(answer(status, &header, reference, record, Body::empty()))
}

fn answer(status: StatusCode, header: &ManifestHeader, reference: &Reference, record: &RequestRecord, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let digest = text(&header.digest.to_string());
    headers.insert(DOCKER_CONTENT_DIGEST, digest);
    headers.insert(ETAG, text(&entity_tag(&header.digest)));
    warn(headers, record.stale());
    if matches!(reference, Reference::Digest(_)) {
        headers.insert(CACHE_CONTROL, IMMUTABLE);
    }
    if status != StatusCode::NOT_MODIFIED {
        headers.insert(CONTENT_TYPE, text(header.media_type.as_str()));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(header.length_bytes));
    }
    response
}
