//! When manifests were last pulled: written behind, and seldom, for whoever retires what nobody pulls.
//!
//! A record of its own, which says nothing without the manifest's: one that is written late cannot
//! bring back an image that was deleted. With a bucket the records of the manifest and its repository are
//! looked for as well: another replica may have removed them while this one serves the image from memory.

use std::sync::Arc;

use super::{Cache, Origin};
use crate::oci::Digest;
use crate::storage::{PulledRecord, RecordKey, StorageError};

/// Such records written at a time. What finds no place is noted with its next use.
pub(super) const CONCURRENT_WRITES: usize = 32;

impl Cache {
    /// Notes that a manifest is served, unless that was written down a while ago.
    pub(super) fn note_pull(&self, origin: &Origin, digest: Digest, now_seconds: u64) {
        let key = (origin.key(), digest);
        let interval = self.limits.pulled_interval.as_secs();
        if self.memory.pulled.get(&key).is_some_and(|noted_at| now_seconds.saturating_sub(noted_at) < interval) {
            return;
        }
        let Ok(place) = Arc::clone(&self.pull_writes).try_acquire_owned() else { return };
        self.memory.pulled.insert(key.clone(), now_seconds);
        let (cache, record_key) = (self.clone(), RecordKey::pulled(&origin.repository, &digest));
        let origin = origin.clone();
        self.tasks.spawn_to_end("record a pull", async move {
            let noted = async {
                cache.store.records.write(&record_key, &PulledRecord { last_pulled_at: now_seconds }).await?;
                cache.record_if_retired(&origin, &digest).await
            };
            if let Err(error) = noted.await {
                origin.metrics.all().storage_failed(error.operation());
                tracing::debug!(%error, "a pull was not written down; the next one will be");
                cache.memory.pulled.invalidate(&key);
            }
            drop(place);
        });
    }

    /// Records a manifest again, with its links, that is in memory and in no bucket's records any more; or its
    /// repository, if only that is missing.
    async fn record_if_retired(&self, origin: &Origin, digest: &Digest) -> Result<(), StorageError> {
        if !self.is_shared() {
            return Ok(());
        }
        match self.store.records.read(&RecordKey::manifest(&origin.repository, digest)).await? {
            Some(_) => self.record_repository(origin).await,
            None => self.record_known_manifest(origin, digest).await,
        }
    }
}
