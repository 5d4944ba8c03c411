use proptest::prelude::*;

use super::*;

const REVALIDATE: Purpose = Purpose::Revalidate;
const FETCH: Purpose = Purpose::Fetch;

fn machine() -> Machine {
    Machine::new(&UpstreamLimits::default())
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn fail(machine: &mut Machine, cause: Failure, seconds: u64) {
    let ticket = machine.admit(FETCH, at(seconds)).unwrap();
    machine.failed(ticket, cause, at(seconds));
}

#[test]
fn one_failure_holds_revalidations_off_and_not_fetches() {
    let mut machine = machine();
    fail(&mut machine, Failure::Other, 0);
    assert_eq!(machine.state(), CircuitState::Suspect);
    assert_eq!(machine.admit(REVALIDATE, at(0)), Err(Duration::from_secs(1)));
    assert!(machine.admit(FETCH, at(0)).is_ok());
}

#[test]
fn after_the_cooldown_there_is_one_probe_at_a_time() {
    let mut machine = machine();
    fail(&mut machine, Failure::Other, 0);
    let probe = machine.admit(REVALIDATE, at(1)).unwrap();
    assert!(machine.admit(REVALIDATE, at(1)).is_err());
    machine.released(probe);
    let probe = machine.admit(REVALIDATE, at(1)).unwrap();
    machine.answered(probe);
    assert_eq!(machine.state(), CircuitState::Well);
    assert!(machine.admit(REVALIDATE, at(1)).is_ok());
}

#[test]
fn three_failures_in_a_row_hold_fetches_off_too() {
    let mut machine = machine();
    for seconds in [0, 10, 20] {
        fail(&mut machine, Failure::Other, seconds);
    }
    assert_eq!(machine.state(), CircuitState::Open);
    assert_eq!(machine.admit(FETCH, at(20)).unwrap_err(), Duration::from_secs(4));
    let probe = machine.admit(FETCH, at(24)).unwrap();
    assert!(machine.admit(FETCH, at(24)).is_err());
    machine.failed(probe, Failure::Other, at(24));
    assert_eq!(machine.admit(FETCH, at(24)).unwrap_err(), Duration::from_secs(8));
}

#[test]
fn a_refused_connection_holds_fetches_off_at_once() {
    let mut machine = machine();
    fail(&mut machine, Failure::Connect, 0);
    assert_eq!(machine.state(), CircuitState::Open);
    assert!(machine.admit(FETCH, at(0)).is_err());
    assert!(machine.admit(FETCH, at(1)).is_ok());
}

#[test]
fn failures_of_requests_that_ran_together_count_once() {
    let mut machine = machine();
    let tickets: Vec<Ticket> = (0..100).map(|_| machine.admit(FETCH, at(0)).unwrap()).collect();
    for ticket in tickets {
        machine.failed(ticket, Failure::Other, at(0));
    }
    assert_eq!(machine.state(), CircuitState::Suspect);
    assert!(machine.admit(REVALIDATE, at(1)).is_ok());
}

#[test]
fn cooldowns_end_at_their_limit() {
    let mut machine = machine();
    for n in 0..40 {
        fail(&mut machine, Failure::Connect, n * 1000);
    }
    assert_eq!(machine.admit(FETCH, at(39_000)).unwrap_err(), Duration::from_secs(60));
}

#[test]
fn an_answer_to_an_older_request_lifts_a_failure() {
    let mut machine = machine();
    let older = machine.admit(FETCH, at(0)).unwrap();
    fail(&mut machine, Failure::Other, 0);
    machine.answered(older);
    assert_eq!(machine.state(), CircuitState::Well);
}

#[test]
fn a_slow_revalidation_holds_others_off_until_it_ends() {
    let mut machine = machine();
    let slow = machine.admit(REVALIDATE, at(0)).unwrap();
    machine.slowed();
    assert_eq!(machine.state(), CircuitState::Suspect);
    assert!(machine.admit(REVALIDATE, at(100)).is_err());
    assert!(machine.admit(FETCH, at(100)).is_ok());
    machine.released(slow);
    let next = machine.admit(REVALIDATE, at(100)).unwrap();
    machine.answered(next);
    assert_eq!(machine.state(), CircuitState::Well);
}

#[test]
fn slowness_without_a_revalidation_is_nothing() {
    let mut machine = machine();
    machine.slowed();
    assert_eq!(machine.state(), CircuitState::Well);
}

#[test]
fn a_clock_set_back_does_not_hold_requests_off() {
    let mut machine = machine();
    fail(&mut machine, Failure::Connect, 5000);
    assert!(machine.admit(FETCH, at(0)).is_ok());
}

#[derive(Clone, Debug)]
enum Step {
    Admit(Purpose),
    Answer,
    Fail(Failure),
    Release,
    Slow,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Admit(REVALIDATE)),
        Just(Step::Admit(FETCH)),
        Just(Step::Answer),
        prop_oneof![Just(Failure::Connect), Just(Failure::Other)].prop_map(Step::Fail),
        Just(Step::Release),
        Just(Step::Slow),
        (0u64..100).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever happened: once nothing runs, an hour later a request passes, and its answer heals.
    #[test]
    fn no_history_locks_the_circuit(steps in prop::collection::vec(step(), 0..60)) {
        let mut machine = machine();
        let (mut now, mut running) = (0, Vec::new());
        for step in steps {
            match step {
                Step::Admit(purpose) => running.extend(machine.admit(purpose, at(now)).ok()),
                Step::Answer => running.pop().into_iter().for_each(|ticket| machine.answered(ticket)),
                Step::Fail(cause) => running.pop().into_iter().for_each(|ticket| machine.failed(ticket, cause, at(now))),
                Step::Release => running.pop().into_iter().for_each(|ticket| machine.released(ticket)),
                Step::Slow => machine.slowed(),
                Step::Wait(seconds) => now += seconds,
            }
        }
        running.into_iter().for_each(|ticket| machine.released(ticket));
        let ticket = machine.admit(REVALIDATE, at(now + 3600));
        prop_assert!(ticket.is_ok(), "{machine:?}");
        machine.answered(ticket.unwrap());
        prop_assert_eq!(machine.state(), CircuitState::Well);
        prop_assert_eq!((machine.is_probing, machine.revalidating), (false, 0));
    }
}
