//! What the repositories refer to.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;

use super::{CONCURRENCY, Gc, Prefix};
use crate::clock::unix_seconds;
use crate::oci::{Digest, RepositoryName};
use crate::storage::{Examined, RecordKey, RepositoryContents, RepositoryWalk, StorageError};
use crate::upkeep::UpkeepParts;

/// Repositories read at a time.
const CONCURRENT_REPOSITORIES: usize = 8;
/// Links of one of them removed at a time.
const CONCURRENT_REMOVALS: usize = 4;

/// A link is written before the manifest that needs it: younger than this it stays, whatever the grace.
const MIN_LINK_AGE: Duration = Duration::from_secs(60);

/// What one repository refers to.
struct References {
    blobs: Vec<Prefix>,
    manifests: u64,
    /// Links past their grace to blobs that no manifest of the repository refers to.
    stale_links: Vec<Digest>,
    /// Manifests whose records could not be read: what they refer to is not among the above.
    unread: Vec<(Digest, StorageError)>,
    name: RepositoryName,
}

/// Whether a link went.
type Removal = (Digest, Result<bool, StorageError>);

impl Gc {
    /// Strikes out of `candidates` what anything refers to, and removes links that nobody needs. Where a record
    /// cannot be read the report is incomplete from now on, and nothing that is left in `candidates` may go.
    pub(super) async fn strike_out(&mut self, candidates: &mut HashSet<Prefix>, removes_links: bool) -> Result<(), StorageError> {
        let (sender, receiver) = mpsc::channel(1);
        let walk = listed(self.parts.store.records.walk(), sender);
        let read = self.strike_out_of(receiver, candidates, removes_links);
        // Both at once: a list that is not polled while the repositories are read runs into its timeout.
        let ((), ()) = futures::try_join!(walk, read)?;
        Ok(())
    }

    async fn strike_out_of(
        &mut self,
        repositories: mpsc::Receiver<RepositoryContents>,
        candidates: &mut HashSet<Prefix>,
        removes_links: bool,
    ) -> Result<(), StorageError> {
        let repositories = stream::unfold(repositories, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
        let (parts, grace) = (Arc::clone(&self.parts), self.grace_of_links());
        let references = repositories.map(|contents| {
            let parts = Arc::clone(&parts);
            async move {
                let found = references_of(&parts, contents, grace).await?;
                let removed = if removes_links { remove_links(&parts, &found, grace).await? } else { Vec::new() };
                Ok::<_, StorageError>((found, removed))
            }
        });
        let mut references = references.buffer_unordered(CONCURRENT_REPOSITORIES).boxed();
        (self.report.repositories, self.report.manifests) = (0, 0);
        // Nothing is awaited in here but the next one: those under way are polled by it alone.
        while let Some((found, removed)) = references.try_next().await? {
            self.report.repositories += 1;
            self.report.manifests += found.manifests;
            self.report.is_incomplete |= !found.unread.is_empty();
            for (digest, error) in &found.unread {
                self.report.failed += 1;
                tracing::warn!(repository = %found.name, %digest, %error, "the record of a manifest cannot be read; nothing is deleted in this run");
            }
            for blob in &found.blobs {
                candidates.remove(blob);
            }
            for (digest, removed) in removed {
                match removed {
                    Ok(is_removed) => self.report.links += u64::from(is_removed),
                    Err(error) => self.failed(&digest, &error),
                }
            }
            self.teller.progress(&self.report);
        }
        Ok(())
    }

    fn grace_of_links(&self) -> Duration {
        self.grace.max(MIN_LINK_AGE)
    }
}

async fn listed(mut walk: RepositoryWalk, sender: mpsc::Sender<RepositoryContents>) -> Result<(), StorageError> {
    while let Some(contents) = walk.next().await? {
        // Whoever reads them has failed, and says why.
        let Ok(()) = sender.send(contents).await else { break };
    }
    Ok(())
}

/// Removes links that nobody needs, and tells of each whether it went.
async fn remove_links(parts: &UpkeepParts, found: &References, grace: Duration) -> Result<Vec<Removal>, StorageError> {
    let removals = stream::iter(found.stale_links.clone()).map(|digest| async move {
        match parts.patiently(|| remove_link(parts, &found.name, &digest, grace)).await {
            // So it would be with all others.
            Err(error) if error.is_unavailable() => Err(error),
            removed => Ok((digest, removed)),
        }
    });
    removals.buffer_unordered(CONCURRENT_REMOVALS).try_collect().await
}

/// Removes a link, unless it was written again since it was listed.
async fn remove_link(parts: &UpkeepParts, repository: &RepositoryName, digest: &Digest, grace: Duration) -> Result<bool, StorageError> {
    let (records, key) = (&parts.store.records, RecordKey::blob_link(repository, digest));
    let Examined::Record(link, version) = records.examine(&key).await? else { return Ok(false) };
    let is_stale = Duration::from_secs(link.linked_at).saturating_add(grace) <= Duration::from_secs(unix_seconds(parts.clock.now()));
    Ok(is_stale && records.delete_if(&key, &version).await?.is_ok())
}

async fn references_of(parts: &UpkeepParts, contents: RepositoryContents, grace: Duration) -> Result<References, StorageError> {
    let listed: Vec<_> = contents.manifests.iter().map(|manifest| manifest.item).collect();
    let manifests = stream::iter(listed).map(|digest| {
        let key = RecordKey::manifest(&contents.name, &digest);
        async move { (digest, parts.patiently(|| parts.store.records.examine(&key)).await) }
    });
    let manifests: Vec<_> = manifests.buffer_unordered(CONCURRENCY).collect().await;
    let (mut needed, mut is_unreadable, mut unread) = (HashSet::new(), false, Vec::new());
    for (digest, manifest) in manifests {
        match manifest {
            Ok(Examined::Record(manifest, _)) => needed.extend(manifest.references.iter().map(|(digest, _)| *digest)),
            Ok(Examined::Unreadable { .. }) => is_unreadable = true,
            Ok(Examined::Absent) => {}
            // So it would be with all others.
            Err(error) if error.is_unavailable() => return Err(error),
            Err(error) => unread.push((digest, error)),
        }
    }
    is_unreadable |= !unread.is_empty();
    let mut blobs: Vec<Prefix> =
        needed.iter().chain(contents.manifests.iter().map(|manifest| &manifest.item)).map(Digest::prefix).collect();
    let now = parts.clock.now();
    let mut stale_links = Vec::new();
    for link in &contents.links {
        let is_young = now.duration_since(link.modified).map_or(true, |age| age < grace);
        // What a manifest that cannot be read refers to is linked as well.
        if is_young || is_unreadable {
            blobs.push(link.item.prefix());
        } else if !needed.contains(&link.item) {
            stale_links.push(link.item);
        }
    }
    Ok(References { blobs, manifests: contents.manifests.len() as u64, stale_links, unread, name: contents.name })
}
