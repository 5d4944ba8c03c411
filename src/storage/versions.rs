//! Records that are written only over what their writer has seen.
//!
//! A bucket decides that itself, by the preconditions of its PUT. Where it has none, or it is not
//! known yet, and on local disk, a lock of this process does, around a comparison of the content:
//! enough where one process holds the store, and between replicas as much as such a bucket can do
//! ([`Preconditions`] says which).

use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path as Key;
use object_store::{GetOptions, GetResult, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, MutexGuard};

use super::bucket::Unavailable;
use super::records::{RecordKey, Records};
use super::{Preconditions, StorageError, Support};
use crate::oci::Digest;

/// Locks of one process: as many records may be written under a comparison at one time.
const LOCKS: usize = 256;

/// One state of a record. Two states with the same content count as one.
#[derive(Clone, Debug)]
pub struct Version {
    /// The store's name for it.
    e_tag: Option<Arc<str>>,
    /// What it holds. The store's name does not do on local disk, where it is made of an inode and
    /// a time that are used again within milliseconds.
    content: Digest,
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.content == other.content
    }
}

impl Eq for Version {}

impl Version {
    fn new(e_tag: Option<String>, bytes: &[u8]) -> Self {
        Self { e_tag: e_tag.map(Arc::from), content: Digest::of(bytes) }
    }
}

/// What a writer has seen in a record's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing, or nothing of its form.
    Absent,
    /// This.
    Version(Version),
}

/// Somebody else wrote in between: read again, and decide anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict;

/// A record beside what was known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IfChanged<R> {
    /// As it was.
    Unchanged,
    /// Another one now.
    Changed(R, Version),
    /// It is not there any more, or not of its form.
    Gone,
}

/// The locks under which records are compared and written.
#[derive(Debug)]
pub(super) struct Locks([Mutex<()>; LOCKS]);

impl Default for Locks {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(())))
    }
}

impl Locks {
    /// The lock of a key; other keys may share it. `None` if it could not be taken, which is never.
    pub(super) async fn of(&self, key: &Key) -> Option<MutexGuard<'_, ()>> {
        let mut hasher = DefaultHasher::new();
        key.as_ref().hash(&mut hasher);
        let slot = usize::try_from(hasher.finish() % LOCKS as u64).unwrap_or(0);
        Some(self.0.get(slot)?.lock().await)
    }
}

impl Records {
    /// What the store's conditional writes are worth. Changes once they have been tried.
    #[must_use]
    pub fn preconditions(&self) -> Preconditions {
        self.preconditions.get()
    }

    /// Waits until that is known, for as long as it takes.
    pub async fn preconditions_tried(&self) {
        self.preconditions.tried().await;
    }

    /// Reads a record and which version of it that is. `None` if it is not there, or not of its
    /// form (which is logged); both may be written over with [`Expected::Absent`].
    ///
    /// # Errors
    /// When the store cannot say.
    pub async fn read_versioned<R: DeserializeOwned>(&self, key: &RecordKey<R>) -> Result<Option<(R, Version)>, StorageError> {
        let Some(read) = self.bytes(key.key(), GetOptions::default()).await? else { return Ok(None) };
        Ok(self.parse(key, &read.bytes).map(|record| (record, read.version())))
    }

    /// Reads a record again, unless it is still `known`: then a bucket answers without sending it.
    ///
    /// # Errors
    /// When the store cannot say.
    pub async fn read_if_changed<R: DeserializeOwned>(&self, key: &RecordKey<R>, known: &Version) -> Result<IfChanged<R>, StorageError> {
        // On local disk an unchanged name does not mean an unchanged record.
        let e_tag = known.e_tag.as_deref().filter(|_| self.is_bucket).map(str::to_owned);
        let read = self.bytes(key.key(), GetOptions { if_none_match: e_tag, ..GetOptions::default() }).await;
        let read = match read {
            Err(error) if error.is_not_modified() => return Ok(IfChanged::Unchanged),
            Err(error) => return Err(error),
            Ok(None) => return Ok(IfChanged::Gone),
            Ok(Some(read)) if read.is(known) => return Ok(IfChanged::Unchanged),
            Ok(Some(read)) => read,
        };
        Ok(self.parse(key, &read.bytes).map_or(IfChanged::Gone, |record| IfChanged::Changed(record, read.version())))
    }

    /// Writes a record if its place is as `expected`. Two writers of the same content are both told
    /// that they wrote it: an answer may be lost after the write.
    ///
    /// # Errors
    /// When the store cannot. It is not known then whether the record was written.
    pub async fn write_if<R: Serialize + DeserializeOwned>(
        &self,
        key: &RecordKey<R>,
        record: &R,
        expected: Expected,
    ) -> Result<Result<Version, Conflict>, StorageError> {
        let json = Self::json(key, record)?;
        let mut written = self.compare_and_write(key.key(), &json, &expected).await?;
        if written.is_err() {
            let found = self.bytes(key.key(), GetOptions::default()).await?;
            written = match found {
                Some(found) if *found.bytes == json => Ok(found.version()),
                // What is not of its form counts as absent, or it could never be mended.
                Some(found) if expected == Expected::Absent && self.parse(key, &found.bytes).is_none() => {
                    self.compare_and_write(key.key(), &json, &Expected::Version(found.version())).await?
                }
                Some(_) | None => Err(Conflict),
            };
        }
        Ok(written)
    }

