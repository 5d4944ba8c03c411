//! Single cases, and a model: a transfer with random demands, progress and breaks.

#![allow(clippy::single_range_in_vec_init)] // a demand is an interval

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const MIB: u64 = 1024 * 1024;

fn whole() -> [Range<u64>; 1] {
    [0..u64::MAX]
}

fn covered(ranges: &[Range<u64>]) -> Coverage {
    let mut coverage = Coverage::default();
    ranges.iter().for_each(|range| coverage.add(range.clone()));
    coverage
}

#[test]
fn a_whole_blob_is_one_plain_request() {
    let mut plan = Plan::new(4, None);
    assert_eq!(plan.next(&Coverage::default(), &whole()), Some(Assignment { id: 1, range: None }));
    assert_eq!(plan.next(&Coverage::default(), &whole()), None);
}

#[test]
fn four_ranges_are_four_bounded_requests_that_do_not_overlap() {
    for end_of_blob in [false, true] {
        let mut plan = Plan::new(4, Some(100 * MIB));
        let end = |k| if end_of_blob { 100 * MIB } else { 25 * MIB * (k + 1) };
        let demands: Vec<_> = (0..4).map(|k| 25 * MIB * k..end(k)).collect();
        let ranges: Vec<_> = std::iter::from_fn(|| plan.next(&Coverage::default(), &demands)).map(|a| a.range.unwrap()).collect();
        let first_parts: Vec<_> = (0..4).map(|k| 25 * MIB * k..25 * MIB * k + SEGMENT_BYTES).collect();
        assert_eq!(ranges, first_parts);
    }
}

#[test]
fn a_range_is_fetched_part_by_part() {
    let mut plan = Plan::new(4, Some(100 * MIB));
    let demand = [10 * MIB..22 * MIB];
    assert_eq!(plan.next(&Coverage::default(), &demand).unwrap().range, Some(10 * MIB..18 * MIB));
    assert_eq!(plan.next(&covered(&[10 * MIB..11 * MIB]), &demand), None, "what comes soon is not asked for twice");
    assert_eq!(plan.advance(1, 8 * MIB), (10 * MIB..18 * MIB, true));
    plan.finish(1);
    assert_eq!(plan.next(&covered(&[10 * MIB..18 * MIB]), &demand).unwrap().range, Some(18 * MIB..22 * MIB));
}

#[test]
fn a_range_far_ahead_cuts_the_connection_that_would_come_by() {
    let mut plan = Plan::new(4, Some(100 * MIB));
    let coverage = Coverage::default();
    plan.next(&coverage, &whole());
    let demands = [0..u64::MAX, 60 * MIB..70 * MIB];
    assert_eq!(plan.next(&coverage, &demands).unwrap().range, Some(60 * MIB..68 * MIB));
    assert_eq!(plan.advance(1, 80 * MIB), (0..60 * MIB, true));
    plan.finish(1);
    plan.finish(2);
    let coverage = covered(&[0..70 * MIB]);
    assert_eq!(plan.next(&coverage, &demands).unwrap().range, Some(70 * MIB..100 * MIB));
}

#[test]
fn a_range_that_comes_soon_opens_nothing() {
    let mut plan = Plan::new(4, Some(100 * MIB));
    plan.next(&Coverage::default(), &whole());
    assert_eq!(plan.next(&Coverage::default(), &[0..u64::MAX, 6 * MIB..9 * MIB]), None);
}

#[test]
fn gaps_nobody_wants_are_fetched_one_by_one() {
    let mut plan = Plan::new(4, Some(100));
    let coverage = covered(&[10..20, 50..100]);
    assert_eq!(plan.next(&coverage, &[]).unwrap().range, Some(0..10));
    assert_eq!(plan.next(&coverage, &[]), None);
    plan.finish(1);
    assert_eq!(plan.next(&covered(&[0..20, 50..100]), &[]).unwrap().range, Some(20..50));
}

