//! Scrubs: what they find, what they mend, and what they leave alone.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headpond::clock::Clock;
use headpond::http::{ControlError, ControlEvents, ask_control};
use headpond::oci::{Digest, RepositoryName};
use headpond::storage::{BlobCheck, BlobLinkRecord, Bucket, Disk, Inventory, RecordKey, Records, Store, StoreParts, connect_control};
use headpond::tasks::Tasks;
use headpond::telemetry::metrics::Metrics;
use headpond::upkeep::report::{Event, Finding, Outcome, ScrubReport, Wrong};
use headpond::upkeep::{Run, ScrubOptions, Upkeep, UpkeepLimits, UpkeepParts};
use object_store::ObjectStoreExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use tempfile::TempDir;

use crate::fake_bucket::{FakeBucket, Fault};
use crate::fake_upstream::{FakeUpstream, Image, pseudo_random};
use crate::faulty_disk::FaultyDisk;
use crate::faulty_records::FaultyRecords;
use crate::gc::World;
use crate::headpond::Headpond;
use crate::hosted::{HostedRepository, Pushed};

const MANIFEST: &str = "/v2/up/library/x/manifests/1";
/// As fast as it goes.
pub(crate) const FAST: ScrubOptions = ScrubOptions { rate_bytes: Some(0), bucket: false };
/// Past the age at which a record counts as wrong.
const LATER: Duration = Duration::from_secs(2 * 60 * 60);

pub(crate) fn store_of(directory: &Path) -> PathBuf {
    directory.join("headpond-data")
}

pub(crate) fn blob_file(directory: &Path, digest: &Digest) -> PathBuf {
    store_of(directory).join("blobs/sha256").join(digest.hex().get(..2).unwrap()).join(digest.hex())
}

fn quarantined_file(directory: &Path, digest: &Digest) -> PathBuf {
    store_of(directory).join("quarantine/sha256").join(digest.hex())
}

pub(crate) fn flip_a_byte(file: &Path) {
    let open = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    open.read_exact_at(&mut byte, 10).unwrap();
    open.write_all_at(&[byte[0] ^ 1], 10).unwrap();
}

/// Begins a scrub through the control socket.
pub(crate) async fn begin(directory: &Path, options: ScrubOptions) -> Result<ControlEvents<ScrubReport>, ControlError> {
    ask_control(connect_control(&store_of(directory)).unwrap(), "/scrub", &options).await
}

/// The findings and the report of a run that goes through.
pub(crate) async fn to_the_end<R: serde::de::DeserializeOwned>(mut events: ControlEvents<R>) -> (Vec<Finding>, R) {
    let mut findings = Vec::new();
    loop {
        match events.next().await.unwrap().expect("the run ended without a word") {
            Event::Progress { .. } | Event::Unneeded { .. } => {}
            Event::Found { finding } => findings.push(finding),
            Event::Done { report } => return (findings, report),
            Event::Failed { error } => panic!("{error}"),
        }
    }
}

async fn scrub(server: &Headpond) -> (Vec<Finding>, ScrubReport) {
    to_the_end(begin(server.directory.path(), FAST).await.unwrap()).await
}

/// The same store once more, without what it cost to make it.
pub(crate) fn copy_of(directory: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap().flatten() {
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &to);
            } else {
                std::fs::copy(entry.path(), &to).unwrap();
            }
        }
    }
    let copied = tempfile::tempdir().unwrap();
    copy(directory, copied.path());
    copied
}

/// A server that has pulled an image of one layer.
async fn server_with_image() -> (FakeUpstream, Headpond, Image) {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[pseudo_random(1, 300_000)]);
    let server = Headpond::before(&fake).await;
    pull(&server, &image).await;
    server.wait_for_repository("up/library/x").await;
    (fake, server, image)
}

async fn pull(server: &Headpond, image: &Image) {
    assert_eq!(server.get(MANIFEST).await.digest(), image.digest);
    for blob in [image.config, image.layers[0]] {
        assert_eq!(server.get(&Headpond::blob(&blob)).await.digest(), blob);
    }
    server.wait_for_fills().await;
}

