//! Waiting for a bucket that did not answer just before.
//!
//! While it is held off every call fails at once: a run that took each for a failure of what it is about
//! would be through within a second, having seen nothing. Nothing is tried again here that the bucket was
//! asked and could not do: that is the client's, and what is left of it is counted.

use std::future::Future;
use std::time::Duration;

use super::UpkeepParts;
use crate::storage::StorageError;

/// Calls in a row that the bucket does not answer, after which it is taken to be gone: some 90 seconds.
const MAX_CALLS: u32 = 8;
/// Wait after the first of them, unless the bucket is back before; it doubles.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest such wait.
const MAX_WAIT: Duration = Duration::from_secs(30);

impl UpkeepParts {
    /// Makes a call of the store, and again for as long as its bucket does not answer, within reason.
    ///
    /// # Errors
    /// Those of the call. One that says that the bucket is not there is the end of a run: it would say so of everything.
    pub(super) async fn patiently<T, F>(&self, call: impl Fn() -> F) -> Result<T, StorageError>
    where
        F: Future<Output = Result<T, StorageError>>,
    {
        let Some(bucket) = &self.store.bucket else { return call().await };
        let mut wait = FIRST_WAIT;
        for _ in 1..MAX_CALLS {
            let mut recoveries = bucket.recoveries();
            match call().await {
                Err(error) if error.is_unavailable() => drop(tokio::time::timeout(wait, recoveries.next()).await),
                done => return done,
            }
            wait = (wait * 2).min(MAX_WAIT);
        }
        call().await
    }
}
