//! The task behind a fill: opens connections as planned, writes and hashes what they bring, takes
//! up what broke, and commits.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::plan::{Assignment, ConnectionId, Plan};
use super::writer::{Piece, Writer};
use super::{Fill, FillError, FillLimits, Phase, not_kept_reason};
use crate::cache::{Backoff, Origin};
use crate::storage::{BlobFiles, StorageError};
use crate::telemetry::metrics::{CacheKind, FillResult};
use crate::upstream::{Upstream, UpstreamError};

/// Pieces that may wait between the connections and the writer.
const QUEUED_PIECES: usize = 8;
/// Pieces that are written in one go.
const BATCH_PIECES: usize = 8;

/// What a connection tells.
enum Event {
    Opened { id: ConnectionId, start: u64, total_bytes: Option<u64> },
    Piece { id: ConnectionId, bytes: Bytes },
    Ended { id: ConnectionId, result: Result<(), UpstreamError> },
}

/// Why a transfer ended early.
enum Stop {
    /// Nobody gets the blob.
    Failed(FillError),
    /// The store cannot hold it; the followers go on by themselves.
    Unkept(StorageError),
}

impl From<FillError> for Stop {
    fn from(error: FillError) -> Self {
        Self::Failed(error)
    }
}

/// One transfer.
pub(super) struct Transfer {
    fill: Arc<Fill>,
    origin: Arc<Origin>,
    limits: FillLimits,
    /// Length by the manifest that refers to the blob, if one is cached.
    expected_bytes: Option<u64>,
    plan: Plan,
    backoff: Backoff,
    /// No new connection before this.
    paused_until: Option<Instant>,
    connections: JoinSet<()>,
    handles: HashMap<ConnectionId, AbortHandle>,
    sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    total_bytes: Option<u64>,
}

impl Transfer {
    pub(super) fn new(fill: Arc<Fill>, origin: Arc<Origin>, limits: FillLimits, expected_bytes: Option<u64>) -> Self {
        let (sender, events) = mpsc::channel(QUEUED_PIECES);
        Self {
            plan: Plan::new(limits.connections, expected_bytes),
            backoff: Backoff::opening(),
            paused_until: None,
            connections: JoinSet::new(),
            handles: HashMap::new(),
            sender,
            events,
            total_bytes: None,
            fill,
            origin,
            limits,
            expected_bytes,
        }
    }

    /// Runs to the end. Whatever happens, the followers are told. The length, if the blob is in the
    /// store.
    pub(super) async fn run(mut self, blobs: BlobFiles) -> Option<u64> {
        let unfinished = Unfinished(Arc::clone(&self.fill));
        let metrics = self.origin.metrics.all().clone();
        metrics.fills_inflight.inc();
        let result = self.fill_and_commit(blobs).await;
        drop(unfinished);
        metrics.fills_inflight.dec();
        metrics.fill_ended(result);
        self.total_bytes.filter(|_| result == FillResult::Committed)
    }

    async fn fill_and_commit(&mut self, blobs: BlobFiles) -> FillResult {
        let expected_bytes = self.expected_bytes;
        let staged = blocking(move || blobs.stage(expected_bytes)).await;
        let mut writer = match staged {
            Ok(staged) => Some(Writer::new(Arc::clone(&self.fill), staged)),
            Err(error) => return self.unkept(None, &error).await,
        };
        match self.transfer(&mut writer).await {
            Ok(()) => self.commit(writer).await,
            Err(Stop::Unkept(error)) => self.unkept(writer, &error).await,
            Err(Stop::Failed(error)) => self.failed(error),
        }
    }

    /// Fetches until every byte is there and the digest holds.
    async fn transfer(&mut self, writer: &mut Option<Writer>) -> Result<(), Stop> {
        loop {
            self.open_connections()?;
            if let Some(total_bytes) = self.total_bytes
                && self.fill.progress.borrow().coverage.is_complete(total_bytes)
            {
                return self.verify(writer).await;
            }
            let fill = Arc::clone(&self.fill);
            let paused_until = self.paused_until;
            tokio::select! {
                biased;
                () = fill.dropped.cancelled() => return Err(FillError::Dropped.into()),
                event = self.events.recv() => {
                    let Some(event) = event else { return Err(FillError::Dropped.into()) };
                    self.take(event, writer).await?;
                }
                () = fill.demanded.notified() => {}
                () = pause(paused_until) => self.paused_until = None,
            }
        }
    }

    fn open_connections(&mut self) -> Result<(), Stop> {
        if self.paused_until.is_some() {
            return Ok(());
        }
        let demands = self.fill.demands();
        loop {
            let assignment = self.plan.next(&self.fill.progress.borrow().coverage, &demands);
            let Some(assignment) = assignment else { return Ok(()) };
            let upstream = self.origin.reach().map_err(FillError::from)?.clone();
            let id = assignment.id;
            let fetch = fetch(upstream, Arc::clone(&self.origin), *self.fill.digest(), assignment, self.sender.clone());
            let handle = self.connections.spawn(fetch);
            self.handles.insert(id, handle);
        }
    }

