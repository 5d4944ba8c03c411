//! Which connection fetches which bytes. Pure: it decides, `transfer` acts.
//!
//! Every follower is a *demand*: the interval it was asked for. The byte a demand needs next is the
//! first one in its interval that is not present. If no connection will reach that byte soon, a new
//! one starts there, and the one that would have come by later ends where the new one began. So a
//! range moves its bytes to the front and no byte is fetched twice. Where no further connection may
//! be opened, one that no demand needs soon makes room; where all are needed, demands take turns.
//!
//! What nobody asked for in particular is brought by one connection, or shared among several
//! ([`Plan::share_among`]): each takes the first bytes that no other one is about to bring, so that
//! clients which read from the beginning have what they need next.

use std::ops::Range;

use super::coverage::Coverage;

/// A connection this close in front of a byte will bring it soon enough.
const REACH_BYTES: u64 = 8 * 1024 * 1024;
/// Most that is asked for at once to meet a range, and in turn where connections are too few. What a
/// connection is asked for it brings, so that nothing is left in its buffers when the next range wants
/// another place.
const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
/// Most that a connection takes of a blob that is shared: long enough that the wait for the next
/// answer is small beside it, short enough that little is there before its turn.
const MAX_SHARE_BYTES: u64 = 16 * 1024 * 1024;
/// Least that one takes. Shares shrink towards the end, so that all end together.
const MIN_SHARE_BYTES: u64 = 4 * 1024 * 1024;

/// Names a connection within one fill.
pub type ConnectionId = u32;

/// What a connection is to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The connection.
    pub id: ConnectionId,
    /// Bytes to ask for; `None` is a plain GET of the whole blob.
    pub range: Option<Range<u64>>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The byte after the last one it brought.
    pub stood_at: u64,
    /// Whether that is where it was to end.
    pub brought_all: bool,
    /// Whether it was asked for no range, or answered as if.
    pub is_plain: bool,
}

#[derive(Clone, Debug)]
struct Connection {
    id: ConnectionId,
    /// Number of the source that it asks.
    source: usize,
    next: u64,
    /// Where it ends; `u64::MAX` while the length is unknown.
    end: u64,
    /// It was asked for no range, so it can go on to the blob's end wherever it was to end.
    is_plain: bool,
}

impl Connection {
    /// Whether it will bring this byte soon.
    fn brings_soon(&self, byte: u64) -> bool {
        (self.next..self.end).contains(&byte) && byte - self.next < REACH_BYTES
    }

    /// What it has yet to bring.
    const fn left(&self) -> u64 {
        self.end.saturating_sub(self.next)
    }
}

/// The connections of one fill.
#[derive(Clone, Debug)]
pub struct Plan {
    connections: Vec<Connection>,
    max_connections: usize,
    last_id: ConnectionId,
    total_bytes: Option<u64>,
    /// Number of the source that new connections ask.
    source: usize,
    /// False once that source has answered a range with the whole blob.
    ranges: bool,
    /// So many connections share what nobody asked for in particular.
    sharing: usize,
    /// The demand that was given a connection last: those behind it come before it.
    turn: (u64, u64),
    /// A connection has made room, and no other has taken it yet: before one more does, so many bytes may
    /// come. By then its place on the line has gone to another blob.
    patience_bytes: u64,
}

impl Plan {
    /// A plan for a blob whose length may be known.
    #[must_use]
    pub const fn new(max_connections: usize, total_bytes: Option<u64>) -> Self {
        Self {
            connections: Vec::new(),
            max_connections,
            last_id: 0,
            total_bytes,
            source: 0,
            ranges: true,
            sharing: 1,
            turn: (0, 0),
            patience_bytes: 0,
        }
    }

    /// From now on connections ask the source of this number. Whether it has ranges is not known from
    /// those before it.
    pub const fn ask(&mut self, source: usize) {
        if self.source != source {
            self.source = source;
            self.ranges = true;
        }
    }

    /// From now on so many connections share the blob. Where there are more, they end as they were to.
    pub const fn share_among(&mut self, connections: usize) {
        self.sharing = connections;
    }

    /// The length has become known.
    pub fn set_total(&mut self, total_bytes: u64) {
        self.total_bytes = Some(total_bytes);
        for connection in &mut self.connections {
            connection.end = connection.end.min(total_bytes);
        }
    }

