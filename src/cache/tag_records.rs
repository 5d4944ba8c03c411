//! Tags in the store: read, believed for a while, and written only over what was seen.
//!
//! On disk this process alone writes them, so what is in memory is right. A bucket is written by other
//! replicas too. There, what is in memory is believed for `limits.view_ttl`, then compared with the
//! bucket; while the bucket does not answer it stays in force. A tag that upstream has moved is written
//! only over the record that was there before upstream was asked: a replica whose answer took long
//! cannot turn back what another one has written meanwhile. That upstream confirmed a tag is a record
//! of its own, which counts only with the digest it names, and needs no such care.
//!
//! All of this is about tags of upstreams, which may be a little late. A tag that is pushed here has to be
//! read from the store each time.

use std::sync::Arc;
use std::time::Duration;

use moka::Entry;
use moka::ops::compute::{CompResult, Op};

use super::tags::{Demand, TagEntry};
use super::{Cache, Origin, OriginTag};
use crate::oci::{Digest, Tag};
use crate::storage::{Conflict, Expected, IfChanged, RecordKey, StorageError, TagRecord, ValidatedRecord, Version};

/// Of what is believed for a while, the part after which it is compared behind a request, so that
/// tags in use keep nobody waiting.
const COMPARED_AHEAD: u32 = 2;

/// How long a tag waits for its manifest, which was kept for the bucket before it, until it is compared once more.
const SENT_WITHIN: Duration = Duration::from_secs(30);

/// What is done where another replica has written in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnConflict {
    /// Upstream is asked once more, behind.
    AskAgain,
    /// The next request will see to it.
    Forget,
}

/// How a tag in memory and its record are related.
#[derive(Clone, Debug)]
pub(super) enum TagOrigin {
    /// It was read, or has been written.
    Stored(Version),
    /// Upstream, or the replica that asked it, has said so. The record is written over `over`, which
    /// was in its place before; `None` where that was not seen, or does not matter.
    Said {
        /// What was seen.
        over: Option<Expected>,
    },
}

impl TagOrigin {
    /// What a writer that has seen this may write over.
    pub(super) fn place(&self) -> Option<Expected> {
        match self {
            Self::Stored(version) => Some(Expected::Version(version.clone())),
            Self::Said { over } => over.clone(),
        }
    }
}

/// What the store says of a tag.
enum StoredTag {
    /// This.
    Entry(TagEntry),
    /// There is none that came through this source, but what may be written over.
    Absent(Expected),
    /// It is as it was.
    Unchanged,
    /// It did not answer.
    Unknown,
}

impl Cache {
    /// Whether other replicas write to the store too.
    pub(super) fn is_shared(&self) -> bool {
        self.store.bucket.is_some()
    }

    /// A tag from memory or the store, if it was made through this origin's source.
    pub(super) async fn tag_entry(&self, origin: &Arc<Origin>, tag: &Tag) -> Option<TagEntry> {
        let key = (origin.key(), tag.clone());
        let Some(entry) = self.memory.tags.get(&key) else {
            return match self.stored_tag(origin, tag, None).await {
                StoredTag::Entry(entry) => Some(self.memory.tags.entry(key).or_insert(entry).into_value()),
                StoredTag::Absent(place) => {
                    self.memory.places.insert(key, place);
                    None
                }
                StoredTag::Unchanged | StoredTag::Unknown => None,
            };
        };
        if !self.is_shared() {
            return Some(entry);
        }
        let age = self.clock.now().duration_since(entry.seen_at).ok();
        let is_believed = age.is_some_and(|age| age < self.limits.view_ttl);
        if is_believed && age.is_some_and(|age| age < self.limits.view_ttl / COMPARED_AHEAD) {
            return Some(entry);
        }
        let (cache, asking, asked, known) = (self.clone(), Arc::clone(origin), tag.clone(), entry.clone());
        let (_, landing) = self.tag_reads.join(key.clone(), || async move { cache.compared(&asking, &asked, known).await });
        if is_believed {
            return Some(entry);
        }
        match tokio::time::timeout(self.limits.revalidate_wait, landing).await {
            Ok(Ok(counts)) => counts,
            // The next ones do not wait for a bucket that hangs.
            Ok(Err(_)) | Err(_) => self.replace(&key, &entry, Some(TagEntry { seen_at: self.clock.now(), ..entry.clone() })),
        }
    }

