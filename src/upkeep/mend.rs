//! The records of a store, read once: which blobs are hosted, and what points nowhere.
//!
//! A record that somebody is just writing may point at what comes a moment later, so nothing young
//! is held against anybody. What is removed is removed only as it was seen.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;

use super::report::{Finding, Outcome, Wrong};
use super::scrub::Scrub;
use crate::oci::{Digest, RepositoryName};
use crate::storage::{
    Examined, Inventory, ManifestRecord, RecordKey, RepositoryContents, RepositoryKind, RepositoryRecord, StorageError, TagRecord, Version,
};

/// How old a record is before it counts as wrong.
const MEND_AFTER: Duration = Duration::from_secs(60 * 60);

/// Repositories that are named for a blob.
const MAX_NAMED: usize = 5;

/// A record under scrutiny.
struct Suspect<'a> {
    wrong: Wrong,
    repository: &'a RepositoryName,
    is_hosted: bool,
    modified: SystemTime,
    digest: Option<Digest>,
    tag: Option<String>,
    detail: String,
}

impl Scrub {
    /// Goes through the records of all repositories. One that cannot be read is told, and the others are gone on with.
    pub(super) async fn mend_records(&mut self) -> Result<(), StorageError> {
        let mut walk = self.parts.store.records.walk();
        while let Some(contents) = walk.next().await? {
            if let Err(error) = self.repository(&contents).await {
                if error.is_unavailable() {
                    return Err(error);
                }
                // Not known to be cached: nothing that it may hold is touched.
                self.hosted.is_incomplete = true;
                self.report.not_mended += 1;
                tracing::error!(repository = %contents.name, %error, "the records of a repository cannot be read");
                let repository = Some(contents.name.to_string());
                let (wrong, outcome) = (Wrong::UnreadableRecord, Outcome::NotMended);
                self.teller.found(Finding { wrong, outcome, digest: None, repository, tag: None, detail: error.to_string() }).await;
            }
            self.report.repositories += 1;
            self.teller.progress(&self.report);
        }
        Ok(())
    }

    /// Some of the repositories that refer to a blob, for whoever has to push it again. Only keys are
    /// listed.
    pub(super) async fn referring_to(&self, digest: &Digest) -> Result<Vec<String>, StorageError> {
        let (mut names, mut walk) = (Vec::new(), self.parts.store.records.walk());
        while let Some(contents) = walk.next().await? {
            if refers_to(&contents, digest) {
                names.push(contents.name.to_string());
                if names.len() >= MAX_NAMED {
                    break;
                }
            }
        }
        Ok(names)
    }