/// A directory with a hosted image in its store.
pub(crate) async fn directory_with_hosted_image() -> (TempDir, Pushed) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(StoreParts::directory(&store_of(directory.path()))).unwrap();
    let pushed = HostedRepository::create(&store, "team/app").await.push("1", &[pseudo_random(2, 200_000)]).await;
    (directory, pushed)
}

async fn server_over(directory: TempDir) -> (FakeUpstream, Headpond) {
    let fake = FakeUpstream::start().await;
    let server = Headpond::in_directory(&fake, "", "", directory, Default::default()).await;
    (fake, server)
}

#[tokio::test]
async fn a_sound_store_is_found_sound() {
    let (_fake, server, image) = server_with_image().await;
    let (findings, report) = scrub(&server).await;
    assert_eq!(findings, []);
    assert!(!report.found_something());
    assert_eq!((report.blobs, report.total_blobs, report.repositories), (3, 3, 1));
    assert_eq!(report.bytes, report.total_bytes);
    assert_eq!(server.metric("headpond_scrubbed_bytes_total"), report.bytes);
    assert!(blob_file(server.directory.path(), &image.layers[0]).exists());
}

#[tokio::test]
async fn a_flipped_byte_in_a_cached_blob_is_put_aside_and_fetched_again_once() {
    let (fake, server, image) = server_with_image().await;
    let layer = image.layers[0];
    flip_a_byte(&blob_file(server.directory.path(), &layer));
    let (findings, report) = scrub(&server).await;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!((findings[0].wrong, findings[0].outcome, findings[0].digest), (Wrong::RottenBlob, Outcome::Quarantined, Some(layer)));
    assert_eq!((report.rotten_cached, report.rotten_hosted), (1, 0));
    assert!(quarantined_file(server.directory.path(), &layer).exists() && !blob_file(server.directory.path(), &layer).exists());
    fake.clear_journal();
    pull(&server, &image).await;
    assert_eq!(fake.journal().len(), 1, "{:?}", fake.journal());
    assert_eq!(fake.requests_matching("GET", &layer.to_string()), 1);
    assert_eq!(scrub(&server).await.1.rotten_cached, 0);
    assert_eq!(server.metric("headpond_scrub_rotten_total{kind=\"cached\"}"), 1);
    assert_eq!(server.metric("headpond_quarantined_blobs_total"), 1);
}

#[tokio::test]
async fn a_blob_cut_short_is_rotten() {
    let (_fake, server, image) = server_with_image().await;
    let layer = blob_file(server.directory.path(), &image.layers[0]);
    std::fs::OpenOptions::new().write(true).open(&layer).unwrap().set_len(1000).unwrap();
    assert_eq!(scrub(&server).await.1.rotten_cached, 1);
    pull(&server, &image).await;
    assert_eq!(std::fs::metadata(&layer).unwrap().len(), 300_000);
}

#[tokio::test]
async fn what_cannot_be_read_is_rotten() {
    let (_fake, server, image) = server_with_image().await;
    let layer = blob_file(server.directory.path(), &image.layers[0]);
    std::fs::remove_file(&layer).unwrap();
    std::fs::create_dir(&layer).unwrap();
    let (findings, report) = scrub(&server).await;
    assert_eq!(report.rotten_cached, 1);
    assert!(findings[0].detail.contains("cannot read"), "{findings:?}");
    pull(&server, &image).await;
}

#[tokio::test]
async fn a_rotten_manifest_is_forgotten_in_memory_and_stored_again() {
    let (fake, server, image) = server_with_image().await;
    let file = blob_file(server.directory.path(), &image.digest);
    flip_a_byte(&file);
    assert_eq!(scrub(&server).await.1.rotten_cached, 1);
    fake.clear_journal();
    pull(&server, &image).await;
    assert_eq!((fake.manifest_gets(), fake.journal().len()), (1, 1));
    while !file.exists() {
        tokio::task::yield_now().await;
    }
    assert_eq!(scrub(&server).await.1.rotten_cached, 0);
}

