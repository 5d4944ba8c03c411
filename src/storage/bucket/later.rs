//! Small objects that the bucket did not take, kept in memory until it does.
//!
//! Only for what can be made again: what is kept here is lost with the process. Whoever must know
//! that an object is in the bucket writes it himself.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path as Key;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutPayload, Result};
use tokio::sync::Notify;

use super::failure;
use super::guard::Guard;
use crate::telemetry::metrics::BucketResult;

/// Most that is kept, in bytes and in objects.
const MAX_KEPT: (usize, usize) = (64 * 1024 * 1024, 100_000);
/// Objects sent at one time.
const CONCURRENT: usize = 8;
/// First pause after the bucket did not take one; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest such pause, in which nobody else found that it answers.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Writes small objects now, or else later.
pub(in crate::storage) struct Later {
    objects: Arc<dyn ObjectStore>,
    guard: Guard,
    kept: Mutex<Kept>,
    /// What is kept is being sent.
    sending: tokio::sync::Mutex<()>,
    added: Notify,
    /// Wakes those who wait until something is kept no more.
    taken: Notify,
}

#[derive(Default)]
struct Kept {
    /// In the order in which they are sent: as they came, but what was not taken goes to the end.
    turns: BTreeMap<u64, Key>,
    next_turn: u64,
    objects: HashMap<Key, Object>,
    bytes: usize,
    /// Keys that are written past what is kept at this moment.
    writers: HashMap<Key, Writers>,
    next_number: u64,
}

/// One that is kept.
struct Object {
    turn: u64,
    /// Order among those who write it.
    number: u64,
    bytes: Bytes,
}

/// Who writes a key at this moment.
#[derive(Default)]
struct Writers {
    count: usize,
    /// The latest of them whose write went through.
    done: u64,
}

/// A write past what is kept. What it took out is put back if it ends without having gone through.
struct Write<'a> {
    later: &'a Later,
    key: &'a Key,
    number: u64,
    taken: Option<Object>,
}

impl Later {
    pub(super) fn new(objects: Arc<dyn ObjectStore>, guard: Guard) -> Self {
        Self { objects, guard, kept: Mutex::default(), sending: tokio::sync::Mutex::default(), added: Notify::new(), taken: Notify::new() }
    }

