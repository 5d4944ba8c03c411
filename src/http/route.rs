//! The whole URL surface, as one pure function.
//!
//! Names hold slashes and may hold the words `manifests` and `blobs`, so a path is split from the
//! right.

use std::borrow::Cow;

use axum::http::{Method, Uri};
use percent_encoding::percent_decode_str;
use thiserror::Error;

use crate::oci::digest::DigestError;
use crate::oci::reference::ReferenceError;
use crate::oci::repository_name::RepositoryNameError;
use crate::oci::{Digest, Reference, RepositoryName};

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `GET /v2/`: is this a registry, and who am I to it?
    Base,
    /// `/v2/<name>/manifests/<reference>`.
    Manifest {
        /// As it was asked for.
        name: RepositoryName,
        /// Tag or digest.
        reference: Reference,
    },
    /// `/v2/<name>/blobs/<digest>`.
    Blob {
        /// As it was asked for.
        name: RepositoryName,
        /// The blob.
        digest: Digest,
    },
    /// `/v2/<name>/referrers/<digest>`.
    Referrers {
        /// As it was asked for.
        name: RepositoryName,
        /// What is referred to.
        subject: Digest,
    },
    /// `/v2/_catalog`.
    Catalog,
    /// `/v2/<name>/tags/list`.
    TagsList {
        /// As it was asked for.
        name: RepositoryName,
    },
}

