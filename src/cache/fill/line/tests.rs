//! By count, in paused time.

use futures::FutureExt;
use tokio::time::Instant;

use super::*;
use crate::cache::origin::OriginKey;
use crate::oci::{Digest, RepositoryName};
use crate::telemetry::metrics::Metrics;

fn line(max_connections: Option<usize>, max_bytes_per_second: Option<u64>) -> Arc<Line> {
    Arc::new(Line::new(LineLimits { connections: 4, max_connections, connection_wait: WAIT, max_bytes_per_second }, &metrics()))
}

/// How long a client waits for a place.
const WAIT: Duration = Duration::from_secs(60);

fn metrics() -> RuleMetrics {
    Metrics::new().unwrap().for_rule("up")
}

fn waiting(metrics: &RuleMetrics) -> u64 {
    let text = String::from_utf8(metrics.all().expose().unwrap()).unwrap();
    let name = r#"headpond_upstream_connections_waited_for{rule="up"} "#;
    text.lines().find_map(|line| line.strip_prefix(name)?.parse().ok()).unwrap()
}

fn fill(followers: usize) -> Arc<Fill> {
    let origin = OriginKey::of("source", &RepositoryName::parse("up/x").unwrap());
    let fill = Fill::new(Digest::of(b"x"), origin, None, None, false);
    fill.followers.store(followers, Ordering::Release);
    Arc::new(fill)
}

fn share(line: &Arc<Line>) -> LineShare {
    LineShare::of_fill(Arc::clone(line), fill(1))
}

#[tokio::test]
async fn every_fill_gets_a_place_before_any_gets_a_second() {
    let line = line(Some(2), None);
    let (first, second, third) = (share(&line), share(&line), share(&line));
    let places = [first.place().await.unwrap(), first.try_place().unwrap()];
    let mut waiting = [Box::pin(second.place()), Box::pin(third.place())];
    assert!(waiting.iter_mut().all(|place| place.now_or_never().is_none()));
    assert!(first.try_place().is_none());
    let [kept, ended] = places;
    drop(ended);
    assert!(first.try_place().is_none(), "it is the second one's");
    let [second, third] = &mut waiting;
    let second = second.now_or_never().expect("first come, first served").unwrap();
    assert!(third.now_or_never().is_none());
    drop(kept);
    assert!(third.now_or_never().is_some());
    drop(second);
}

#[tokio::test]
async fn a_fill_without_followers_takes_no_place_that_somebody_waits_for() {
    let line = line(Some(1), None);
    let (client, lonely) = (share(&line), Arc::new(LineShare::of_fill(Arc::clone(&line), fill(0))));
    let first = client.place().await.unwrap();
    let task = tokio::spawn({
        let lonely = Arc::clone(&lonely);
        async move { lonely.place().await }
    });
    tokio::task::yield_now().await;
    let mut second = Box::pin(client.place());
    assert!((&mut second).now_or_never().is_none());
    drop(first);
    tokio::task::yield_now().await;
    assert!(!task.is_finished(), "the client came later, and goes first");
    drop(second.await.unwrap());
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_fill_that_gets_a_follower_waits_in_line_like_any_other() {
    let line = line(Some(1), None);
    let joined = fill(0);
    let (client, lonely) = (share(&line), LineShare::of_fill(Arc::clone(&line), Arc::clone(&joined)));
    let first = client.place().await.unwrap();
    let mut waiting = Box::pin(lonely.place());
    assert!((&mut waiting).now_or_never().is_none());
    joined.followers.store(1, Ordering::Release);
    joined.followed.notify_waiters();
    assert!((&mut waiting).now_or_never().is_none());
    let mut later = Box::pin(client.place());
    assert!((&mut later).now_or_never().is_none());
    drop(first);
    assert!((&mut later).now_or_never().is_none());
    assert!((&mut waiting).now_or_never().is_some());
}

#[tokio::test]
async fn a_fill_that_nobody_follows_gives_way_to_a_client() {
    let line = line(Some(1), None);
    let left = fill(1);
    let (leaving, client) = (LineShare::of_fill(Arc::clone(&line), Arc::clone(&left)), share(&line));
    let place = leaving.place().await.unwrap();
    let mut given_way = Box::pin(leaving.given_way());
    assert!((&mut given_way).now_or_never().is_none());
    let mut waiting = Box::pin(client.place());
    assert!((&mut waiting).now_or_never().is_none());
    assert!((&mut given_way).now_or_never().is_none(), "its own client waits too");
    assert!(left.unfollow());
    assert!((&mut given_way).now_or_never().is_some());
    drop(place);
    drop(waiting.await.unwrap());
    assert!(leaving.given_way().now_or_never().is_none(), "nobody waits any more");
}

#[tokio::test(start_paused = true)]
async fn a_client_waits_so_long_and_no_longer() {
    let line = line(Some(1), None);
    let held = share(&line).place().await.unwrap();
    let waits = Instant::now();
    let refused = share(&line).place().await.err();
    assert!(matches!(refused, Some(FillError::NoConnection { waited: WAIT })), "{refused:?}");
    assert_eq!(waits.elapsed().as_secs(), WAIT.as_secs());
    // A fill whose client has gone meanwhile waits on, for what nobody else wants.
    let left = fill(1);
    let leaving = LineShare::of_fill(Arc::clone(&line), Arc::clone(&left));
    let mut waiting = Box::pin(leaving.place());
    assert!((&mut waiting).now_or_never().is_none());
    left.unfollow();
    assert!(tokio::time::timeout(2 * WAIT, &mut waiting).await.is_err());
    drop(held);
    assert!(waiting.await.is_ok());
}

/// Of which bytes are here, too: it keeps its turn only for as long as a client waits for it.
#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_the_line_lets_those_behind_it_go_first() {
    let line = line(Some(1), None);
    let held = share(&line).place().await.unwrap();
    let (left, staying) = (fill(1), share(&line));
    left.progress.send_modify(|progress| progress.coverage.add(0..1));
    let leaving = LineShare::of_fill(Arc::clone(&line), Arc::clone(&left));
    let (mut leaving, mut staying) = (Box::pin(leaving.place()), Box::pin(staying.place()));
    assert!(tokio::time::timeout(WAIT / 2, &mut leaving).await.is_err());
    assert!((&mut staying).now_or_never().is_none());
    left.unfollow();
    assert!(tokio::time::timeout(2 * WAIT, &mut leaving).await.is_err(), "it is told nothing");
    let mut staying = Box::pin(async { (&mut staying).await.is_ok() });
    drop(held);
    assert!((&mut leaving).now_or_never().is_none());
    assert_eq!((&mut staying).now_or_never(), Some(true));
}

