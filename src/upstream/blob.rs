//! Blobs: how long they are, and their bytes from anywhere on.

use std::ops::Range;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::time::{Instant, timeout_at};

use super::admission::{Admission, BlobWatch};
use super::circuit::{Asking, Purpose};
use super::content_range::ContentRange;
use super::exchange::{Answer, Question};
use super::landings::Landing;
use super::stall::StallWatch;
use super::status::{Asked, check_uncompressed, content_length};
use super::transport::{Lane, unavailable};
use super::{Unavailability, Upstream, UpstreamError, UpstreamLimits};
use crate::oci::{Digest, RepositoryName};

/// A body of which so much has come is coming.
const PROOF_BYTES: u64 = 1024 * 1024;

/// The bytes of a blob on their way. Nothing of it is checked against the digest here.
pub struct BlobStream {
    /// The first byte that comes: 0 if the upstream ignored the range and sends all.
    pub start: u64,
    /// The byte after the last one that comes, if that is known.
    pub end: Option<u64>,
    /// The length of the whole blob, if the upstream told.
    pub total_bytes: Option<u64>,
    response: Response,
    asked: Asked,
    received_bytes: u64,
    max_bytes: u64,
    stall: StallWatch,
    is_over: bool,
    /// Forgotten when the body breaks off.
    landing: Option<Landing>,
    /// Told how it ends; `None` if nobody wants to know.
    watch: Option<BlobWatch>,
    has_brought: bool,
}

impl Upstream {
    /// The length of a blob, if it is there. Where HEAD is refused, one byte is asked for instead.
    ///
    /// # Errors
    /// Every [`UpstreamError`].
    pub async fn head_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        let mut admission = self.admit(Asking::Blob, Purpose::Fetch)?;
        let outcome = self.in_time(self.ask_length(repository, digest, &mut admission)).await;
        admission.settle(&outcome);
        outcome
    }

    /// The bytes of a blob, or of the half-open `range` of it (an end of [`u64::MAX`] is open). What comes
    /// may be more than the range, when the upstream ignores it, or less; see [`BlobStream::start`]
    /// and [`BlobStream::end`]. Where a redirect led a moment ago, ranges are asked for at once.
    ///
    /// # Errors
    /// Every [`UpstreamError`]; [`UpstreamError::Lied`] also when the range does not exist or another comes.
    pub async fn get_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Option<Range<u64>>,
    ) -> Result<BlobStream, UpstreamError> {
        let watch = self.endpoint.circuit.watch_blob();
        if let Some(range) = &range
            && let Some(outcome) = self.ask_landing(repository, digest, range).await
        {
            return watched(outcome, watch);
        }
        let mut admission = self.admit(Asking::Blob, Purpose::Fetch)?;
        let outcome = self.in_time(self.ask_bytes(repository, digest, range, &mut admission)).await;
        admission.settle(&outcome);
        watched(outcome, watch)
    }

    /// Whether its blobs failed lately, so that others which have them are to be asked first.
    #[must_use]
    pub fn blobs_come_last(&self) -> bool {
        self.endpoint.circuit.blobs_come_last()
    }

    /// A blob is about to be asked for here before it is anywhere else: after a failure, as the probe.
    pub fn blobs_asked_first(&self) {
        self.endpoint.circuit.blobs_asked_first();
    }

    async fn ask_length(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        admission: &mut Admission,
    ) -> Result<Option<u64>, UpstreamError> {
        let refuses_heads = &self.endpoint.refuses_blob_heads;
        if !refuses_heads.load(Ordering::Relaxed) {
            let answer = self.ask(&self.blob_question(Method::HEAD, repository, digest, None), admission).await?;
            match answer.status().as_u16() {
                200 => return Ok(content_length(answer.headers())),
                // public.ecr.aws answers 401 to HEAD whatever the token; URLs presigned for GET answer 403.
                401 | 403 | 405 | 501 => {}
                _ => return Err(self.refusal(answer).await),
            }
        }
        let one_byte = Some(HeaderValue::from_static("bytes=0-0"));
        let answer = self.ask(&self.blob_question(Method::GET, repository, digest, one_byte), admission).await?;
        let length_bytes = match answer.status() {
            StatusCode::OK => content_length(answer.headers()),
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                content_range(answer.headers()).and_then(|range| range.total_bytes)
            }
            _ => return Err(self.refusal(answer).await),
        };
        refuses_heads.store(true, Ordering::Relaxed);
        Ok(length_bytes)
    }

    async fn ask_bytes(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Option<Range<u64>>,
        admission: &mut Admission,
    ) -> Result<BlobStream, UpstreamError> {
        let header = range.as_ref().and_then(range_header);
        let answer = self.ask(&self.blob_question(Method::GET, repository, digest, header), admission).await?;
        let landing = self.endpoint.landings.of(repository, digest);
        if !answer.is_from_home && answer.status().is_success() {
            landing.remember(answer.asked.url.clone());
        }
        self.bytes_of(answer, range, landing).await
    }

    /// Asks where the upstream redirected to a moment ago. `None` if it did not, or if that is over.
    async fn ask_landing(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: &Range<u64>,
    ) -> Option<Result<BlobStream, UpstreamError>> {
        let landing = self.endpoint.landings.of(repository, digest);
        let url = landing.url()?;
        let question = Question { url, ..self.blob_question(Method::GET, repository, digest, range_header(range)) };
        let outcome = async {
            match self.in_time(self.ask_there(&question)).await? {
                // Expired, most of all.
                answer if matches!(answer.status().as_u16(), 401 | 403 | 404 | 410) => Ok(None),
                answer => self.bytes_of(answer, Some(range.clone()), landing.clone()).await.map(Some),
            }
        };
        let outcome = outcome.await.transpose();
        if !matches!(outcome, Some(Ok(_))) {
            landing.forget();
        }
        outcome
    }

    async fn bytes_of(&self, answer: Answer, range: Option<Range<u64>>, landing: Landing) -> Result<BlobStream, UpstreamError> {
        let limits = &self.endpoint.settings.limits;
        match (answer.status(), range) {
            (StatusCode::OK | StatusCode::PARTIAL_CONTENT, range) => {
                let stream = BlobStream::of(answer, range.as_ref(), limits)?;
                Ok(BlobStream { landing: Some(landing), ..stream })
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(range)) => {
                let total = content_range(answer.headers()).and_then(|range| range.total_bytes);
                let length = total.map_or_else(|| "tells no length".to_owned(), |total| format!("has {total} bytes"));
                Err(UpstreamError::lied(format!("{} has no bytes from {} on: it {length}", answer.asked.shown(), range.start)))
            }
            _ => Err(self.refusal(answer).await),
        }
    }

    fn blob_question<'a>(
        &self,
        method: Method,
        repository: &'a RepositoryName,
        digest: &Digest,
        range: Option<HeaderValue>,
    ) -> Question<'a> {
        let url = self.endpoint.url(&format!("{repository}/blobs/{digest}"));
        Question { method, lane: Lane::Blobs, repository, url, accept: None, range }
    }
}

