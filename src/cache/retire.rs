//! Retirement: records of cached content that nobody has pulled for long are removed, or what is known
//! of upstreams would grow for ever.
//!
//! What was pulled lately stays, with everything it refers to (an index keeps the images of other
//! platforms) and everything that refers to it (signatures). The rest goes: tags first, so that no tag
//! points nowhere, then manifests, links to blobs that no manifest needs any more, hints, and last the
//! repository, when nothing is left. Bytes are left to eviction and garbage collection. Words of sources
//! are about blobs, and go behind all repositories, where their blobs have gone (`words`).
//!
//! No lock is needed against pulls, nor among replicas that do this at the same time. Whatever is
//! removed can be fetched again: a pull that meets a half-removed image is a miss, goes upstream and
//! writes everything anew. What a pull writes while it is looked at is seen before it would be removed,
//! save for an instant; lost in that instant is a record, of an image that nobody wanted for
//! `limits.retire_after`. A repository's record alone has to be there while there is a manifest, and
//! [`Cache::retire_repository`] says how it is.

mod words;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use futures::TryStreamExt;

use super::origin::OriginKey;
use super::{Cache, CacheError};
use crate::clock::unix_seconds;
use crate::oci::{Digest, RepositoryName, Tag};
use crate::storage::{Expected, Listed, RecordKey, RepositoryContents, RepositoryKind, RepositoryView, StorageError};
use crate::tasks::jittered;

/// Before the first look, so that a server that starts has other things to do.
const FIRST_AFTER: Duration = Duration::from_secs(15 * 60);
/// Longest time between two looks.
const EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// Pause between two repositories that are looked at, each of which costs at least a list.
const PAUSE: Duration = Duration::from_millis(50);

/// How many records were removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retired {
    /// Tags.
    pub tags: u64,
    /// Manifests.
    pub manifests: u64,
    /// Links to blobs.
    pub links: u64,
    /// Repositories of which nothing was left.
    pub repositories: u64,
    /// Words of sources whose blobs have gone.
    pub words: u64,
}

/// What of a repository nobody has wanted since a moment.
#[derive(Debug, Default, PartialEq, Eq)]
struct Unwanted {
    tags: Vec<Tag>,
    hints: Vec<Tag>,
    manifests: Vec<Digest>,
    links: Vec<Digest>,
    pulled: Vec<Digest>,
}

impl Cache {
    /// Retires what nobody pulls, now and then, until shutdown.
    pub fn retire_behind(&self) {
        let (cache, after) = (self.clone(), self.limits.retire_after);
        if after.is_zero() {
            return;
        }
        self.tasks.spawn("retirement", async move {
            tokio::time::sleep(jittered(FIRST_AFTER)).await;
            loop {
                match cache.retire().await {
                    Ok(retired) if retired == Retired::default() => {}
                    Ok(Retired { tags, manifests, links, repositories, words }) => {
                        tracing::info!(
                            tags,
                            manifests,
                            links,
                            repositories,
                            words,
                            "retired records of content that nobody pulled for long"
                        );
                    }
                    Err(error) => tracing::warn!(%error, "repositories cannot be listed; nothing is retired for now"),
                }
                tokio::time::sleep(jittered(EVERY.min(after))).await;
            }
        });
    }

    /// Retires what nobody has pulled for `limits.retire_after`, and words of sources that are as old and
    /// whose blobs have gone. A repository that cannot be read or written is left for the next time.
    ///
    /// # Errors
    /// When the repositories cannot be listed.
    pub async fn retire(&self) -> Result<Retired, CacheError> {
        let mut retired = Retired::default();
        let Some(since) = self.clock.now().checked_sub(self.limits.retire_after).filter(|_| !self.limits.retire_after.is_zero()) else {
            return Ok(retired);
        };
        let (mut walk, mut seen) = (self.store.records.walk(), HashSet::new());
        while let Some(contents) = walk.next().await? {
            if may_be_unwanted(&contents, since) {
                self.retire_or_leave(&contents.name, since, &mut retired).await;
            }
            seen.insert(contents.name);
        }
        // Those without images: another retirement was broken off.
        let mut names = std::pin::pin!(self.repository_names(None));
        while let Some(name) = names.try_next().await? {
            if !seen.contains(&name) {
                self.retire_or_leave(&name, since, &mut retired).await;
            }
        }
        if let Err(error) = self.retire_words(since, &mut retired).await {
            tracing::warn!(%error, "the words of sources cannot be gone through; no more of them are retired for now");
        }
        Ok(retired)
    }

    async fn retire_or_leave(&self, name: &RepositoryName, since: SystemTime, retired: &mut Retired) {
        if let Err(error) = self.retire_repository(name, since, retired).await {
            tracing::warn!(repository = %name, %error, "a repository cannot be looked at; nothing more of it is retired for now");
        }
        tokio::time::sleep(PAUSE).await;
    }