    /// Connection `id` was answered with the whole blob although a range was asked for. If its source is
    /// still the one that is asked, from now on one connection brings everything: the one that is
    /// furthest. Returns those that are over: the others, or this one if its source was left.
    pub fn without_ranges(&mut self, id: ConnectionId) -> Vec<ConnectionId> {
        let Some(connection) = self.connections.iter_mut().find(|connection| connection.id == id) else { return Vec::new() };
        if connection.source != self.source {
            return self.finish(id).map(|_| id).into_iter().collect();
        }
        (connection.next, connection.is_plain) = (0, true);
        self.ranges = false;
        let whole_end = self.total_bytes.unwrap_or(u64::MAX);
        let plain = self.connections.iter_mut().filter(|connection| connection.is_plain);
        let Some(kept) = plain.max_by_key(|connection| connection.next) else { return Vec::new() };
        kept.end = whole_end;
        let kept = kept.id;
        self.connections.extract_if(.., |connection| connection.id != kept).map(|connection| connection.id).collect()
    }

    /// Whether a connection that is ended can be gone on with.
    pub const fn has_ranges(&self) -> bool {
        self.ranges
    }

    /// Sees to it that a demand which nobody will meet soon gets a connection, where all are taken or
    /// `may_open` is false. Returns the one that is over for it: of those that no demand needs soon, the
    /// one that is furthest ahead of all. Where every one is needed, one of them ends after a segment.
    pub fn make_room(&mut self, coverage: &Coverage, demands: &[Range<u64>], may_open: bool) -> Option<ConnectionId> {
        let is_full = !may_open || self.connections.len() >= self.max_connections;
        if !self.ranges || !is_full || self.patience_bytes > 0 {
            return None;
        }
        demands.iter().find_map(|demand| self.unmet(coverage, demand))?;
        let needed: Vec<_> = demands.iter().filter_map(|demand| Some(coverage.first_gap(self.within(demand))?.start)).collect();
        let spare = self.connections.iter().filter(|connection| !needed.iter().any(|byte| connection.brings_soon(*byte)));
        let behind = |connection: &Connection| needed.iter().filter(|byte| **byte <= connection.next).max().copied();
        let ahead = |connection: &Connection| behind(connection).map_or(u64::MAX, |byte| connection.next - byte);
        if let Some(id) = spare.max_by_key(|connection| (ahead(connection), connection.left())).map(|connection| connection.id) {
            self.patience_bytes = SEGMENT_BYTES;
            return self.finish(id).map(|_| id);
        }
        let ends_soon = self.connections.iter().any(|connection| connection.left() <= SEGMENT_BYTES);
        if let Some(longest) = self.connections.iter_mut().max_by_key(|connection| connection.left()).filter(|_| !ends_soon) {
            longest.end = longest.next + SEGMENT_BYTES;
        }
        None
    }

    /// Whether another connection is needed and allowed.
    pub fn wants_another(&self, coverage: &Coverage, demands: &[Range<u64>]) -> bool {
        let allowed = if self.ranges { self.max_connections } else { 1 };
        let shares = || self.connections.len() < self.sharing.max(1);
        let total = self.total_bytes.unwrap_or(u64::MAX);
        self.connections.len() < allowed
            && (self.first_in_turn(coverage, demands).is_some() || (shares() && self.unclaimed(coverage, total).is_some()))
    }

    /// The next connection to open, if one is needed and allowed.
    pub fn next(&mut self, coverage: &Coverage, demands: &[Range<u64>]) -> Option<Assignment> {
        let allowed = if self.ranges { self.max_connections } else { 1 };
        let free = allowed.checked_sub(self.connections.len()).filter(|free| *free > 0)?;
        if let Some((demand, unmet)) = self.first_in_turn(coverage, demands) {
            let waiting = demands.iter().filter(|demand| self.unmet(coverage, demand).is_some()).count();
            let is_open = demand.end == u64::MAX && waiting <= free;
            let most = if is_open { self.share(unmet.start) } else { SEGMENT_BYTES };
            self.turn = (demand.start, demand.end);
            return Some(self.assign(unmet.start..unmet.end.min(unmet.start.saturating_add(most))));
        }
        if self.connections.len() >= self.sharing.max(1) {
            return None;
        }
        let range = self.unclaimed(coverage, self.total_bytes.unwrap_or(u64::MAX))?;
        Some(self.assign(range))
    }

