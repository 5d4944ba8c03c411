//! What the bucket did not take down when it was to be recorded: tried again until it does.
//!
//! Clients are served meanwhile, and what a restart loses is fetched from upstream again. Without a
//! bucket nothing waits here: a disk that is full does not take it later either.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::origin::OriginKey;
use super::{Cache, Origin};
use crate::oci::{Digest, Tag};
use crate::storage::{RecordKey, StorageError};

/// Most that waits; what comes beyond it is not recorded.
const MAX_WAITING: usize = 10_000;
/// Between two rounds. The bucket's circuit keeps a failing one cheap.
const PAUSE: Duration = Duration::from_secs(1);

/// What is to be recorded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Unrecorded {
    /// A manifest, with its links, while it is in memory.
    Manifest(Digest),
    /// Upstream's word that it has a blob.
    Word(Digest),
    /// What a tag points to, while it is in memory.
    Tag(Tag),
}

/// What waits.
#[derive(Default)]
pub(super) struct Behind {
    waiting: Mutex<HashMap<(OriginKey, Unrecorded), Arc<Origin>>>,
    came: Notify,
}

impl Behind {
    fn take(&self) -> Vec<((OriginKey, Unrecorded), Arc<Origin>)> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).drain().collect()
    }

    fn add(&self, origin: &Arc<Origin>, what: Unrecorded) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < MAX_WAITING {
            waiting.insert((origin.key(), what), Arc::clone(origin));
            self.came.notify_one();
        }
    }
}

impl Cache {
    /// Has something recorded once the bucket takes it.
    pub(super) fn record_later(&self, origin: &Arc<Origin>, what: Unrecorded) {
        if self.is_shared() {
            self.behind.add(origin, what);
        }
    }

    /// Records, for as long as it runs, what could not be recorded when it was to be.
    pub(super) async fn record_behind(self) {
        loop {
            self.behind.came.notified().await;
            tokio::time::sleep(PAUSE).await;
            let mut waiting = self.behind.take().into_iter();
            for ((_, what), origin) in waiting.by_ref() {
                if self.record_now(&origin, &what).await.is_err() {
                    self.behind.add(&origin, what);
                    break;
                }
            }
            waiting.for_each(|((_, what), origin)| self.behind.add(&origin, what));
        }
    }

    async fn record_now(&self, origin: &Arc<Origin>, what: &Unrecorded) -> Result<(), StorageError> {
        match what {
            Unrecorded::Manifest(digest) => self.record_known_manifest(origin, digest).await,
            Unrecorded::Word(digest) => {
                let size_bytes = self.memory.links.get(&(origin.key(), *digest)).flatten();
                self.record_word(origin, *digest, size_bytes).await
            }
            Unrecorded::Tag(tag) => {
                // Does the bucket answer?
                self.store.records.read_versioned(&RecordKey::tag(&origin.repository, tag)).await?;
                self.record_known_tag(origin, tag).await;
                Ok(())
            }
        }
    }
}
