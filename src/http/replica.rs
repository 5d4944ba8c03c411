//! Requests of other replicas, and answers to them: what they are told beside what clients are, and the proof of it.

use axum::body::Body;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, HeaderValue, Method, Response};
use http_body::Body as _;

use super::error::HttpError;
use super::request_record::RequestRecord;
use super::v2::text;
use crate::cluster::{ERROR_HEADER, PROOF_HEADER, RefusalKind, ReplicaKey, STALE_HEADER, UNATTENDED_HEADER, VALIDATED_HEADER};
use crate::registry::RegistryError;

/// Whether a request says that no client waits for its answer.
pub(super) fn is_unattended(headers: &HeaderMap) -> bool {
    headers.contains_key(UNATTENDED_HEADER)
}

/// Tells a replica what upstream refused, so that it need not ask there itself. Of any other failure
/// it learns only the status, and asks elsewhere.
pub(super) fn tell_refusal(error: &HttpError, record: &RequestRecord, response: &mut Response<Body>) {
    let HttpError::Registry(error) = error else { return };
    if record.replica().is_some()
        && let Some((kind, detail)) = refusal(error)
        && let Some(value) = kind.header(detail)
    {
        response.headers_mut().insert(ERROR_HEADER, value);
    }
}

fn refusal(error: &RegistryError) -> Option<(RefusalKind, &str)> {
    match error {
        RegistryError::RepositoryUnknown { detail } | RegistryError::ManifestUnknown { detail } | RegistryError::BlobUnknown { detail } => {
            Some((RefusalKind::NotFound, detail))
        }
        RegistryError::UpstreamDenied { detail } => Some((RefusalKind::Denied, detail)),
        RegistryError::TooManyRequests { detail, .. } => Some((RefusalKind::TooManyRequests, detail)),
        RegistryError::UpstreamUnavailable { detail, .. } => Some((RefusalKind::Unavailable, detail)),
        RegistryError::UpstreamInvalid { detail } => Some((RefusalKind::Invalid, detail)),
        RegistryError::NameUnknown { .. } | RegistryError::RangeNotSatisfiable { .. } | RegistryError::Unavailable { .. } => None,
    }
}

/// Proves an answer to the replica that asked. The last thing done to its head.
pub(super) fn prove(key: Option<&ReplicaKey>, method: &Method, record: &RequestRecord, response: &mut Response<Body>) {
    let (Some(key), Some(request)) = (key, record.replica()) else { return };
    // Written out, as it is under the proof: the server would add it later.
    let length = response.body().size_hint().exact().filter(|_| *method != Method::HEAD);
    let status = response.status().as_u16();
    let headers = response.headers_mut();
    if let Some(length) = length {
        headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    if let Some(reason) = record.stale() {
        headers.insert(STALE_HEADER, HeaderValue::from_static(reason.as_str()));
    }
    if let Some(validated_at) = record.validated_at() {
        headers.insert(VALIDATED_HEADER, HeaderValue::from(validated_at));
    }
    let proof = text(&key.prove(&request.nonce, status, headers));
    headers.insert(PROOF_HEADER, proof);
}
