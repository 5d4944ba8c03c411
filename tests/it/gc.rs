//! Garbage collections: what goes, what stays, and that no write breaks beside them.

pub(crate) mod faults;
mod writers;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use headpond::clock::Clock;
use headpond::oci::{Digest, MediaType, RepositoryName};
use headpond::storage::{
    BlobLinkRecord, BucketClient, BucketLimits, GcState, KnownPreconditions, ManifestRecord, Preconditions, Presence, RecordKey, Records,
    SourceBlobRecord, Store, StoreParts,
};
use headpond::telemetry::metrics::Metrics;
use headpond::upkeep::report::{Event, GcReport, UnneededState};
use headpond::upkeep::{GcOptions, Upkeep};
use object_store::memory::InMemory;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::fake_upstream::pseudo_random;
use crate::hosted::HostedRepository;
use crate::scrub::{outcome_of, store_of, upkeep_of, upkeep_parts};

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The grace that is configured.
const GRACE: Duration = Duration::from_secs(24 * 60 * 60);
/// As configured.
const USUAL: GcOptions = GcOptions { dry_run: false, grace_ms: None };
/// At once.
pub(crate) const NOW: GcOptions = GcOptions { dry_run: false, grace_ms: Some(0) };

/// A store, and the clock that says how old something in it is.
pub(crate) struct World {
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Clock,
    directory: TempDir,
    /// What is in the bucket, where there is one.
    pub(crate) objects: Arc<InMemory>,
}

impl World {
    async fn on_disk() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(StoreParts::directory(&store_of(directory.path()))).unwrap();
        Self { store: Arc::new(store), clock: Clock::system(), directory, objects: Arc::default() }
    }

    pub(crate) async fn in_a_bucket() -> Self {
        let world = Self::in_an_untried_bucket();
        world.store.bucket.clone().unwrap().find_out_preconditions().await;
        world
    }

    /// As right after a start.
    fn in_an_untried_bucket() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let limits = BucketLimits { timeout: Duration::from_secs(10), attempts: 3 };
        let objects = Arc::new(InMemory::new());
        let client = BucketClient::over(objects.clone(), limits, Metrics::new().unwrap().bucket.clone());
        let store = Store::open(StoreParts { bucket: Some(client), ..StoreParts::directory(&store_of(directory.path())) }).unwrap();
        Self { store: Arc::new(store), clock: Clock::system(), directory, objects }
    }

    pub(crate) async fn hosted(&self, name: &str) -> HostedRepository<'_> {
        HostedRepository::create_at(&self.store, name, &self.clock).await
    }

    /// Stores a blob that nothing refers to.
    async fn orphan(&self, seed: u64) -> Digest {
        let bytes = pseudo_random(seed, 1000);
        let digest = Digest::of(&bytes);
        match &self.store.bucket {
            Some(bucket) => bucket.put(&digest, bytes).await.unwrap(),
            None => self.store.blobs.put(&digest, &bytes).unwrap(),
        }
        digest
    }

    async fn gc(&self, options: GcOptions) -> GcReport {
        outcome_of(upkeep_of(Arc::clone(&self.store), &self.clock).gc(options).await.unwrap()).await.1.unwrap()
    }

    pub(crate) async fn has(&self, digest: &Digest) -> bool {
        match &self.store.bucket {
            Some(bucket) => bucket.stat(digest).await.unwrap().is_some(),
            None => self.store.blobs.open_unused(digest).unwrap().is_some(),
        }
    }

    async fn mark_of(&self, digest: &Digest) -> Option<GcState> {
        self.store.records.read(&RecordKey::gc_mark(digest)).await.unwrap().map(|mark| mark.state)
    }
}

#[tokio::test]
async fn a_collection_right_after_a_start_waits_for_what_the_bucket_is_worth() {
    let world = World::in_an_untried_bucket();
    let orphan = world.orphan(5).await;
    let tried = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.store.bucket.clone().unwrap().find_out_preconditions().await;
    };
    let (report, ()) = tokio::join!(world.gc(NOW), tried);
    assert_eq!((report.deleted, world.has(&orphan).await), (1, false));
}

#[tokio::test(start_paused = true)]
async fn a_collection_does_not_wait_for_ever_for_a_bucket_that_does_not_show_it() {
    let world = World::in_an_untried_bucket();
    let orphan = world.orphan(5).await;
    let outcome = outcome_of(upkeep_of(Arc::clone(&world.store), &world.clock).gc(NOW).await.unwrap()).await.1;
    assert!(outcome.unwrap_err().to_string().contains("conditional writes"));
    assert!(world.has(&orphan).await);
}

