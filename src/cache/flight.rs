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

type Landing<V> = Shared<BoxFuture<'static, Result<V, FlightAborted>>>;

/// Loads under way, by key.
#[derive(Clone)]
pub struct Flights<K, V> {
    running: Arc<Mutex<HashMap<K, Landing<V>>>>,
    tasks: Tasks,
}

/// Takes the key out even when the load panics.
struct Departure<K: Eq + Hash, V> {
    running: Arc<Mutex<HashMap<K, Landing<V>>>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Departure<K, V> {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
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
    pub fn join<F>(&self, key: K, load: impl FnOnce() -> F) -> (Role, impl Future<Output = Result<V, FlightAborted>> + Send + 'static)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(landing) = running.get(&key) {
            return (Role::Joined, landing.clone());
        }
        let (landed, landing) = oneshot::channel();
        let landing = landing.map(|value| value.map_err(|_| FlightAborted)).boxed().shared();
        running.insert(key.clone(), landing.clone());
        drop(running);
        let departure = Departure { running: Arc::clone(&self.running), key };
        let load = load();
        self.tasks.spawn("flight", async move {
            let value = load.await;
            drop(departure);
            let _ = landed.send(value);
        });
        (Role::Leader, landing)
    }
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