#[test]
fn without_ranges_one_plain_request_brings_everything() {
    let mut plan = Plan::new(4, Some(100));
    plan.next(&covered(&[0..50]), &[]);
    assert!(plan.without_ranges(1).is_empty());
    assert_eq!(plan.advance(1, 60), (0..60, false));
    assert_eq!(plan.next(&covered(&[0..60]), &[90..95]), None);
    plan.finish(1);
    assert_eq!(plan.next(&covered(&[0..60]), &[]), Some(Assignment { id: 2, range: None }));
}

#[test]
fn without_ranges_the_connection_that_is_furthest_goes_on() {
    let mut plan = Plan::new(4, Some(100 * MIB));
    let demands = [0..u64::MAX, 60 * MIB..70 * MIB, 80 * MIB..90 * MIB];
    while plan.next(&Coverage::default(), &demands).is_some() {}
    plan.advance(1, 30 * MIB);
    assert_eq!(plan.without_ranges(2), [2, 3]);
    assert_eq!(plan.advance(1, 70 * MIB), (30 * MIB..100 * MIB, true));
    assert_eq!(plan.finish(1), Some(Finished { stood_at: 100 * MIB, brought_all: true, is_plain: true }));
}

#[test]
fn a_shared_blob_is_handed_out_from_the_front() {
    let mut plan = Plan::new(4, Some(500 * MIB));
    let none = Coverage::default();
    assert_eq!(plan.next(&none, &whole()).unwrap().range, None, "the first request is a plain one");
    plan.advance(1, 10 * MIB);
    let coverage = covered(&[0..10 * MIB]);
    assert_eq!(plan.next(&coverage, &whole()), None, "it is alone until it is said to share");
    plan.share_among(2);
    assert_eq!(plan.next(&coverage, &whole()).unwrap().range, Some(26 * MIB..42 * MIB), "behind its share");
    assert_eq!(plan.next(&coverage, &whole()), None);
    plan.share_among(4);
    assert_eq!(plan.next(&coverage, &whole()).unwrap().range, Some(42 * MIB..58 * MIB));
    assert_eq!(plan.next(&coverage, &whole()).unwrap().range, Some(58 * MIB..74 * MIB));
    assert_eq!(plan.next(&coverage, &whole()), None);
    assert_eq!(plan.advance(1, 16 * MIB), (10 * MIB..26 * MIB, true), "the plain one ends where the next begins");
    plan.finish(1);
    assert_eq!(plan.next(&covered(&[0..26 * MIB]), &whole()).unwrap().range, Some(74 * MIB..90 * MIB));
}

#[test]
fn shares_shrink_towards_the_end() {
    let mut plan = Plan::new(4, Some(100 * MIB));
    plan.share_among(4);
    let coverage = covered(&[0..52 * MIB]);
    let parts: Vec<_> = std::iter::from_fn(|| plan.next(&coverage, &[])).map(|it| it.range.unwrap()).collect();
    assert_eq!(
        parts,
        [52 * MIB..64 * MIB, 64 * MIB..73 * MIB, 73 * MIB..73 * MIB + 27 * MIB / 4, 73 * MIB + 27 * MIB / 4..84 * MIB + 13 * MIB / 16]
    );
}

#[test]
fn a_blob_that_is_shared_no_longer_is_brought_to_its_end_by_one() {
    let mut plan = Plan::new(4, Some(500 * MIB));
    plan.next(&Coverage::default(), &whole());
    plan.share_among(2);
    assert_eq!(plan.next(&Coverage::default(), &whole()).unwrap().range, Some(16 * MIB..32 * MIB));
    plan.share_among(1);
    assert_eq!(plan.advance(1, 16 * MIB), (0..16 * MIB, true));
    plan.finish(1);
    let coverage = covered(&[0..18 * MIB]);
    plan.advance(2, 2 * MIB);
    assert_eq!(plan.next(&coverage, &whole()), None, "the other one is at it");
    plan.advance(2, 14 * MIB);
    plan.finish(2);
    assert_eq!(plan.next(&covered(&[0..32 * MIB]), &whole()).unwrap().range, Some(32 * MIB..500 * MIB));
}