#[tokio::test(start_paused = true)]
async fn a_server_collects_by_itself_every_interval() {
    const INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
    let world = World::in_a_bucket().await;
    let kept = world.hosted("team/app").await.push("1", &[pseudo_random(1, 1000)]).await;
    let first = world.orphan(2).await;
    let mut parts = upkeep_parts(Arc::clone(&world.store), &world.clock);
    (parts.limits.gc_interval, parts.limits.gc_grace) = (INTERVAL, Duration::ZERO);
    let (began, tasks) = (Instant::now(), parts.tasks.clone());
    Upkeep::new(parts).gc_in_the_background();
    let collected = async |orphan: &Digest| {
        while world.has(orphan).await {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        began.elapsed()
    };
    let took = collected(&first).await;
    assert!(took < INTERVAL / 2, "the first comes soon, for those that are restarted every day: {took:?}");
    let second = world.orphan(3).await;
    let took = collected(&second).await - took;
    assert!((INTERVAL / 2..2 * INTERVAL).contains(&took), "{took:?}");
    for digest in kept.layers.iter().chain([&kept.manifest]) {
        assert!(world.has(digest).await);
    }
    drop(tasks);
}

/// Runs one test over a disk and over a bucket.
macro_rules! over_both {
    ($($test:ident),+ $(,)?) => {
        mod disk {
            $(#[tokio::test] async fn $test() { super::$test(super::World::on_disk().await).await; })+
        }
        mod bucket {
            $(#[tokio::test] async fn $test() { super::$test(super::World::in_a_bucket().await).await; })+
        }
    };
}

over_both! {
    what_nothing_refers_to_goes_after_its_grace_and_nothing_else_does,
    a_link_keeps_a_blob_for_a_grace_and_a_manifest_for_good,
    without_a_grace_one_run_does_it,
    a_marked_blob_that_is_asked_for_stays,
    words_of_sources_go_with_their_blob,
    what_a_manifest_that_cannot_be_read_refers_to_stays,
    released_marks_are_forgotten_and_so_are_those_of_blobs_that_went_otherwise,
    two_collections_at_once_delete_each_blob_once,
    a_clock_that_jumps_costs_time_and_no_blob_that_is_needed,
    what_was_condemned_before_the_clock_was_set_back_does_not_stay_condemned,
}

async fn what_nothing_refers_to_goes_after_its_grace_and_nothing_else_does(world: World) {
    let hosted = world.hosted("team/app").await;
    let kept = hosted.push("1", &[pseudo_random(1, 5000), pseudo_random(2, 5000)]).await;
    let cached = world.hosted("up/library/x").await.into_cache("source").await.push("1", &[pseudo_random(3, 5000)]).await;
    let gone = hosted.push("2", &[pseudo_random(2, 5000), pseudo_random(4, 5000)]).await;
    hosted.delete("2", &gone).await;
    let orphan = world.orphan(5).await;
    let report = world.gc(USUAL).await;
    assert_eq!((report.marked, report.deleted, report.blobs), (0, 0, 8), "all of it is young");
    world.clock.advance(GRACE);
    let report = world.gc(USUAL).await;
    // The orphan, the deleted manifest, and its own layer.
    assert_eq!((report.marked, report.deleted, report.repositories, report.manifests), (3, 0, 2, 2));
    let report = world.gc(USUAL).await;
    assert_eq!((report.marked, report.waiting, report.deleted), (0, 3, 0), "the grace is not over");
    world.clock.advance(GRACE);
    let report = world.gc(USUAL).await;
    assert_eq!((report.deleted, report.waiting, report.unmarked, report.failed), (3, 0, 0, 0));
    assert!(report.deleted_bytes >= 6000);
    for digest in [&orphan, &gone.manifest, &gone.layers[1]] {
        assert!(!world.has(digest).await);
        assert_eq!(world.mark_of(digest).await, Some(GcState::Released));
    }
    for digest in [&kept.manifest, &kept.layers[0], &kept.layers[1], &cached.manifest, &cached.layers[0]] {
        assert!(world.has(digest).await);
    }
}

async fn a_link_keeps_a_blob_for_a_grace_and_a_manifest_for_good(world: World) {
    let hosted = world.hosted("team/app").await;
    let uploaded = hosted.commit(&pseudo_random(1, 1000)).await;
    let pushed = hosted.push("1", &[pseudo_random(2, 1000)]).await;
    world.clock.advance(GRACE / 2);
    assert!(hosted.has(&uploaded, 1000).await);
    // The listing of a real store shows when a record was written by its own clock, which does not move here.
    world.clock.advance(GRACE / 2);
    let report = world.gc(USUAL).await;
    assert_eq!((report.links, report.marked), (0, 1), "the link was written again half a grace ago");
    world.clock.advance(GRACE);
    let report = world.gc(USUAL).await;
    assert_eq!((report.links, report.deleted), (1, 1));
    assert!(!world.has(&uploaded).await && world.has(&pushed.layers[0]).await);
    let name = RepositoryName::parse("team/app").unwrap();
    assert!(world.store.records.read(&RecordKey::blob_link(&name, &uploaded)).await.unwrap().is_none());
    assert!(world.store.records.read(&RecordKey::blob_link(&name, &pushed.layers[0])).await.unwrap().is_some());
}

async fn without_a_grace_one_run_does_it(world: World) {
    let orphan = world.orphan(1).await;
    let pushed = world.hosted("team/app").await.push("1", &[pseudo_random(2, 1000)]).await;
    assert_eq!(world.gc(NOW).await.deleted, 1);
    assert!(!world.has(&orphan).await && world.has(&pushed.layers[0]).await && world.has(&pushed.manifest).await);
}

async fn a_marked_blob_that_is_asked_for_stays(world: World) {
    let bytes = pseudo_random(1, 1000);
    let orphan = world.orphan(1).await;
    world.clock.advance(GRACE);
    assert_eq!(world.gc(USUAL).await.marked, 1);
    let hosted = world.hosted("team/app").await;
    assert!(hosted.has(&orphan, 1000).await);
    assert_eq!(world.mark_of(&orphan).await, Some(GcState::Released));
    let pushed = hosted.push("1", &[bytes]).await;
    world.clock.advance(GRACE);
    assert_eq!(world.gc(USUAL).await.deleted, 0);
    assert!(world.has(&orphan).await && pushed.layers == [orphan]);
    // One that only a cache refers to since is unmarked by the collection.
    let other = world.orphan(9).await;
    world.clock.advance(GRACE);
    assert_eq!(world.gc(USUAL).await.marked, 1);
    let cache = world.hosted("up/x").await.into_cache("s").await;
    world.store.records.delete(&RecordKey::gc_mark(&other)).await.unwrap();
    let pushed = cache.push("1", &[pseudo_random(9, 1000)]).await;
    assert!(world.store.gc_marks(&world.clock).mark(&other, None).await.unwrap());
    world.clock.advance(GRACE);
    let report = world.gc(USUAL).await;
    assert_eq!((report.unmarked, report.deleted, pushed.layers), (1, 0, vec![other]));
}

async fn a_clock_that_jumps_costs_time_and_no_blob_that_is_needed(world: World) {
    let hosted = world.hosted("team/app").await;
    let kept = hosted.push("1", &[pseudo_random(1, 1000)]).await;
    let orphan = world.orphan(2).await;
    world.clock.advance(YEAR);
    assert_eq!(world.gc(USUAL).await.marked, 1);
    world.clock.set_back(YEAR - GRACE);
    let report = world.gc(USUAL).await;
    assert_eq!((report.marked, report.deleted), (1, 0), "it was marked in what is the future now");
    let pushed = hosted.push("2", &[pseudo_random(3, 1000)]).await;
    world.clock.advance(GRACE);
    assert_eq!(world.gc(USUAL).await.deleted, 1);
    assert!(!world.has(&orphan).await);
    for digest in [kept.manifest, kept.layers[0], pushed.manifest, pushed.layers[0]] {
        assert!(world.has(&digest).await);
    }
}

async fn what_was_condemned_before_the_clock_was_set_back_does_not_stay_condemned(world: World) {
    let (marks, orphan) = (world.store.gc_marks(&world.clock), world.orphan(1).await);
    world.clock.advance(YEAR);
    assert!(marks.mark(&orphan, None).await.unwrap());
    let (_, mark) = marks.read(&orphan).await.unwrap().unwrap();
    // Whoever condemned it died.
    drop(marks.condemn(&orphan, mark).await.unwrap().unwrap());
    world.clock.set_back(YEAR);
    assert_eq!(marks.keep(&orphan).await.unwrap(), Presence::Condemned);
    assert!(marks.until_deleted(&orphan).await.unwrap());
    assert!(!world.has(&orphan).await);
}

async fn words_of_sources_go_with_their_blob(world: World) {
    let (orphan, kept) = (world.orphan(1).await, world.hosted("a/b").await.push("1", &[pseudo_random(2, 10)]).await.layers[0]);
    for source in ["0a1b", "2c3d"] {
        for digest in [&orphan, &kept] {
            world.store.records.write(&RecordKey::source_blob(source, digest), &SourceBlobRecord { vouched_at: 1 }).await.unwrap();
        }
    }
    assert_eq!(world.gc(NOW).await.deleted, 1);
    for source in ["0a1b", "2c3d"] {
        assert!(world.store.records.read(&RecordKey::source_blob(source, &orphan)).await.unwrap().is_none());
        assert!(world.store.records.read(&RecordKey::source_blob(source, &kept)).await.unwrap().is_some());
    }
}

async fn what_a_manifest_that_cannot_be_read_refers_to_stays(world: World) {
    let pushed = world.hosted("team/app").await.push("1", &[pseudo_random(1, 1000)]).await;
    let name = RepositoryName::parse("team/app").unwrap();
    // A record of another form in its place.
    let torn = BlobLinkRecord { source: String::new(), size_bytes: None, linked_at: 0 };
    let key = RecordKey::manifest(&name, &pushed.manifest);
    let place: RecordKey<BlobLinkRecord> = key.of_another_form();
    world.store.records.write(&place, &torn).await.unwrap();
    let report = world.gc(NOW).await;
    assert_eq!((report.deleted, report.links), (0, 0));
    assert!(world.has(&pushed.layers[0]).await && world.has(&pushed.manifest).await);
}

async fn released_marks_are_forgotten_and_so_are_those_of_blobs_that_went_otherwise(world: World) {
    let (first, second) = (world.orphan(1).await, world.orphan(2).await);
    world.clock.advance(GRACE);
    assert_eq!(world.gc(USUAL).await.marked, 2);
    match &world.store.bucket {
        Some(bucket) => bucket.delete(&first).await.unwrap(),
        None => world.store.blobs.remove(&first).unwrap(),
    }
    world.clock.advance(GRACE);
    assert_eq!(world.gc(USUAL).await.deleted, 1);
    assert_eq!((world.mark_of(&first).await, world.mark_of(&second).await), (Some(GcState::Released), Some(GcState::Released)));
    world.clock.advance(GRACE);
    world.gc(USUAL).await;
    assert_eq!((world.mark_of(&first).await, world.mark_of(&second).await), (None, None));
}

async fn two_collections_at_once_delete_each_blob_once(world: World) {
    let mut orphans = Vec::new();
    for seed in 0..300 {
        orphans.push(world.orphan(seed).await);
    }
    let pushed = world.hosted("team/app").await.push("1", &[pseudo_random(1000, 1000)]).await;
    world.clock.advance(GRACE);
    let (first, second) = tokio::join!(world.gc(USUAL), world.gc(USUAL));
    assert_eq!(first.marked + second.marked, 300);
    world.clock.advance(GRACE);
    let (first, second) = tokio::join!(world.gc(USUAL), world.gc(USUAL));
    assert_eq!((first.deleted + second.deleted, first.failed + second.failed), (300, 0), "{first:?} {second:?}");
    for orphan in &orphans {
        assert!(!world.has(orphan).await);
    }
    assert!(world.has(&pushed.layers[0]).await && world.has(&pushed.manifest).await);
}

/// Every file and its content.
fn files(directory: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            files(&entry.path(), found);
        } else {
            found.insert(entry.path().display().to_string(), std::fs::read(entry.path()).unwrap());
        }
    }
}

#[tokio::test]
async fn a_dry_run_tells_what_would_go_and_changes_nothing() {
    let world = World::on_disk().await;
    let (due, new) = (world.orphan(1).await, world.orphan(2).await);
    let hosted = world.hosted("team/app").await;
    hosted.commit(&pseudo_random(3, 1000)).await;
    world.clock.advance(GRACE);
    world.store.gc_marks(&world.clock).mark(&due, None).await.unwrap();
    world.clock.advance(GRACE);
    let mut before = BTreeMap::new();
    files(world.directory.path(), &mut before);
    let dry = GcOptions { dry_run: true, ..USUAL };
    let mut run = upkeep_of(Arc::clone(&world.store), &world.clock).gc(dry).await.unwrap();
    let (mut told, mut report) = (BTreeMap::new(), None);
    while let Some(event) = run.next().await {
        match event {
            Event::Unneeded { blob } => drop(told.insert(blob.digest, blob.state)),
            Event::Done { report: done } => report = Some(done),
            Event::Progress { .. } => {}
            Event::Found { .. } | Event::Failed { .. } => panic!("{event:?}"),
        }
    }
    let report = report.unwrap();
    assert_eq!((report.deleted, report.marked, report.deleted_bytes), (1, 2, 1000), "{report:?}");
    assert_eq!((told[&due], told[&new]), (UnneededState::Deleted, UnneededState::Marked));
    let mut after = BTreeMap::new();
    files(world.directory.path(), &mut after);
    assert!(before == after, "something was changed");
}

#[tokio::test]
async fn a_bucket_without_conditional_writes_is_not_collected() {
    let mut world = World::in_a_bucket().await;
    let ignored = KnownPreconditions::of(Preconditions::NONE);
    Arc::get_mut(&mut world.store).unwrap().records = Records::in_bucket(Arc::new(InMemory::new()), ignored);
    let run = upkeep_of(Arc::clone(&world.store), &world.clock).gc(NOW).await.unwrap();
    let error = outcome_of(run).await.1.unwrap_err();
    assert!(error.contains("conditional writes"), "{error}");
}

#[tokio::test]
async fn a_blob_that_was_used_lately_is_young() {
    let world = World::on_disk().await;
    let orphan = world.orphan(1).await;
    world.clock.advance(GRACE);
    let file = crate::scrub::blob_file(world.directory.path(), &orphan);
    std::fs::File::options().write(true).open(file).unwrap().set_modified(SystemTime::now() + GRACE).unwrap();
    assert_eq!(world.gc(USUAL).await.marked, 0);
}

/// The bytes of an orphan.
fn orphan_bytes(seed: u64) -> Bytes {
    pseudo_random(seed, 1000)
}

#[tokio::test]
async fn presence_of_a_blob_without_a_mark_is_kept() {
    let world = World::on_disk().await;
    let marks = world.store.gc_marks(&world.clock);
    assert_eq!(marks.keep(&Digest::of(b"x")).await.unwrap(), Presence::Kept);
    assert!(marks.until_deleted(&Digest::of(b"x")).await.unwrap());
}

/// Only what was pushed is exempt from eviction, not what a collection has looked at.
#[tokio::test]
async fn a_cached_blob_that_was_marked_is_evicted_like_any_other() {
    let world = World::on_disk().await;
    let evictable_bytes = || {
        let numbers = world.store.blobs.room().numbers();
        numbers.used_bytes - numbers.kept_bytes
    };
    let cache = |seed| {
        let bytes = orphan_bytes(seed);
        let staged = world.store.blobs.stage(Some(bytes.len() as u64)).unwrap();
        staged.write_at(&bytes, 0).unwrap();
        staged.commit(&Digest::of(&bytes)).unwrap();
        Digest::of(&bytes)
    };
    let (wanted, gone) = (cache(1), cache(2));
    let both_bytes = evictable_bytes();
    world.clock.advance(GRACE);
    assert_eq!(world.gc(USUAL).await.marked, 2);
    let image = ManifestRecord {
        media_type: MediaType::OCI_MANIFEST.to_owned(),
        size_bytes: 100,
        source: "s".to_owned(),
        cached_at: 1,
        subject: None,
        artifact_type: None,
        references: vec![(wanted, 1000)],
    };
    let key = RecordKey::manifest(&RepositoryName::parse("up/x").unwrap(), &Digest::of(b"a manifest"));
    world.store.records.write(&key, &image).await.unwrap();
    world.store.blobs.remove(&gone).unwrap();
    assert_eq!(world.gc(USUAL).await.unmarked, 1);
    assert_eq!((world.mark_of(&wanted).await, world.mark_of(&gone).await), (Some(GcState::Released), Some(GcState::Released)));
    assert_eq!(cache(2), gone);
    assert!(both_bytes >= 2000 && evictable_bytes() == both_bytes, "{} of {both_bytes}", evictable_bytes());
}
