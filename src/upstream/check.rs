//! An upstream tried step by step, as a pull would go, with what was seen and what to do about it.
//!
//! Nothing is cached and nothing tried twice. What is shown holds no secret: URLs are without their
//! query, tokens and passwords are not shown at all.

mod hints;
mod report;

use reqwest::header::HeaderMap;
use reqwest::{Method, Response, StatusCode};
use tokio::time::Instant;

pub use self::report::{CheckReport, Outcome, Step, StepName};

use super::challenge::Challenge;
use super::circuit::Purpose;
use super::transport::Lane;
use super::{CredentialSource, ManifestHead, Upstream, UpstreamError, address, realm};
use crate::oci::{Digest, ManifestSummary, Reference, RepositoryName};

/// Most addresses of a name that are shown.
const MAX_SHOWN_ADDRESSES: usize = 4;
/// Manifests fetched to come to a blob: an index, and an image of it.
const MAX_MANIFESTS: usize = 2;

/// An image to try a pull with, by its name upstream.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The repository.
    pub repository: RepositoryName,
    /// The tag or digest.
    pub reference: Reference,
}

impl Upstream {
    /// Tries a pull up to the first step that fails: the name, the connection, the challenge, a token, a
    /// manifest, a blob, the quota. Without a sample it ends with the challenge.
    ///
    /// Getting at a blob takes up to two pulls of a quota.
    pub async fn check(&self, sample: Option<&Sample>) -> CheckReport {
        let mut report =
            CheckReport { upstream: address::shown_base(&self.endpoint.settings.base), steps: Vec::new(), mirrors: Vec::new() };
        // What ends it is the last step of the report.
        let _ = self.check_steps(sample, &mut report).await;
        report
    }

    async fn check_steps(&self, sample: Option<&Sample>, report: &mut CheckReport) -> Option<()> {
        report.add(self.check_name().await)?;
        let (step, response) = self.check_connection().await;
        report.add(step)?;
        let (step, challenge) = self.check_challenge(&response?);
        report.add(step)?;
        let Some(Sample { repository, reference }) = sample else {
            report.skip("no image is known to try a pull with", hints::NAME_AN_IMAGE);
            return None;
        };
        report.add(self.check_token(challenge.as_ref(), repository).await)?;
        let (step, head) = self.check_manifest(repository, reference).await;
        if !report.has_added(step) {
            self.check_quota(report);
            return None;
        }
        if self.quota().is_some_and(|quota| quota.remaining == 0) {
            self.check_quota(report);
            return None;
        }
        report.add(self.check_blob(repository, head?.digest).await);
        self.check_quota(report);
        Some(())
    }

    async fn check_name(&self) -> Step {
        let base = &self.endpoint.settings.base;
        let host = base.host_str().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let lookup = tokio::net::lookup_host((bare, base.port_or_known_default().unwrap_or_default()));
        match tokio::time::timeout(self.endpoint.settings.limits.connect_timeout, lookup).await {
            Ok(Ok(addresses)) => {
                let shown: Vec<String> = addresses.map(|address| address.ip().to_string()).take(MAX_SHOWN_ADDRESSES).collect();
                Step::ok(StepName::Name, format!("{host} is {}", shown.join(", ")))
            }
            Ok(Err(error)) if self.endpoint.settings.proxies.of(base).is_some() => {
                Step::ok(StepName::Name, format!("{host} is not found here ({error}), but the proxy may know it"))
            }
            Ok(Err(error)) => Step::failed(StepName::Name, format!("{host} is not found: {error}"), hints::NAME),
            Err(_) => Step::failed(StepName::Name, format!("{host} was not found in time"), hints::NAME),
        }
    }

    /// Connects, with TLS where the address says so, and asks for `/v2/`.
    async fn check_connection(&self) -> (Step, Option<Response>) {
        let url = self.endpoint.url("");
        let began = Instant::now();
        match self.endpoint.transport.send(Lane::Small, Method::GET, &url, HeaderMap::new()).await {
            Ok(response) => {
                let how = if url.scheme() == "https" { "over TLS" } else { "without TLS" };
                let seen = format!(
                    "{how}, GET {} answered {} after {} ms",
                    address::shown(&url),
                    response.status().as_u16(),
                    began.elapsed().as_millis()
                );
                (Step::ok(StepName::Connect, seen), Some(response))
            }
            Err(error) => (Step::failed(StepName::Connect, error.to_string(), hints::connect(&error.to_string())), None),
        }
    }