#[test]
fn what_a_broken_connection_left_comes_before_what_is_further_on() {
    let mut plan = Plan::new(4, Some(500 * MIB));
    plan.share_among(3);
    let none = Coverage::default();
    while plan.next(&none, &[]).is_some() {}
    plan.advance(2, 5 * MIB);
    plan.finish(2);
    let coverage = covered(&[16 * MIB..21 * MIB]);
    assert_eq!(plan.next(&coverage, &[]).unwrap().range, Some(21 * MIB..32 * MIB));
}

#[test]
fn a_demand_far_off_takes_the_place_of_what_is_furthest_ahead() {
    let mut plan = Plan::new(3, Some(500 * MIB));
    plan.share_among(3);
    let none = Coverage::default();
    while plan.next(&none, &whole()).is_some() {}
    assert_eq!(plan.make_room(&none, &whole(), true), None, "nobody waits");
    let demands = [0..u64::MAX, 400 * MIB..401 * MIB];
    assert_eq!(plan.next(&none, &demands), None, "all are taken");
    assert_eq!(plan.make_room(&none, &demands, true), Some(3), "it is at 32 MiB, where nobody reads for long");
    assert_eq!(plan.make_room(&none, &demands, true), None, "one is enough");
    assert_eq!(plan.next(&none, &demands).unwrap().range, Some(400 * MIB..401 * MIB));
    assert_eq!(plan.make_room(&none, &demands, true), None, "it has one");
    plan.advance(4, MIB);
    plan.finish(4);
    assert_eq!(plan.next(&covered(&[400 * MIB..401 * MIB]), &whole()).unwrap().range, Some(32 * MIB..48 * MIB), "what was left");
}

#[test]
fn a_demand_takes_the_place_of_a_connection_where_others_have_the_line() {
    let mut plan = Plan::new(4, Some(500 * MIB));
    let demands = [200 * MIB..201 * MIB];
    plan.next(&Coverage::default(), &[]);
    assert_eq!(plan.make_room(&Coverage::default(), &demands, true), None, "another one may be opened");
    assert_eq!(plan.make_room(&Coverage::default(), &demands, false), Some(1));
    assert_eq!(plan.next(&Coverage::default(), &demands).unwrap().range, Some(200 * MIB..201 * MIB));
}

#[test]
fn room_that_went_to_another_blob_is_made_again_after_a_while() {
    let mut plan = Plan::new(4, Some(500 * MIB));
    plan.share_among(2);
    while plan.next(&Coverage::default(), &whole()).is_some() {}
    let demands = [0..u64::MAX, 400 * MIB..401 * MIB];
    assert_eq!(plan.make_room(&Coverage::default(), &demands, false), Some(2));
    plan.advance(1, 7 * MIB);
    assert_eq!(plan.make_room(&covered(&[0..7 * MIB]), &demands, false), None);
    assert_eq!(plan.connections[0].left(), 9 * MIB, "it may still get the place that has become free");
    plan.connections[0].end = 500 * MIB;
    plan.advance(1, MIB);
    assert_eq!(plan.make_room(&covered(&[0..8 * MIB]), &demands, false), None);
    assert_eq!(plan.connections[0].left(), SEGMENT_BYTES, "now the last one takes turns");
}

#[test]
fn demands_take_turns_where_every_connection_is_needed() {
    let mut plan = Plan::new(1, Some(500 * MIB));
    plan.next(&Coverage::default(), &whole());
    plan.advance(1, MIB);
    let demands = [0..u64::MAX, 400 * MIB..420 * MIB];
    assert_eq!(plan.make_room(&covered(&[0..MIB]), &demands, true), None);
    assert_eq!(plan.advance(1, 9 * MIB), (MIB..9 * MIB, true), "it ends after a segment");
    plan.finish(1);
    let mut coverage = covered(&[0..9 * MIB]);
    for (id, expected) in [(2, 400 * MIB), (3, 9 * MIB), (4, 408 * MIB), (5, 17 * MIB), (6, 416 * MIB)] {
        let range = plan.next(&coverage, &demands).unwrap().range.unwrap();
        assert_eq!((range.start, range.end - range.start <= SEGMENT_BYTES), (expected, true), "{range:?}");
        plan.advance(id, range.end - range.start);
        plan.finish(id);
        coverage.add(range);
    }
    assert_eq!(plan.next(&coverage, &demands).unwrap().range, Some(25 * MIB..400 * MIB), "nobody else waits any more");
}