#[tokio::test]
async fn those_who_wait_are_counted_for_as_long_as_they_do() {
    let metrics = metrics();
    let limits = LineLimits { connections: 4, max_connections: Some(1), connection_wait: WAIT, max_bytes_per_second: None };
    let line = Arc::new(Line::new(limits, &metrics));
    let (first, second, third) = (share(&line), share(&line), share(&line));
    let held = first.place().await.unwrap();
    let (mut staying, mut leaving) = (Box::pin(second.place()), Box::pin(third.place()));
    assert!((&mut staying).now_or_never().is_none() && (&mut leaving).now_or_never().is_none());
    assert_eq!(waiting(&metrics), 2);
    drop(leaving);
    assert_eq!(waiting(&metrics), 1);
    drop(held);
    drop(staying.await.unwrap());
    assert_eq!(waiting(&metrics), 0);
}

/// A place is handed to a client that has gone before it could take it.
#[tokio::test]
async fn a_place_that_nobody_takes_is_offered_to_those_without_clients() {
    let line = line(Some(1), None);
    let (client, lonely) = (share(&line), Arc::new(LineShare::of_fill(Arc::clone(&line), fill(0))));
    let held = share(&line).place().await.unwrap();
    let mut leaving = Box::pin(client.place());
    assert!((&mut leaving).now_or_never().is_none());
    let task = tokio::spawn({
        let lonely = Arc::clone(&lonely);
        async move { lonely.place().await }
    });
    tokio::task::yield_now().await;
    drop(held);
    tokio::task::yield_now().await;
    assert!(lonely.try_place().is_none() && !task.is_finished(), "it is the client's");
    drop(leaving);
    assert!(tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap().is_ok());
}

#[tokio::test]
async fn without_limits_nobody_waits() {
    let line = line(None, None);
    let share = share(&line);
    let places: Vec<_> = (0..1000).map(|_| share.try_place().unwrap()).collect();
    assert!(share.take(usize::MAX).now_or_never().is_some());
    drop(places);
}

const MIB: usize = 1024 * 1024;

/// Takes quanta for as long as it is let, and counts them.
fn taker(share: Arc<LineShare>) -> (tokio::task::JoinHandle<()>, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let task = tokio::spawn(async move {
        loop {
            share.take(MIB / 4).await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (task, taken)
}

async fn taken_in_a_minute(shares: &[Arc<LineShare>]) -> Vec<usize> {
    let takers: Vec<_> = shares.iter().map(|share| taker(Arc::clone(share))).collect();
    tokio::time::sleep(Duration::from_secs(60)).await;
    takers.iter().for_each(|(task, _)| task.abort());
    takers.iter().map(|(_, taken)| taken.load(Ordering::Relaxed)).collect()
}

#[tokio::test(start_paused = true)]
async fn bytes_come_no_faster_than_they_may() {
    let line = line(None, Some(MIB as u64));
    let took = Instant::now();
    share(&line).take(30 * MIB).await;
    let seconds = took.elapsed().as_secs();
    assert!((29..=30).contains(&seconds), "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn bandwidth_is_shared_by_fills_and_not_by_connections() {
    let line = line(None, Some(MIB as u64));
    let (greedy, modest) = (Arc::new(share(&line)), Arc::new(share(&line)));
    let taken = taken_in_a_minute(&[Arc::clone(&greedy), Arc::clone(&greedy), Arc::clone(&greedy), modest]).await;
    let of_greedy: usize = taken[..3].iter().sum();
    assert!(taken[3].abs_diff(120) <= 2 && of_greedy.abs_diff(120) <= 4, "{taken:?}");
}

#[tokio::test(start_paused = true)]
async fn a_fill_without_followers_gets_the_bandwidth_that_is_left() {
    let line = line(None, Some(MIB as u64));
    let lonely = Arc::new(LineShare::of_fill(Arc::clone(&line), fill(0)));
    let taken = taken_in_a_minute(&[Arc::new(share(&line)), Arc::clone(&lonely)]).await;
    assert!(taken[0].abs_diff(240) <= 4 && taken[1] <= 2, "{taken:?}");
    let alone = taken_in_a_minute(&[lonely]).await;
    assert!(alone[0].abs_diff(240) <= 4, "{alone:?}");
}
