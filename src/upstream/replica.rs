//! The client of another replica: what it has, or gets from upstream, without asking a third one.
//!
//! A request between replicas is an ordinary one with a signature; an answer without the right proof
//! is none. A replica that may be waiting for a slow upstream is waited for as long as an upstream
//! would be, but only while it shows that it is alive.

use std::future::Future;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CACHE_CONTROL, HeaderMap, HeaderValue, RANGE};
use reqwest::{Client, Method, Request, Response, StatusCode, Url};
use serde::Deserialize;

use super::blob::range_header;
use super::exchange::Answer;
use super::manifest::{content_type, digest_like, told_digest};
use super::retry_after::retry_after;
use super::status::{Asked, body_within, content_length};
use super::{BlobStream, ManifestBody, ManifestHead, Unavailability, UpstreamBuildError, UpstreamError, UpstreamLimits, transport};
use crate::clock::Clock;
use crate::cluster::{self, Cluster, RefusalKind, ReplicaKey, STALE_HEADER, Signed, UNATTENDED_HEADER, VALIDATED_HEADER};
use crate::oci::{Digest, ManifestSummary, Reference, RepositoryName, Tag};
use crate::telemetry::metrics::ReplicaResult;

/// A replica that sends nothing may be waiting for an upstream that stalls, and connect to it anew: it has
/// so many times as long as an upstream.
const STALL_PATIENCE: u32 = 2;
/// The source of requests that are for no content.
const NO_SOURCE: &str = "-";

/// The other replicas, as they are asked; cheap to clone.
#[derive(Clone)]
pub struct Replicas {
    parts: Arc<Parts>,
}

struct Parts {
    cluster: Cluster,
    key: ReplicaKey,
    client: Client,
    clock: Clock,
    /// `limits.peer_timeout`.
    peer_timeout: Duration,
    /// `limits.connection_wait`.
    connection_wait: Duration,
    limits: UpstreamLimits,
}

/// One of them, asked for what comes through one source.
#[derive(Clone)]
pub struct Replica {
    parts: Arc<Parts>,
    address: SocketAddr,
    source: Arc<str>,
    /// No client waits for what it is asked for.
    is_for_nobody: bool,
}

/// What a replica told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told<T> {
    /// The answer.
    pub value: T,
    /// When upstream last confirmed it, in unix seconds, if it was asked for by tag.
    pub validated_at: Option<u64>,
    /// Why it may be out of date, in the replica's word, if it may.
    pub stale: Option<String>,
}

/// What is asked.
struct Question {
    method: Method,
    path: String,
    range: Option<HeaderValue>,
    /// Upstream is to be asked now.
    now: bool,
}

impl Replicas {
    /// The replicas of `cluster`. `limits` are those of upstreams, which a replica may be waiting for.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new(
        cluster: Cluster,
        key: ReplicaKey,
        clock: Clock,
        peer_timeout: Duration,
        connection_wait: Duration,
        mut limits: UpstreamLimits,
    ) -> Result<Self, UpstreamBuildError> {
        let client = transport::direct(&limits, peer_timeout)?;
        limits.stall_timeout *= STALL_PATIENCE;
        Ok(Self { parts: Arc::new(Parts { cluster, key, client, clock, peer_timeout, connection_wait, limits }) })
    }

    /// Whom to ask for what `key` names and `source` brings, in order, before asking upstream. Empty
    /// when that falls to this replica.
    #[must_use]
    pub fn route(&self, key: &str, source: &Arc<str>) -> Vec<Replica> {
        let replica = |address| Replica { parts: Arc::clone(&self.parts), address, source: Arc::clone(source), is_for_nobody: false };
        self.parts.cluster.route(key).into_iter().map(replica).collect()
    }
}

impl Replica {
    /// Where it is.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same, asked for what no client waits for: there it comes behind what clients wait for, if at all.
    #[must_use]
    pub fn for_nobody(self) -> Self {
        Self { is_for_nobody: true, ..self }
    }

    /// Whether it is asked so.
    #[must_use]
    pub const fn is_for_nobody(&self) -> bool {
        self.is_for_nobody
    }