    /// A tag in memory, compared with the store: the one that counts, which is in memory then.
    pub(super) async fn compared(&self, origin: &Arc<Origin>, tag: &Tag, known: TagEntry) -> Option<TagEntry> {
        let seen_at = self.clock.now();
        let version = if let TagOrigin::Stored(version) = &known.origin { Some(version) } else { None };
        let mut is_open = false;
        let counts = match (self.stored_tag(origin, tag, version).await, &known.origin) {
            (StoredTag::Unknown, TagOrigin::Said { .. }) => {
                self.unrecorded.add(origin, tag);
                Some(TagEntry { seen_at, ..known.clone() })
            }
            (StoredTag::Unchanged | StoredTag::Unknown, _) => Some(TagEntry { seen_at, ..known.clone() }),
            (StoredTag::Entry(stored), _) if stored.digest == known.digest => {
                Some(TagEntry { validated_at: stored.validated_at.max(known.validated_at), ..stored })
            }
            // What was to be written could not be, and nobody else has written since.
            (StoredTag::Entry(stored), TagOrigin::Said { over: Some(over) }) if stored.origin.place().as_ref() == Some(over) => {
                self.record_again(origin, tag, known.clone(), over.clone());
                Some(TagEntry { seen_at, ..known.clone() })
            }
            // Nobody saw what was there when upstream was asked; the word that was asked for later counts.
            (StoredTag::Entry(stored), TagOrigin::Said { over: None })
                if known.validated_at > stored.validated_at
                    && let Some(place) = stored.origin.place() =>
            {
                self.record_again(origin, tag, known.clone(), place);
                Some(TagEntry { seen_at, ..known.clone() })
            }
            (StoredTag::Absent(place), TagOrigin::Said { .. }) => {
                self.record_again(origin, tag, known.clone(), place);
                Some(TagEntry { seen_at, ..known.clone() })
            }
            // Asked for in one second, either may be the later one: what is written stands, and upstream is asked again.
            (StoredTag::Entry(stored), TagOrigin::Said { over: None }) if known.validated_at == stored.validated_at => {
                is_open = true;
                Some(stored)
            }
            (StoredTag::Entry(stored), _) => Some(stored),
            // Another replica has retired it.
            (StoredTag::Absent(_), TagOrigin::Stored(_)) => None,
        };
        let counts = self.replace(&(origin.key(), tag.clone()), &known, counts);
        if is_open {
            self.ask_again_behind(origin, tag);
        }
        counts
    }

    /// The tag that counts before upstream is asked about it, with what upstream has told other replicas.
    /// A bucket that takes long is not waited for: what is known then is older, and nothing is written if
    /// that has changed.
    pub(super) async fn before_asking(&self, origin: &Arc<Origin>, tag: &Tag, known: &TagEntry) -> TagEntry {
        if !self.is_shared() {
            return known.clone();
        }
        let look = async {
            let Some(counts) = self.compared(origin, tag, known.clone()).await else {
                return TagEntry { origin: TagOrigin::Said { over: Some(Expected::Absent) }, ..known.clone() };
            };
            let validated = self.validated(origin, tag, &counts.digest).await.filter(|told| told.validated_at > counts.validated_at);
            let Some(told) = validated else { return counts };
            let told = TagEntry { validated_at: told.validated_at, gone_since: told.upstream_gone_since, failed: None, ..counts.clone() };
            self.replace(&(origin.key(), tag.clone()), &counts, Some(told)).unwrap_or(counts)
        };
        tokio::time::timeout(self.limits.revalidate_wait / 2, look).await.unwrap_or_else(|_| known.clone())
    }

    /// Puts what counts in the place of what was compared, unless more has been said meanwhile.
    fn replace(&self, key: &OriginTag, known: &TagEntry, counts: Option<TagEntry>) -> Option<TagEntry> {
        let is_newer = |current: &TagEntry| current.digest != known.digest || current.validated_at != known.validated_at;
        let done = self.memory.tags.entry_by_ref(key).and_compute_with(|current| match (current.map(Entry::into_value), &counts) {
            (Some(current), _) if is_newer(&current) => Op::Nop,
            (_, Some(counts)) => Op::Put(counts.clone()),
            (_, None) => Op::Remove,
        });
        match done {
            CompResult::Unchanged(current) => Some(current.into_value()),
            CompResult::Inserted(_) | CompResult::ReplacedWith(_) | CompResult::Removed(_) | CompResult::StillNone(_) => counts,
        }
    }