#[test]
fn what_one_source_does_not_have_is_not_held_against_the_next() {
    let mut plan = Plan::new(4, Some(100 * MIB));
    plan.ask(1);
    plan.next(&covered(&[0..MIB]), &[]);
    assert!(plan.without_ranges(1).is_empty());
    plan.ask(1);
    plan.finish(1);
    assert_eq!(plan.next(&covered(&[0..MIB]), &[]).unwrap().range, None, "this one has no ranges");
    plan.finish(2);
    plan.ask(2);
    assert_eq!(plan.next(&covered(&[0..MIB]), &[]).unwrap().range, Some(MIB..100 * MIB));
    assert_eq!(plan.next(&covered(&[0..MIB]), &[50 * MIB..51 * MIB]).unwrap().range, Some(50 * MIB..51 * MIB));
}

#[test]
fn a_late_answer_of_a_source_that_was_left_ends_nothing_but_itself() {
    let mut plan = Plan::new(4, Some(100 * MIB));
    let demands = [0..u64::MAX, 60 * MIB..61 * MIB];
    plan.next(&Coverage::default(), &demands);
    plan.next(&Coverage::default(), &demands);
    plan.finish(1);
    plan.ask(1);
    assert_eq!(plan.next(&Coverage::default(), &demands).unwrap().range, Some(0..60 * MIB));
    assert_eq!(plan.without_ranges(2), [2]);
    assert_eq!(plan.next(&Coverage::default(), &demands).unwrap().range, Some(60 * MIB..61 * MIB));
}

/// What happens to a transfer.
#[derive(Clone, Debug)]
enum Happening {
    Demand(u64, u64),
    Leave(Index),
    /// A connection brings so much more.
    Bytes(Index, u64),
    Break(Index),
    /// A connection turns out to bring the whole blob.
    WholeInstead(Index),
    /// Another source is asked from now on.
    OtherSource,
    /// So many are to share the blob.
    Share(usize),
}

const TOTAL: u64 = 64 * MIB;

fn happening() -> impl Strategy<Value = Happening> {
    let offset = 0..TOTAL;
    prop_oneof![
        3 => (offset.clone(), offset).prop_map(|(a, b)| Happening::Demand(a.min(b), a.max(b) + 1)),
        1 => Just(Happening::Demand(0, u64::MAX)),
        1 => any::<Index>().prop_map(Happening::Leave),
        8 => (any::<Index>(), 1..6 * MIB).prop_map(|(which, length)| Happening::Bytes(which, length)),
        1 => any::<Index>().prop_map(Happening::Break),
        1 => any::<Index>().prop_map(Happening::WholeInstead),
        1 => Just(Happening::OtherSource),
        2 => (0..6usize).prop_map(Happening::Share),
    ]
}

/// A transfer as `Transfer` drives it, without the network.
struct Model {
    plan: Plan,
    coverage: Coverage,
    demands: Vec<Range<u64>>,
    /// Bytes that came although they were there.
    overlap: u64,
    restarts: u64,
}

impl Model {
    fn new(total_bytes: Option<u64>) -> Self {
        Self { plan: Plan::new(4, total_bytes), coverage: Coverage::default(), demands: vec![0..u64::MAX], overlap: 0, restarts: 0 }
    }

    fn live(&self) -> Vec<ConnectionId> {
        self.plan.connections.iter().map(|connection| connection.id).collect()
    }

    fn pick(&self, which: &Index) -> Option<ConnectionId> {
        let live = self.live();
        (!live.is_empty()).then(|| *which.get(&live))
    }

