//! Concurrent needs for one thing become one load.
//!
//! The load runs in a task of its own: a caller that leaves neither stops it nor makes the others
//! start again.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use thiserror::Error;
use tokio::sync::oneshot;

use crate::tasks::Tasks;

/// The load ended without a value: shutdown, or a panic in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the request was abandoned while this server shuts down")]
pub struct FlightAborted;

/// Whether a caller began a load or found it under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// This caller began it.
    Leader,
    /// Another one did.
    Joined,
}

/// What a load brings, for all who wait for it.
pub(super) type Landing<V> = Shared<BoxFuture<'static, Result<V, FlightAborted>>>;

/// Loads under way, by key.
#[derive(Clone)]
pub struct Flights<K, V> {
    running: Arc<Running<K, V>>,
    tasks: Tasks,
}

type Running<K, V> = Mutex<HashMap<K, UnderWay<V>>>;

/// A load under way, and the one that begins when it has ended.
struct UnderWay<V> {
    landing: Landing<V>,
    next: Option<Landing<V>>,
}

/// Makes way for the next load, even when this one panics.
struct Departure<K: Eq + Hash, V> {
    running: Arc<Running<K, V>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Departure<K, V> {
    fn drop(&mut self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(under_way) = running.get_mut(&self.key) else { return };
        match under_way.next.take() {
            Some(next) => under_way.landing = next,
            None => drop(running.remove(&self.key)),
        }
    }
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// No loads under way; they will run in `tasks`.
    #[must_use]
    pub fn new(tasks: Tasks) -> Self {
        Self { running: Arc::default(), tasks }
    }

    /// Whether a load of `key` is under way.
    #[must_use]
    pub fn is_under_way(&self, key: &K) -> bool {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    /// Joins the load of `key`, or begins it with `load`.
    pub fn join<F>(&self, key: K, load: impl FnOnce() -> F) -> (Role, Landing<V>)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(under_way) = running.get(&key) {
            return (Role::Joined, under_way.landing.clone());
        }
        let (landed, landing) = landing();
        running.insert(key.clone(), UnderWay { landing: landing.clone(), next: None });
        drop(running);
        self.fly(key, None, load(), landed);
        (Role::Leader, landing)
    }

    /// The same for a caller to whom a load that began before it is of no use: one under way is waited
    /// for, and all who come meanwhile share the next.
    pub fn join_next<F>(&self, key: K, load: impl FnOnce() -> F) -> (Role, Landing<V>)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(under_way) = running.get_mut(&key) else {
            drop(running);
            return self.join(key, load);
        };
        if let Some(next) = &under_way.next {
            return (Role::Joined, next.clone());
        }
        let (landed, next) = landing();
        under_way.next = Some(next.clone());
        let before = under_way.landing.clone();
        drop(running);
        self.fly(key, Some(before), load(), landed);
        (Role::Leader, next)
    }

    /// Runs a load, once the one before it has ended.
    fn fly<F>(&self, key: K, before: Option<Landing<V>>, load: F, landed: oneshot::Sender<V>)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let departure = Departure { running: Arc::clone(&self.running), key };
        self.tasks.spawn("flight", async move {
            // Should the load panic, the last of these is dropped first: nobody is told before the next has room.
            let (landed, departure) = (landed, departure);
            if let Some(before) = before {
                let _ = before.await;
            }
            let value = load.await;
            drop(departure);
            let _ = landed.send(value);
        });
    }
}

fn landing<V: Clone + Send + Sync + 'static>() -> (oneshot::Sender<V>, Landing<V>) {
    let (landed, landing) = oneshot::channel();
    (landed, landing.map(|value| value.map_err(|_| FlightAborted)).boxed().shared())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn concurrent_needs_are_one_load() {
        let flights = Flights::<&str, usize>::new(Tasks::default());
        let loads = Arc::new(AtomicUsize::new(0));
        let joined: Vec<_> = (0..10)
            .map(|_| {
                let loads = Arc::clone(&loads);
                flights.join("key", || async move { loads.fetch_add(1, Ordering::SeqCst) + 7 })
            })
            .collect();
        assert_eq!(joined.iter().filter(|(role, _)| *role == Role::Leader).count(), 1);
        for (_, landing) in joined {
            assert_eq!(landing.await, Ok(7));
        }
        assert_eq!(flights.join("key", || async { 9 }).1.await, Ok(9), "a landed flight is over");
    }

    #[tokio::test]
    async fn those_who_want_no_load_that_began_before_them_share_the_next() {
        let flights = Flights::<u8, usize>::new(Tasks::default());
        let (go, gate) = oneshot::channel::<()>();
        let loads = Arc::new(AtomicUsize::new(0));
        let load = || {
            let loads = Arc::clone(&loads);
            async move { loads.fetch_add(1, Ordering::SeqCst) + 1 }
        };
        let first = load();
        let (_, first) = flights.join(1, || async move {
            let _ = gate.await;
            first.await
        });
        let later: Vec<_> = (0..10).map(|_| flights.join_next(1, load)).collect();
        let (role, joined) = flights.join(1, load);
        assert_eq!(later.iter().filter(|(role, _)| *role == Role::Leader).count(), 1);
        assert_eq!(role, Role::Joined, "the load under way will do");
        go.send(()).unwrap();
        assert_eq!((first.await, joined.await), (Ok(1), Ok(1)));
        for (_, landing) in later {
            assert_eq!(landing.await, Ok(2));
        }
        assert_eq!(flights.join_next(1, load).1.await, Ok(3), "nothing is under way");
        assert!(flights.running.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn load_that_panics_makes_way_for_the_next() {
        let flights = Flights::<u8, u8>::new(Tasks::default());
        let (go, gate) = oneshot::channel::<()>();
        let (_, first) = flights.join(1, || async move {
            let _ = gate.await;
            panic!("planned by the test")
        });
        let (_, next) = flights.join_next(1, || async { 2 });
        go.send(()).unwrap();
        assert_eq!((first.await, next.await), (Err(FlightAborted), Ok(2)));
        assert!(flights.running.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_leader_that_leaves_does_not_stop_the_load() {
        let flights = Flights::<u8, u8>::new(Tasks::default());
        let (go, gate) = oneshot::channel::<()>();
        let (_, leader) = flights.join(1, || async move {
            let _ = gate.await;
            5
        });
        let (_, follower) = flights.join(1, || async { 6 });
        drop(leader);
        go.send(()).unwrap();
        assert_eq!(follower.await, Ok(5));
    }

    #[tokio::test]
    async fn a_cancelled_load_is_told_and_forgotten() {
        let tasks = Tasks::default();
        let flights = Flights::<u8, u8>::new(tasks.clone());
        let (_, landing) = flights.join(1, std::future::pending);
        tasks.shut_down(std::time::Duration::from_secs(5)).await;
        assert_eq!(landing.await, Err(FlightAborted));
        assert!(flights.running.lock().unwrap().is_empty());
    }
}