    /// What a reference names. `now` has the replica ask upstream whatever it knows.
    ///
    /// # Errors
    /// [`UpstreamError::NotFound`], [`UpstreamError::Denied`] and [`UpstreamError::TooManyRequests`] are
    /// its upstream's word. [`UpstreamError::Unavailable`] with a status says that its upstream gives no
    /// usable answer; any other error, that the replica does not.
    pub async fn head_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        now: bool,
    ) -> Result<Told<ManifestHead>, UpstreamError> {
        let question = Question { now, ..Question::new(Method::HEAD, format!("{repository}/manifests/{reference}")) };
        let answer = self.in_time(self.ask(&question)).await?;
        let headers = answer.headers();
        let digest = self.digest(&answer, reference)?;
        let head = ManifestHead { digest, content_type: content_type(headers), length_bytes: content_length(headers), body: None };
        Ok(Told::of(head, headers))
    }

    /// A manifest, with its digest checked.
    ///
    /// # Errors
    /// As [`Self::head_manifest`].
    pub async fn get_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        now: bool,
    ) -> Result<Told<ManifestBody>, UpstreamError> {
        let question = Question { now, ..Question::new(Method::GET, format!("{repository}/manifests/{reference}")) };
        self.in_time(async {
            let answer = self.ask(&question).await?;
            let (digest, content_type) = (self.digest(&answer, reference)?, content_type(answer.headers()));
            let told = Told::of((), answer.headers());
            let Answer { response, asked, .. } = answer;
            let bytes = body_within(response, &asked, ManifestSummary::MAX_BYTES, &self.parts.limits).await?;
            if digest_like(digest, &bytes) != digest {
                return Err(UpstreamError::lied(format!("{} answered with other bytes than {digest}", asked.shown())));
            }
            Ok(told.map(ManifestBody { bytes, content_type, digest }))
        })
        .await
    }

    /// The length of a blob, if it is there.
    ///
    /// # Errors
    /// As [`Self::head_manifest`].
    pub async fn head_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        let question = Question::new(Method::HEAD, format!("{repository}/blobs/{digest}"));
        let answer = self.in_time(self.ask(&question)).await?;
        Ok(content_length(answer.headers()))
    }

    /// The bytes of a blob, or of the half-open `range` of it, as [`super::Upstream::get_blob`] gives them.
    ///
    /// # Errors
    /// As [`Self::head_manifest`].
    pub async fn get_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Option<Range<u64>>,
    ) -> Result<BlobStream, UpstreamError> {
        let header = range.as_ref().and_then(range_header);
        let question = Question { range: header, ..Question::new(Method::GET, format!("{repository}/blobs/{digest}")) };
        // It may have to wait for a connection to upstream first.
        let limit = self.parts.limits.manifest_timeout + self.parts.connection_wait;
        let answer = self.within(limit, self.ask(&question)).await?;
        BlobStream::of(answer, range.as_ref(), &self.parts.limits)
    }

    /// Every tag of a repository.
    ///
    /// # Errors
    /// As [`Self::head_manifest`].
    pub async fn list_tags(&self, repository: &RepositoryName) -> Result<Told<Vec<Tag>>, UpstreamError> {
        #[derive(Deserialize)]
        struct List {
            tags: Vec<String>,
        }
        let question = Question::new(Method::GET, format!("{repository}/tags/list"));
        self.in_time(async {
            let answer = self.ask(&question).await?;
            let (told, digest) = (Told::of((), answer.headers()), told_digest(answer.headers()));
            let Answer { response, asked, .. } = answer;
            let body = body_within(response, &asked, self.parts.limits.max_tag_page_bytes, &self.parts.limits).await?;
            let list: Option<List> =
                digest.filter(|digest| digest_like(*digest, &body) == *digest).and_then(|_| serde_json::from_slice(&body).ok());
            let list = list.ok_or_else(|| UpstreamError::lied(format!("{} answered with no list of tags", asked.shown())))?;
            Ok(told.map(list.tags.iter().filter_map(|tag| Tag::parse(tag).ok()).collect()))
        })
        .await
    }

    /// Asks: signed, waited for while the replica lives, and believed only with its proof.
    async fn ask(&self, question: &Question) -> Result<Answer, UpstreamError> {
        let asked = Asked { method: question.method.clone(), url: self.url(&question.path)? };
        let sent = tokio::select! {
            sent = self.send(question, &asked, &self.source) => sent,
            () = self.until_dead() => {
                let detail = format!("the replica {} is silent", self.address);
                Err(UpstreamError::unavailable(Unavailability::Timeout, detail))
            }
        };
        let response = sent.inspect_err(|error| self.failed(error))?;
        if response.status().is_success() {
            self.count(ReplicaResult::Answered);
            return Ok(Answer::of(response, asked));
        }
        Err(self.refused(&response, &asked))
    }

    /// One request; an answer without its proof is none.
    async fn send(&self, question: &Question, asked: &Asked, source: &str) -> Result<Response, UpstreamError> {
        let url = &asked.url;
        let path_and_query = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let line = cluster::Asked { method: asked.method.as_str(), path_and_query: &path_and_query, replica: self.address };
        let Signed { authorization, nonce } = self.parts.key.sign(&line, source, self.parts.clock.now());
        let mut request = Request::new(question.method.clone(), url.clone());
        *request.headers_mut() = question.headers(&authorization);
        if self.is_for_nobody {
            request.headers_mut().insert(UNATTENDED_HEADER, HeaderValue::from_static("1"));
        }
        let response = self.parts.client.execute(request).await.map_err(|error| transport::unavailable(&error, url))?;
        if self.parts.key.is_proven(&nonce, response.status().as_u16(), response.headers()) {
            return Ok(response);
        }
        let detail = format!("{} answered {} without the proof of a replica", asked.shown(), response.status().as_u16());
        Err(UpstreamError::lied(detail))
    }

    /// Ends when the replica no longer answers what it could answer at once.
    async fn until_dead(&self) {
        loop {
            tokio::time::sleep(self.parts.peer_timeout).await;
            let Ok(url) = self.url("") else { return };
            let (question, asked) = (Question::new(Method::GET, String::new()), Asked { method: Method::GET, url });
            let alive = tokio::time::timeout(self.parts.peer_timeout, self.send(&question, &asked, NO_SOURCE)).await;
            if !matches!(alive, Ok(Ok(_))) {
                return;
            }
        }
    }

    /// It gave no answer that counts, so it is left alone for a while.
    fn failed(&self, error: &UpstreamError) {
        let is_unproven = matches!(error, UpstreamError::Lied { .. });
        self.count(if is_unproven { ReplicaResult::Unproven } else { ReplicaResult::Failed });
        self.parts.cluster.bar(self.address);
        if is_unproven {
            tracing::warn!(%error, "a replica is not believed; have all the same auth.token_key, and the right time?");
        } else {
            tracing::debug!(%error, "a replica does not answer and is left out for a while");
        }
    }

    /// What an answer that is no success means. Without its upstream's word, it is the replica itself
    /// that cannot, or has another rule.
    fn refused(&self, response: &Response, asked: &Asked) -> UpstreamError {
        let Some((kind, detail)) = RefusalKind::of(response.headers()) else {
            self.count(ReplicaResult::Failed);
            let detail = format!("{} answered {}", asked.shown(), response.status().as_u16());
            return UpstreamError::unavailable(Unavailability::Broken, detail);
        };
        self.count(ReplicaResult::Refused);
        let retry_after = retry_after(response.headers(), self.parts.clock.now());
        match kind {
            RefusalKind::NotFound => UpstreamError::NotFound { detail },
            RefusalKind::Denied => UpstreamError::Denied { status: StatusCode::FORBIDDEN.as_u16(), detail },
            RefusalKind::TooManyRequests => UpstreamError::TooManyRequests { retry_after, detail },
            RefusalKind::Unavailable | RefusalKind::Invalid => {
                UpstreamError::Unavailable { kind: Unavailability::Status(response.status().as_u16()), retry_after, detail }
            }
        }
    }

    /// What the answer names; for a digest that was asked for, itself.
    fn digest(&self, answer: &Answer, reference: &Reference) -> Result<Digest, UpstreamError> {
        let told = told_digest(answer.headers());
        match (reference, told) {
            (Reference::Digest(wanted), Some(told)) if *wanted == told => Ok(told),
            (Reference::Tag(_), Some(told)) => Ok(told),
            (Reference::Digest(_) | Reference::Tag(_), _) => {
                Err(UpstreamError::lied(format!("{} answered with another digest, or none", answer.asked.shown())))
            }
        }
    }

    fn url(&self, path: &str) -> Result<Url, UpstreamError> {
        Url::parse(&format!("http://{}/v2/{path}", self.address))
            .map_err(|_| UpstreamError::lied(format!("{} is no address of a replica", self.address)))
    }

    fn count(&self, result: ReplicaResult) {
        self.parts.cluster.metrics().asked(result);
    }

    /// A whole exchange, as long as one with an upstream may take.
    async fn in_time<T>(&self, exchange: impl Future<Output = Result<T, UpstreamError>>) -> Result<T, UpstreamError> {
        self.within(self.parts.limits.manifest_timeout, exchange).await
    }

    async fn within<T>(&self, limit: Duration, exchange: impl Future<Output = Result<T, UpstreamError>>) -> Result<T, UpstreamError> {
        let late = || {
            let detail = format!("the replica {} did not come to an end within {limit:?}", self.address);
            UpstreamError::unavailable(Unavailability::Timeout, detail)
        };
        tokio::time::timeout(limit, exchange).await.unwrap_or_else(|_| Err(late()))
    }
}

impl Question {
    fn new(method: Method, path: String) -> Self {
        Self { method, path, range: None, now: false }
    }

    fn headers(&self, authorization: &str) -> HeaderMap {
        let authorization = HeaderValue::from_str(authorization).ok().map(|mut value| {
            value.set_sensitive(true);
            (AUTHORIZATION, value)
        });
        let range = self.range.clone().map(|range| (RANGE, range));
        let now = self.now.then(|| (CACHE_CONTROL, HeaderValue::from_static("no-cache")));
        authorization.into_iter().chain(range).chain(now).collect()
    }
}

impl<T> Told<T> {
    fn of(value: T, headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let validated_at = text(VALIDATED_HEADER).and_then(|seconds| seconds.parse().ok());
        Self { value, validated_at, stale: text(STALE_HEADER).map(str::to_owned) }
    }

    fn map<U>(self, value: U) -> Told<U> {
        Told { value, validated_at: self.validated_at, stale: self.stale }
    }
}