    fn happens(&mut self, happening: &Happening) {
        match happening {
            Happening::Demand(start, end) => self.demands.push(*start..*end),
            Happening::Leave(which) if !self.demands.is_empty() => drop(self.demands.swap_remove(which.index(self.demands.len()))),
            Happening::Leave(_) => {}
            Happening::Bytes(which, length) => {
                if let Some(id) = self.pick(which) {
                    self.bring(id, *length);
                }
            }
            Happening::Break(which) => {
                if let Some(id) = self.pick(which) {
                    assert!(self.plan.finish(id).is_some());
                    assert_eq!(self.plan.finish(id), None, "it is over once");
                }
            }
            Happening::WholeInstead(which) => {
                if let Some(id) = self.pick(which).filter(|_| self.plan.ranges) {
                    let is_asked = self.plan.connections.iter().any(|it| it.id == id && it.source == self.plan.source);
                    let over = self.plan.without_ranges(id);
                    assert_eq!(self.plan.ranges, !is_asked);
                    assert!(if is_asked { self.plan.connections.len() == 1 } else { over == [id] });
                    self.restarts += u64::from(is_asked);
                }
            }
            Happening::OtherSource => self.plan.ask(self.plan.source + 1),
            Happening::Share(connections) => self.plan.share_among(*connections),
        }
    }

    /// What one connection brings, as far as upstream has it.
    fn bring(&mut self, id: ConnectionId, length: u64) {
        let next = self.plan.connections.iter().find(|connection| connection.id == id).unwrap().next;
        let (interval, done) = self.plan.advance(id, length.min(TOTAL - next));
        let new: u64 = self.coverage.gaps(interval.clone()).map(|gap| gap.end - gap.start).sum();
        self.overlap += (interval.end - interval.start) - new;
        self.coverage.add(interval.clone());
        if done || interval.end >= TOTAL {
            self.plan.finish(id);
        }
    }

    /// Opens what is to be opened, and checks what must always hold.
    fn open(&mut self) {
        loop {
            if let Some(over) = self.plan.make_room(&self.coverage, &self.demands, true) {
                assert_eq!(self.plan.finish(over), None);
            }
            let Some(assignment) = self.plan.next(&self.coverage, &self.demands) else { break };
            self.restarts += u64::from(!self.plan.ranges);
            let start = assignment.range.map_or(0, |range| range.start);
            assert!(!self.plan.ranges || self.coverage.covered_to(start) == start, "what is asked for first is not there");
        }
        let allowed = if self.plan.ranges { 4 } else { 1 };
        assert!(self.plan.connections.len() <= allowed);
        let mut owned: Vec<_> = self.plan.connections.iter().map(|connection| (connection.next, connection.end)).collect();
        owned.sort_unstable();
        for pair in owned.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "two connections own the same byte: {owned:?}");
        }
        assert!(!owned.is_empty() || self.coverage.is_complete(TOTAL), "nothing is fetched of what is missing");
        self.check_who_waits();
    }

    /// A demand waits only while all connections bring what others need, and one of them is over soon.
    fn check_who_waits(&self) {
        let (plan, coverage) = (&self.plan, &self.coverage);
        if !plan.ranges || self.demands.iter().all(|demand| plan.unmet(coverage, demand).is_none()) {
            return;
        }
        assert_eq!(plan.connections.len(), plan.max_connections);
        let needed: Vec<_> = self.demands.iter().filter_map(|it| Some(coverage.first_gap(plan.within(it))?.start)).collect();
        let all_needed = plan.connections.iter().all(|connection| needed.iter().any(|byte| connection.brings_soon(*byte)));
        let ends_soon = plan.connections.iter().any(|connection| connection.left() <= SEGMENT_BYTES);
        assert!(all_needed && ends_soon, "{needed:?} wait for {:?}", plan.connections);
    }
}

