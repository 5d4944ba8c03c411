//! A blob streamed through to one client because the store cannot hold it.
//!
//! It costs a transfer of its own, so there is a bounded number of them; each is counted, and
//! verifies what it sends as a fill does: the end is held back until the digest holds.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::line::{LineShare, Place};
use super::source::{Next, Source, SourceStream, Sources};
use super::suspects::{Rotten, Suspects};
use super::{FillError, FillLimits, HELD_BACK_BYTES};
use crate::cache::{Backoff, Origin};
use crate::oci::{Digest, DigestHasher};
use crate::storage::Bucket;
use crate::telemetry::metrics::{CacheKind, Metrics};
use crate::upstream::{Unavailability, UpstreamError};

/// How long a client waits for another bypass to end.
const SLOT_WAIT: Duration = Duration::from_secs(30);

/// The bounded number of bypasses; cheap to clone.
#[derive(Clone)]
pub(super) struct Bypasses {
    slots: Arc<Semaphore>,
    slot_wait: Duration,
    attempts: u32,
    rotten: Rotten,
}

impl Bypasses {
    pub(super) fn new(limits: &FillLimits, rotten: Rotten) -> Self {
        // Where there are none at all, nobody needs to wait for one.
        let slot_wait = if limits.max_bypasses == 0 { Duration::ZERO } else { SLOT_WAIT };
        Self { slots: Arc::new(Semaphore::new(limits.max_bypasses)), slot_wait, attempts: limits.attempts, rotten }
    }

    /// Asks the bucket, if it is one, or else upstream and its mirrors, for `demand` of a blob. With `hasher`,
    /// the state of the hash of everything before it, the bytes are verified, if all that is left of the blob
    /// is wanted.
    pub(super) async fn open(
        &self,
        origin: &Arc<Origin>,
        digest: Digest,
        demand: Range<u64>,
        hasher: Option<DigestHasher>,
        total_bytes: Option<u64>,
        bucket: Option<Bucket>,
    ) -> Result<Bypass, FillError> {
        // No replica is asked: it would stream past its own store, too.
        let barred = Suspects { others: true, ..self.rotten.of(&digest) };
        let sources = Sources::new(Arc::clone(origin), digest, bucket, barred);
        let line = LineShare::of_bypass(Arc::clone(&origin.line));
        let mut bypass = Bypass {
            origin: Arc::clone(origin),
            digest,
            position: demand.start,
            end: demand.end,
            total_bytes,
            stream: None,
            stream_at: 0,
            sources,
            source: Source::Upstream,
            number: 0,
            suspects: Suspects::default(),
            bypasses: self.clone(),
            check: hasher.map(|hasher| Check { hasher, held: VecDeque::new(), held_bytes: 0, holds: false }),
            backoff: Backoff::new(self.attempts),
            line,
            place: None,
            owed_bytes: 0,
            slot: None,
        };
        bypass.connect().await?;
        if bypass.end < bypass.total_bytes.unwrap_or(u64::MAX) {
            bypass.check = None;
        }
        Ok(bypass)
    }

    async fn slot(&self, metrics: &Metrics) -> Result<Slot, FillError> {
        let slot = tokio::time::timeout(self.slot_wait, Arc::clone(&self.slots).acquire_owned()).await;
        let Ok(Ok(permit)) = slot else { return Err(FillError::TooManyBypasses) };
        metrics.bypasses_inflight.inc();
        Ok(Slot { metrics: metrics.clone(), _permit: permit })
    }
}

/// One of the bounded number, until it is dropped.
struct Slot {
    metrics: Metrics,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.metrics.bypasses_inflight.dec();
    }
}

/// One such transfer.
pub struct Bypass {
    origin: Arc<Origin>,
    digest: Digest,
    /// Next byte to come from upstream.
    position: u64,
    end: u64,
    total_bytes: Option<u64>,
    stream: Option<SourceStream>,
    /// Where in the blob the stream is.
    stream_at: u64,
    sources: Sources,
    /// Whom the stream is of, and its number among the sources.
    source: Source,
    number: usize,
    suspects: Suspects,
    bypasses: Bypasses,
    /// `None` for an interval, which cannot be verified.
    check: Option<Check>,
    backoff: Backoff,
    line: LineShare,
    /// Of its connection to upstream, once it has one.
    place: Option<Place>,
    /// Bytes from upstream that the line has not been asked for yet.
    owed_bytes: usize,
    slot: Option<Slot>,
}

/// Verification of a whole blob.
struct Check {
    hasher: DigestHasher,
    held: VecDeque<Bytes>,
    held_bytes: u64,
    /// The digest holds: what is held may go.
    holds: bool,
}

impl Check {
    fn take_in(&mut self, bytes: Bytes) {
        self.hasher.update(&bytes);
        self.held_bytes += bytes.len() as u64;
        self.held.push_back(bytes);
    }

    /// A piece that may go: it is far enough from the end, or the digest holds.
    fn let_go(&mut self) -> Option<Bytes> {
        let front = self.held.front().map_or(0, Bytes::len) as u64;
        if !self.holds && self.held_bytes - front < HELD_BACK_BYTES {
            return None;
        }
        self.held_bytes -= front;
        self.held.pop_front()
    }
}

