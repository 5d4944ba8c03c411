//! Requests to answers.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use headpond::oci::{ByteRange, Digest, MediaType, RangeRequest};
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::response::Builder;
use hyper::{Method, Request, Response, StatusCode};

use super::State;
use super::body::{self, Body};
use super::faults::{Fault, Kind};

/// Which port was asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Registry,
    Cdn,
}

/// Where registries have their token service.
const TOKEN_PATHS: [&str; 7] = ["/token", "/token/", "/v2/auth", "/v2/token", "/oauth2/token", "/jwt/auth", "/proxy_auth"];

/// What a path names.
enum Wanted {
    Version,
    Token,
    Manifest { repository: String, reference: String },
    Blob { repository: String, digest: Digest },
    Tags { repository: String },
    Referrers { repository: String, subject: Digest },
    Nothing,
}

impl Wanted {
    fn parse(role: Role, path: &str) -> Self {
        Self::find(role, path).unwrap_or(Self::Nothing)
    }

    fn find(role: Role, path: &str) -> Option<Self> {
        if role == Role::Cdn {
            let digest = Digest::parse(path.strip_prefix("/cdn/")?).ok()?;
            return Some(Self::Blob { repository: String::new(), digest });
        }
        let rest = match path {
            path if TOKEN_PATHS.contains(&path) => return Some(Self::Token),
            "/v2/" => return Some(Self::Version),
            path => path.strip_prefix("/v2/")?,
        };
        if let Some(repository) = rest.strip_suffix("/tags/list") {
            return Some(Self::Tags { repository: repository.to_owned() });
        }
        if let Some((repository, reference)) = rest.rsplit_once("/manifests/") {
            return Some(Self::Manifest { repository: repository.to_owned(), reference: reference.to_owned() });
        }
        if let Some((repository, subject)) = rest.rsplit_once("/referrers/") {
            return Some(Self::Referrers { repository: repository.to_owned(), subject: Digest::parse(subject).ok()? });
        }
        let (repository, digest) = rest.rsplit_once("/blobs/")?;
        Some(Self::Blob { repository: repository.to_owned(), digest: Digest::parse(digest).ok()? })
    }

    fn repository(&self) -> &str {
        match self {
            Self::Manifest { repository, .. }
            | Self::Blob { repository, .. }
            | Self::Tags { repository }
            | Self::Referrers { repository, .. } => repository,
            Self::Version | Self::Token | Self::Nothing => "",
        }
    }

    fn kind(&self, is_redirect: bool) -> Kind {
        match self {
            Self::Token => Kind::Token,
            Self::Manifest { .. } => Kind::Manifest,
            Self::Blob { .. } if !is_redirect => Kind::Blob,
            Self::Tags { .. } => Kind::Tags,
            Self::Referrers { .. } => Kind::Referrers,
            Self::Blob { .. } | Self::Version | Self::Nothing => Kind::Other,
        }
    }
}

/// Answers one request; an error closes the connection.
pub(super) async fn answer(state: Arc<State>, role: Role, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let number = state.journal.asked(&request, role == Role::Cdn);
    let wanted = Wanted::parse(role, request.uri().path());
    let redirects = role == Role::Registry && matches!(wanted, Wanted::Blob { .. }) && state.faults.lock().unwrap().redirect_blobs;
    let is_head = request.method() == Method::HEAD;
    let faults = state.faults.lock().unwrap().take(wanted.kind(redirects), is_head, request.uri().path());
    let response = match before_content(&state, &request, &faults).await? {
        Some(response) => response,
        None => answer_well(&state, role, redirects, &request, &wanted, &faults),
    };
    let response = touch_headers(response, &faults);
    state.journal.answered(number, response.status());
    Ok(if is_head { response.map(|_| body::plain("")) } else { response })
}