    /// What the store says of a tag, of which it was known to say `known`.
    async fn stored_tag(&self, origin: &Origin, tag: &Tag, known: Option<&Version>) -> StoredTag {
        let (seen_at, key) = (self.clock.now(), RecordKey::tag(&origin.repository, tag));
        let read = match known {
            None => self.store.records.read_versioned(&key).await,
            Some(known) => match self.store.records.read_if_changed(&key, known).await {
                Ok(IfChanged::Unchanged) => return StoredTag::Unchanged,
                Ok(IfChanged::Changed(record, version)) => Ok(Some((record, version))),
                Ok(IfChanged::Gone) => Ok(None),
                Err(error) => Err(error),
            },
        };
        let (record, version) = match read {
            Ok(Some(found)) => found,
            Ok(None) => return StoredTag::Absent(Expected::Absent),
            Err(error) => {
                self.or_miss::<()>(origin, Err(error));
                return StoredTag::Unknown;
            }
        };
        if *record.source != *origin.source {
            return StoredTag::Absent(Expected::Version(version));
        }
        let validated = self.validated(origin, tag, &record.digest).await;
        StoredTag::Entry(TagEntry {
            digest: record.digest,
            validated_at: validated.as_ref().map_or(record.updated_at, |validated| validated.validated_at),
            gone_since: validated.and_then(|validated| validated.upstream_gone_since),
            failed: None,
            seen_at,
            // On disk nothing is compared.
            origin: if self.is_shared() { TagOrigin::Stored(version) } else { TagOrigin::Said { over: None } },
        })
    }

    /// When upstream last confirmed that a tag points to `digest`, as far as the store knows.
    async fn validated(&self, origin: &Origin, tag: &Tag, digest: &Digest) -> Option<ValidatedRecord> {
        let validated = self.store.records.read(&RecordKey::validated(&origin.repository, tag)).await;
        self.or_miss(origin, validated).filter(|validated| validated.digest == *digest)
    }

    /// What was last seen in a tag's place, before upstream is asked for it. What was seen longer ago is
    /// as good: if it has changed since, nothing is written. `None` if it is not known.
    pub(super) async fn tag_place(&self, origin: &Origin, tag: &Tag) -> Option<Expected> {
        if !self.is_shared() {
            return None;
        }
        let key = (origin.key(), tag.clone());
        if let Some(entry) = self.memory.tags.get(&key) {
            return entry.origin.place();
        }
        if let Some(place) = self.memory.places.get(&key) {
            return Some(place);
        }
        match self.stored_tag(origin, tag, None).await {
            StoredTag::Entry(entry) => entry.origin.place(),
            StoredTag::Absent(place) => Some(place),
            StoredTag::Unchanged | StoredTag::Unknown => None,
        }
    }

    /// Points a tag at a digest that upstream named when it was asked at `asked_at`, and records it behind, over what
    /// was in its `place` before upstream was asked.
    pub(super) fn set_tag(&self, origin: &Arc<Origin>, tag: &Tag, digest: Digest, asked_at: u64, place: Option<Expected>) {
        self.move_tag(origin, tag, TagEntry::said(digest, asked_at, self.clock.now(), place), OnConflict::AskAgain);
    }

    /// The same, and what is done where another replica was faster.
    pub(super) fn move_tag(&self, origin: &Arc<Origin>, tag: &Tag, entry: TagEntry, on_conflict: OnConflict) {
        self.memory.tags.insert((origin.key(), tag.clone()), entry.clone());
        self.record_behind(origin, tag, entry, on_conflict);
    }

    /// Points a tag that is not cached at a digest that a mirror named. It is as old as one that is due to
    /// be checked; what the upstream says meanwhile stands.
    pub(super) fn set_unknown_tag(&self, origin: &Arc<Origin>, tag: &Tag, digest: Digest, asked_at: u64, place: Option<Expected>) {
        let due = asked_at.saturating_sub(origin.freshness.window(tag.as_str()).as_secs());
        let said = TagEntry::said(digest, due, self.clock.now(), place);
        if self.memory.tags.entry((origin.key(), tag.clone())).or_insert(said.clone()).is_fresh() {
            self.record_behind(origin, tag, said, OnConflict::Forget);
        }
    }

    /// Writes a tag that is in memory.
    fn record_behind(&self, origin: &Arc<Origin>, tag: &Tag, entry: TagEntry, on_conflict: OnConflict) {
        self.forget_refusal(origin, tag);
        self.memory.heads.invalidate(&(origin.key(), tag.clone()));
        let (cache, origin, tag) = (self.clone(), Arc::clone(origin), tag.clone());
        self.tasks.spawn_to_end("record a tag", async move {
            if !cache.is_shared() {
                cache.record_tag(&origin, &tag, entry).await;
            } else if let Some(place) = entry.origin.place() {
                cache.record_shared_tag(&origin, &tag, entry, place, on_conflict).await;
            } else {
                // The bucket did not say what is there. The tag is compared, and written, once it does.
                cache.unrecorded.add(&origin, &tag);
            }
        });
    }

    /// Writes what could not be written, now that the bucket answers: behind, each tag once, and a few at a time.
    fn record_again(&self, origin: &Arc<Origin>, tag: &Tag, entry: TagEntry, place: Expected) {
        let (cache, origin, tag) = (self.clone(), Arc::clone(origin), tag.clone());
        self.unrecorded.write((origin.key(), tag.clone()), || async move {
            if let Err(error) = cache.record_known_manifest(&origin, &entry.digest).await {
                cache.not_recorded(&origin, &error);
            }
            if cache.manifest_sent(&origin, &entry.digest).await {
                cache.record_shared_tag(&origin, &tag, entry, place, OnConflict::Forget).await;
            } else {
                cache.unrecorded.add(&origin, &tag);
            }
        });
    }

