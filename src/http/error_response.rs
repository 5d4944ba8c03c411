//! The one mapping of errors to the wire.
//!
//! [`TABLE`] is printed into docs/errors.md by a test. After the head of an answer is out, an error
//! can only break the body off; that is `delivery`'s.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::error::HttpError;
use super::route::RouteError;
use crate::access::{AuthenticateError, Forbidden};
use crate::oci::ErrorCode;
use crate::oci::reference::ReferenceError;
use crate::registry::RegistryError;
use crate::rules::ResolveError;

/// What kind of error a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorKind {
    /// No such path.
    PathNotFound,
    /// A method that a path does not have.
    MethodNotAllowed,
    /// A part of the API that is not there.
    Unsupported,
    /// The name is no name.
    NameInvalid,
    /// The tag is no tag. Who reads is told that there is no such manifest, as the conformance suite wants.
    TagInvalid,
    /// The digest is no digest.
    DigestInvalid,
    /// `n` is no number.
    PageSizeInvalid,
    /// Login needed, or wrong.
    Unauthorized,
    /// Not allowed.
    Denied,
    /// No rule, no repository.
    NameUnknown,
    /// No such manifest.
    ManifestUnknown,
    /// No such blob.
    BlobUnknown,
    /// The range lies outside.
    RangeNotSatisfiable,
    /// Upstream refused the rule's credentials.
    UpstreamDenied,
    /// Upstream wants to be asked less.
    TooManyRequests,
    /// Upstream sent something wrong.
    UpstreamInvalid,
    /// Upstream gives no answer.
    UpstreamUnavailable,
    /// This server cannot, now.
    Unavailable,
}

/// Every kind, with its status, its code, and when it is told.
pub const TABLE: [(ErrorKind, u16, ErrorCode, &str); 18] = [
    (ErrorKind::PathNotFound, 404, ErrorCode::Unsupported, "no such path"),
    (ErrorKind::MethodNotAllowed, 405, ErrorCode::Unsupported, "the path does not have this method; `Allow` lists those it has"),
    (ErrorKind::Unsupported, 405, ErrorCode::Unsupported, "a part of the distribution API that this version does not have"),
    (ErrorKind::NameInvalid, 400, ErrorCode::NameInvalid, "the repository name does not follow the grammar"),
    (ErrorKind::TagInvalid, 404, ErrorCode::ManifestUnknown, "the tag does not follow the grammar, so no manifest can have it"),
    (ErrorKind::DigestInvalid, 400, ErrorCode::DigestInvalid, "the digest does not follow the grammar"),
    (ErrorKind::PageSizeInvalid, 400, ErrorCode::PaginationNumberInvalid, "`n` of a list is not a number"),
    (ErrorKind::Unauthorized, 401, ErrorCode::Unauthorized, "login needed, or the login is wrong; `WWW-Authenticate` says how"),
    (ErrorKind::Denied, 403, ErrorCode::Denied, "the rule does not allow the name"),
    (ErrorKind::NameUnknown, 404, ErrorCode::NameUnknown, "no rule matches, and no repository has that name"),
    (ErrorKind::ManifestUnknown, 404, ErrorCode::ManifestUnknown, "upstream does not have the manifest, or does not show it"),
    (ErrorKind::BlobUnknown, 404, ErrorCode::BlobUnknown, "upstream does not have the blob, or does not show it"),
    (ErrorKind::RangeNotSatisfiable, 416, ErrorCode::RangeInvalid, "the range lies outside the content"),
    (ErrorKind::UpstreamDenied, 403, ErrorCode::Denied, "upstream refused the credentials of the rule"),
    (
        ErrorKind::TooManyRequests,
        429,
        ErrorCode::TooManyRequests,
        "upstream limits requests, and nothing is cached; `Retry-After` says until when",
    ),
    (ErrorKind::UpstreamInvalid, 502, ErrorCode::Unknown, "upstream sent something wrong; the message says what; nothing was kept"),
    (ErrorKind::UpstreamUnavailable, 503, ErrorCode::Unavailable, "upstream gives no answer, and nothing is cached; `Retry-After` is set"),
    (ErrorKind::Unavailable, 503, ErrorCode::Unavailable, "this server cannot, now: its store fails, it shuts down, or a limit is reached"),
];

/// When a client is told to come back if upstream did not say.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(5);