    /// Whether a hosted repository refers to a blob by now.
    pub(super) async fn became_hosted(&mut self, digest: &Digest) -> Result<bool, StorageError> {
        let mut walk = self.parts.store.records.walk();
        while let Some(contents) = walk.next().await? {
            if refers_to(&contents, digest) && self.is_hosted(&contents).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn repository(&mut self, contents: &RepositoryContents) -> Result<(), StorageError> {
        let is_hosted = self.is_hosted(contents).await?;
        if is_hosted {
            self.hosted.prefixes.extend(contents.links.iter().map(|link| link.item.prefix()));
        }
        let mut manifests = HashSet::new();
        for listed in &contents.manifests {
            if self.manifest(&contents.name, is_hosted, &listed.item, listed.modified).await? {
                manifests.insert(listed.item);
            }
        }
        for listed in &contents.tags {
            let key = RecordKey::tag(&contents.name, &listed.item);
            let mut suspect = Suspect {
                wrong: Wrong::TagWithoutManifest,
                repository: &contents.name,
                is_hosted,
                modified: listed.modified,
                digest: None,
                tag: Some(listed.item.to_string()),
                detail: "the repository has no record of the manifest".to_owned(),
            };
            match self.read(&key, &mut suspect).await? {
                Some((TagRecord { digest, .. }, version)) if !manifests.contains(&digest) => {
                    // It may have come since the repository was listed.
                    let manifest = self.examine(&RecordKey::manifest(&contents.name, &digest)).await?;
                    if manifest == Examined::Absent {
                        suspect.digest = Some(digest);
                        self.mend(&key, &version, suspect).await?;
                    }
                }
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    /// Whether somebody pushed what is in the repository. In doubt its manifests tell: those of a
    /// cache name their source.
    async fn is_hosted(&mut self, contents: &RepositoryContents) -> Result<bool, StorageError> {
        let key = RecordKey::repository(&contents.name);
        let examined = self.examine(&key).await?;
        self.report.records += 1;
        if let Examined::Record(RepositoryRecord { kind, .. }, _) = examined {
            return Ok(kind == RepositoryKind::Hosted);
        }
        let mut is_hosted = false;
        for manifest in &contents.manifests {
            let record = self.examine(&RecordKey::manifest(&contents.name, &manifest.item)).await?;
            is_hosted |= matches!(record, Examined::Record(ManifestRecord { source, .. }, _) if source.is_empty());
        }
        if let Examined::Unreadable { detail, version } = examined {
            let wrong = Wrong::UnreadableRecord;
            // Each is written whole, so what cannot be read is not on its way.
            let modified = SystemTime::UNIX_EPOCH;
            let suspect = Suspect {
                wrong,
                repository: &contents.name,
                is_hosted,
                modified,
                digest: None,
                tag: None,
                detail: format!("the repository's own record: {detail}"),
            };
            self.mend(&key, &version, suspect).await?;
        }
        Ok(is_hosted)
    }

    /// Looks at a manifest's record. True if tags may point to it.
    async fn manifest(
        &mut self,
        repository: &RepositoryName,
        is_hosted: bool,
        digest: &Digest,
        modified: SystemTime,
    ) -> Result<bool, StorageError> {
        let key = RecordKey::manifest(repository, digest);
        let (wrong, detail) = (Wrong::ManifestWithoutBlob, "the manifest itself is not there".to_owned());
        let mut suspect = Suspect { wrong, repository, is_hosted, modified, digest: Some(*digest), tag: None, detail };
        if is_hosted {
            self.hosted.prefixes.insert(digest.prefix());
        }
        let Some((record, version)) = self.read(&key, &mut suspect).await? else { return Ok(false) };
        if !self.has(digest).await? {
            return Ok(!self.mend(&key, &version, suspect).await?);
        }
        if is_hosted {
            self.hosted.prefixes.extend(record.references.iter().map(|(digest, _)| digest.prefix()));
            for (reference, _) in &record.references {
                if !self.has(reference).await? {
                    let detail = format!("it refers to {reference}, which is not there");
                    self.mend(&key, &version, Suspect { detail, ..suspect }).await?;
                    break;
                }
            }
        }
        Ok(true)
    }

    /// Whether a blob is where the truth is, or on its way there from the disk.
    async fn has(&self, digest: &Digest) -> Result<bool, StorageError> {
        let truth = self.parts.truth();
        Ok(self.parts.patiently(|| truth.has(digest)).await?
            || (matches!(truth, Inventory::Bucket(_)) && self.parts.disk().has(digest).await?))
    }

    async fn examine<R: DeserializeOwned>(&self, key: &RecordKey<R>) -> Result<Examined<R>, StorageError> {
        self.parts.patiently(|| self.parts.store.records.examine(key)).await
    }

    /// Reads a record; one that is not of its form is mended.
    async fn read<R: DeserializeOwned>(
        &mut self,
        key: &RecordKey<R>,
        suspect: &mut Suspect<'_>,
    ) -> Result<Option<(R, Version)>, StorageError> {
        self.report.records += 1;
        match self.examine(key).await? {
            Examined::Record(record, version) => Ok(Some((record, version))),
            Examined::Absent => Ok(None),
            Examined::Unreadable { detail, version } => {
                let (digest, tag) = (suspect.digest, suspect.tag.clone());
                let unreadable = Suspect { wrong: Wrong::UnreadableRecord, detail, digest, tag, ..*suspect };
                self.mend(key, &version, unreadable).await?;
                Ok(None)
            }
        }
    }

    /// Removes a record of a cache that is wrong, and reports one of a hosted repository. True if it
    /// was removed.
    async fn mend<R>(&mut self, key: &RecordKey<R>, version: &Version, suspect: Suspect<'_>) -> Result<bool, StorageError> {
        let age = self.parts.clock.now().duration_since(suspect.modified).unwrap_or_default();
        if age < MEND_AFTER {
            return Ok(false);
        }
        let (repository, words) = (suspect.repository, suspect.wrong.as_words());
        let outcome = if suspect.is_hosted {
            self.report.damaged_hosted_records += 1;
            self.parts.metrics.found_rotten(true);
            tracing::error!(%repository, digest = ?suspect.digest, tag = suspect.tag, detail = suspect.detail, "HOSTED content is damaged: {words}");
            Outcome::Hosted
        } else if self.parts.store.records.delete_if(key, version).await?.is_ok() {
            self.report.mended_records += 1;
            tracing::warn!(%repository, digest = ?suspect.digest, tag = suspect.tag, detail = suspect.detail, "a cached record was removed: {words}");
            Outcome::Removed
        } else {
            // Somebody has written it anew.
            return Ok(false);
        };
        let Suspect { wrong, digest, tag, detail, .. } = suspect;
        self.teller.found(Finding { wrong, outcome, digest, repository: Some(repository.to_string()), tag, detail }).await;
        Ok(outcome == Outcome::Removed)
    }
}

fn refers_to(contents: &RepositoryContents, digest: &Digest) -> bool {
    contents.links.iter().chain(&contents.manifests).any(|listed| listed.item == *digest)
}