/// The faults that come instead of an answer, or before it.
async fn before_content(state: &State, request: &Request<Incoming>, faults: &[Fault]) -> io::Result<Option<Response<Body>>> {
    for fault in faults {
        match fault {
            Fault::DelayHead(delay) => tokio::time::sleep(*delay).await,
            Fault::HangHead => {
                state.released.subscribe().wait_for(|released| *released).await.unwrap();
            }
            Fault::HangUp => return Err(io::Error::other("hung up")),
            Fault::Status(status) => return Ok(Some(error(*status, "FAULT", "planned by the test"))),
            Fault::StatusRetryAfter(status, after) => {
                let mut response = error(*status, "TOOMANYREQUESTS", "planned by the test");
                response.headers_mut().insert(header::RETRY_AFTER, after.parse().unwrap());
                return Ok(Some(response));
            }
            Fault::StatusBody(status, body) => {
                let mut response = Response::new(body::plain(*body));
                *response.status_mut() = StatusCode::from_u16(*status).unwrap();
                return Ok(Some(response));
            }
            Fault::RedirectTo(url) => return Ok(Some(redirect(url))),
            Fault::RedirectLoop => return Ok(Some(redirect(&request.uri().to_string()))),
            Fault::Instead(bytes) => return Ok(Some(Response::new(body::plain(bytes.clone())))),
            _ => {}
        }
    }
    Ok(None)
}

fn touch_headers(mut response: Response<Body>, faults: &[Fault]) -> Response<Body> {
    for fault in faults {
        match fault {
            Fault::Header(name, value) => {
                response.headers_mut().insert(HeaderName::from_static(name), value.parse().unwrap());
            }
            Fault::WithoutHeader(name) => {
                response.headers_mut().remove(*name);
            }
            _ => {}
        }
    }
    response
}

fn answer_well(
    state: &Arc<State>,
    role: Role,
    redirects: bool,
    request: &Request<Incoming>,
    wanted: &Wanted,
    faults: &[Fault],
) -> Response<Body> {
    let authorization = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let now = state.clock.now();
    if role == Role::Cdn && authorization.is_some() {
        return error(400, "INVALID", "only one way to authenticate is allowed");
    }
    if role == Role::Registry
        && !matches!(wanted, Wanted::Token)
        && let Some(lines) = state.auth.lock().unwrap().challenge(wanted.repository(), authorization, now)
    {
        let mut response = error(401, "UNAUTHORIZED", "authentication required");
        for line in lines {
            response.headers_mut().append(header::WWW_AUTHENTICATE, line.parse().unwrap());
        }
        return response;
    }
    match wanted {
        Wanted::Version => json(200, &serde_json::json!({})),
        Wanted::Token => {
            let scope = query(request, "scope").unwrap_or_default();
            let issued = state.auth.lock().unwrap().issue(&scope, authorization, now);
            issued.map_or_else(|| error(401, "UNAUTHORIZED", "wrong name or password"), |answer| json(200, &answer))
        }
        Wanted::Manifest { repository, reference } => manifest(state, request, repository, reference, faults),
        Wanted::Blob { digest, .. } if redirects => redirect(&format!("{}/cdn/{digest}?signature=secret", state.url(state.cdn))),
        Wanted::Blob { digest, .. } => match state.content.lock().unwrap().blob(digest) {
            Some(bytes) => content(state, request, digest, &bytes, "application/octet-stream", faults),
            None => error(404, "BLOB_UNKNOWN", "blob unknown to registry"),
        },
        Wanted::Tags { repository } => tags(state, request, repository),
        Wanted::Referrers { repository, subject } => referrers(state, request, repository, subject),
        Wanted::Nothing => error(404, "UNSUPPORTED", "no such route"),
    }
}

fn manifest(state: &Arc<State>, request: &Request<Incoming>, repository: &str, reference: &str, faults: &[Fault]) -> Response<Body> {
    let found = state.content.lock().unwrap().manifest(repository, reference);
    match found {
        Some((digest, manifest)) => content(state, request, &digest, &manifest.bytes, &manifest.media_type, faults),
        None => error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
    }
}