    /// What `/v2/` asks for.
    fn check_challenge(&self, response: &Response) -> (Step, Option<Challenge>) {
        let challenge = Challenge::from_headers(response.headers());
        let ok = |seen: String| Step::ok(StepName::Challenge, seen);
        let step = match (response.status(), &challenge) {
            (StatusCode::UNAUTHORIZED, Some(Challenge::Bearer(bearer))) => ok(format!("a token of {}", address::shown(&bearer.realm))),
            (StatusCode::UNAUTHORIZED, Some(Challenge::Basic)) if self.has_credential() => ok("a user name and password".to_owned()),
            (StatusCode::UNAUTHORIZED, Some(Challenge::Basic)) => Step::failed(
                StepName::Challenge,
                "it asks for a user name and password, and the rule has none".to_owned(),
                hints::CREDENTIALS,
            ),
            (StatusCode::UNAUTHORIZED, None) => {
                Step::failed(StepName::Challenge, "it answers 401 and does not say what it asks for".to_owned(), hints::NO_REGISTRY)
            }
            (status, _) if status.is_success() || status.is_redirection() => ok("it asks for nothing".to_owned()),
            (StatusCode::TOO_MANY_REQUESTS, _) => {
                Step::failed(StepName::Challenge, "it takes no more requests for now".to_owned(), hints::TOO_MANY_REQUESTS)
            }
            (status, _) => Step::failed(StepName::Challenge, format!("/v2/ is answered {}", status.as_u16()), hints::NO_REGISTRY),
        };
        (step, challenge.filter(|_| response.status() == StatusCode::UNAUTHORIZED))
    }

    async fn check_token(&self, challenge: Option<&Challenge>, repository: &RepositoryName) -> Step {
        let Some(Challenge::Bearer(bearer)) = challenge else {
            return Step::ok(StepName::Token, "none is needed".to_owned());
        };
        let settings = &self.endpoint.settings;
        let whose = settings.credential.as_ref().map_or("anonymously".to_owned(), CredentialSource::who);
        if let Err(error) = realm::check(&bearer.realm, &settings.base, &settings.realms) {
            return Step::failed(StepName::Token, error.to_string(), hints::REALM);
        }
        match self.token_for(bearer, repository).await {
            Ok(()) => Step::ok(StepName::Token, format!("given {whose}, for {}", bearer.scope(repository))),
            Err(error) => Step::failed(StepName::Token, error.to_string(), hints::refused(&error, self.has_credential())),
        }
    }

    async fn check_manifest(&self, repository: &RepositoryName, reference: &Reference) -> (Step, Option<ManifestHead>) {
        match self.head_manifest(repository, reference, Purpose::Fetch).await {
            Ok(head) => {
                let media_type = head.content_type.as_deref().unwrap_or("of a type that it does not tell");
                (Step::ok(StepName::Manifest, format!("{repository}:{reference} is {}, {media_type}", head.digest)), Some(head))
            }
            Err(error) => (Step::failed(StepName::Manifest, error.to_string(), hints::refused(&error, self.has_credential())), None),
        }
    }

    /// The first byte of a blob, from wherever that leads.
    async fn check_blob(&self, repository: &RepositoryName, manifest: Digest) -> Step {
        let fail = |error: &UpstreamError| Step::failed(StepName::Blob, error.to_string(), hints::blob(error, self.has_credential()));
        let blob = match self.some_blob(repository, manifest).await {
            Ok(Some(blob)) => blob,
            Ok(None) => return Step::ok(StepName::Blob, "the image has none to try".to_owned()),
            Err(error) => return fail(&error),
        };
        let mut stream = match self.get_blob(repository, &blob, Some(0..1)).await {
            Ok(stream) => stream,
            Err(error) => return fail(&error),
        };
        let home = address::host_and_port(&self.endpoint.settings.base);
        let there = address::host_and_port(stream.came_from());
        let place = if there == home { "from there itself".to_owned() } else { format!("redirected to {there}") };
        let ranges = if stream.end == Some(1) { "ranges are answered" } else { "ranges are ignored: what breaks off begins anew" };
        match stream.next().await {
            Some(Err(error)) => fail(&error),
            Some(Ok(_)) | None => Step::ok(StepName::Blob, format!("{place}, {ranges}")),
        }
    }

    /// A blob of the image, or of the first image of the index.
    async fn some_blob(&self, repository: &RepositoryName, manifest: Digest) -> Result<Option<Digest>, UpstreamError> {
        let mut digest = manifest;
        for _ in 0..MAX_MANIFESTS {
            let body = self.get_manifest(repository, &Reference::Digest(digest), Purpose::Fetch).await?;
            let summary = ManifestSummary::parse(&body.bytes, body.content_type.as_deref());
            let summary = summary.map_err(|error| UpstreamError::lied(error.to_string()))?;
            if let Some(blob) = summary.blobs.first() {
                return Ok(Some(blob.digest));
            }
            let Some(next) = summary.manifests.first() else { return Ok(None) };
            digest = next.digest;
        }
        Ok(None)
    }

    fn check_quota(&self, report: &mut CheckReport) {
        let Some(quota) = self.quota() else {
            report.add(Step::ok(StepName::Quota, "it tells of none".to_owned()));
            return;
        };
        let limit = quota.limit.map_or(String::new(), |limit| format!(" of {limit}"));
        let source = quota.source.map_or(String::new(), |source| format!(", counted for {source}"));
        let seen = format!("{}{limit} pulls left in {} h{source}", quota.remaining, quota.window.as_secs().div_ceil(3600));
        report.add(if quota.remaining == 0 {
            Step::failed(StepName::Quota, seen, hints::TOO_MANY_REQUESTS)
        } else {
            Step::ok(StepName::Quota, seen)
        });
    }
}