/// Has the end of a blob told, or its failure.
fn watched(outcome: Result<BlobStream, UpstreamError>, watch: BlobWatch) -> Result<BlobStream, UpstreamError> {
    match outcome {
        Ok(stream) => Ok(BlobStream { watch: Some(watch), ..stream }),
        Err(error) => {
            watch.failed(&error);
            Err(error)
        }
    }
}

/// `bytes=first-last`. An empty range is asked for as nothing but its first byte.
pub(super) fn range_header(range: &Range<u64>) -> Option<HeaderValue> {
    let text = match range.end {
        u64::MAX => format!("bytes={}-", range.start),
        end => format!("bytes={}-{}", range.start, end.saturating_sub(1).max(range.start)),
    };
    HeaderValue::try_from(text).ok()
}

fn content_range(headers: &HeaderMap) -> Option<ContentRange> {
    ContentRange::parse(headers.get(CONTENT_RANGE)?.to_str().ok()?)
}

impl BlobStream {
    /// What a successful answer brings: the range, or all where ranges are ignored.
    pub(super) fn of(answer: Answer, range: Option<&Range<u64>>, limits: &UpstreamLimits) -> Result<Self, UpstreamError> {
        match (answer.status(), range) {
            (StatusCode::PARTIAL_CONTENT, Some(range)) => Self::part(answer, range, limits),
            (StatusCode::OK, _) => Self::whole(answer, limits),
            (status, _) => Err(UpstreamError::lied(format!("{} answered {status}, which was not asked for", answer.asked.shown()))),
        }
    }

    fn whole(answer: Answer, limits: &UpstreamLimits) -> Result<Self, UpstreamError> {
        let total_bytes = content_length(answer.headers());
        Self::checked(answer, 0, total_bytes, total_bytes, limits)
    }

