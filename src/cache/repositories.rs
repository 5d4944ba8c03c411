//! What repositories are: their records, in memory and in the store.
//!
//! In a bucket another replica may have changed or retired one, so there what is in memory is believed
//! for `limits.view_ttl` where it decides about access, and not at all where it would save a write.

use std::sync::Arc;
use std::time::SystemTime;

use super::{Cache, Origin};
use crate::oci::RepositoryName;
use crate::storage::{RecordKey, RepositoryKind, RepositoryRecord, StorageError};

/// A record in memory, and when it was read or written.
#[derive(Clone)]
pub(super) struct KnownRepository {
    record: RepositoryRecord,
    seen_at: SystemTime,
}

impl Cache {
    /// What a repository is, if anything was ever stored under its name.
    ///
    /// # Errors
    /// When the store cannot say.
    pub async fn repository(&self, name: &RepositoryName) -> Result<Option<RepositoryRecord>, StorageError> {
        let known = self.memory.repositories.get(name);
        let seen_at = self.clock.now();
        let is_believed = |known: &KnownRepository| {
            !self.is_shared() || seen_at.duration_since(known.seen_at).is_ok_and(|age| age < self.limits.view_ttl)
        };
        if let Some(known) = known.as_ref().filter(|known| is_believed(known)) {
            return Ok(Some(known.record.clone()));
        }
        match self.store.records.read(&RecordKey::repository(name)).await {
            Ok(Some(record)) => Ok(Some(self.remember_read(name, KnownRepository { record, seen_at }))),
            Ok(None) => {
                self.memory.repositories.invalidate(name);
                Ok(None)
            }
            // A bucket that fails changes nothing.
            Err(error) => known.map(|known| Some(known.record)).ok_or(error),
        }
    }

    /// What was written while it was read is newer.
    fn remember_read(&self, name: &RepositoryName, read: KnownRepository) -> RepositoryRecord {
        if self.is_shared() {
            self.memory.repositories.insert(name.clone(), read.clone());
            return read.record;
        }
        self.memory.repositories.entry_by_ref(name).or_insert(read).into_value().record
    }

    /// Writes what the repository is, unless the store says so. After a manifest: whoever retires the
    /// repository meanwhile looks for manifests once more behind that.
    pub(super) async fn record_repository(&self, origin: &Origin) -> Result<(), StorageError> {
        let known = if self.is_shared() {
            self.store.records.read(&RecordKey::repository(&origin.repository)).await?
        } else {
            self.repository(&origin.repository).await?
        };
        let is_known = |record: &RepositoryRecord| *record.source == *origin.source && record.needs_user == origin.needs_user;
        // A rule that covers its name makes no cache of a repository that is pushed to; and where there is no rule, what
        // is served is what an earlier look at the record said.
        let stays = |record: &RepositoryRecord| record.kind == RepositoryKind::Hosted || origin.upstream.is_none() || is_known(record);
        if known.as_ref().is_some_and(stays) {
            return Ok(());
        }
        let record = RepositoryRecord {
            kind: RepositoryKind::PullThrough,
            name: origin.repository.to_string(),
            source: origin.source.to_string(),
            upstream_repository: origin.remote.to_string(),
            needs_user: origin.needs_user,
            created_at: self.now_seconds(),
        };
        self.store.records.write_behind(&RecordKey::repository(&origin.repository), &record).await?;
        self.memory.repositories.insert(origin.repository.clone(), KnownRepository { record, seen_at: self.clock.now() });
        Ok(())
    }

    /// Has a repository's record say what its rule says now, which holds on when the rule is gone. A repository gets
    /// its record with its first manifest; where that failed, it gets one once a manifest is served that was cached
    /// (`was_cached`). A pull does not wait for a bucket to say it.
    pub async fn refresh_repository(&self, origin: &Arc<Origin>, was_cached: bool) {
        let known = self.memory.repositories.get(&origin.repository);
        match known {
            Some(known) if !is_outdated(&known.record, origin) => {}
            None | Some(_) if self.is_shared() => {
                let (cache, origin) = (self.clone(), Arc::clone(origin));
                self.tasks.spawn("look at a repository", async move { cache.refresh_record(&origin, was_cached).await });
            }
            None | Some(_) => self.refresh_record(origin, was_cached).await,
        }
    }

    async fn refresh_record(&self, origin: &Origin, was_cached: bool) {
        let refreshed = match self.repository(&origin.repository).await {
            Ok(Some(record)) if !is_outdated(&record, origin) => Ok(()),
            Ok(None) if !was_cached => Ok(()),
            Ok(Some(_) | None) => self.record_repository(origin).await,
            Err(error) => {
                self.or_miss::<()>(origin, Err(error));
                Ok(())
            }
        };
        if let Err(error) = refreshed {
            self.not_recorded(origin, &error);
        }
    }
}

fn is_outdated(record: &RepositoryRecord, origin: &Origin) -> bool {
    *record.source == *origin.source && record.needs_user != origin.needs_user
}