    /// Removes a record, whatever it is. One that is not there is as good as removed.
    ///
    /// # Errors
    /// When the store cannot.
    pub async fn delete<R>(&self, key: &RecordKey<R>) -> Result<(), StorageError> {
        let _lock = self.write_lock(key.key()).await;
        self.delete_key(key.key()).await
    }

    /// Removes a record if it is still `seen`. No bucket can do that in one step, so a write of
    /// another replica in between may be lost: only for what can be made again.
    ///
    /// # Errors
    /// When the store cannot.
    pub async fn delete_if<R>(&self, key: &RecordKey<R>, seen: &Version) -> Result<Result<(), Conflict>, StorageError> {
        let _lock = self.locks.of(key.key()).await;
        match self.bytes(key.key(), GetOptions::default()).await? {
            None => Ok(Ok(())),
            Some(found) if found.is(seen) => self.delete_key(key.key()).await.map(Ok),
            Some(_) => Ok(Err(Conflict)),
        }
    }

    /// The lock that a plain write takes, where writes under a comparison rest on it.
    pub(super) async fn write_lock(&self, key: &Key) -> Option<MutexGuard<'_, ()>> {
        let preconditions = self.preconditions.get();
        if preconditions.create == Support::Honoured && preconditions.update == Support::Honoured {
            return None;
        }
        self.locks.of(key).await
    }

    async fn compare_and_write(&self, key: &Key, json: &[u8], expected: &Expected) -> Result<Result<Version, Conflict>, StorageError> {
        let preconditions = self.preconditions.get();
        let (mode, support) = match expected {
            Expected::Absent => (Some(PutMode::Create), preconditions.create),
            Expected::Version(version) => (version.update_mode(preconditions), preconditions.update),
        };
        let mode = mode.filter(|_| support != Support::Ignored);
        // Writers of one process never race in the bucket: that saves them conflicts.
        let _lock = self.locks.of(key).await;
        // What is kept for the bucket is newer than what is there.
        let is_kept = self.later.as_ref().is_some_and(|later| later.get(key).is_some());
        let is_decided_there = support == Support::Honoured && mode.is_some() && !is_kept;
        if !is_decided_there && self.expected_is_not_there(key, expected).await? {
            return Ok(Err(Conflict));
        }
        self.put(key, json, mode.unwrap_or(PutMode::Overwrite)).await
    }

    async fn expected_is_not_there(&self, key: &Key, expected: &Expected) -> Result<bool, StorageError> {
        let found = self.bytes(key, GetOptions::default()).await?;
        Ok(match expected {
            Expected::Absent => found.is_some(),
            Expected::Version(version) => !found.is_some_and(|found| found.is(version)),
        })
    }

    async fn put(&self, key: &Key, json: &[u8], mode: PutMode) -> Result<Result<Version, Conflict>, StorageError> {
        let put = self.store.put_opts(key, PutPayload::from(json.to_vec()), PutOptions::from(mode));
        match self.past_later(key, put).await {
            Ok(put) => Ok(Ok(Version::new(put.e_tag, json))),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(Err(Conflict)),
            Err(error) => Err(StorageError::object(key, error)),
        }
    }

    async fn delete_key(&self, key: &Key) -> Result<(), StorageError> {
        match self.past_later(key, self.store.delete(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(StorageError::object(key, error)),
        }
    }

    /// A write, or a deletion, that does not wait for what is kept under its key, and replaces it.
    pub(super) async fn past_later<T>(&self, key: &Key, written: impl Future<Output = object_store::Result<T>>) -> object_store::Result<T> {
        match &self.later {
            Some(later) => later.overtaken_by(key, written).await,
            None => written.await,
        }
    }

    /// What is in a record's place.
    pub(super) async fn bytes(&self, key: &Key, options: GetOptions) -> Result<Option<RecordBytes>, StorageError> {
        if let Some(bytes) = self.later.as_ref().and_then(|later| later.get(key)) {
            return Ok(Some(RecordBytes { bytes, e_tag: None }));
        }
        let Some(found) = self.found(key, options.clone()).await? else { return Ok(None) };
        let read = match RecordBytes::read(found).await {
            // Its body broke off, and before the client asked for the rest it was deleted or written anew.
            Err(error) if Unavailable::of(&error).is_none() => {
                let Some(found) = self.found(key, options).await? else { return Ok(None) };
                RecordBytes::read(found).await
            }
            read => read,
        };
        read.map(Some).map_err(|error| StorageError::object(key, error))
    }

    async fn found(&self, key: &Key, options: GetOptions) -> Result<Option<GetResult>, StorageError> {
        match self.store.get_opts(key, options).await {
            Ok(found) => Ok(Some(found)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(StorageError::object(key, error)),
        }
    }
}

/// What is in a record's place. Hashed only for those who want its version.
pub(super) struct RecordBytes {
    pub(super) bytes: Bytes,
    e_tag: Option<String>,
}

impl RecordBytes {
    async fn read(found: GetResult) -> object_store::Result<Self> {
        let e_tag = found.meta.e_tag.clone();
        Ok(Self { bytes: found.bytes().await?, e_tag })
    }

    pub(super) fn version(&self) -> Version {
        Version::new(self.e_tag.clone(), &self.bytes)
    }

    fn is(&self, version: &Version) -> bool {
        Digest::of(&self.bytes) == version.content
    }
}

impl Version {
    /// How a bucket is told to write over this version alone; none if it gave no name for it.
    fn update_mode(&self, preconditions: Preconditions) -> Option<PutMode> {
        let e_tag = preconditions.if_match(self.e_tag.as_deref()?);
        Some(PutMode::Update(UpdateVersion { e_tag: Some(e_tag), version: None }))
    }
}