    /// Waits for a manifest that was kept while the bucket was away: who sees a tag there is to find what it points to.
    async fn manifest_sent(&self, origin: &Origin, digest: &Digest) -> bool {
        let Some(bucket) = &self.store.bucket else { return true };
        let record = RecordKey::manifest(&origin.repository, digest);
        tokio::time::timeout(SENT_WITHIN, bucket.sent(digest, &record)).await.is_ok()
    }

    /// Writes a tag. Two such tasks may run at once, in any order: whoever ends last sees that the tag
    /// is another one by now, and writes that.
    async fn record_tag(&self, origin: &Origin, tag: &Tag, mut entry: TagEntry) {
        loop {
            if let Err(error) = self.store.records.write(&RecordKey::tag(&origin.repository, tag), &tag_record(origin, &entry)).await {
                return self.not_recorded(origin, &error);
            }
            self.record_validation(origin, tag, entry.as_validated()).await;
            match self.memory.tags.get(&(origin.key(), tag.clone())) {
                Some(current) if current.digest != entry.digest => entry = current,
                Some(_) | None => return,
            }
        }
    }

    /// Writes a tag where other replicas may have written meanwhile. Then theirs stands.
    async fn record_shared_tag(&self, origin: &Arc<Origin>, tag: &Tag, entry: TagEntry, place: Expected, on_conflict: OnConflict) {
        let key = (origin.key(), tag.clone());
        match self.write_tag(origin, tag, &entry, place).await {
            Ok(Ok(version)) => {
                self.memory.places.invalidate(&key);
                self.replace(&key, &entry, Some(TagEntry { origin: TagOrigin::Stored(version), ..entry.clone() }));
                self.record_validation(origin, tag, entry.as_validated()).await;
            }
            Ok(Err(Conflict)) => {
                tracing::info!(repository = %origin.repository, %tag, "another replica has moved a tag meanwhile; its word stands");
                self.memory.places.invalidate(&key);
                self.memory.tags.invalidate(&key);
                if on_conflict == OnConflict::AskAgain {
                    self.ask_again_behind(origin, tag);
                }
            }
            Err(error) => {
                self.not_recorded(origin, &error);
                self.unrecorded.add(origin, tag);
            }
        }
    }

    /// Writes over what was seen. That another replica has written the same digest is no conflict.
    async fn write_tag(
        &self,
        origin: &Origin,
        tag: &Tag,
        entry: &TagEntry,
        place: Expected,
    ) -> Result<Result<Version, Conflict>, StorageError> {
        let (records, key) = (&self.store.records, RecordKey::tag(&origin.repository, tag));
        let record = tag_record(origin, entry);
        if let Ok(version) = records.write_if(&key, &record, place).await? {
            return Ok(Ok(version));
        }
        let found = records.read_versioned(&key).await?;
        let same = found.filter(|(found, _)| found.digest == record.digest && found.source == record.source);
        Ok(same.map(|(_, version)| version).ok_or(Conflict))
    }

    /// Has upstream asked once more, for nobody in particular, now that another replica's word is known.
    fn ask_again_behind(&self, origin: &Arc<Origin>, tag: &Tag) {
        let (cache, origin, tag) = (self.clone(), Arc::clone(origin), tag.clone());
        self.tasks.spawn("ask again for a tag", async move {
            let Some(entry) = cache.tag_entry(&origin, &tag).await else { return };
            let (checking, asking, asked) = (cache.clone(), Arc::clone(&origin), tag.clone());
            let (_, landing) = cache.revalidations.join((origin.key(), tag), || async move {
                checking.ask_upstream(&asking, &asked, entry, Demand::Now, OnConflict::Forget).await
            });
            let _ = landing.await;
        });
    }

    /// Writes a tag's last validation: a hint, which counts only for the digest that it names.
    pub(super) async fn record_validation(&self, origin: &Origin, tag: &Tag, record: ValidatedRecord) {
        if let Err(error) = self.store.records.write_behind(&RecordKey::validated(&origin.repository, tag), &record).await {
            self.not_recorded(origin, &error);
        }
    }
}

/// Dated when upstream was asked: a record that is written late, and read before its validation is written, must not make
/// the tag fresher than it is.
fn tag_record(origin: &Origin, entry: &TagEntry) -> TagRecord {
    TagRecord { digest: entry.digest, source: origin.source.to_string(), updated_at: entry.validated_at }
}