    /// Retires what nobody has pulled of one repository since a moment.
    ///
    /// Its own record goes last, and only when nothing is left. A pull that writes a manifest meanwhile
    /// looks for that record *after* its manifest; here manifests are looked for *after* the record is
    /// gone, and it is put back for them. So whichever is first, it is there in the end.
    async fn retire_repository(&self, name: &RepositoryName, since: SystemTime, retired: &mut Retired) -> Result<(), CacheError> {
        let records = &self.store.records;
        let key = RecordKey::repository(name);
        let record = records.read(&key).await?;
        let view = self.view_now(name).await?;
        let is_hosted = match record.as_ref().map(|record| record.kind) {
            Some(RepositoryKind::PullThrough) => false,
            Some(RepositoryKind::Hosted) => true,
            // Its manifests tell: those of a cache name their source.
            None => view.manifests().any(|(_, record)| record.source.is_empty()),
        };
        if is_hosted {
            // What was pushed is nobody's to fetch again.
            return Ok(());
        }
        let mut unwanted = unwanted(&view, since);
        if record.is_none() && view.manifests().next().is_none() {
            unwanted.links.clear();
            self.retire_lone_links(name, &view, since, retired).await?;
        }
        let is_nothing = unwanted == Unwanted::default();
        self.remove(name, &view, unwanted, since, retired).await?;
        if is_nothing && !view.is_empty() {
            return Ok(());
        }
        let Some(record) = record else { return Ok(()) };
        self.memory.views.invalidate(name);
        if !records.view(name, &RepositoryView::default()).await?.is_empty() || record.created_at > unix_seconds(since) {
            return Ok(());
        }
        records.delete(&key).await?;
        self.memory.repositories.invalidate(name);
        retired.repositories += 1;
        self.upkeep_metrics.retired("repository", 1);
        if records.view(name, &RepositoryView::default()).await?.manifests().next().is_some() {
            drop(records.write_if(&key, &record, Expected::Absent).await?);
        }
        Ok(())
    }

    /// Retires the links of a repository of which there is no manifest: somebody asked for blobs alone.
    async fn retire_lone_links(
        &self,
        name: &RepositoryName,
        view: &RepositoryView,
        since: SystemTime,
        retired: &mut Retired,
    ) -> Result<(), CacheError> {
        let records = &self.store.records;
        for (digest, _) in view.links().filter(|(_, written)| *written <= since) {
            let key = RecordKey::blob_link(name, digest);
            let Some((link, version)) = records.read_versioned(&key).await? else { continue };
            // One that was pushed names no source.
            let is_ours = !link.source.is_empty() && link.linked_at <= unix_seconds(since);
            if is_ours && records.delete_if(&key, &version).await?.is_ok() {
                let key = (OriginKey::of(&link.source, name), *digest);
                self.memory.links.invalidate(&key);
                self.memory.vouched.invalidate(&key);
                retired.links += 1;
                self.upkeep_metrics.retired("link", 1);
            }
        }
        Ok(())
    }

    /// Removes records, in an order in which none points to one that is gone, and what memory has of them.
    async fn remove(
        &self,
        name: &RepositoryName,
        view: &RepositoryView,
        unwanted: Unwanted,
        since: SystemTime,
        retired: &mut Retired,
    ) -> Result<(), StorageError> {
        let records = &self.store.records;
        for tag in &unwanted.tags {
            if self.remove_tag(name, tag, since).await? {
                retired.tags += 1;
                self.upkeep_metrics.retired("tag", 1);
            }
        }
        for tag in &unwanted.hints {
            records.delete(&RecordKey::validated(name, tag)).await?;
        }
        let mut kept = HashSet::new();
        for digest in &unwanted.manifests {
            // Pulled since the look.
            let pulled = records.read(&RecordKey::pulled(name, digest)).await?;
            let is_wanted = pulled.is_some_and(|pulled| pulled.last_pulled_at > unix_seconds(since));
            if is_wanted || !self.remove_manifest(name, digest, since).await? {
                kept.extend(view.manifest(digest).into_iter().flat_map(|record| &record.references).map(|(blob, _)| *blob));
                kept.insert(*digest);
                continue;
            }
            retired.manifests += 1;
            self.upkeep_metrics.retired("manifest", 1);
        }
        let sources: HashSet<&str> = view.manifests().map(|(_, record)| record.source.as_str()).collect();
        for digest in unwanted.links.iter().filter(|digest| !kept.contains(*digest)) {
            records.delete(&RecordKey::blob_link(name, digest)).await?;
            for source in &sources {
                let key = (OriginKey::of(source, name), *digest);
                self.memory.links.invalidate(&key);
                self.memory.vouched.invalidate(&key);
            }
            retired.links += 1;
            self.upkeep_metrics.retired("link", 1);
        }
        for digest in unwanted.pulled.iter().filter(|digest| !kept.contains(*digest)) {
            records.delete(&RecordKey::pulled(name, digest)).await?;
        }
        Ok(())
    }

