//! Lists of everything in a bucket, for those who go through it for hours.
//!
//! The client sends a request for a page again, a few times within seconds. What is left after that, a
//! bucket that is restarted or a page that breaks off in its middle, would cost all that was gone through
//! so far. So the list is taken up behind the last key that came, after a pause.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path as Key;
use object_store::{ObjectMeta, ObjectStore, Result};

use super::bucket::may_pass;

/// Failures in a row, without a key between them, that end a list: some 90 seconds of pauses.
const MAX_FAILURES: u32 = 8;
/// Pause after the first of them; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest such pause.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// A list, as far as it has come.
struct WholeList {
    store: Arc<dyn ObjectStore>,
    prefix: Key,
    objects: BoxStream<'static, Result<ObjectMeta>>,
    last: Option<Key>,
    /// Behind the last key there is all that has not come.
    is_sorted: bool,
    failures: u32,
}

/// All objects below `prefix`. It ends with an error only after [`MAX_FAILURES`], or one that does not pass.
pub(super) fn whole_list(store: Arc<dyn ObjectStore>, prefix: Key) -> BoxStream<'static, Result<ObjectMeta>> {
    let objects = store.list(Some(&prefix));
    let list = WholeList { store, prefix, objects, last: None, is_sorted: true, failures: 0 };
    stream::try_unfold(list, |mut list| async move { Ok(list.next().await?.map(|object| (object, list))) }).boxed()
}

impl WholeList {
    async fn next(&mut self) -> Result<Option<ObjectMeta>> {
        loop {
            match self.objects.try_next().await {
                Ok(None) => return Ok(None),
                Ok(Some(object)) => {
                    self.failures = 0;
                    self.is_sorted &= self.last.as_ref().is_none_or(|last| *last < object.location);
                    self.last = Some(object.location.clone());
                    return Ok(Some(object));
                }
                Err(error) => {
                    self.failures += 1;
                    if !may_pass(&error) || !self.is_sorted || self.failures >= MAX_FAILURES {
                        return Err(error);
                    }
                    tracing::debug!(prefix = %self.prefix, %error, "a list broke off; it is taken up behind its last key");
                }
            }
            tokio::time::sleep(pause_after(self.failures)).await;
            self.objects = match &self.last {
                Some(last) => self.store.list_with_offset(Some(&self.prefix), last),
                None => self.store.list(Some(&self.prefix)),
            };
        }
    }
}

fn pause_after(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(MAX_PAUSE)
}
