//! A repository view: all records of one repository, by one list and a read of what has changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectMeta;
use serde::de::DeserializeOwned;

use super::StorageError;
use super::layout::{self, ImageKey};
use super::records::{ManifestRecord, PulledRecord, RecordKey, Records, TagRecord, ValidatedRecord};
use crate::oci::{Digest, RepositoryName, Tag};

/// Records read at a time.
const CONCURRENT_READS: usize = 16;
/// Most records of one repository.
const MAX_RECORDS: usize = 1_000_000;
/// A directory's names for states are times, which are too coarse to tell two writes of one moment
/// apart: what was written so lately is read again.
const UNSETTLED: Duration = Duration::from_secs(2);
/// What a record takes in memory beside what it refers to.
const RECORD_BYTES: usize = 400;
/// What a reference of a manifest takes.
const REFERENCE_BYTES: usize = size_of::<(Digest, u64)>();

/// A record, and the state of it that was read.
#[derive(Clone, Debug)]
struct Seen<R> {
    state: State,
    record: Arc<R>,
}

/// A state of a record, as lists show it. `None` of a list's entry that has to be read anyway.
type State = Option<(Option<String>, SystemTime, u64)>;

/// What a repository holds, as its records said when they were listed.
#[derive(Clone, Debug, Default)]
pub struct RepositoryView {
    manifests: HashMap<Digest, Seen<ManifestRecord>>,
    tags: HashMap<Tag, Seen<TagRecord>>,
    validated: HashMap<Tag, Seen<ValidatedRecord>>,
    pulled: HashMap<Digest, Seen<PulledRecord>>,
    /// Only their keys: what they say is asked for elsewhere, and they are many.
    links: HashMap<Digest, SystemTime>,
}

/// A record that was read, or that is still as it was.
enum Loaded {
    Link(Digest, SystemTime),
    Manifest(Digest, Seen<ManifestRecord>),
    Pulled(Digest, Seen<PulledRecord>),
    Tag(Tag, Seen<TagRecord>),
    Validated(Tag, Seen<ValidatedRecord>),
}

impl Records {
    /// What a repository holds. Of `known`, an earlier view of it, whatever has not changed since is
    /// taken over; the rest is read.
    ///
    /// # Errors
    /// When the store does not list or read it: a view is never told in part.
    pub async fn view(&self, name: &RepositoryName, known: &RepositoryView) -> Result<RepositoryView, StorageError> {
        let mut loads = self
            .listed_images(name)
            .map(|object| async {
                let object = object?;
                let Some(key) = layout::parse_image_key(name, &object.location) else { return Ok(None) };
                self.load(key, object, known).await
            })
            .buffer_unordered(CONCURRENT_READS);
        let (mut view, mut count) = (RepositoryView::default(), 0);
        while let Some(loaded) = loads.try_next().await? {
            count += 1;
            if count > MAX_RECORDS {
                let detail = format!("the repository has more than {MAX_RECORDS} records");
                return Err(StorageError::Corrupt { key: name.to_string(), detail });
            }
            match loaded {
                None => {}
                Some(Loaded::Link(digest, modified)) => drop(view.links.insert(digest, modified)),
                Some(Loaded::Manifest(digest, seen)) => drop(view.manifests.insert(digest, seen)),
                Some(Loaded::Pulled(digest, seen)) => drop(view.pulled.insert(digest, seen)),
                Some(Loaded::Tag(tag, seen)) => drop(view.tags.insert(tag, seen)),
                Some(Loaded::Validated(tag, seen)) => drop(view.validated.insert(tag, seen)),
            }
        }
        Ok(view)
    }