#[tokio::test]
async fn a_flipped_byte_in_a_hosted_blob_is_reported_and_the_blob_stays() {
    let (directory, pushed) = directory_with_hosted_image().await;
    let files = [&pushed.layers[0], &pushed.manifest].map(|digest| blob_file(directory.path(), digest));
    files.iter().for_each(|file| flip_a_byte(file));
    let rotten = files.each_ref().map(|file| std::fs::read(file).unwrap());
    let (_fake, server) = server_over(directory).await;
    let (findings, report) = scrub(&server).await;
    assert!(findings.iter().all(|finding| finding.outcome == Outcome::Hosted), "{findings:?}");
    assert_eq!((report.rotten_hosted, report.rotten_cached), (2, 0));
    assert!(report.needs_somebody());
    assert!(findings.iter().all(|finding| finding.repository.as_deref() == Some("team/app")), "{findings:?}");
    assert_eq!(files.each_ref().map(|file| std::fs::read(file).unwrap()), rotten);
    assert_eq!(server.metric("headpond_scrub_rotten_total{kind=\"hosted\"}"), 2);
}

#[tokio::test]
async fn records_of_a_cached_manifest_that_is_gone_are_removed_and_come_back_with_the_next_pull() {
    let (fake, server, image) = server_with_image().await;
    std::fs::remove_file(blob_file(server.directory.path(), &image.digest)).unwrap();
    // What is young may be on its way.
    assert!(!scrub(&server).await.1.found_something());
    server.clock.advance(LATER);
    let (findings, report) = scrub(&server).await;
    let found: Vec<_> = findings.iter().map(|finding| (finding.wrong, finding.outcome)).collect();
    assert_eq!(found, [(Wrong::ManifestWithoutBlob, Outcome::Removed), (Wrong::TagWithoutManifest, Outcome::Removed)]);
    assert_eq!((report.mended_records, findings[1].tag.as_deref()), (2, Some("1")));
    let directory = server.stop().await;
    let server = Headpond::in_directory(&fake, "", "", directory, Default::default()).await;
    pull(&server, &image).await;
}

#[tokio::test]
async fn a_hosted_manifest_without_its_blobs_is_reported_and_its_records_stay() {
    let (directory, pushed) = directory_with_hosted_image().await;
    std::fs::remove_file(blob_file(directory.path(), &pushed.layers[0])).unwrap();
    let (_fake, server) = server_over(directory).await;
    server.clock.advance(LATER);
    let (findings, report) = scrub(&server).await;
    assert_eq!(report.damaged_hosted_records, 1);
    assert_eq!((findings[0].wrong, findings[0].outcome), (Wrong::ManifestWithoutBlob, Outcome::Hosted));
    assert!(findings[0].detail.contains(&pushed.layers[0].to_string()));
    std::fs::remove_file(blob_file(server.directory.path(), &pushed.manifest)).unwrap();
    assert_eq!(scrub(&server).await.1.damaged_hosted_records, 1);
    let record = format!("images/team/app/_manifests/sha256/{}", pushed.manifest.hex());
    assert!(store_of(server.directory.path()).join(record).exists());
}

#[tokio::test]
async fn unreadable_records_are_removed_where_they_are_cached_and_reported_where_they_are_hosted() {
    let (directory, pushed) = directory_with_hosted_image().await;
    let (fake, server) = server_over(directory).await;
    let image = fake.put_image("library/x", "1", &[pseudo_random(1, 1000)]);
    pull(&server, &image).await;
    server.wait_for_repository("up/library/x").await;
    let images = store_of(server.directory.path()).join("images");
    let cached = images.join("up/library/x/_tags/1");
    let hosted = images.join(format!("team/app/_manifests/sha256/{}", pushed.manifest.hex()));
    while !cached.exists() {
        tokio::task::yield_now().await;
    }
    std::fs::write(&cached, "{").unwrap();
    std::fs::write(&hosted, "").unwrap();
    server.clock.advance(LATER);
    let (findings, report) = scrub(&server).await;
    assert_eq!((report.mended_records, report.not_mended), (1, 0), "{findings:?}");
    // The tag that points to it points to something that is there.
    assert_eq!(report.damaged_hosted_records, 1, "{findings:?}");
    assert!(!cached.exists() && hosted.exists());
    assert!(findings.iter().all(|finding| finding.wrong == Wrong::UnreadableRecord));
}