    /// Acts on an event, and on the pieces that are queued behind it.
    async fn take(&mut self, event: Event, writer: &mut Option<Writer>) -> Result<(), Stop> {
        let mut batch = Vec::new();
        let mut next = Some(event);
        let mut control = None;
        while let Some(event) = next.take() {
            match event {
                Event::Piece { id, bytes } => self.accept(id, &bytes, &mut batch)?,
                Event::Opened { .. } | Event::Ended { .. } => control = Some(event),
            }
            if control.is_none() && batch.len() < BATCH_PIECES {
                next = self.events.try_recv().ok();
            }
        }
        if !batch.is_empty() {
            self.backoff.progressed();
            write(writer, batch).await?;
        }
        match control {
            Some(Event::Opened { id, start, total_bytes }) => self.opened(id, start, total_bytes, writer).await,
            Some(Event::Ended { id, result }) => self.ended(id, result),
            Some(Event::Piece { .. }) | None => Ok(()),
        }
    }

    /// A piece came: keeps what is not there yet, and ends a connection that has reached its end.
    fn accept(&mut self, id: ConnectionId, bytes: &Bytes, batch: &mut Vec<Piece>) -> Result<(), Stop> {
        self.origin.metrics.received(CacheKind::Blob, bytes.len() as u64);
        let (interval, done) = self.plan.advance(id, bytes.len() as u64);
        self.check_length(interval.end)?;
        let start = interval.start;
        let progress = self.fill.progress.borrow();
        for gap in progress.coverage.gaps(interval) {
            let from = usize::try_from(gap.start - start).unwrap_or(usize::MAX).min(bytes.len());
            let to = usize::try_from(gap.end - start).unwrap_or(usize::MAX).min(bytes.len());
            batch.push(Piece { offset: gap.start, bytes: bytes.slice(from..to) });
        }
        drop(progress);
        if done && let Some(handle) = self.handles.remove(&id) {
            // What it would still bring is fetched by another one, or is there already.
            handle.abort();
            self.plan.finish(id);
        }
        Ok(())
    }

    fn check_length(&self, end: u64) -> Result<(), FillError> {
        let limit_bytes = match (self.total_bytes, self.expected_bytes) {
            (None, Some(expected_bytes)) => expected_bytes.min(self.limits.max_blob_bytes),
            _ => self.limits.max_blob_bytes,
        };
        if end > limit_bytes { Err(FillError::TooLong { digest: Box::new(self.fill.digest), limit_bytes }) } else { Ok(()) }
    }

    /// A connection has its answer.
    async fn opened(&mut self, id: ConnectionId, start: u64, total_bytes: Option<u64>, writer: &mut Option<Writer>) -> Result<(), Stop> {
        if start == 0 && self.plan.expects_other_start(id) {
            self.plan.without_ranges(id);
        }
        let is_first = self.total_bytes.is_none();
        if let Some(total_bytes) = total_bytes {
            if self.total_bytes.is_some_and(|known| known != total_bytes) {
                let detail = format!("upstream says {} has {total_bytes} bytes, and said another length before", self.fill.digest);
                return Err(FillError::Upstream(UpstreamError::Lied { detail }).into());
            }
            self.check_length(total_bytes)?;
            self.total_bytes = Some(total_bytes);
            self.plan.set_total(total_bytes);
            if is_first && self.expected_bytes.is_none_or(|expected_bytes| total_bytes > expected_bytes) {
                reserve(writer, total_bytes).await?;
            }
        }
        self.fill.progress.send_modify(|progress| {
            progress.total_bytes = progress.total_bytes.or(total_bytes);
            if matches!(progress.phase, Phase::Opening) {
                progress.phase = Phase::Filling;
            }
        });
        if is_first {
            self.backoff = Backoff::new(self.limits.attempts);
        }
        Ok(())
    }

    /// A connection is over, well or not.
    fn ended(&mut self, id: ConnectionId, result: Result<(), UpstreamError>) -> Result<(), Stop> {
        self.handles.remove(&id);
        let Some(stood_at) = self.plan.finish(id) else { return Ok(()) };
        let error = match result {
            Ok(()) if self.total_bytes.is_none() => {
                self.total_bytes = Some(stood_at);
                self.plan.set_total(stood_at);
                self.fill.progress.send_modify(|progress| progress.total_bytes = Some(stood_at));
                return Ok(());
            }
            // It brought what it was asked for, or less than it announced: the coverage tells.
            Ok(()) if self.fill.progress.borrow().coverage.covered_to(stood_at.saturating_sub(1)) >= stood_at => return Ok(()),
            Ok(()) => super::bypass::broke_off(stood_at),
            Err(error) => error,
        };
        tracing::debug!(digest = %self.fill.digest, at_bytes = stood_at, %error, "a connection of a fill broke off");
        let pause = self.backoff.pause(error).map_err(|error| Stop::Failed(error.into()))?;
        self.origin.metrics.all().fill_resumes.inc();
        self.paused_until = Some(Instant::now() + pause);
        Ok(())
    }

