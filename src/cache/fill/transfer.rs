//! The task behind a fill: opens connections as planned, writes and hashes what they bring, takes
//! up what broke, and commits.

mod ending;
mod opening;
mod seat;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use self::opening::Open;
use self::seat::Seat;
use super::connection::Event;
use super::fills::Fills;
use super::lend::{blocking, with_writer};
use super::line::LineShare;
use super::plan::{ConnectionId, Plan};
use super::ramp::Ramp;
use super::source::{Next, Source, Sources};
use super::suspects::Suspects;
use super::upload::{Upload, Uploads};
use super::writer::{Piece, Writer};
use super::{Fill, FillError, FillLimits, Phase, Verified};
use crate::cache::{Backoff, Origin};
use crate::storage::{BlobFiles, StorageError};
use crate::telemetry::metrics::{CacheKind, FillResult};
use crate::upstream::{Unavailability, UpstreamError};

/// Pieces that may wait between the connections and the writer.
const QUEUED_PIECES: usize = 8;
/// Pieces that are written in one go.
const BATCH_PIECES: usize = 8;
/// After a connection failed, while others still bring bytes: no new one for so long.
const SHED_PAUSE: Duration = Duration::from_secs(1);

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
    /// See [`Fill`].
    expected_bytes: Option<u64>,
    plan: Plan,
    /// How many connections share the blob, if it is one that may be shared.
    ramp: Option<Ramp>,
    /// Its share of the line to upstream.
    line: Arc<LineShare>,
    /// Its first place there.
    seat: Seat,
    /// The connections wait for the writer.
    is_behind: bool,
    /// Bytes that came, from anywhere.
    received_bytes: u64,
    backoff: Backoff,
    /// No new connection before this.
    paused_until: Option<Instant>,
    connections: JoinSet<()>,
    open: HashMap<ConnectionId, Open>,
    sources: Sources,
    /// All fills, of which one may have to go for this one.
    fills: Fills,
    /// Into the bucket, if there is one, for what upstream sends.
    uploads: Option<Uploads>,
    /// The one of this blob, once it has begun.
    upload: Option<Upload>,
    /// Who else than upstream sent some of it.
    suspects: Suspects,
    /// Upstream has answered once.
    is_answered: bool,
    sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    total_bytes: Option<u64>,
    /// To be told once the digest holds.
    verified: Option<Verified>,
}

impl Transfer {
    pub(super) fn new(
        fill: Arc<Fill>,
        origin: Arc<Origin>,
        limits: FillLimits,
        sources: Sources,
        fills: Fills,
        verified: Verified,
    ) -> Self {
        let expected_bytes = fill.expected_bytes;
        let line = Arc::new(LineShare::of_fill(Arc::clone(&origin.line), Arc::clone(&fill)));
        let (sender, events) = mpsc::channel(QUEUED_PIECES);
        Self {
            // A blob of no bytes is asked for like one of unknown length: something must be.
            plan: Plan::new(line.connections(), expected_bytes.filter(|bytes| *bytes > 0)),
            ramp: None,
            line,
            seat: Seat::None,
            is_behind: false,
            received_bytes: 0,
            backoff: Backoff::opening(),
            paused_until: None,
            connections: JoinSet::new(),
            open: HashMap::new(),
            sources,
            uploads: fills.uploads(),
            fills,
            upload: None,
            suspects: Suspects::default(),
            is_answered: false,
            sender,
            events,
            total_bytes: None,
            fill,
            origin,
            limits,
            expected_bytes,
            verified: Some(verified),
        }
    }

    /// Runs to the end, and tells the followers. Returns also who sent the bytes, beside upstream.
    pub(super) async fn run(mut self, blobs: BlobFiles) -> (FillResult, Suspects) {
        let metrics = self.origin.metrics.all().clone();
        metrics.fills_inflight.inc();
        let result = self.fill_and_commit(blobs).await;
        metrics.fills_inflight.dec();
        metrics.fill_ended(result);
        (result, self.suspects)
    }

    async fn fill_and_commit(&mut self, blobs: BlobFiles) -> FillResult {
        // Asked at once: the answer comes while the file is made.
        if let Err(Stop::Failed(error)) = self.open_connections() {
            return self.failed(error);
        }
        // Room is reserved when upstream tells the length: a manifest may say anything.
        let staged = blocking(move || blobs.stage(None)).await;
        let mut writer = match staged {
            Ok(staged) => Some(Writer::new(Arc::clone(&self.fill), staged)),
            Err(error) => return self.unkept(None, &error).await,
        };
        let transferred = self.transfer(&mut writer).await;
        // From here on upstream is needed no more, or by others.
        self.connections.abort_all();
        self.seat = Seat::None;
        match transferred {
            Ok(()) => self.commit(writer).await,
            Err(Stop::Unkept(error)) => self.unkept(writer, &error).await,
            Err(Stop::Failed(error)) => {
                let removed = move || {
                    drop(writer); // and the staged file with it
                    Ok(())
                };
                let _ = blocking(removed).await;
                self.failed(error)
            }
        }
    }