#[tokio::test]
async fn the_quarantine_holds_no_more_than_its_limit() {
    let fake = FakeUpstream::start().await;
    let layers: Vec<Bytes> = (0..4).map(|seed| pseudo_random(seed, 100_000)).collect();
    let image = fake.put_image("library/x", "1", &layers);
    let server = Headpond::with(&fake, "", "limits: {quarantine_size: 250KiB}").await;
    assert_eq!(server.get(MANIFEST).await.digest(), image.digest);
    for layer in &image.layers {
        assert_eq!(server.get(&Headpond::blob(layer)).await.digest(), *layer);
    }
    server.wait_for_fills().await;
    for layer in &image.layers {
        flip_a_byte(&blob_file(server.directory.path(), layer));
    }
    assert_eq!(scrub(&server).await.1.rotten_cached, 4);
    let kept = image.layers.iter().filter(|layer| quarantined_file(server.directory.path(), layer).exists()).count();
    assert_eq!(kept, 2);
}

/// The upkeep of a store by itself, without a server.
pub(crate) fn upkeep_of(store: impl Into<Arc<Store>>, clock: &Clock) -> Upkeep {
    Upkeep::new(upkeep_parts(store, clock))
}

/// What [`upkeep_of`] is made of.
pub(crate) fn upkeep_parts(store: impl Into<Arc<Store>>, clock: &Clock) -> UpkeepParts {
    let store = store.into();
    let pending = store.pending_uploads();
    UpkeepParts {
        store,
        clock: clock.clone(),
        tasks: Tasks::default(),
        metrics: Metrics::new().unwrap().upkeep.clone(),
        limits: UpkeepLimits {
            scrub_rate_bytes: 0,
            scrub_looks: 1000,
            scrub_interval: Duration::ZERO,
            quarantine_bytes: 1 << 30,
            gc_grace: Duration::from_secs(24 * 60 * 60),
            gc_interval: Duration::ZERO,
            gc_settle: Duration::ZERO,
        },
        forget: Box::new(|_| {}),
        forget_place: Box::new(|_| {}),
        send_again: Box::new(move |digest| pending.add_lost(digest).is_ok()),
    }
}

/// The findings and the outcome of a run without a server.
pub(crate) async fn outcome_of<R>(mut run: Run<R>) -> (Vec<Finding>, Result<R, String>) {
    let mut findings = Vec::new();
    loop {
        match run.next().await.expect("the run ended without a word") {
            Event::Progress { .. } | Event::Unneeded { .. } => {}
            Event::Found { finding } => findings.push(finding),
            Event::Done { report } => return (findings, Ok(report)),
            Event::Failed { error } => return (findings, Err(error)),
        }
    }
}

