//! Manifests: what a reference names at present, and its bytes.

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Method, StatusCode};

use super::admission::Admission;
use super::circuit::{Asking, Purpose};
use super::exchange::{Answer, Question};
use super::status::{body_within, content_length};
use super::transport::Lane;
use super::{Upstream, UpstreamError};
use crate::oci::{Digest, DigestHasher, ManifestSummary, MediaType, Reference, RepositoryName};

/// What a HEAD of a manifest tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHead {
    /// What the reference names.
    pub digest: Digest,
    /// `Content-Type`, as sent.
    pub content_type: Option<String>,
    /// Of the manifest.
    pub length_bytes: Option<u64>,
    /// The manifest, where it had to be fetched to learn its digest; checked.
    pub body: Option<Bytes>,
}

/// A manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestBody {
    /// At most [`ManifestSummary::MAX_BYTES`].
    pub bytes: Bytes,
    /// `Content-Type`, as sent.
    pub content_type: Option<String>,
    /// Computed from the bytes.
    pub digest: Digest,
}

impl Upstream {
    /// What a reference names, by HEAD; by GET where the upstream does not answer HEAD or does not
    /// tell the digest.
    ///
    /// # Errors
    /// Every [`UpstreamError`]; [`UpstreamError::Lied`] also when a digest is answered with another.
    pub async fn head_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        purpose: Purpose,
    ) -> Result<ManifestHead, UpstreamError> {
        let mut admission = self.admit(Asking::ManifestHead, purpose)?;
        let outcome = self.in_time(self.ask_head(repository, reference, &mut admission)).await;
        admission.settle(&outcome);
        outcome
    }

    /// A manifest, whole and with its digest checked against the reference and the upstream's word.
    ///
    /// # Errors
    /// Every [`UpstreamError`]; [`UpstreamError::Lied`] also when it is too large or the digest is wrong.
    pub async fn get_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        purpose: Purpose,
    ) -> Result<ManifestBody, UpstreamError> {
        let mut admission = self.admit(Asking::Manifest, purpose)?;
        let outcome = self.in_time(self.ask_body(repository, reference, &mut admission)).await;
        admission.settle(&outcome);
        outcome
    }

    async fn ask_head(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        admission: &mut Admission,
    ) -> Result<ManifestHead, UpstreamError> {
        let answer = self.ask(&self.question(Method::HEAD, repository, reference), admission).await?;
        let told = match answer.status() {
            StatusCode::OK => told_digest(answer.headers()),
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => None,
            _ => return Err(self.refusal(answer).await),
        };
        let asked_for = asked_for(reference).filter(|_| answer.status() == StatusCode::OK);
        if let (Some(told), Some(asked_for)) = (told, asked_for)
            && told.algorithm() == asked_for.algorithm()
            && told != asked_for
        {
            return Err(UpstreamError::lied(format!("{} answered with the digest {told}", answer.asked.shown())));
        }
        if let Some(digest) = asked_for.or(told) {
            let (content_type, length_bytes) = (content_type(answer.headers()), content_length(answer.headers()));
            return Ok(ManifestHead { digest, content_type, length_bytes, body: None });
        }
        let got = self.ask_body(repository, reference, admission).await?;
        let length_bytes = Some(got.bytes.len() as u64);
        Ok(ManifestHead { digest: got.digest, content_type: got.content_type, length_bytes, body: Some(got.bytes) })
    }

    async fn ask_body(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        admission: &mut Admission,
    ) -> Result<ManifestBody, UpstreamError> {
        let answer = self.ask(&self.question(Method::GET, repository, reference), admission).await?;
        if answer.status() != StatusCode::OK {
            return Err(self.refusal(answer).await);
        }
        let Answer { response, asked, .. } = answer;
        let (told, content_type) = (told_digest(response.headers()), content_type(response.headers()));
        if content_type.as_deref().and_then(|text| MediaType::parse(text).ok()).is_some_and(|media_type| media_type.is_schema1()) {
            return Err(UpstreamError::lied(format!(
                "{} answered with a manifest of Docker schema 1, which is not supported; push the image again with a current client",
                asked.shown()
            )));
        }
        let bytes = body_within(response, &asked, ManifestSummary::MAX_BYTES, &self.endpoint.settings.limits).await?;
        for expected in asked_for(reference).into_iter().chain(told) {
            let computed = digest_like(expected, &bytes);
            if computed != expected {
                let detail = format!("{} answered with {} bytes of digest {computed}, not {expected}", asked.shown(), bytes.len());
                return Err(UpstreamError::lied(detail));
            }
        }
        let digest = asked_for(reference).or(told).unwrap_or_else(|| Digest::of(&bytes));
        Ok(ManifestBody { bytes, content_type, digest })
    }

    fn question<'a>(&self, method: Method, repository: &'a RepositoryName, reference: &Reference) -> Question<'a> {
        Question {
            method,
            lane: Lane::Small,
            repository,
            url: self.endpoint.url(&format!("{repository}/manifests/{reference}")),
            accept: Some(MediaType::MANIFEST_ACCEPT),
            range: None,
        }
    }
}

fn asked_for(reference: &Reference) -> Option<Digest> {
    match reference {
        Reference::Digest(digest) => Some(*digest),
        Reference::Tag(_) => None,
    }
}

/// `Docker-Content-Digest`. One that is no digest tells nothing: the bytes are hashed anyway.
pub(super) fn told_digest(headers: &HeaderMap) -> Option<Digest> {
    Digest::parse(headers.get("docker-content-digest")?.to_str().ok()?.trim()).ok()
}

pub(super) fn content_type(headers: &HeaderMap) -> Option<String> {
    Some(headers.get(CONTENT_TYPE)?.to_str().ok()?.to_owned())
}

/// The digest of `bytes`, by the algorithm of `expected`.
pub(super) fn digest_like(expected: Digest, bytes: &[u8]) -> Digest {
    let mut hasher = DigestHasher::new(expected.algorithm());
    hasher.update(bytes);
    hasher.finish()
}