/// Why a request is for nothing there is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RouteError {
    /// No such path.
    #[error("there is nothing at this path; the registry is at /v2/")]
    NotFound,
    /// The path is there, but not for this method.
    #[error("{method} is not supported here")]
    Method {
        /// The method, as sent.
        method: String,
        /// What is: the value of `Allow`.
        allow: &'static str,
    },
    /// A part of the distribution API that this version does not have.
    #[error("{0} is not available in this version; this server is for pulling")]
    Unsupported(&'static str),
    /// Percent-encoding that is not UTF-8, or hides a slash.
    #[error("the path is not validly encoded")]
    Encoding,
    /// The name is none.
    #[error("invalid repository name: {0}")]
    Name(#[from] RepositoryNameError),
    /// The reference is none.
    #[error("invalid reference: {0}")]
    Reference(#[from] ReferenceError),
    /// The digest is none.
    #[error("invalid digest: {0}")]
    Digest(#[from] DigestError),
}

const READ: &str = "GET, HEAD";

/// Parses a request line.
///
/// # Errors
/// When there is no such thing; see [`RouteError`].
pub fn parse(method: &Method, uri: &Uri) -> Result<Route, RouteError> {
    let Some(rest) = uri.path().strip_prefix("/v2") else { return Err(RouteError::NotFound) };
    if rest.is_empty() || rest == "/" {
        return reading(method, || Ok(Route::Base));
    }
    let rest = rest.strip_prefix('/').ok_or(RouteError::NotFound)?;
    let decoded = decode(rest)?;
    if decoded == "_catalog" {
        return reading(method, || Ok(Route::Catalog));
    }
    let (before, last) = decoded.rsplit_once('/').ok_or(RouteError::NotFound)?;
    let (name, kind) = before.rsplit_once('/').unwrap_or(("", before));
    match (kind, last) {
        ("tags", "list") => reading(method, || Ok(Route::TagsList { name: RepositoryName::parse(name)? })),
        ("blobs", "uploads") | ("uploads", _) => Err(RouteError::Unsupported("pushing")),
        ("manifests", reference) if is_write(method) => {
            RepositoryName::parse(name)?;
            Reference::parse(reference)?;
            Err(RouteError::Unsupported("pushing and deleting"))
        }
        ("manifests", reference) => {
            reading(method, || Ok(Route::Manifest { name: RepositoryName::parse(name)?, reference: Reference::parse(reference)? }))
        }
        ("blobs", digest) => reading(method, || Ok(Route::Blob { name: RepositoryName::parse(name)?, digest: Digest::parse(digest)? })),
        ("referrers", subject) => {
            reading(method, || Ok(Route::Referrers { name: RepositoryName::parse(name)?, subject: Digest::parse(subject)? }))
        }
        _ => Err(RouteError::NotFound),
    }
}

fn reading(method: &Method, route: impl FnOnce() -> Result<Route, RouteError>) -> Result<Route, RouteError> {
    if *method == Method::GET || *method == Method::HEAD {
        return route();
    }
    Err(RouteError::Method { method: method.to_string(), allow: READ })
}

fn is_write(method: &Method) -> bool {
    [Method::PUT, Method::POST, Method::PATCH, Method::DELETE].contains(method)
}

/// Decodes what some clients encode (the colon of a digest), and refuses what would change the
/// number of segments.
fn decode(path: &str) -> Result<Cow<'_, str>, RouteError> {
    if !path.contains('%') {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = percent_decode_str(path).decode_utf8().map_err(|_| RouteError::Encoding)?;
    if decoded.matches('/').count() == path.matches('/').count() { Ok(decoded) } else { Err(RouteError::Encoding) }
}

impl Route {
    /// A closed set of names, for metrics and logs.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Manifest { .. } => "manifest",
            Self::Blob { .. } => "blob",
            Self::TagsList { .. } => "tags_list",
            Self::Referrers { .. } => "referrers",
            Self::Catalog => "catalog",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn get(path: &str) -> Result<Route, RouteError> {
        parse(&Method::GET, &path.parse().unwrap())
    }

    fn manifest(name: &str, reference: &str) -> Result<Route, RouteError> {
        Ok(Route::Manifest { name: RepositoryName::parse(name).unwrap(), reference: Reference::parse(reference).unwrap() })
    }

    #[test]
    fn paths_are_split_from_the_right() {
        assert_eq!(get("/v2"), Ok(Route::Base));
        assert_eq!(get("/v2/"), Ok(Route::Base));
        assert_eq!(get("/v2/_catalog?n=5"), Ok(Route::Catalog));
        assert_eq!(get("/v2/a/b/manifests/latest?ns=docker.io"), manifest("a/b", "latest"));
        assert_eq!(get(&format!("/v2/a/manifests/{DIGEST}")), manifest("a", DIGEST));
        assert_eq!(get("/v2/manifests/manifests/manifests"), manifest("manifests", "manifests"));
        assert_eq!(get("/v2/a/blobs/b/manifests/1"), manifest("a/blobs/b", "1"));
        let tags = |name: &str| Ok(Route::TagsList { name: RepositoryName::parse(name).unwrap() });
        assert_eq!(get("/v2/a/tags/list"), tags("a"));
        assert_eq!(get("/v2/a/manifests/tags/list"), tags("a/manifests"));
        let subject = Digest::parse(DIGEST).unwrap();
        assert_eq!(get(&format!("/v2/a/referrers/{DIGEST}")), Ok(Route::Referrers { name: RepositoryName::parse("a").unwrap(), subject }));
        let blob = Route::Blob { name: RepositoryName::parse("a").unwrap(), digest: Digest::parse(DIGEST).unwrap() };
        assert_eq!(get(&format!("/v2/a/blobs/{DIGEST}")), Ok(blob.clone()));
        assert_eq!(get(&format!("/v2/a/blobs/{}", DIGEST.replace(':', "%3A"))), Ok(blob));
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(matches!(get("/v2/A/manifests/1"), Err(RouteError::Name(_))));
        assert!(matches!(get("/v2/manifests/1"), Err(RouteError::Name(_))));
        assert!(matches!(get("/v2/a/../b/manifests/1"), Err(RouteError::Name(_))));
        assert!(matches!(get("/v2/a/manifests/-x"), Err(RouteError::Reference(_))));
        assert!(matches!(get("/v2/a/blobs/sha256:ab"), Err(RouteError::Digest(_))));
        assert!(matches!(get("/v2/a/referrers/x"), Err(RouteError::Digest(_))));
        assert_eq!(get("/v2/a%2Fb/manifests/1"), Err(RouteError::Encoding));
        assert_eq!(get("/v2/a%ff/manifests/1"), Err(RouteError::Encoding));
        for path in ["/", "/v1/", "/v2x", "/v2/_catalog/", "/v2/a/_catalog", "/v2/a", "/v2/a/b"] {
            assert_eq!(get(path), Err(RouteError::NotFound), "{path}");
        }
    }

    #[test]
    fn pushing_is_told_apart_from_unknown_methods() {
        let with = |method: &str, path: &str| parse(&Method::from_bytes(method.as_bytes()).unwrap(), &path.parse().unwrap());
        assert!(matches!(with("POST", "/v2/a/blobs/uploads/"), Err(RouteError::Unsupported(_))));
        assert!(matches!(with("PUT", "/v2/a/manifests/1"), Err(RouteError::Unsupported(_))));
        assert!(matches!(with("BREW", "/v2/a/manifests/1"), Err(RouteError::Method { allow: READ, .. })));
        assert!(matches!(with("DELETE", "/v2/"), Err(RouteError::Method { .. })));
    }

    proptest! {
        #[test]
        fn any_path_is_taken(path in "/v2/[a-z0-9/%:._-]{0,60}") {
            if let Ok(uri) = path.parse::<Uri>() {
                let _ = parse(&Method::GET, &uri);
            }
        }

        #[test]
        fn a_manifest_of_any_name_is_found(
            name in "(manifests|blobs|tags|list|a1|b\\.c)(/(manifests|blobs|tags|list|a1|b-c)){0,4}",
            tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}",
        ) {
            let expected = manifest(&name, &tag);
            // `<name>/tags/list` is a list wherever it stands.
            prop_assume!(!format!("manifests/{tag}").ends_with("tags/list"));
            prop_assert_eq!(get(&format!("/v2/{name}/manifests/{tag}")), expected);
        }
    }
}
