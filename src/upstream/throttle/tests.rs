use proptest::prelude::*;

use super::*;

const NOTHING: Limited = Limited { retry_after: None, used_up_for: None };
const USED_UP: Limited = Limited { retry_after: None, used_up_for: Some(seconds(21_600)) };

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at(after: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + seconds(1_000_000 + after)
}

fn throttle() -> Throttle {
    Throttle::new(&UpstreamLimits::default())
}

fn limit(throttle: &mut Throttle, said: Limited, now: u64) {
    assert_eq!(throttle.refusal(at(now)), None);
    let ticket = throttle.admit(at(now));
    throttle.limited(ticket, said, at(now));
}

fn retry_after(after: Duration) -> Limited {
    Limited { retry_after: Some(after), used_up_for: None }
}

#[test]
fn retry_after_is_kept_up_to_its_limit() {
    let mut throttle = throttle();
    limit(&mut throttle, retry_after(seconds(300)), 0);
    assert_eq!(throttle.refusal(at(100)), Some(seconds(200)));
    limit(&mut throttle, retry_after(Duration::MAX), 300);
    assert_eq!(throttle.refusal(at(300)), Some(seconds(3600)));
}

#[test]
fn without_a_word_the_pause_doubles() {
    let mut throttle = throttle();
    let mut now = 0;
    for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
        limit(&mut throttle, NOTHING, now);
        assert_eq!(throttle.refusal(at(now)), Some(seconds(expected)));
        now += expected;
    }
}

#[test]
fn an_answer_that_cost_nothing_ends_no_hold_before_its_time_and_no_row() {
    let mut throttle = throttle();
    limit(&mut throttle, USED_UP, 0);
    let free = throttle.admit(at(60));
    throttle.answered(free, false, at(60));
    assert!(throttle.holds());
    let free = throttle.admit(at(21_600));
    throttle.answered(free, false, at(21_600));
    assert!(!throttle.holds());
    limit(&mut throttle, NOTHING, 21_600);
    assert_eq!(throttle.refusal(at(21_600)), Some(seconds(2)), "the second in a row");
}

#[test]
fn a_used_up_quota_is_probed_once_a_minute_until_there_is_room() {
    let mut throttle = throttle();
    limit(&mut throttle, USED_UP, 0);
    let mut probes = 0;
    for now in 0..600 {
        if throttle.refusal(at(now)).is_none() {
            probes += 1;
            let probe = throttle.admit(at(now));
            if now % 2 == 0 { throttle.released(probe) } else { throttle.answered(probe, false, at(now)) }
        }
    }
    assert_eq!(probes, 9);
    let probe = throttle.admit(at(600));
    throttle.answered(probe, true, at(600));
    assert!(!throttle.holds());
}

#[test]
fn a_short_retry_after_does_not_hurry_the_probes_of_a_used_up_quota() {
    let mut throttle = throttle();
    limit(&mut throttle, Limited { retry_after: Some(seconds(1)), ..USED_UP }, 0);
    assert_eq!(throttle.refusal(at(0)), Some(seconds(60)));
}

#[test]
fn answers_to_requests_before_a_429_lift_nothing_and_429s_together_count_once() {
    let mut throttle = throttle();
    let older: Vec<Ticket> = (0..10).map(|_| throttle.admit(at(0))).collect();
    limit(&mut throttle, NOTHING, 0);
    for ticket in older {
        throttle.answered(ticket, true, at(0));
        throttle.limited(ticket, retry_after(seconds(900)), at(0));
    }
    assert_eq!(throttle.refusal(at(0)), Some(seconds(1)));
}

#[test]
fn one_probe_at_a_time_and_a_clock_set_back_holds_nothing_off() {
    let mut throttle = throttle();
    limit(&mut throttle, NOTHING, 5000);
    let probe = throttle.admit(at(5001));
    assert!(throttle.refusal(at(5001)).is_some());
    throttle.released(probe);
    assert_eq!(throttle.refusal(at(5001)), None);
    assert_eq!(throttle.refusal(at(0)), None);
}

proptest! {
    /// Whatever was said: a day later a request passes, and its answer heals.
    #[test]
    fn no_429_holds_for_ever(said in prop::collection::vec((any::<Option<u32>>(), prop::option::of(0u64..86_400), 0u64..100), 1..20)) {
        let mut throttle = throttle();
        let mut now = 0;
        for (after, window, pause) in said {
            let said = Limited { retry_after: after.map(|after| seconds(after.into())), used_up_for: window.map(seconds) };
            if throttle.refusal(at(now)).is_none() {
                limit(&mut throttle, said, now);
            }
            now += pause;
        }
        now += 86_400;
        prop_assert_eq!(throttle.refusal(at(now)), None);
        let ticket = throttle.admit(at(now));
        throttle.answered(ticket, false, at(now));
        prop_assert!(!throttle.holds());
    }
}