    /// Fetches until every byte is there and the digest holds.
    async fn transfer(&mut self, writer: &mut Option<Writer>) -> Result<(), Stop> {
        loop {
            self.open_connections()?;
            if self.is_complete() {
                return self.verify(writer).await;
            }
            let fill = Arc::clone(&self.fill);
            let paused_until = self.paused_until;
            tokio::select! {
                biased;
                () = fill.dropped.cancelled() => return Err(FillError::Dropped.into()),
                () = self.line.given_way(), if self.seat.is_held() && self.plan.has_ranges() => self.give_way(),
                event = self.events.recv() => {
                    let Some(event) = event else { return Err(FillError::Dropped.into()) };
                    self.take(event, writer).await?;
                }
                Some(joined) = self.connections.join_next_with_id() => self.joined(joined)?,
                got = self.seat.got() => got?,
                () = fill.demanded.notified() => {}
                () = pause(paused_until) => self.paused_until = None,
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.total_bytes.is_some_and(|total_bytes| self.fill.progress.borrow().coverage.is_complete(total_bytes))
    }

    fn set_total(&mut self, total_bytes: u64) {
        self.total_bytes = Some(total_bytes);
        self.plan.set_total(total_bytes);
        self.consider_sharing(total_bytes);
        self.fill.progress.send_modify(|progress| progress.total_bytes = Some(total_bytes));
    }

    /// Acts on an event, and on the pieces that are queued behind it.
    async fn take(&mut self, event: Event, writer: &mut Option<Writer>) -> Result<(), Stop> {
        self.is_behind = self.events.len() + 1 >= QUEUED_PIECES;
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
        if !batch.is_empty() && write(writer, batch).await? > 0 {
            self.backoff.progressed();
        }
        match control {
            Some(Event::Opened { id, ignored_range, total_bytes }) => self.opened(id, ignored_range, total_bytes, writer).await,
            Some(Event::Ended { id, result }) => self.ended(id, result),
            Some(Event::Piece { .. }) | None => Ok(()),
        }
    }

    /// A piece came: the writer keeps what is not there yet. Ends a connection that has reached its end.
    fn accept(&mut self, id: ConnectionId, bytes: &Bytes, batch: &mut Vec<Piece>) -> Result<(), Stop> {
        if let Some(open) = self.open.get(&id) {
            self.origin.metrics.all().filled(open.source.kind(), bytes.len() as u64);
            if open.source.is_beyond() {
                self.origin.metrics.received(CacheKind::Blob, bytes.len() as u64);
            }
            self.suspects.note(&open.source);
        }
        self.measure(bytes.len() as u64);
        let (interval, done) = self.plan.advance(id, bytes.len() as u64);
        self.check_length(interval.end)?;
        let length = usize::try_from(interval.end - interval.start).unwrap_or(usize::MAX).min(bytes.len());
        if length > 0 {
            batch.push(Piece { offset: interval.start, bytes: bytes.slice(..length) });
        }
        if done {
            // What it would still bring is fetched by another one, or is there already.
            self.abort(id);
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
    async fn opened(
        &mut self,
        id: ConnectionId,
        ignored_range: bool,
        total_bytes: Option<u64>,
        writer: &mut Option<Writer>,
    ) -> Result<(), Stop> {
        if ignored_range {
            for other in self.plan.without_ranges(id) {
                self.abort(other);
            }
        }
        // It may have been let go meanwhile.
        let Some(source) = self.open.get(&id).map(|open| open.source.clone()) else { return Ok(()) };
        if let Some(error) = self.contradiction(&source, total_bytes) {
            if let Some(open) = self.open.get(&id) {
                open.handle.abort();
            }
            return self.ended(id, Err(error));
        }
        self.answered(id);
        if !self.is_answered {
            self.is_answered = true;
            self.backoff = Backoff::new(self.limits.attempts);
            self.fill.answered_by(source.kind());
        }
        if let (true, None, Some(uploads)) = (source.is_beyond(), &self.upload, &self.uploads) {
            self.upload = Some(uploads.begin(&self.fill));
        }
        if let Some(total_bytes) = total_bytes {
            self.told_length(total_bytes, writer).await?;
        } else if let (None, Some(expected_bytes)) = (self.total_bytes, self.expected_bytes) {
            // Upstream does not tell, so the manifest's word counts: what is longer or shorter does
            // not have the digest.
            self.set_total(expected_bytes);
        }
        self.fill.progress.send_modify(|progress| {
            if matches!(progress.phase, Phase::Opening) {
                progress.phase = Phase::Filling;
            }
        });
        Ok(())
    }

    /// A mirror that says another length than is known has something else.
    fn contradiction(&self, source: &Source, told_bytes: Option<u64>) -> Option<UpstreamError> {
        let (Source::Mirror(_), Some(told), Some(known)) = (source, told_bytes, self.total_bytes.or(self.expected_bytes)) else {
            return None;
        };
        let detail = format!("a mirror says {} has {told} bytes, and it has {known}", self.fill.digest);
        (told != known).then_some(UpstreamError::Lied { detail })
    }

    /// Upstream says how long the blob is.
    async fn told_length(&mut self, total_bytes: u64, writer: &mut Option<Writer>) -> Result<(), Stop> {
        if let Some(known_bytes) = self.total_bytes {
            if known_bytes == total_bytes {
                return Ok(());
            }
            let detail = format!("upstream says {} has {total_bytes} bytes, and said {known_bytes} before", self.fill.digest);
            return Err(FillError::Upstream(UpstreamError::Lied { detail }).into());
        }
        self.check_length(total_bytes)?;
        self.set_total(total_bytes);
        self.reserve(total_bytes, writer).await
    }

    /// Reserves room on the disk. Blobs that nobody waits for, and that wait for a connection themselves, would keep
    /// theirs for who knows how long.
    async fn reserve(&mut self, total_bytes: u64, writer: &mut Option<Writer>) -> Result<(), Stop> {
        let Err(error) = reserve(writer, total_bytes).await else { return Ok(()) };
        let is_full = matches!(error, StorageError::NoSpace { .. });
        let dropped = if is_full && !self.fill.is_unfollowed() { self.fills.drop_for(&self.fill, total_bytes) } else { Vec::new() };
        if dropped.is_empty() {
            return Err(Stop::Unkept(error));
        }
        tokio::select! {
            // Another one may want room as well.
            () = self.fill.dropped.cancelled() => Err(FillError::Dropped.into()),
            _ = join_all(dropped.iter().map(|fill| fill.ended())) => reserve(writer, total_bytes).await.map_err(Stop::Unkept),
        }
    }

    /// A connection is over, well or not.
    fn ended(&mut self, id: ConnectionId, result: Result<(), UpstreamError>) -> Result<(), Stop> {
        let open = self.open.remove(&id);
        let Some(finished) = self.plan.finish(id) else { return Ok(()) };
        let error = match result {
            Ok(()) if finished.brought_all => return Ok(()),
            Ok(()) if finished.is_plain && self.total_bytes.is_none() => {
                // A body without a length ends where it ends.
                self.set_total(finished.stood_at);
                return Ok(());
            }
            Ok(()) => super::bypass::broke_off(finished.stood_at),
            Err(error) => error,
        };
        tracing::debug!(digest = %self.fill.digest, at_bytes = finished.stood_at, %error, "a connection of a fill broke off");
        if open.as_ref().is_some_and(|open| open.source.is_for_nobody()) {
            // Once a client waits, the owner is asked anew.
            return if self.is_given_up() { Err(FillError::Dropped.into()) } else { Ok(()) };
        }
        let error = match open.map(|open| self.sources.leave(open.number, error.clone())) {
            Some(Next::Other) => return Ok(()),
            Some(Next::Final(error)) => return Err(Stop::Failed(error.into())),
            Some(Next::Again(error)) => error,
            None => error,
        };
        // What cuts several connections at once counts once: for the last of them.
        let pause =
            if self.goes_on_with_fewer() { SHED_PAUSE } else { self.backoff.pause(error).map_err(|error| Stop::Failed(error.into()))? };
        self.origin.metrics.all().fill_resumes.inc();
        self.paused_until = Some(Instant::now() + pause);
        Ok(())
    }

    /// A connection's task is over. It has said so itself, unless it panicked.
    fn joined(&mut self, joined: Result<(tokio::task::Id, ()), JoinError>) -> Result<(), Stop> {
        let Err(error) = joined else { return Ok(()) };
        let lost = self.open.iter().find_map(|(id, open)| (open.handle.id() == error.id()).then_some(*id));
        let Some(id) = lost else { return Ok(()) };
        let detail = format!("the connection's task is gone: {error}");
        self.ended(id, Err(UpstreamError::Unavailable { kind: Unavailability::Broken, retry_after: None, detail }))
    }

    async fn verify(&mut self, writer: &mut Option<Writer>) -> Result<(), Stop> {
        let verified = with_writer(writer, Writer::verify).await.map_err(Stop::Unkept)?;
        verified.map_err(Stop::Failed)
    }
}

async fn pause(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// Returns how many bytes were new.
async fn write(writer: &mut Option<Writer>, batch: Vec<Piece>) -> Result<u64, Stop> {
    with_writer(writer, move |writer| writer.write(&batch)).await.map_err(Stop::Unkept)
}

async fn reserve(writer: &mut Option<Writer>, total_bytes: u64) -> Result<(), StorageError> {
    with_writer(writer, move |writer| writer.reserve(total_bytes)).await
}
