//! The words of sources go when their blobs have gone: by eviction, which does not look for them, or
//! because nobody ever asked for more than whether they are there.
//!
//! A word is no answer to whether its blob is wanted: one that is pulled every day has a word of long
//! ago. So an old word stays for as long as its blob does. One that is lost costs a HEAD upstream, and the
//! next fill writes it again: before it commits the blob, so that who sees no blob and then finds the word
//! as it was removes the word of none that has come meanwhile.

use std::time::SystemTime;

use futures::{StreamExt, TryStreamExt};

use super::{Cache, PAUSE, Retired};
use crate::clock::unix_seconds;
use crate::storage::{Examined, ListedWord, StorageError};

/// Words that are looked at together.
const BATCH: usize = 64;
/// Of these at one time.
const CONCURRENT: usize = 8;

impl Cache {
    /// Removes the words of sources, last written before `since`, whose blobs the store does not have. One
    /// that cannot be read or removed is left for the next time.
    pub(super) async fn retire_words(&self, since: SystemTime, retired: &mut Retired) -> Result<(), StorageError> {
        let mut batches = self.store.words_without_blobs(since).try_chunks(BATCH);
        while let Some(batch) = batches.next().await {
            let words = batch.map_err(|broken_off| broken_off.1)?;
            let removals = futures::stream::iter(words).map(|word| async move { (self.remove_word(&word, since).await, word) });
            let mut removals = removals.buffer_unordered(CONCURRENT);
            while let Some((removed, word)) = removals.next().await {
                match removed {
                    Ok(true) => {
                        retired.words += 1;
                        self.upkeep_metrics.retired("word", 1);
                    }
                    Ok(false) => {}
                    Err(error) if error.is_unavailable() => return Err(error),
                    Err(error) => tracing::warn!(key = %word.key, %error, "a source's word is left for the next retirement"),
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Removes a word, unless it was written since, or its blob is there by now.
    async fn remove_word(&self, word: &ListedWord, since: SystemTime) -> Result<bool, StorageError> {
        let records = &self.store.records;
        let version = match records.examine(&word.key).await? {
            Examined::Record(record, _) if record.vouched_at > unix_seconds(since) => return Ok(false),
            Examined::Record(_, version) | Examined::Unreadable { version, .. } => version,
            Examined::Absent => return Ok(false),
        };
        if self.store.truth().has(&word.digest).await? {
            return Ok(false);
        }
        Ok(records.delete_if(&word.key, &version).await?.is_ok())
    }
}