    /// Writes an object, or keeps it if the bucket does not answer.
    pub(in crate::storage) async fn put(&self, key: &Key, bytes: Bytes) -> Result<()> {
        // Not past an older one that is still on its way.
        if self.replace(key, &bytes) {
            return Ok(());
        }
        let mut write = self.begin(key);
        match self.objects.put(key, PutPayload::from_bytes(bytes.clone())).await {
            Ok(_) => {
                write.is_done();
                Ok(())
            }
            Err(error) if failure::result(&error) == BucketResult::Failed && self.keep(key, write.number, bytes) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes a write or a deletion, after which what is kept under its key is not sent any more.
    pub(in crate::storage) async fn overtaken_by<T>(&self, key: &Key, written: impl Future<Output = Result<T>>) -> Result<T> {
        let mut write = self.begin(key);
        if self.get(key).is_some() {
            // Not while it is on its way: it would come in after this one.
            let _between = self.sending.lock().await;
            write.taken = self.lock().remove(key);
        }
        let written = written.await;
        if matches!(written, Ok(_) | Err(Error::NotFound { .. })) {
            write.is_done();
        }
        written
    }

    /// An object that is kept.
    pub(in crate::storage) fn get(&self, key: &Key) -> Option<Bytes> {
        let kept = self.lock();
        if kept.objects.is_empty() { None } else { kept.objects.get(key).map(|object| object.bytes.clone()) }
    }

    /// Waits until none of these is kept, whatever else is.
    pub(super) async fn sent(&self, keys: &[Key]) {
        loop {
            let taken = self.taken.notified();
            tokio::pin!(taken);
            taken.as_mut().enable();
            if !keys.iter().any(|key| self.lock().objects.contains_key(key)) {
                return;
            }
            taken.await;
        }
    }

    /// Sends what is kept, for as long as it runs.
    pub(super) async fn run(&self) {
        let (mut pause, mut recoveries) = (FIRST_PAUSE, self.guard.recoveries());
        loop {
            recoveries.forget_past();
            let turn = self.sending.lock().await;
            let batch = self.first();
            if batch.is_empty() {
                drop(turn);
                self.added.notified().await;
                continue;
            }
            // All to their end: one of them may be the one that looks whether the bucket is back.
            let sent = futures::future::join_all(batch.into_iter().map(|(key, bytes)| self.send(key, bytes))).await;
            drop(turn);
            self.taken.notify_waiters();
            // One that the bucket never takes keeps nobody behind it waiting.
            if sent.into_iter().any(|sent| sent) {
                pause = FIRST_PAUSE;
            } else {
                let _ = tokio::time::timeout(pause, recoveries.next()).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
        }
    }

    /// False if the bucket did not take it.
    async fn send(&self, key: Key, bytes: Bytes) -> bool {
        match self.objects.put(&key, PutPayload::from_bytes(bytes.clone())).await {
            Ok(_) => {}
            Err(error) if failure::result(&error) == BucketResult::Failed => {
                self.lock().put_off(&key);
                return false;
            }
            Err(error) => tracing::warn!(%key, %error, "the bucket does not take an object that was kept for it"),
        }
        // Unless it was replaced meanwhile.
        let mut kept = self.lock();
        if kept.objects.get(&key).is_some_and(|current| current.bytes.as_ptr() == bytes.as_ptr()) {
            kept.remove(&key);
        }
        true
    }

    fn first(&self) -> Vec<(Key, Bytes)> {
        let kept = self.lock();
        let first = kept.turns.values().filter(|key| !kept.writers.contains_key(*key)).take(CONCURRENT);
        first.filter_map(|key| Some((key.clone(), kept.objects.get(key)?.bytes.clone()))).collect()
    }

    fn replace(&self, key: &Key, bytes: &Bytes) -> bool {
        let mut kept = self.lock();
        if !kept.objects.contains_key(key) {
            return false;
        }
        let number = kept.number();
        kept.insert(key, number, bytes.clone());
        true
    }

    fn begin<'a>(&'a self, key: &'a Key) -> Write<'a> {
        let mut kept = self.lock();
        kept.writers.entry(key.clone()).or_default().count += 1;
        Write { later: self, key, number: kept.number(), taken: None }
    }

    /// Keeps an object unless a later one is kept, or was written. False if too much is kept.
    fn keep(&self, key: &Key, number: u64, bytes: Bytes) -> bool {
        let mut kept = self.lock();
        if kept.has_later(key, number) {
            return true;
        }
        if kept.bytes + bytes.len() > MAX_KEPT.0 || kept.objects.len() >= MAX_KEPT.1 {
            return false;
        }
        kept.insert(key, number, bytes);
        drop(kept);
        self.added.notify_one();
        true
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write<'_> {
    /// It went through: what earlier ones left to be sent is not.
    fn is_done(&mut self) {
        self.taken = None;
        let mut kept = self.later.lock();
        if let Some(writers) = kept.writers.get_mut(self.key) {
            writers.done = writers.done.max(self.number);
        }
        if kept.objects.get(self.key).is_some_and(|object| object.number < self.number) {
            kept.remove(self.key);
        }
    }
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        let mut kept = self.later.lock();
        if let Some(taken) = self.taken.take().filter(|taken| !kept.has_later(self.key, taken.number)) {
            kept.insert(self.key, taken.number, taken.bytes);
        }
        if let Some(writers) = kept.writers.get_mut(self.key) {
            writers.count -= 1;
            if writers.count == 0 {
                kept.writers.remove(self.key);
            }
        }
        let is_kept = kept.objects.contains_key(self.key);
        drop(kept);
        if is_kept {
            self.later.added.notify_one();
        } else {
            self.later.taken.notify_waiters();
        }
    }
}

impl Kept {
    /// One that replaces another takes its turn.
    fn insert(&mut self, key: &Key, number: u64, bytes: Bytes) {
        self.bytes += bytes.len();
        if let Some(object) = self.objects.get_mut(key) {
            self.bytes -= object.bytes.len();
            (object.number, object.bytes) = (number, bytes);
            return;
        }
        let turn = self.last_turn(key);
        self.objects.insert(key.clone(), Object { turn, number, bytes });
    }

    fn remove(&mut self, key: &Key) -> Option<Object> {
        let old = self.objects.remove(key)?;
        self.bytes -= old.bytes.len();
        self.turns.remove(&old.turn);
        Some(old)
    }

    const fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Whether one that began later is kept, or was written.
    fn has_later(&self, key: &Key, number: u64) -> bool {
        let is_kept = self.objects.get(key).is_some_and(|object| object.number > number);
        is_kept || self.writers.get(key).is_some_and(|writers| writers.done > number)
    }

    /// Behind all others, if it is still kept.
    fn put_off(&mut self, key: &Key) {
        let turn = self.next_turn;
        let Some(object) = self.objects.get_mut(key) else { return };
        self.turns.remove(&std::mem::replace(&mut object.turn, turn));
        self.last_turn(key);
    }

    fn last_turn(&mut self, key: &Key) -> u64 {
        let turn = self.next_turn;
        self.turns.insert(turn, key.clone());
        self.next_turn += 1;
        turn
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        let lost = self.lock().objects.len();
        if lost > 0 {
            tracing::warn!(lost, "small objects that the bucket had not taken are lost; they are made again when they are next needed");
        }
    }
}

impl std::fmt::Debug for Later {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Later").field("kept", &self.lock().objects.len()).finish_non_exhaustive()
    }
}