/// A blob or a manifest, or a range of it.
fn content(
    state: &Arc<State>,
    request: &Request<Incoming>,
    digest: &Digest,
    bytes: &Bytes,
    media_type: &str,
    faults: &[Fault],
) -> Response<Body> {
    let length = bytes.len() as u64;
    let range = request.headers().get(header::RANGE).and_then(|value| RangeRequest::parse(value.to_str().ok()?));
    let head = Response::builder().header(header::CONTENT_TYPE, media_type).header("docker-content-digest", digest.to_string());
    let (head, range) = match range.filter(|_| !faults.contains(&Fault::IgnoreRange)).map(|range| range.within(length)) {
        None => (head.status(200), 0..length),
        Some(Ok(range)) => (partial(head, range, length, faults), range.half_open()),
        Some(Err(_)) => {
            let mut response = error(416, "RANGE_INVALID", "no such bytes");
            response.headers_mut().insert(header::CONTENT_RANGE, format!("bytes */{length}").parse().unwrap());
            return response;
        }
    };
    let chunked = faults.contains(&Fault::Chunked) || faults.contains(&Fault::Endless);
    let off = faults.iter().find_map(|fault| if let Fault::LengthOff(off) = fault { Some(*off) } else { None });
    let announced = (range.end - range.start).saturating_add_signed(off.unwrap_or(0));
    let head = if chunked { head } else { head.header(header::CONTENT_LENGTH, announced) };
    let bytes = if faults.contains(&Fault::FlipByte) { flip_middle_byte(bytes) } else { bytes.clone() };
    let part = bytes.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap());
    if request.method() == Method::HEAD {
        return head.body(body::plain("")).unwrap();
    }
    head.body(body::content(state, *digest, part, range.start, faults)).unwrap()
}

fn partial(head: Builder, range: ByteRange, length: u64, faults: &[Fault]) -> Builder {
    let named = if faults.contains(&Fault::WrongContentRange) { ByteRange { first: range.first + 1, last: range.last + 1 } } else { range };
    head.status(206).header(header::CONTENT_RANGE, named.content_range(length))
}

fn flip_middle_byte(bytes: &Bytes) -> Bytes {
    let mut flipped = bytes.to_vec();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    Bytes::from(flipped)
}

fn tags(state: &State, request: &Request<Incoming>, repository: &str) -> Response<Body> {
    let content = state.content.lock().unwrap();
    let asked = query(request, "n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let count = content.tags_per_page.min(asked);
    let Some((tags, more)) = content.tags(repository, query(request, "last").as_deref(), count) else {
        return error(404, "NAME_UNKNOWN", "repository name not known to registry");
    };
    let mut response = json(200, &serde_json::json!({"name": repository, "tags": tags}));
    if let (true, Some(last)) = (more, tags.last()) {
        let link = format!("</v2/{repository}/tags/list?last={last}&n={count}>; rel=\"next\"");
        response.headers_mut().insert(header::LINK, link.parse().unwrap());
    }
    response
}

fn referrers(state: &State, request: &Request<Incoming>, repository: &str, subject: &Digest) -> Response<Body> {
    let content = state.content.lock().unwrap();
    let Some(count) = content.referrers_per_page else { return error(404, "NOT_FOUND", "404 page not found") };
    let first: usize = query(request, "first").map_or(0, |first| first.parse().unwrap());
    let all = content.referrers(repository, subject);
    let page: Vec<_> = all.iter().skip(first).take(count).collect();
    let mut response = json(200, &serde_json::json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": page}));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MediaType::OCI_INDEX));
    if first + count < all.len() {
        let link = format!("</v2/{repository}/referrers/{subject}?first={}>; rel=\"next\"", first + count);
        response.headers_mut().insert(header::LINK, link.parse().unwrap());
    }
    response
}

fn query(request: &Request<Incoming>, key: &str) -> Option<String> {
    let url = format!("http://fake{}", request.uri());
    let url = headpond::upstream::Url::parse(&url).unwrap();
    url.query_pairs().find(|(name, _)| name == key).map(|(_, value)| value.into_owned())
}

fn json(status: u16, value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(body::plain(value.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn error(status: u16, code: &str, message: &str) -> Response<Body> {
    json(status, &serde_json::json!({"errors": [{"code": code, "message": message}]}))
}

fn redirect(url: &str) -> Response<Body> {
    let mut response = Response::new(body::plain("<a>moved</a>"));
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response.headers_mut().insert(header::LOCATION, url.parse().unwrap());
    response
}
