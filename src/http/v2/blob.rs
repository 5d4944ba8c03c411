//! `GET` and `HEAD /v2/<name>/blobs/<digest>`.

use axum::body::Body;
use axum::http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LOCATION};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::{DOCKER_CONTENT_DIGEST, IMMUTABLE, text};
use crate::access::Authorized;
use crate::cache::{BlobAnswer, BlobDelivery};
use crate::http::delivery::Deliveries;
use crate::http::error::HttpError;
use crate::http::request_record::RequestRecord;
use crate::http::selection::{entity_tag, is_known, range};
use crate::oci::{ByteRange, Digest};
use crate::registry::Registry;
use crate::rules::Target;

/// The bytes of a blob, or a range of them.
pub(in crate::http) async fn get(
    registry: &Registry,
    deliveries: &Deliveries,
    target: Authorized<Target>,
    digest: &Digest,
    headers: &HeaderMap,
    record: &mut RequestRecord,
) -> Result<Response<Body>, HttpError> {
    if is_known(headers, digest) {
        record.outcome(registry.head_blob(target, digest).await?);
        return Ok(answer(StatusCode::NOT_MODIFIED, digest, None, Body::empty()));
    }
    let BlobAnswer { delivery, total_bytes, range, .. } = record.outcome(registry.pull_blob(target, digest, range(headers, digest)).await?);
    let body = match delivery {
        BlobDelivery::Redirect(url) => {
            record.redirected(range.map_or(total_bytes.unwrap_or_default(), ByteRange::length));
            return Ok(redirect(&url, digest));
        }
        BlobDelivery::File(blob) => {
            let interval = range.map_or(0..blob.length_bytes, |range| range.half_open());
            deliveries.file(blob, interval.start, interval.end)
        }
        BlobDelivery::Follow(follower) => deliveries.follow(follower),
        BlobDelivery::Head => Body::empty(),
    };
    let Some((range, total_bytes)) = range.zip(total_bytes) else {
        return Ok(answer(StatusCode::OK, digest, total_bytes, body));
    };
    let mut response = answer(StatusCode::PARTIAL_CONTENT, digest, Some(range.length()), body);
    response.headers_mut().insert(CONTENT_RANGE, text(&range.content_range(total_bytes)));
    Ok(response)
}

/// The length of a blob.
pub(in crate::http) async fn head(
    registry: &Registry,
    target: Authorized<Target>,
    digest: &Digest,
    headers: &HeaderMap,
    record: &mut RequestRecord,
) -> Result<Response<Body>, HttpError> {
    let blob = record.outcome(registry.head_blob(target, digest).await?);
    let status = if is_known(headers, digest) { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    Ok(answer(status, digest, blob.total_bytes, Body::empty()))
}

/// Sends a client to the bucket. The URL may not be kept: it is signed for a while.
fn redirect(url: &str, digest: &Digest) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    let headers = response.headers_mut();
    headers.insert(LOCATION, text(url));
    headers.insert(DOCKER_CONTENT_DIGEST, text(&digest.to_string()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn answer(status: StatusCode, digest: &Digest, length_bytes: Option<u64>, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(DOCKER_CONTENT_DIGEST, text(&digest.to_string()));
    headers.insert(ETAG, text(&entity_tag(digest)));
    headers.insert(CACHE_CONTROL, IMMUTABLE);
    if status != StatusCode::NOT_MODIFIED {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(length_bytes) = length_bytes {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length_bytes));
        }
    }
    response
}