    /// The first demand that needs a connection, after the one that was given one last, and the bytes for it.
    fn first_in_turn<'a>(&self, coverage: &Coverage, demands: &'a [Range<u64>]) -> Option<(&'a Range<u64>, Range<u64>)> {
        let is_behind = |demand: &&Range<u64>| (demand.start, demand.end) > self.turn;
        let in_turn = demands.iter().filter(is_behind).chain(demands.iter().filter(|demand| !is_behind(demand)));
        in_turn.into_iter().find_map(|demand| Some((demand, self.unmet(coverage, demand)?)))
    }

    /// As much of a demand as there is of the blob.
    fn within(&self, demand: &Range<u64>) -> Range<u64> {
        demand.start..demand.end.min(self.total_bytes.unwrap_or(u64::MAX))
    }

    /// The first bytes that no connection is about to bring.
    fn unclaimed(&self, coverage: &Coverage, total: u64) -> Option<Range<u64>> {
        coverage.gaps(0..total).find_map(|gap| {
            let mut start = gap.start;
            while let Some(claim) = self.connections.iter().map(|it| self.claim(it)).find(|claim| claim.contains(&start)) {
                start = claim.end;
            }
            let taken = self.connections.iter().map(|connection| connection.next).filter(|next| *next > start).min();
            let end = gap.end.min(taken.unwrap_or(u64::MAX)).min(start.saturating_add(self.share(start)));
            (start < end).then_some(start..end)
        })
    }

    /// What a connection keeps for itself. One that was asked for far more than a share lets others have what lies behind
    /// its own share; all others bring what they were asked for.
    fn claim(&self, connection: &Connection) -> Range<u64> {
        let asked_for = connection.left();
        let kept = if asked_for > MAX_SHARE_BYTES { self.share(connection.next).min(asked_for) } else { asked_for };
        connection.next..connection.next + kept
    }

    /// How much a connection should bring from `start` on; no end while there is but one.
    fn share(&self, start: u64) -> u64 {
        match (self.sharing, self.total_bytes) {
            (0 | 1, _) | (_, None) => u64::MAX,
            (sharing, Some(total)) => (total.saturating_sub(start) / sharing as u64).clamp(MIN_SHARE_BYTES, MAX_SHARE_BYTES),
        }
    }

    /// The bytes a new connection should fetch for `demand`, if it needs one.
    fn unmet(&self, coverage: &Coverage, demand: &Range<u64>) -> Option<Range<u64>> {
        let demand = self.within(demand);
        let start = coverage.first_gap(demand.clone())?.start;
        if self.connections.iter().any(|connection| connection.brings_soon(start)) {
            return None;
        }
        let taken = self.connections.iter().map(|connection| connection.next).filter(|next| *next > start).min();
        let end = demand.end.min(coverage.next_start(start)).min(taken.unwrap_or(u64::MAX));
        Some(start..end)
    }

    fn assign(&mut self, range: Range<u64>) -> Assignment {
        for connection in &mut self.connections {
            if (connection.next..connection.end).contains(&range.start) {
                connection.end = range.start;
            }
        }
        self.patience_bytes = 0;
        self.last_id += 1;
        let id = self.last_id;
        let whole = !self.ranges || (range.start == 0 && range.end >= self.total_bytes.unwrap_or(u64::MAX));
        let next = if self.ranges { range.start } else { 0 };
        let end = if self.ranges { range.end } else { u64::MAX };
        self.connections.push(Connection { id, source: self.source, next, end, is_plain: whole });
        Assignment { id, range: (!whole).then_some(range) }
    }

    /// Connection `id` received `length` bytes. Returns the interval they are, cut where the
    /// connection ends, and whether it is done.
    pub fn advance(&mut self, id: ConnectionId, length: u64) -> (Range<u64>, bool) {
        let Some(connection) = self.connections.iter_mut().find(|connection| connection.id == id) else {
            return (0..0, true);
        };
        self.patience_bytes = self.patience_bytes.saturating_sub(length);
        let start = connection.next;
        connection.next = start.saturating_add(length);
        (start..connection.next.min(connection.end.max(start)), connection.next >= connection.end)
    }

    /// Connection `id` is over; what it did not bring is free again. Returns where it stood; `None`
    /// if it was over before.
    pub fn finish(&mut self, id: ConnectionId) -> Option<Finished> {
        let index = self.connections.iter().position(|connection| connection.id == id)?;
        let Connection { next, end, is_plain, .. } = self.connections.swap_remove(index);
        Some(Finished { stood_at: next, brought_all: next >= end.min(self.total_bytes.unwrap_or(u64::MAX)), is_plain })
    }
}

#[cfg(test)]
mod tests;