impl Bypass {
    /// Length of the blob, if upstream told it.
    #[must_use]
    pub const fn total_bytes(&self) -> Option<u64> {
        self.total_bytes
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// When upstream fails for good, or the digest does not hold.
    pub async fn next(&mut self) -> Option<Result<Bytes, FillError>> {
        loop {
            // What is held is let go before more is taken in, so that it stays small.
            if let Some(check) = &mut self.check {
                let piece = check.let_go();
                if piece.is_some() || check.holds {
                    return piece.map(Ok);
                }
            }
            match (self.fetch().await, &mut self.check) {
                (Ok(Some(bytes)), None) => return Some(Ok(bytes)),
                (Ok(Some(bytes)), Some(check)) => check.take_in(bytes),
                (Ok(None), None) => return None,
                (Ok(None), Some(_)) => {
                    if let Err(error) = self.verify() {
                        return Some(Err(error));
                    }
                }
                (Err(error), _) => return Some(Err(error)),
            }
        }
    }

    /// Everything has come: does the digest hold?
    fn verify(&mut self) -> Result<(), FillError> {
        let Some(check) = &mut self.check else { return Ok(()) };
        let actual = check.hasher.clone().finish();
        if actual != self.digest {
            self.origin.metrics.all().digest_mismatch.inc();
            if !self.suspects.is_empty() {
                self.bypasses.rotten.add(self.digest, std::mem::take(&mut self.suspects));
            }
            return Err(FillError::DigestMismatch { expected: Box::new(self.digest), actual: Box::new(actual) });
        }
        check.holds = true;
        Ok(())
    }

    /// The next bytes from upstream, taken up again where it broke off.
    async fn fetch(&mut self) -> Result<Option<Bytes>, FillError> {
        loop {
            if self.position >= self.end.min(self.total_bytes.unwrap_or(u64::MAX)) {
                return Ok(None);
            }
            // Asked for before the next bytes, so that none is lost when this future is dropped.
            self.line.take(self.owed_bytes).await;
            self.owed_bytes = 0;
            let Some(stream) = &mut self.stream else {
                self.connect().await?;
                continue;
            };
            match stream.next().await {
                Some(Ok(bytes)) => {
                    self.suspects.note(&self.source);
                    self.origin.metrics.all().filled(self.source.kind(), bytes.len() as u64);
                    if self.source.is_beyond() {
                        self.owed_bytes = bytes.len();
                        self.origin.metrics.received(CacheKind::Blob, bytes.len() as u64);
                    }
                    if let Some(bytes) = self.take(&bytes) {
                        self.backoff.progressed();
                        return Ok(Some(bytes));
                    }
                }
                None if self.total_bytes.is_none() => {
                    self.total_bytes = Some(self.position);
                    return Ok(None);
                }
                ended => {
                    let error = ended.and_then(Result::err).unwrap_or_else(|| broke_off(self.position));
                    self.stream = None;
                    self.go_on_after(error).await?;
                    self.origin.metrics.all().fill_resumes.inc();
                }
            }
        }
    }

    /// The part of `bytes` that is wanted: an upstream without ranges starts at 0 again.
    fn take(&mut self, bytes: &Bytes) -> Option<Bytes> {
        let start = self.stream_at;
        self.stream_at += bytes.len() as u64;
        let skip = usize::try_from(self.position.saturating_sub(start)).unwrap_or(usize::MAX).min(bytes.len());
        let room = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let wanted = bytes.slice(skip..);
        let wanted = wanted.slice(..wanted.len().min(room));
        self.position += wanted.len() as u64;
        (!wanted.is_empty()).then_some(wanted)
    }

    async fn connect(&mut self) -> Result<(), FillError> {
        let range = (self.position > 0 || self.end < u64::MAX).then_some(self.position..self.end);
        loop {
            (self.number, self.source) = self.sources.current();
            self.take_places().await?;
            match self.source.open(&self.origin, &self.digest, range.clone()).await {
                Ok(stream) => {
                    let (known, told) = (self.total_bytes, stream.total_bytes());
                    if known.is_some() && told.is_some() && known != told {
                        let detail = format!("upstream's {} has another length than was said before", self.digest);
                        self.go_on_after(UpstreamError::Lied { detail }).await?;
                        continue;
                    }
                    self.total_bytes = told.or(known);
                    self.stream_at = stream.start();
                    self.stream = Some(stream);
                    return Ok(());
                }
                Err(error) => self.go_on_after(error).await?,
            }
        }
    }

    /// A place on the line, if the source is there, and then a slot: those who wait for a place of their rule's must not
    /// keep the slots of all rules.
    async fn take_places(&mut self) -> Result<(), FillError> {
        if self.source.is_beyond() && self.place.is_none() {
            self.place = self.line.try_place();
            if self.place.is_none() {
                self.slot = None;
                self.place = Some(self.line.place().await?);
            }
        }
        if self.slot.is_none() {
            self.slot = Some(self.bypasses.slot(self.origin.metrics.all()).await?);
        }
        Ok(())
    }

    /// The source failed: the next one is asked at once, all of them again after a pause.
    async fn go_on_after(&mut self, error: UpstreamError) -> Result<(), FillError> {
        match self.sources.leave(self.number, error) {
            Next::Other => Ok(()),
            Next::Again(error) => Ok(self.backoff.wait(error).await?),
            Next::Final(error) => Err(error.into()),
        }
    }
}

/// Upstream ended a body before what it had announced.
pub(super) fn broke_off(at_byte: u64) -> UpstreamError {
    UpstreamError::Unavailable {
        kind: Unavailability::Broken,
        retry_after: None,
        detail: format!("upstream ended the blob at byte {at_byte}, before its end"),
    }
}
