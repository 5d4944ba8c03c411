//! Tags that could not be compared with the bucket, or written to it, while it did not answer. They
//! are once it does: a pull is not needed for that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::tag_records::TagOrigin;
use super::{Cache, Origin, OriginTag};
use crate::oci::Tag;

/// Most tags that wait. What is beyond is compared when it is next asked for.
const MAX_TAGS: usize = 100_000;
/// First pause before the bucket is asked again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest such pause, in which nobody else found that it answers.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The tags that wait.
#[derive(Default)]
pub(super) struct Unrecorded {
    tags: Mutex<HashMap<OriginTag, Arc<Origin>>>,
    added: Notify,
}

impl Unrecorded {
    /// Notes a tag that is in memory and may not be in the bucket.
    pub(super) fn add(&self, origin: &Arc<Origin>, tag: &Tag) {
        let mut tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        if tags.len() < MAX_TAGS {
            tags.insert((origin.key(), tag.clone()), Arc::clone(origin));
            drop(tags);
            self.added.notify_one();
        }
    }

    fn take(&self) -> HashMap<OriginTag, Arc<Origin>> {
        std::mem::take(&mut *self.tags.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Cache {
    /// Compares, for as long as it runs, the tags that wait for the bucket.
    pub(super) async fn record_unrecorded(self) {
        let Some(bucket) = self.store.bucket.clone() else { return };
        let mut pause = FIRST_PAUSE;
        loop {
            self.unrecorded.added.notified().await;
            let _ = tokio::time::timeout(pause, bucket.answers_again()).await;
            let tags = self.unrecorded.take();
            pause = if tags.is_empty() { FIRST_PAUSE } else { (pause * 2).min(MAX_PAUSE) };
            for ((_, tag), origin) in tags {
                let known = self.memory.tags.get(&(origin.key(), tag.clone()));
                // One that cannot be compared now is noted again.
                if let Some(known) = known.filter(|known| matches!(known.origin, TagOrigin::Said { .. })) {
                    self.compared(&origin, &tag, known).await;
                }
            }
        }
    }
}
