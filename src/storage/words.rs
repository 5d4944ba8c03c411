//! The words of sources whose blobs are gone.
//!
//! A word outlives its blob when that is evicted, and has none when it was only asked for. On disk a look
//! at a blob costs next to nothing. A bucket charges for each, and most words that are old are about blobs
//! that it has: there both are listed, and the two lists gone through side by side, since their keys are in
//! the same order. A list shows what was; whoever removes a word looks at its blob once more.

use std::sync::Arc;
use std::time::SystemTime;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;

use super::records::{RecordKey, Records, SourceBlobRecord};
use super::whole_list::whole_list;
use super::{Inventory, StorageError, Store, StoredBlob, blocking, layout};
use crate::oci::Digest;

/// A source's word, as a list shows it.
#[derive(Clone, Debug)]
pub struct ListedWord {
    /// Where it is.
    pub key: RecordKey<SourceBlobRecord>,
    /// The blob it is about.
    pub digest: Digest,
    /// When it was last written.
    pub modified: SystemTime,
}

/// Which of the words that come have blobs.
struct Beside {
    place: Inventory,
    /// The blobs of a bucket from where the last word was, for the words of one source.
    listed: Option<(Option<String>, ListedBlobs)>,
}

struct ListedBlobs {
    blobs: BoxStream<'static, Result<StoredBlob, StorageError>>,
    /// The last one that came; `None` before the first and behind the last.
    at: Option<Digest>,
}

impl Store {
    /// Where the truth is: the bucket, if there is one.
    #[must_use]
    pub fn truth(&self) -> Inventory {
        self.bucket.clone().map_or_else(|| Inventory::Disk(self.blobs.clone()), Inventory::Bucket)
    }

    /// The words last written before `since` whose blobs the store did not have when it was listed.
    pub fn words_without_blobs(&self, since: SystemTime) -> BoxStream<'static, Result<ListedWord, StorageError>> {
        let beside = Beside { place: self.truth(), listed: None };
        let old = self.records.words().try_filter(move |word| std::future::ready(word.modified <= since));
        let without = futures::stream::try_unfold((old, beside), |(mut old, mut beside)| async move {
            while let Some(word) = old.try_next().await? {
                if !beside.has(&word).await? {
                    return Ok(Some((word, (old, beside))));
                }
            }
            Ok::<_, StorageError>(None)
        });
        without.boxed()
    }
}

impl Records {
    /// The words of all sources, in a bucket in the order of their keys.
    fn words(&self) -> BoxStream<'static, Result<ListedWord, StorageError>> {
        let prefix = layout::sources();
        let objects = if self.is_bucket { whole_list(Arc::clone(&self.store), prefix.clone()) } else { self.store.list(Some(&prefix)) };
        let listed = objects.map_err(move |error| StorageError::object(&prefix, error));
        let word = async |object: ObjectMeta| {
            let digest = layout::digest_of(&object.location);
            let modified = object.last_modified.into();
            Ok(digest.map(|digest| ListedWord { key: RecordKey::at(object.location), digest, modified }))
        };
        listed.try_filter_map(word).boxed()
    }
}

impl Beside {
    async fn has(&mut self, word: &ListedWord) -> Result<bool, StorageError> {
        let bucket = match &self.place {
            Inventory::Bucket(bucket) => bucket,
            Inventory::Disk(blobs) => {
                // Very many in a row, of which nobody waits for one: not on the thread that serves.
                let (blobs, digest) = (blobs.clone(), word.digest);
                return blocking(move || blobs.open_unused(&digest).map(|blob| blob.is_some())).await;
            }
        };
        let source = layout::source_of(word.key.key());
        let listed = match self.listed.take() {
            Some((of, listed)) if of == source => listed,
            Some(_) | None => ListedBlobs { blobs: bucket.list(), at: None },
        };
        let (_, listed) = self.listed.insert((source, listed));
        while listed.at.is_none_or(|at| at < word.digest) {
            listed.at = listed.blobs.try_next().await?.map(|blob| blob.digest);
            if listed.at.is_none() {
                return Ok(false);
            }
        }
        Ok(listed.at == Some(word.digest))
    }
}
