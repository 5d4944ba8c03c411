//! From statuses to meanings, and small bodies.

use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::time::timeout;

use super::retry_after::retry_after;
use super::transport::unavailable;
use super::{Unavailability, UpstreamError, UpstreamLimits, address, error_body};

/// What was asked, for messages.
pub(super) struct Asked {
    pub(super) method: Method,
    /// The URL that answered: after redirects, the last one.
    pub(super) url: Url,
}

impl Asked {
    /// `GET host/path`.
    pub(super) fn shown(&self) -> String {
        format!("{} {}", self.method, address::shown(&self.url))
    }
}

/// What an answer that is no success means.
pub(super) async fn refusal(response: Response, asked: &Asked, limits: &UpstreamLimits, now: SystemTime) -> UpstreamError {
    let status = response.status();
    let retry_after = retry_after(response.headers(), now);
    let unanswered = response.headers().contains_key(WWW_AUTHENTICATE) && status == StatusCode::UNAUTHORIZED;
    let said = quoted(response, limits).await.unwrap_or_default();
    let mut detail = format!("{} answered {}", asked.shown(), status.as_u16());
    if !said.is_empty() {
        detail = format!("{detail} ({said})");
    } else if unanswered {
        detail.push_str(" and asks for other credentials");
    }
    match status.as_u16() {
        404 | 410 => UpstreamError::NotFound { detail },
        status @ (401 | 402 | 403 | 451) => UpstreamError::Denied { status, detail },
        429 => UpstreamError::TooManyRequests { retry_after, detail },
        status @ (408 | 425 | 500..) => UpstreamError::Unavailable { kind: Unavailability::Status(status), retry_after, detail },
        _ => UpstreamError::Lied { detail },
    }
}

/// The error's own words. Whatever goes wrong in reading them, the status stands.
async fn quoted(mut response: Response, limits: &UpstreamLimits) -> Option<String> {
    let mut body = BytesMut::new();
    let read = async {
        while body.len() < limits.max_error_bytes
            && let Ok(Some(piece)) = response.chunk().await
        {
            body.extend_from_slice(&piece);
        }
    };
    timeout(limits.stall_timeout, read).await.ok()?;
    error_body::quote(&body)
}

/// Reads a whole body of at most `max_bytes`.
///
/// # Errors
/// [`UpstreamError::Lied`] when it is larger or compressed, [`UpstreamError::Unavailable`] when it breaks off or stalls.
pub(super) async fn body_within(
    mut response: Response,
    asked: &Asked,
    max_bytes: usize,
    limits: &UpstreamLimits,
) -> Result<Bytes, UpstreamError> {
    check_uncompressed(response.headers(), asked)?;
    let too_large = || UpstreamError::lied(format!("{} answered with more than {max_bytes} bytes", asked.shown()));
    let announced = content_length(response.headers()).unwrap_or(0);
    if announced > max_bytes as u64 {
        return Err(too_large());
    }
    let mut body = BytesMut::with_capacity(usize::try_from(announced).unwrap_or(0));
    loop {
        match timeout(limits.stall_timeout, response.chunk()).await {
            Ok(Ok(Some(piece))) if body.len() + piece.len() > max_bytes => return Err(too_large()),
            Ok(Ok(Some(piece))) => body.extend_from_slice(&piece),
            Ok(Ok(None)) => return Ok(body.freeze()),
            Ok(Err(error)) => return Err(unavailable(&error, &asked.url)),
            Err(_) => {
                let detail = format!("{} stopped in the middle of its answer for {:?}", asked.shown(), limits.stall_timeout);
                return Err(UpstreamError::unavailable(Unavailability::Timeout, detail));
            }
        }
    }
}

/// Nothing was offered in `Accept-Encoding`; what comes compressed all the same has another digest.
pub(super) fn check_uncompressed(headers: &HeaderMap, asked: &Asked) -> Result<(), UpstreamError> {
    let is_plain = |value: &reqwest::header::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(CONTENT_ENCODING).iter().all(is_plain) {
        return Ok(());
    }
    Err(UpstreamError::lied(format!("{} answered with a Content-Encoding that was not asked for", asked.shown())))
}

/// `Content-Length`, where it is a number.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