    async fn verify(&mut self, writer: &mut Option<Writer>) -> Result<(), Stop> {
        let verified = with_writer(writer, Writer::verify).await.map_err(Stop::Unkept)?;
        verified.map_err(Stop::Failed)
    }

    /// The digest holds: everybody may have everything. Then it is made durable.
    async fn commit(&mut self, writer: Option<Writer>) -> FillResult {
        self.fill.set_phase(Phase::Verified);
        let Some(writer) = writer else { return FillResult::NotKept };
        match blocking(move || writer.commit()).await {
            Ok(()) => FillResult::Committed,
            Err(error) => {
                self.log_not_kept(&error);
                FillResult::NotKept
            }
        }
    }

    async fn unkept(&mut self, mut writer: Option<Writer>, error: &StorageError) -> FillResult {
        self.connections.shutdown().await;
        let hashed = match &mut writer {
            // Bytes that followers have read are hashed first, so that they can go on from there.
            Some(_) => with_writer(&mut writer, |writer| writer.hash_written().map(|()| writer.hashed())).await.ok(),
            None => Some((0, crate::oci::DigestHasher::new(self.fill.digest.algorithm()))),
        };
        self.log_not_kept(error);
        match hashed {
            Some((from, hasher)) => self.fill.set_phase(Phase::Unkept { from, hasher }),
            None => self.fill.set_phase(Phase::Failed(FillError::Read(error.to_string()))),
        }
        FillResult::NotKept
    }

    fn log_not_kept(&self, error: &StorageError) {
        self.origin.metrics.all().storage_failed(error.operation());
        tracing::warn!(
            digest = %self.fill.digest, rule = self.origin.metrics.rule(), %error,
            "blob was not kept: {}; clients are still served. Free space in storage.path, or give it more",
            not_kept_reason(error),
        );
    }

    fn failed(&self, error: FillError) -> FillResult {
        let result = match &error {
            FillError::DigestMismatch { .. } => {
                self.origin.metrics.all().digest_mismatch.inc();
                FillResult::DigestMismatch
            }
            FillError::Dropped => FillResult::Dropped,
            FillError::Upstream(_) | FillError::TooLong { .. } | FillError::Read(_) | FillError::TooManyBypasses => FillResult::Failed,
        };
        tracing::warn!(digest = %self.fill.digest, rule = self.origin.metrics.rule(), %error, "a fill failed; nothing of it is kept");
        self.fill.set_phase(Phase::Failed(error));
        result
    }
}

/// Tells the followers of a transfer that was cancelled.
struct Unfinished(Arc<Fill>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.progress.send_if_modified(|progress| {
            let is_unfinished = matches!(progress.phase, Phase::Opening | Phase::Filling);
            if is_unfinished {
                progress.phase = Phase::Failed(FillError::Dropped);
            }
            is_unfinished
        });
    }
}

/// One connection: asks, and hands on what comes.
async fn fetch(upstream: Upstream, origin: Arc<Origin>, digest: crate::oci::Digest, assignment: Assignment, events: mpsc::Sender<Event>) {
    let id = assignment.id;
    let result = async {
        let mut stream = upstream.get_blob(&origin.remote, &digest, assignment.range).await?;
        let opened = Event::Opened { id, start: stream.start, total_bytes: stream.total_bytes };
        if events.send(opened).await.is_err() {
            return Ok(());
        }
        while let Some(bytes) = stream.next().await {
            if events.send(Event::Piece { id, bytes: bytes? }).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let result = result.await;
    let _ = events.send(Event::Ended { id, result }).await;
}

async fn pause(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

async fn write(writer: &mut Option<Writer>, batch: Vec<Piece>) -> Result<(), Stop> {
    with_writer(writer, move |writer| writer.write(&batch)).await.map_err(Stop::Unkept)
}

async fn reserve(writer: &mut Option<Writer>, total_bytes: u64) -> Result<(), Stop> {
    with_writer(writer, move |writer| writer.reserve(total_bytes)).await.map_err(Stop::Unkept)
}

/// Lends the writer to a blocking thread.
async fn with_writer<T: Send + 'static>(
    slot: &mut Option<Writer>,
    work: impl FnOnce(&mut Writer) -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    let Some(mut writer) = slot.take() else { return Err(lost_thread()) };
    let (writer, result) = tokio::task::spawn_blocking(move || {
        let result = work(&mut writer);
        (writer, result)
    })
    .await
    .map_err(|_| lost_thread())?;
    *slot = Some(writer);
    result
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, StorageError> + Send + 'static) -> Result<T, StorageError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(lost_thread()))
}

/// A blocking thread panicked or the runtime is going down.
fn lost_thread() -> StorageError {
    let source = Arc::new(std::io::Error::other("the thread that wrote it is gone"));
    StorageError::File { operation: "write", path: std::path::PathBuf::new(), source }
}
