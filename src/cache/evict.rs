//! What is used, and that there is room for it: the cache's side of eviction.
//!
//! Nodes ask for a manifest, and then only for the layers they do not have, so a layer that all nodes
//! share would look coldest. So whoever is served a manifest uses everything it refers to. Whatever a
//! pull needs is then used as recently as the pull began, and goes after everything else; and since
//! the parts of an image are used together, they go together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::{Cache, CachedManifest, Origin};
use crate::oci::manifest::ManifestSummary;
use crate::storage::Room;
use crate::telemetry::metrics::{DiskStanding, EvictionMetrics};

/// How often at most what a manifest refers to is used by serving the manifest.
const USED_EVERY_SECONDS: u64 = 1;
/// How often uses are written to the files, and the free space is looked at.
const TIDIED_EVERY: Duration = Duration::from_secs(30);
/// How often what is no blob is counted again.
const RECOUNTED_EVERY: Duration = Duration::from_secs(6 * 60 * 60);

/// When a manifest was last served, in unix seconds.
#[derive(Debug, Default)]
pub(super) struct LastUse(AtomicU64);

impl LastUse {
    /// Whether that was long enough ago to count again.
    fn is_due(&self, now_seconds: u64) -> bool {
        let last = self.0.load(Ordering::Relaxed);
        now_seconds.abs_diff(last) >= USED_EVERY_SECONDS
            && self.0.compare_exchange(last, now_seconds, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Cache {
    /// A manifest is served: what it refers to is used.
    pub(super) fn used(&self, origin: &Origin, manifest: &Arc<CachedManifest>) {
        let now_seconds = self.now_seconds();
        if !manifest.last_use.is_due(now_seconds) {
            return;
        }
        self.note_pull(origin, manifest.digest, now_seconds);
        let (cache, manifest) = (self.clone(), Arc::clone(manifest));
        self.tasks.spawn("use of a manifest", async move {
            let Ok(summary) = ManifestSummary::parse(&manifest.bytes, Some(manifest.media_type.as_str())) else { return };
            let room = cache.store.blobs.room();
            summary.blobs.iter().for_each(|blob| room.touch(&blob.digest));
        });
    }

    /// Keeps the disk within its limits, behind everything else: walks it, evicts, and writes down what
    /// was used, until shutdown.
    pub fn keep_room(&self, metrics: &EvictionMetrics) {
        let room = self.store.blobs.room().clone();
        metrics.come_from({
            let room = room.clone();
            move || standing(&room)
        });
        let (stopping, keeps_on_disk) = (self.tasks.stopping(), self.store.keeps_on_disk);
        self.tasks.spawn_to_end("room", {
            let (room, stopping) = (room.clone(), stopping.clone());
            async move {
                stopping.cancelled().await;
                room.stop();
            }
        });
        self.tasks.spawn_to_end("room", async move {
            on_thread(&room, Room::walk).await;
            if !keeps_on_disk {
                // What an earlier run kept, which had a tier.
                on_thread(&room, Room::clear).await;
            }
            let ticks = |every| {
                let mut ticks = interval_at(Instant::now() + every, every);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                ticks
            };
            let (mut tidied, mut recounted) = (ticks(TIDIED_EVERY), ticks(RECOUNTED_EVERY));
            while !stopping.is_cancelled() {
                on_thread(&room, Room::tidy).await;
                tokio::select! {
                    () = stopping.cancelled() => break,
                    () = room.tightened() => {}
                    _ = tidied.tick() => on_thread(&room, Room::note_uses).await,
                    _ = recounted.tick() => on_thread(&room, Room::recount).await,
                }
            }
            on_thread(&room, Room::note_uses).await;
        });
    }
}

async fn on_thread(room: &Room, work: fn(&Room)) {
    let room = room.clone();
    // One that panicked is tried again at its next turn: the first walk at that of the recount.
    let _ = tokio::task::spawn_blocking(move || work(&room)).await;
}

fn standing(room: &Room) -> DiskStanding {
    let now = room.numbers();
    DiskStanding {
        used_bytes: now.used_bytes,
        max_bytes: if now.max_bytes == u64::MAX { 0 } else { now.max_bytes },
        kept_bytes: now.kept_bytes,
        free_bytes: now.free_bytes,
        blobs: now.blobs,
        evicted_blobs: now.evicted_blobs,
        evicted_bytes: now.evicted_bytes,
        evicted_age_seconds: now.evicted_age_seconds,
        refused: now.refused,
    }
}