    fn part(answer: Answer, range: &Range<u64>, limits: &UpstreamLimits) -> Result<Self, UpstreamError> {
        let wrong = |what: &str| {
            UpstreamError::lied(format!("{} was asked for bytes {}-{} and answered {what}", answer.asked.shown(), range.start, range.end))
        };
        let sent = content_range(answer.headers()).ok_or_else(|| wrong("without a usable Content-Range"))?;
        let Some((first, last)) = sent.first_and_last else { return Err(wrong("with no range")) };
        if first != range.start || last >= range.end {
            return Err(wrong(&format!("with bytes {first}-{last}")));
        }
        let end = last.saturating_add(1);
        if content_length(answer.headers()).is_some_and(|length| length != end - first) {
            return Err(wrong("with a Content-Length that does not fit its Content-Range"));
        }
        Self::checked(answer, first, Some(end), sent.total_bytes, limits)
    }

    fn checked(
        answer: Answer,
        start: u64,
        end: Option<u64>,
        total_bytes: Option<u64>,
        limits: &UpstreamLimits,
    ) -> Result<Self, UpstreamError> {
        let Answer { response, asked, .. } = answer;
        check_uncompressed(response.headers(), &asked)?;
        if let Some(bytes) = end.max(total_bytes).filter(|bytes| *bytes > limits.max_blob_bytes) {
            return Err(UpstreamError::lied(format!("{} announces {bytes} bytes, more than any blob may have", asked.shown())));
        }
        Ok(Self {
            start,
            end,
            total_bytes,
            response,
            asked,
            received_bytes: 0,
            max_bytes: end.unwrap_or(limits.max_blob_bytes).saturating_sub(start),
            stall: StallWatch::new(limits.stall_timeout, limits.min_progress_bytes),
            is_over: false,
            landing: None,
            watch: None,
            has_brought: false,
        })
    }

    /// The URL that answers, after redirects.
    pub(super) const fn came_from(&self) -> &Url {
        &self.asked.url
    }

    /// The next bytes; `None` after the last one, and after an error. Cancel-safe: nothing is lost when
    /// the future is dropped.
    ///
    /// # Errors
    /// [`UpstreamError::Unavailable`] when the body breaks off, ends early or makes no progress,
    /// [`UpstreamError::Lied`] when more comes than was announced.
    pub async fn next(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        if self.is_over {
            return None;
        }
        // Bytes that are there win over a deadline that has passed: `timeout_at` polls them first.
        let next = timeout_at(self.stall.deadline(Instant::now()), self.response.chunk()).await;
        let piece = match next {
            Ok(Ok(Some(piece))) => self.received(piece),
            Ok(Ok(None)) => {
                self.is_over = true;
                let missing = self.missing().map_or(Ok(()), Err);
                self.note(missing.as_ref().err());
                return missing.err().map(Err);
            }
            Ok(Err(error)) => Err(unavailable(&error, &self.asked.url)),
            Err(_) => Err(UpstreamError::unavailable(
                Unavailability::Timeout,
                format!("{} made no progress after {} bytes", self.asked.shown(), self.received_bytes),
            )),
        };
        self.is_over = piece.is_err();
        if piece.is_err() || self.received_bytes >= self.end.map_or(PROOF_BYTES, |end| PROOF_BYTES.min(end - self.start)) {
            self.note(piece.as_ref().err());
        }
        Some(piece)
    }

    /// It comes, or has broken off: tells who wants to know.
    fn note(&mut self, failure: Option<&UpstreamError>) {
        match (failure, &self.watch) {
            (Some(error), watch) => {
                self.landing.iter().for_each(Landing::forget);
                watch.iter().for_each(|watch| watch.failed(error));
            }
            (None, Some(watch)) if !self.has_brought => {
                watch.brought();
                self.has_brought = true;
            }
            (None, _) => {}
        }
    }

    fn received(&mut self, piece: Bytes) -> Result<Bytes, UpstreamError> {
        self.stall.progressed(piece.len(), Instant::now());
        self.received_bytes += piece.len() as u64;
        if self.received_bytes > self.max_bytes {
            let what = if self.end.is_some() { "it announced" } else { "any blob may have" };
            return Err(UpstreamError::lied(format!("{} sent more bytes than the {} {what}", self.asked.shown(), self.max_bytes)));
        }
        Ok(piece)
    }

    /// The error for a body that ended before what was announced.
    fn missing(&self) -> Option<UpstreamError> {
        let expected = self.end? - self.start;
        (self.received_bytes < expected).then(|| {
            let detail = format!("{} ended after {} of {expected} bytes", self.asked.shown(), self.received_bytes);
            UpstreamError::unavailable(Unavailability::Broken, detail)
        })
    }
}