/// Somebody pushes an image with a blob that is there, while a scrub that has read the records is on its way to it.
#[tokio::test(start_paused = true)]
async fn a_rotten_blob_that_became_hosted_since_the_records_were_read_is_reported_and_stays() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(StoreParts::directory(&store_of(directory.path()))).unwrap());
    let name = RepositoryName::parse("team/app").unwrap();
    HostedRepository::create(&store, name.as_str()).await;
    // They are read in the order of their digests: the first one is there to be waited for.
    let mut blobs = [pseudo_random(1, 1000), pseudo_random(2, 1000)];
    blobs.sort_by_key(|bytes| Digest::of(bytes).to_string());
    for bytes in &blobs {
        store.blobs.put(&Digest::of(bytes), bytes).unwrap();
    }
    let rotten = Digest::of(&blobs[1]);
    flip_a_byte(&blob_file(directory.path(), &rotten));
    let slow = ScrubOptions { rate_bytes: Some(1), ..FAST };
    let mut run = upkeep_of(Arc::clone(&store), &Clock::system()).scrub(slow).await.unwrap();
    let (mut findings, mut is_hosted) = (Vec::new(), false);
    let report = loop {
        match run.next().await.expect("the run ended without a word") {
            Event::Progress { report } if report.blobs == 1 && !is_hosted => {
                let link = BlobLinkRecord { source: String::new(), size_bytes: None, linked_at: 1 };
                store.records.write(&RecordKey::blob_link(&name, &rotten), &link).await.unwrap();
                is_hosted = true;
            }
            Event::Progress { .. } | Event::Unneeded { .. } => {}
            Event::Found { finding } => findings.push(finding),
            Event::Done { report } => break report,
            Event::Failed { error } => panic!("{error}"),
        }
    };
    assert!(is_hosted, "the first blob was not seen");
    assert_eq!((report.rotten_hosted, report.rotten_cached), (1, 0), "{findings:?}");
    assert_eq!((findings[0].outcome, findings[0].digest), (Outcome::Hosted, Some(rotten)));
    assert!(blob_file(directory.path(), &rotten).exists());
}

/// A hosted image, and a cached one, each with a layer that has rotted; and a tag to be mended.
async fn store_with_damage() -> (TempDir, Pushed, Pushed) {
    let (directory, hosted) = directory_with_hosted_image().await;
    let path = store_of(directory.path());
    let store = Store::open(StoreParts::directory(&path)).unwrap();
    let cached = HostedRepository::create(&store, "up/library/x").await.into_cache("source").await;
    let image = cached.push("1", &[pseudo_random(3, 50_000), pseudo_random(4, 50_000)]).await;
    let lost = cached.push("lost", &[pseudo_random(4, 50_000)]).await;
    std::fs::remove_file(blob_file(directory.path(), &lost.manifest)).unwrap();
    for digest in [&hosted.layers[0], &image.layers[0]] {
        flip_a_byte(&blob_file(directory.path(), digest));
    }
    (directory, hosted, image)
}

/// Whatever call fails: nothing hosted, and nothing sound, goes; and the next scrub does the rest.
async fn assert_a_fault_costs_nothing(fault: impl Fn(usize, &Path) -> (Store, Box<dyn Fn() -> bool>)) {
    let (damaged, hosted, image) = store_with_damage().await;
    for nth in 1.. {
        let directory = copy_of(damaged.path());
        let path = store_of(directory.path());
        let clock = Clock::system();
        clock.advance(LATER);
        let (store, has_failed) = fault(nth, &path);
        let first = outcome_of(upkeep_of(store, &clock).scrub(FAST).await.unwrap()).await;
        let untouched = [hosted.manifest, hosted.layers[0], image.manifest, image.layers[1]];
        for digest in &untouched {
            assert!(blob_file(directory.path(), digest).exists(), "fault {nth}: {digest} is gone: {first:?}");
        }
        let second = Store::open(StoreParts::directory(&path)).unwrap();
        let (_, second) = outcome_of(upkeep_of(second, &clock).scrub(FAST).await.unwrap()).await;
        let second = second.unwrap();
        assert_eq!((second.rotten_hosted, second.not_mended, second.damaged_hosted_records), (1, 0, 0), "fault {nth}");
        assert!(untouched.iter().all(|digest| blob_file(directory.path(), digest).exists()));
        assert!(!blob_file(directory.path(), &image.layers[0]).exists(), "fault {nth}");
        if !has_failed() {
            let report = first.1.unwrap();
            assert_eq!((report.rotten_cached, report.rotten_hosted, report.mended_records), (1, 1, 2));
            assert!(nth > 1, "nothing was called");
            return;
        }
    }
}

