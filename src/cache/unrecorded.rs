//! Tags that could not be compared with the bucket, or written to it, while it did not answer. They
//! are once it does: a pull is not needed for that.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};

use super::flight::Flights;
use super::tag_records::TagOrigin;
use super::{Cache, Origin, OriginTag};
use crate::oci::Tag;
use crate::tasks::Tasks;

/// Most tags that wait. What is beyond is compared when it is next asked for.
const MAX_TAGS: usize = 100_000;
/// Tags that are written at a time: a bucket that is just back is not to be run over.
const CONCURRENT_WRITES: usize = 8;
/// First pause before the bucket is asked again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest such pause, in which nobody else found that it answers.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The tags that wait, and those that are being written.
pub(super) struct Unrecorded {
    tags: Mutex<HashMap<OriginTag, Arc<Origin>>>,
    added: Notify,
    writes: Flights<OriginTag, ()>,
    places: Arc<Semaphore>,
}

impl Unrecorded {
    pub(super) fn new(tasks: &Tasks) -> Self {
        let places = Arc::new(Semaphore::new(CONCURRENT_WRITES));
        Self { tags: Mutex::default(), added: Notify::new(), writes: Flights::new(tasks.clone()), places }
    }

    /// Has a tag written behind, unless it is being written.
    pub(super) fn write<F>(&self, key: OriginTag, write: impl FnOnce() -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let places = Arc::clone(&self.places);
        let (_, landing) = self.writes.join(key, || {
            let write = write();
            async move {
                let _place = places.acquire().await;
                write.await;
            }
        });
        drop(landing);
    }

    /// Notes a tag that is in memory and may not be in the bucket.
    pub(super) fn add(&self, origin: &Arc<Origin>, tag: &Tag) {
        let mut tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        if tags.len() < MAX_TAGS {
            tags.insert((origin.key(), tag.clone()), Arc::clone(origin));
            drop(tags);
            self.added.notify_one();
        }
    }

    fn is_empty(&self) -> bool {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn take(&self) -> HashMap<OriginTag, Arc<Origin>> {
        std::mem::take(&mut *self.tags.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Cache {
    /// Compares, for as long as it runs, the tags that wait for the bucket.
    pub(super) async fn record_unrecorded(self) {
        let Some(bucket) = self.store.bucket.clone() else { return };
        let (mut pause, mut recoveries) = (FIRST_PAUSE, bucket.recoveries());
        loop {
            self.unrecorded.added.notified().await;
            let _ = tokio::time::timeout(pause, recoveries.next()).await;
            recoveries.forget_past();
            for ((_, tag), origin) in self.unrecorded.take() {
                let known = self.memory.tags.get(&(origin.key(), tag.clone()));
                // One that cannot be compared now is noted again.
                if let Some(known) = known.filter(|known| matches!(known.origin, TagOrigin::Said { .. })) {
                    self.compared(&origin, &tag, known).await;
                }
            }
            pause = if self.unrecorded.is_empty() { FIRST_PAUSE } else { (pause * 2).min(MAX_PAUSE) };
        }
    }
}