impl ErrorKind {
    fn row(self) -> (StatusCode, ErrorCode) {
        let row = TABLE.iter().find(|(kind, ..)| *kind == self);
        let (status, code) = row.map_or((500, ErrorCode::Unknown), |(_, status, code, _)| (*status, *code));
        (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), code)
    }

    fn of(error: &HttpError) -> Self {
        match error {
            HttpError::Route(error) => Self::of_route(error),
            HttpError::Authenticate(AuthenticateError::Busy | AuthenticateError::Failed) => Self::Unavailable,
            HttpError::Authenticate(
                AuthenticateError::Required
                | AuthenticateError::Malformed
                | AuthenticateError::Wrong
                | AuthenticateError::Replica(_)
                | AuthenticateError::NoReplicas,
            )
            | HttpError::Forbidden(Forbidden::NeedsUser { .. } | Forbidden::RefreshNeedsUser) => Self::Unauthorized,
            HttpError::Forbidden(Forbidden::Excluded { .. }) => Self::Denied,
            HttpError::Resolve(ResolveError::TooLong) => Self::NameInvalid,
            HttpError::Resolve(
                ResolveError::UnknownHost { .. } | ResolveError::OutsideUpstreamPrefix { .. } | ResolveError::Shadowed { .. },
            ) => Self::NameUnknown,
            HttpError::Registry(error) => Self::of_registry(error),
            HttpError::PageSize => Self::PageSizeInvalid,
        }
    }

    const fn of_route(error: &RouteError) -> Self {
        match error {
            RouteError::NotFound => Self::PathNotFound,
            RouteError::Method { .. } => Self::MethodNotAllowed,
            RouteError::Unsupported(_) => Self::Unsupported,
            RouteError::Encoding | RouteError::Name(_) => Self::NameInvalid,
            RouteError::Reference(ReferenceError::Tag(_)) => Self::TagInvalid,
            RouteError::Reference(ReferenceError::Digest(_)) | RouteError::Digest(_) => Self::DigestInvalid,
        }
    }

    const fn of_registry(error: &RegistryError) -> Self {
        match error {
            RegistryError::NameUnknown { .. } | RegistryError::RepositoryUnknown { .. } => Self::NameUnknown,
            RegistryError::ManifestUnknown { .. } => Self::ManifestUnknown,
            RegistryError::BlobUnknown { .. } => Self::BlobUnknown,
            RegistryError::UpstreamDenied { .. } => Self::UpstreamDenied,
            RegistryError::TooManyRequests { .. } => Self::TooManyRequests,
            RegistryError::UpstreamUnavailable { .. } => Self::UpstreamUnavailable,
            RegistryError::UpstreamInvalid { .. } => Self::UpstreamInvalid,
            RegistryError::RangeNotSatisfiable { .. } => Self::RangeNotSatisfiable,
            RegistryError::Unavailable { .. } => Self::Unavailable,
        }
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    errors: [EnvelopeError<'a>; 1],
}

#[derive(Serialize)]
struct EnvelopeError<'a> {
    code: &'a str,
    message: String,
}

/// The answer to a request that failed (distribution specification, "Error Codes").
pub(super) fn error_response(error: &HttpError) -> Response<Body> {
    let (status, code) = ErrorKind::of(error).row();
    let envelope = Envelope { errors: [EnvelopeError { code: code.as_str(), message: error.to_string() }] };
    let body = serde_json::to_vec(&envelope).unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some((name, value)) = header(error, status) {
        response.headers_mut().insert(name, value);
    }
    response
}

/// The header that belongs to an error, if one does.
fn header(error: &HttpError, status: StatusCode) -> Option<(HeaderName, HeaderValue)> {
    let text = |name, text: String| HeaderValue::from_str(&text).ok().map(|value| (name, value));
    if let HttpError::Route(RouteError::Method { allow, .. }) = error {
        return Some((ALLOW, HeaderValue::from_static(allow)));
    }
    if let HttpError::Registry(RegistryError::RangeNotSatisfiable { total_bytes }) = error {
        return text(CONTENT_RANGE, format!("bytes */{total_bytes}"));
    }
    if status == StatusCode::UNAUTHORIZED {
        return Some((WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Headpond\"")));
    }
    if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE {
        let wait = asked_to_wait(error).unwrap_or(DEFAULT_RETRY_AFTER);
        return text(RETRY_AFTER, wait.as_secs().max(1).to_string());
    }
    None
}

/// How long upstream asked to wait.
fn asked_to_wait(error: &HttpError) -> Option<Duration> {
    let HttpError::Registry(RegistryError::TooManyRequests { retry_after, .. } | RegistryError::UpstreamUnavailable { retry_after, .. }) =
        error
    else {
        return None;
    };
    *retry_after
}