    /// The objects of a repository, without those of the repositories inside it. In a bucket they stand
    /// together, so that is one list from where they begin to where they end.
    fn listed_images(&self, name: &RepositoryName) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        if self.is_bucket {
            let before = layout::before_own_images(name);
            let listed = self.listed(layout::images_of(name), Some(&before));
            let is_own = move |object: &ObjectMeta| object.location.as_ref().starts_with(before.as_ref());
            return listed.try_take_while(move |object| std::future::ready(Ok(is_own(object)))).boxed();
        }
        let (records, name) = (self.clone(), name.clone());
        let kinds = stream::iter(layout::IMAGE_KINDS).map(move |kind| records.listed(layout::image_kind(&name, kind), None));
        kinds.flatten().boxed()
    }

    async fn load(&self, key: ImageKey, object: ObjectMeta, known: &RepositoryView) -> Result<Option<Loaded>, StorageError> {
        let modified = SystemTime::from(object.last_modified);
        Ok(match key {
            ImageKey::Link(digest) => Some(Loaded::Link(digest, modified)),
            ImageKey::Manifest(digest) => self.seen(object, known.manifests.get(&digest)).await?.map(|seen| Loaded::Manifest(digest, seen)),
            ImageKey::Pulled(digest) => self.seen(object, known.pulled.get(&digest)).await?.map(|seen| Loaded::Pulled(digest, seen)),
            ImageKey::Tag(tag) => self.seen(object, known.tags.get(&tag)).await?.map(|seen| Loaded::Tag(tag, seen)),
            ImageKey::Validated(tag) => self.seen(object, known.validated.get(&tag)).await?.map(|seen| Loaded::Validated(tag, seen)),
        })
    }

    /// A record as it was, or read anew. `None` if it is gone by now.
    async fn seen<R: DeserializeOwned>(&self, object: ObjectMeta, known: Option<&Seen<R>>) -> Result<Option<Seen<R>>, StorageError> {
        let state = self.state(&object);
        if let Some(known) = known.filter(|known| known.state.is_some() && known.state == state) {
            return Ok(Some(Seen { state, record: Arc::clone(&known.record) }));
        }
        let record = self.read(&RecordKey::at(object.location)).await?;
        Ok(record.map(|record| Seen { state, record: Arc::new(record) }))
    }

    fn state(&self, object: &ObjectMeta) -> State {
        let modified = SystemTime::from(object.last_modified);
        let is_settled = self.is_bucket || SystemTime::now().duration_since(modified).is_ok_and(|age| age > UNSETTLED);
        is_settled.then(|| (object.e_tag.clone(), modified, object.size))
    }
}

impl RepositoryView {
    /// Its manifests.
    pub fn manifests(&self) -> impl Iterator<Item = (&Digest, &ManifestRecord)> {
        self.manifests.iter().map(|(digest, seen)| (digest, &*seen.record))
    }

    /// One of them.
    #[must_use]
    pub fn manifest(&self, digest: &Digest) -> Option<&ManifestRecord> {
        self.manifests.get(digest).map(|seen| &*seen.record)
    }

    /// Its tags, in no order.
    pub fn tags(&self) -> impl Iterator<Item = (&Tag, &TagRecord)> {
        self.tags.iter().map(|(tag, seen)| (tag, &*seen.record))
    }

    /// One of them.
    #[must_use]
    pub fn tag(&self, tag: &Tag) -> Option<&TagRecord> {
        self.tags.get(tag).map(|seen| &*seen.record)
    }

    /// When and how upstream last confirmed tags; also of tags that are gone.
    pub fn validated(&self) -> impl Iterator<Item = (&Tag, &ValidatedRecord)> {
        self.validated.iter().map(|(tag, seen)| (tag, &*seen.record))
    }

    /// When a manifest was last pulled, in unix seconds, where that is written down.
    #[must_use]
    pub fn pulled_at(&self, digest: &Digest) -> Option<u64> {
        self.pulled.get(digest).map(|seen| seen.record.last_pulled_at)
    }

    /// The manifests of which it is written down when they were pulled; also of those that are gone.
    pub fn pulled(&self) -> impl Iterator<Item = &Digest> {
        self.pulled.keys()
    }

    /// The blobs it is linked to, and when that was written.
    pub fn links(&self) -> impl Iterator<Item = (&Digest, SystemTime)> {
        self.links.iter().map(|(digest, modified)| (digest, *modified))
    }

    /// Whether there is no record at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let hints = self.validated.is_empty() && self.pulled.is_empty();
        hints && self.manifests.is_empty() && self.tags.is_empty() && self.links.is_empty()
    }

    /// About what it takes in memory.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        let records = self.manifests.len() + self.tags.len() + self.validated.len() + self.pulled.len();
        let references: usize = self.manifests.values().map(|seen| seen.record.references.len()).sum();
        records * RECORD_BYTES + references * REFERENCE_BYTES + self.links.len() * (REFERENCE_BYTES + size_of::<SystemTime>())
    }
}