#[tokio::test]
async fn whatever_call_of_the_records_fails_a_scrub_loses_nothing() {
    assert_a_fault_costs_nothing(|nth, path| {
        let faulty = Arc::new(FaultyRecords::failing_nth(nth));
        let mut store = Store::open(StoreParts::directory(path)).unwrap();
        store.records = Records::new(faulty.around(Arc::new(LocalFileSystem::new_with_prefix(path).unwrap())));
        (store, Box::new(move || faulty.has_failed()))
    })
    .await;
}

#[tokio::test]
async fn whatever_call_of_the_disk_fails_a_scrub_loses_nothing() {
    assert_a_fault_costs_nothing(|nth, path| {
        let disk = FaultyDisk::failing_nth(nth);
        let store = Store::open(StoreParts { disk: Arc::clone(&disk) as Arc<dyn Disk>, ..StoreParts::directory(path) }).unwrap();
        (store, Box::new(move || disk.has_failed()))
    })
    .await;
}

#[tokio::test]
async fn the_bucket_is_read_only_when_it_is_asked_for_and_then_mended_as_the_disk_is() {
    let world = World::in_a_bucket().await;
    let hosted = world.hosted("team/app").await.push("1", &[pseudo_random(1, 1000)]).await;
    let cached = world.hosted("up/x").await.into_cache("s").await.push("1", &[pseudo_random(2, 1000), pseudo_random(3, 1000)]).await;
    let bucket = world.store.bucket.clone().unwrap();
    for digest in [&hosted.layers[0], &cached.layers[0]] {
        bucket.put(digest, Bytes::from_static(b"something else")).await.unwrap();
    }
    let upkeep = upkeep_of(Arc::clone(&world.store), &world.clock);
    let (findings, report) = outcome_of(upkeep.scrub(FAST).await.unwrap()).await;
    assert_eq!((findings.len(), report.unwrap().blobs), (0, 0));
    let everything = ScrubOptions { bucket: true, ..FAST };
    let (_, report) = outcome_of(upkeep.scrub(everything).await.unwrap()).await;
    let report = report.unwrap();
    assert_eq!((report.blobs, report.rotten_cached, report.rotten_hosted, report.not_mended), (5, 1, 1, 0));
    assert!(world.has(&hosted.layers[0]).await && !world.has(&cached.layers[0]).await);
    let key = Key::from(format!("quarantine/sha256/{}", cached.layers[0].hex()));
    assert_eq!(world.objects.get(&key).await.unwrap().bytes().await.unwrap(), &b"something else"[..]);
    assert!(outcome_of(upkeep.scrub(everything).await.unwrap()).await.1.unwrap().rotten_cached == 0);
}

/// A blob with other bytes than its digest's, read to its end.
async fn rotten_blob(bucket: &Bucket) -> (Digest, Inventory, BlobCheck) {
    let digest = Digest::of(b"what it was");
    bucket.put(&digest, Bytes::from_static(b"something else")).await.unwrap();
    let place = Inventory::Bucket(bucket.clone());
    let mut check = place.check(&digest).await.unwrap().unwrap();
    while check.step().await.unwrap().is_some() {}
    assert!(!check.holds(&digest));
    (digest, place, check)
}

#[tokio::test]
async fn an_object_that_was_replaced_while_it_was_checked_stays() {
    let fake = FakeBucket::start().await;
    let bucket = Bucket::new(fake.client().await);
    let (digest, place, check) = rotten_blob(&bucket).await;
    bucket.put(&digest, Bytes::from_static(b"what it was")).await.unwrap();
    assert!(!place.quarantine(&digest, check, 1 << 20).await.unwrap());
    assert_eq!(bucket.stat(&digest).await.unwrap(), Some(11));
}

#[tokio::test]
async fn a_rotten_object_goes_although_it_cannot_be_copied() {
    let fake = FakeBucket::start().await;
    let bucket = Bucket::new(fake.client().await);
    let (digest, place, check) = rotten_blob(&bucket).await;
    fake.break_path("/quarantine/", Fault::AccessDenied);
    assert!(place.quarantine(&digest, check, 1 << 20).await.unwrap());
    assert!(fake.has_broken());
    assert_eq!(bucket.stat(&digest).await.unwrap(), None);
}