    /// Removes the record of a manifest, unless it has been written since the look.
    async fn remove_manifest(&self, name: &RepositoryName, digest: &Digest, since: SystemTime) -> Result<bool, StorageError> {
        let key = RecordKey::manifest(name, digest);
        let Some((record, version)) = self.store.records.read_versioned(&key).await? else { return Ok(false) };
        if record.cached_at > unix_seconds(since) || self.store.records.delete_if(&key, &version).await?.is_err() {
            return Ok(false);
        }
        self.memory.manifests.invalidate(&(OriginKey::of(&record.source, name), *digest));
        Ok(true)
    }

    /// Removes a tag, unless it has been written since the look.
    async fn remove_tag(&self, name: &RepositoryName, tag: &Tag, since: SystemTime) -> Result<bool, StorageError> {
        let key = RecordKey::tag(name, tag);
        let Some((record, version)) = self.store.records.read_versioned(&key).await? else { return Ok(false) };
        if record.updated_at > unix_seconds(since) || self.store.records.delete_if(&key, &version).await?.is_err() {
            return Ok(false);
        }
        self.memory.tags.invalidate(&(OriginKey::of(&record.source, name), tag.clone()));
        Ok(true)
    }
}

/// Whether a look at a repository may find something, by when its records were written: so what is in
/// use costs nothing but its part of one list of everything.
fn may_be_unwanted(contents: &RepositoryContents, since: SystemTime) -> bool {
    let pulled: HashSet<&Digest> = contents.pulled.iter().filter(|pulled| pulled.modified > since).map(|pulled| &pulled.item).collect();
    let is_old = |manifest: &Listed<Digest>| manifest.modified <= since && !pulled.contains(&manifest.item);
    contents.manifests.is_empty() || contents.manifests.iter().any(is_old)
}

/// What of a repository nobody has wanted since a moment.
fn unwanted(view: &RepositoryView, since: SystemTime) -> Unwanted {
    let kept = wanted(view, unix_seconds(since));
    let references = |is_kept: bool| -> HashSet<Digest> {
        let of = view.manifests().filter(|(digest, _)| kept.contains(*digest) == is_kept);
        of.flat_map(|(_, record)| &record.references).map(|(digest, _)| *digest).collect()
    };
    let (needed, released) = (references(true), references(false));
    let is_unwanted = |digest: &Digest| !kept.contains(digest);
    let tags: HashSet<&Tag> = view.tags().filter(|(_, record)| is_unwanted(&record.digest)).map(|(tag, _)| tag).collect();
    let hints = view.validated().map(|(tag, _)| tag).filter(|tag| tags.contains(tag) || view.tag(tag).is_none());
    // A link without a manifest was made by a pull of the blob alone, when it was written.
    let links = view.links().filter(|(digest, written)| !needed.contains(*digest) && (released.contains(*digest) || *written < since));
    Unwanted {
        hints: hints.cloned().collect(),
        manifests: view.manifests().map(|(digest, _)| *digest).filter(is_unwanted).collect(),
        links: links.map(|(digest, _)| *digest).collect(),
        pulled: view.pulled().copied().filter(is_unwanted).collect(),
        tags: tags.into_iter().cloned().collect(),
    }
}

/// The manifests that somebody wanted since a moment, and those that belong to them. What was never
/// pulled since it came counts from when it came.
fn wanted(view: &RepositoryView, since: u64) -> HashSet<Digest> {
    let was_pulled = |digest: &Digest, cached_at: u64| view.pulled_at(digest).unwrap_or(0).max(cached_at) > since;
    let pulled = view.manifests().filter(|(digest, record)| was_pulled(digest, record.cached_at)).map(|(digest, _)| *digest);
    let moved = view.tags().filter(|(_, record)| record.updated_at > since).map(|(_, record)| record.digest);
    let confirmed =
        view.validated().filter(|(tag, told)| told.validated_at > since && view.tag(tag).is_some_and(|tag| tag.digest == told.digest));
    let confirmed = confirmed.map(|(_, told)| told.digest);
    let mut referrers: HashMap<Digest, Vec<Digest>> = HashMap::new();
    for (digest, record) in view.manifests() {
        if let Some(subject) = record.subject {
            referrers.entry(subject).or_default().push(*digest);
        }
    }
    let mut left: Vec<Digest> = pulled.chain(moved).chain(confirmed).collect();
    let mut wanted = HashSet::new();
    while let Some(digest) = left.pop() {
        if wanted.insert(digest) {
            let references = view.manifest(&digest).into_iter().flat_map(|record| &record.references);
            left.extend(references.map(|(digest, _)| *digest).filter(|digest| view.manifest(digest).is_some()));
            left.extend(referrers.get(&digest).into_iter().flatten());
        }
    }
    wanted
}
