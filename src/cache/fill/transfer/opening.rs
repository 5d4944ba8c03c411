//! The connections of a transfer: opened as planned, counted, and let go.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::seat::Seat;
use super::{Stop, Transfer};
use crate::cache::fill::FillError;
use crate::cache::fill::connection::{Way, fetch};
use crate::cache::fill::plan::ConnectionId;
use crate::cache::fill::ramp::{Ramp, Received};
use crate::cache::fill::source::Source;
use crate::telemetry::metrics::FillSource;

/// A connection that is under way.
pub(super) struct Open {
    pub(super) handle: AbortHandle,
    /// Its source, and the number of that.
    pub(super) source: Source,
    pub(super) number: usize,
    /// The head of its answer has come.
    is_answered: bool,
}

impl Transfer {
    pub(super) fn open_connections(&mut self) -> Result<(), Stop> {
        if self.paused_until.is_some() {
            return Ok(());
        }
        self.leave_replicas();
        self.ask_for_clients();
        let demands = self.fill.demands();
        loop {
            let (number, source) = self.sources.current();
            let source = match source {
                Source::Replica(replica) if !self.fill.was_followed() => Source::Replica(replica.for_nobody()),
                Source::Bucket(_) | Source::Replica(_) | Source::Upstream | Source::Mirror(_) => source,
            };
            let kind = source.kind();
            self.plan.ask(number);
            self.plan.share_among(self.sharing(kind));
            let wants_another = self.plan.wants_another(&self.fill.progress.borrow().coverage, &demands);
            let way = if wants_another { self.way(kind) } else { None };
            // Only what has a place on the line can make room there.
            let is_held_up = wants_another && way.is_none() && self.open.values().any(|open| open.source.is_beyond());
            let over = self.plan.make_room(&self.fill.progress.borrow().coverage, &demands, !is_held_up);
            if let Some(id) = over {
                self.abort(id);
                if !wants_another {
                    continue;
                }
            }
            let Some(way) = way else { return Ok(()) };
            let assignment = self.plan.next(&self.fill.progress.borrow().coverage, &demands);
            let Some(assignment) = assignment else { return Ok(()) };
            if matches!(source, Source::Upstream) {
                self.origin.reach().map_err(FillError::from)?;
            }
            let id = assignment.id;
            let fetch = fetch(source.clone(), Arc::clone(&self.origin), *self.fill.digest(), assignment, way, self.sender.clone());
            let handle = self.connections.spawn(fetch);
            self.open.insert(id, Open { handle, source, number, is_answered: false });
        }
    }

    /// How another connection gets to a source; `None` if it has to wait, for a place or for a connection of this
    /// blob to end.
    fn way(&mut self, kind: FillSource) -> Option<Way> {
        match kind {
            FillSource::Bucket | FillSource::Replica => Some(Way::Free),
            FillSource::Upstream | FillSource::Mirror => {
                let place = self.seat.place(&self.line);
                self.fill.in_line.store(self.seat.is_waiting(), Ordering::Release);
                Some(Way::Line(Arc::clone(&self.line), place?))
            }
        }
    }

    /// How many connections share the blob: a replica is asked by one alone, and where nobody waits
    /// one is enough.
    fn sharing(&self, kind: FillSource) -> usize {
        match (&self.ramp, kind) {
            (Some(ramp), FillSource::Upstream | FillSource::Mirror | FillSource::Bucket) if !self.fill.is_unfollowed() => ramp.allowed(),
            (_, FillSource::Upstream | FillSource::Mirror | FillSource::Bucket | FillSource::Replica) => 1,
        }
    }

    /// The length is known: a blob of some size may be shared.
    pub(super) fn consider_sharing(&mut self, total_bytes: u64) {
        if self.ramp.is_none() && total_bytes > self.limits.parallel_above_bytes {
            self.ramp = Some(Ramp::new(self.line.connections()));
        }
    }

    /// Connection `id` has its answer.
    pub(super) fn answered(&mut self, id: ConnectionId) {
        if let Some(open) = self.open.get_mut(&id) {
            open.is_answered = true;
        }
    }

    /// So many bytes came over all connections.
    pub(super) fn measure(&mut self, bytes: u64) {
        self.received_bytes += bytes;
        let missing_bytes = self.total_bytes.unwrap_or(u64::MAX).saturating_sub(self.received_bytes);
        let delivering = self.open.values().filter(|open| open.is_answered).count();
        if let Some(ramp) = &mut self.ramp {
            ramp.received(Received { bytes, was_kept_waiting: self.is_behind, delivering, missing_bytes }, Instant::now());
        }
    }

    /// A connection failed. True if others that share the blob go on, so that it costs a connection
    /// and not the blob.
    pub(super) fn goes_on_with_fewer(&mut self) -> bool {
        let Some(ramp) = self.ramp.as_mut().filter(|_| !self.open.is_empty()) else { return false };
        ramp.failed();
        true
    }

    /// Lets go of other replicas, once one of them waits for this fill.
    fn leave_replicas(&mut self) {
        if !self.fill.feeds_replica.load(Ordering::Acquire) || !self.sources.ask_no_replica() {
            return;
        }
        self.let_go(|source| matches!(source, Source::Replica(_)));
    }

    /// Another replica that was asked for what nobody waited for is asked anew, at the missing bytes, once a client
    /// waits: so it learns of that.
    fn ask_for_clients(&mut self) {
        if self.fill.was_followed() {
            self.let_go(Source::is_for_nobody);
        }
    }

    /// Gives its places on the line to those whom clients wait for, and waits for others.
    pub(super) fn give_way(&mut self) {
        self.let_go(Source::is_beyond);
        self.seat = Seat::None;
    }

    /// Ends the connections to such sources, and no other one because of that.
    fn let_go(&mut self, which: impl Fn(&Source) -> bool) {
        let ids: Vec<_> = self.open.iter().filter(|(_, open)| which(&open.source)).map(|(id, _)| *id).collect();
        for id in ids {
            self.abort(id);
            self.plan.finish(id);
        }
    }

    /// The replica that owns it has refused what nobody waited for, or broken off. Ends the fill, unless a client has come:
    /// that is no reason to go around the owner.
    pub(super) fn is_given_up(&self) -> bool {
        let is_given_up = !self.fill.was_followed();
        if is_given_up {
            // Before anything else, so that a client which comes now begins another one.
            self.fill.drop_transfer();
        }
        is_given_up
    }

    pub(super) fn abort(&mut self, id: ConnectionId) {
        if let Some(open) = self.open.remove(&id) {
            open.handle.abort();
        }
    }
}
