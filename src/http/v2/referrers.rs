//! `GET /v2/<name>/referrers/<digest>`.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, Response};

use super::paging::{next, parameter};
use super::warn;
use crate::access::Authorized;
use crate::http::error::HttpError;
use crate::http::request_record::RequestRecord;
use crate::http::route::RouteError;
use crate::oci::{Digest, MediaType, RepositoryName};
use crate::registry::Registry;
use crate::rules::Target;

/// The filter of the specification.
const ARTIFACT_TYPE: &str = "artifactType";
/// Which filters an answer has been through.
const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// The manifests that are about another one, as an image index. `asked` is the name in the request,
/// which the link to the next page repeats.
pub(in crate::http) async fn get(
    registry: &Registry,
    target: Authorized<Target>,
    asked: &RepositoryName,
    subject: &Digest,
    query: &str,
    record: &mut RequestRecord,
) -> Result<Response<Body>, HttpError> {
    let artifact_type = parameter(query, ARTIFACT_TYPE).filter(|wanted| !wanted.is_empty());
    let last = parameter(query, "last").map(|last| Digest::parse(&last)).transpose().map_err(RouteError::from)?;
    let page = registry.list_referrers(target, subject, artifact_type.as_deref(), last.as_ref()).await?;
    let page = record.outcome(page);
    let mut response = Response::new(Body::from(page.index));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MediaType::OCI_INDEX));
    warn(headers, record.stale());
    if artifact_type.is_some() {
        headers.insert(OCI_FILTERS_APPLIED, HeaderValue::from_static(ARTIFACT_TYPE));
    }
    if let Some(last) = page.next {
        next(headers, &format!("/v2/{asked}/referrers/{subject}"), &last.to_string(), None, query);
    }
    Ok(response)
}