proptest! {
    #[test]
    fn every_byte_is_assigned_and_to_one_connection(
        known in any::<bool>(),
        happenings in prop::collection::vec(happening(), 0..80),
    ) {
        let mut model = Model::new(known.then_some(TOTAL));
        model.open();
        for happening in &happenings {
            // The first answer tells the length.
            model.plan.set_total(TOTAL);
            model.happens(happening);
            model.open();
        }
        model.demands.clear();
        model.plan.set_total(TOTAL);
        let mut rounds = 0;
        while !model.coverage.is_complete(TOTAL) {
            model.open();
            for id in model.live() {
                model.bring(id, 8 * MIB);
            }
            rounds += 1;
            prop_assert!(rounds < 1000, "it gets nowhere");
        }
        // Only a source without ranges brings a byte again: all of them, once for each restart.
        prop_assert!(model.overlap <= model.restarts * TOTAL, "{} bytes came twice", model.overlap);
    }

    #[test]
    fn a_shared_blob_comes_once_and_its_front_first(
        sharing in 2..5usize,
        steps in prop::collection::vec((any::<Index>(), 1..6 * MIB), 0..200),
    ) {
        const SHARED: u64 = 400 * MIB;
        let (mut plan, mut coverage) = (Plan::new(4, Some(SHARED)), Coverage::default());
        let mut steps = steps.iter();
        let mut brought = 0;
        while !coverage.is_complete(SHARED) {
            while plan.next(&coverage, &whole()).is_some() {}
            plan.share_among(sharing);
            while plan.next(&coverage, &whole()).is_some() {}
            let live: Vec<_> = plan.connections.iter().map(|it| (it.next, it.id)).collect();
            // Unless told otherwise, it is the hindmost that moves: all get on alike.
            let (which, length) = steps.next().map_or((*live.iter().min().unwrap(), 4 * MIB), |(which, length)| (*which.get(&live), *length));
            let (interval, done) = plan.advance(which.1, length);
            prop_assert_eq!(coverage.gaps(interval.clone()).map(|gap| gap.end - gap.start).sum::<u64>(), interval.end - interval.start, "once");
            brought += interval.end - interval.start;
            coverage.add(interval);
            if done {
                plan.finish(which.1);
            }
            // Every connection is at work on the first bytes that are missing, as far as shares go.
            let missing_before_the_last = live.iter().map(|(next, _)| *next).max().unwrap();
            let gaps: u64 = coverage.gaps(0..missing_before_the_last).map(|gap| gap.end - gap.start).sum();
            prop_assert!(gaps <= sharing as u64 * MAX_SHARE_BYTES, "{} MiB were left behind", gaps / MIB);
        }
        prop_assert_eq!(brought, SHARED);
    }

    #[test]
    fn no_range_waits_for_the_front_however_few_connections_there_are(
        max_connections in 1..4usize,
        starts in prop::collection::vec(0..390 * MIB, 1..6),
    ) {
        const LENGTH: u64 = 400 * MIB;
        let (mut plan, mut coverage) = (Plan::new(max_connections, Some(LENGTH)), Coverage::default());
        plan.share_among(max_connections);
        while plan.next(&coverage, &whole()).is_some() {}
        let mut demands: Vec<_> = starts.iter().map(|start| *start..start + SEGMENT_BYTES).chain(whole()).collect();
        demands.sort_by_key(|demand| (demand.start, demand.end));
        let is_met = |coverage: &Coverage, start: u64| coverage.covered_to(start) >= start + SEGMENT_BYTES;
        let mut rounds = 0;
        while !starts.iter().all(|start| is_met(&coverage, *start)) {
            loop {
                plan.make_room(&coverage, &demands, true);
                if plan.next(&coverage, &demands).is_none() {
                    break;
                }
            }
            for id in plan.connections.iter().map(|connection| connection.id).collect::<Vec<_>>() {
                let (interval, done) = plan.advance(id, MIB);
                coverage.add(interval);
                if done {
                    plan.finish(id);
                }
            }
            rounds += 1;
            // Each has at most two parts of a segment, and the front has its turn after each.
            prop_assert!(rounds <= 4 * SEGMENT_BYTES / MIB * (starts.len() as u64 + 1), "a range still waits after {rounds} rounds");
        }
    }
}
