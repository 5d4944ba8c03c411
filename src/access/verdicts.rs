//! Whether a password is right, asked of bcrypt once and remembered for a while.
//!
//! bcrypt takes tens of milliseconds of a processor and clients send their password with every
//! request. A check runs to its end in a task of its own, whoever leaves meanwhile; all who ask the
//! same share it. What is remembered is a keyed hash, never the password.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use moka::sync::Cache;
use secrecy::{ExposeSecret, SecretSlice};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use uuid::Uuid;

/// Most verdicts that are remembered; the least used go first.
const MAX_VERDICTS: u64 = 10_000;
/// Most checks that wait for their turn; a flood of wrong passwords is refused past it.
const MAX_WAITING: usize = 256;

/// What bcrypt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Right,
    Wrong,
    /// The check did not run: a broken hash, or the end of the process.
    Failed,
}

/// Too many checks wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy;

type Key = [u8; 32];

/// The verdicts of one set of users.
pub(super) struct Verdicts {
    /// Random, new with each set of users: verdicts of the old ones cannot be found any more.
    secret: [Uuid; 2],
    verdicts: Cache<Key, Shared<BoxFuture<'static, Verdict>>>,
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    checks: Arc<AtomicU64>,
}

impl Verdicts {
    pub(super) fn new(remembered_for: Duration, max_at_once: usize) -> Self {
        Self {
            secret: [Uuid::new_v4(), Uuid::new_v4()],
            verdicts: Cache::builder().max_capacity(MAX_VERDICTS).time_to_live(remembered_for).build(),
            turns: Arc::new(Semaphore::new(max_at_once)),
            waiting: Arc::new(Semaphore::new(max_at_once.saturating_add(MAX_WAITING))),
            checks: Arc::new(AtomicU64::new(0)),
        }
    }

    /// How often bcrypt was asked.
    pub(super) fn checks(&self) -> u64 {
        self.checks.load(Ordering::Relaxed)
    }

    /// Whether `password` is that of `hash`, which belongs to `name`.
    pub(super) async fn verdict(&self, name: &str, password: &[u8], hash: &Arc<str>) -> Result<Verdict, Busy> {
        let key = self.key(name, password);
        let verdict = match self.verdicts.get(&key) {
            Some(verdict) => verdict,
            None => {
                let place = Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| Busy)?;
                // One of those who come here at once starts the check; the others' places are given back.
                self.verdicts.get_with(key, || {
                    let check =
                        check(SecretSlice::from(password.to_vec()), Arc::clone(hash), Arc::clone(&self.turns), Arc::clone(&self.checks));
                    let check = tokio::spawn(async move {
                        let _place = place;
                        check.await
                    });
                    async move { check.await.unwrap_or(Verdict::Failed) }.boxed().shared()
                })
            }
        };
        let verdict = verdict.await;
        if verdict == Verdict::Failed {
            self.verdicts.invalidate(&key);
        }
        Ok(verdict)
    }

    /// SHA-256 keyed by a prefix. No one ever sees a digest, so there is none to extend.
    fn key(&self, name: &str, password: &[u8]) -> Key {
        let [first, second] = &self.secret;
        let mut hasher = Sha256::new();
        hasher.update(first.as_bytes());
        hasher.update(second.as_bytes());
        hasher.update(name.len().to_be_bytes());
        hasher.update(name.as_bytes());
        hasher.update(password);
        hasher.finalize().into()
    }
}

async fn check(password: SecretSlice<u8>, hash: Arc<str>, turns: Arc<Semaphore>, checks: Arc<AtomicU64>) -> Verdict {
    let Ok(turn) = turns.acquire_owned().await else { return Verdict::Failed };
    let check = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        checks.fetch_add(1, Ordering::Relaxed);
        match bcrypt::verify(password.expose_secret(), &hash) {
            Ok(true) => Verdict::Right,
            Ok(false) => Verdict::Wrong,
            Err(_) => Verdict::Failed,
        }
    });
    check.await.unwrap_or(Verdict::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(password: &str) -> Arc<str> {
        bcrypt::hash(password, 4).unwrap().into()
    }

    #[tokio::test]
    async fn same_credentials_at_once_are_checked_once() {
        let verdicts = Verdicts::new(Duration::from_secs(60), 4);
        let hash = hash("right");
        let asked = futures::future::join_all((0..100).map(|_| verdicts.verdict("a", b"right", &hash))).await;
        assert!(asked.iter().all(|verdict| *verdict == Ok(Verdict::Right)));
        assert_eq!(verdicts.checks(), 1);
    }

    #[tokio::test]
    async fn wrong_passwords_are_remembered_too_and_names_are_kept_apart() {
        let verdicts = Verdicts::new(Duration::from_secs(60), 4);
        let hash = hash("right");
        for _ in 0..3 {
            assert_eq!(verdicts.verdict("a", b"wrong", &hash).await, Ok(Verdict::Wrong));
        }
        assert_eq!(verdicts.checks(), 1);
        assert_eq!(verdicts.verdict("aw", b"rong", &hash).await, Ok(Verdict::Wrong));
        assert_eq!(verdicts.checks(), 2);
    }

    #[tokio::test]
    async fn verdict_is_forgotten_after_its_time() {
        let verdicts = Verdicts::new(Duration::ZERO, 4);
        let hash = hash("right");
        verdicts.verdict("a", b"right", &hash).await.unwrap();
        verdicts.verdict("a", b"right", &hash).await.unwrap();
        assert_eq!(verdicts.checks(), 2);
    }

    #[tokio::test]
    async fn check_goes_on_when_the_one_who_asked_has_left() {
        let verdicts = Verdicts::new(Duration::from_secs(60), 4);
        let hash = hash("right");
        let left = verdicts.verdict("a", b"right", &hash).now_or_never();
        assert_eq!(left, None);
        assert_eq!(verdicts.verdict("a", b"right", &hash).await, Ok(Verdict::Right));
        assert_eq!(verdicts.checks(), 1);
    }

    #[tokio::test]
    async fn flood_of_passwords_is_refused_and_known_ones_are_served() {
        let verdicts = Verdicts::new(Duration::from_secs(60), 1);
        let hash = hash("right");
        verdicts.verdict("a", b"right", &hash).await.unwrap();
        let flood: Vec<String> = (0..=MAX_WAITING + 1).map(|number| number.to_string()).collect();
        let started: Vec<_> = flood.iter().map(|password| verdicts.verdict("a", password.as_bytes(), &hash).now_or_never()).collect();
        assert_eq!(started.iter().filter(|verdict| **verdict == Some(Err(Busy))).count(), 1);
        assert_eq!(verdicts.verdict("a", b"right", &hash).await, Ok(Verdict::Right));
    }
}
