//! Collections and scrubs of a bucket of which one request fails, whichever it is.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headpond::clock::Clock;
use headpond::oci::Digest;
use headpond::storage::{BucketClient, BucketLimits, BucketSettings, RecordKey, SourceBlobRecord, Store, StoreParts};
use headpond::telemetry::metrics::Metrics;
use headpond::upkeep::report::{Finding, Outcome, Wrong};
use headpond::upkeep::{ScrubOptions, Upkeep, UpkeepParts};
use tempfile::TempDir;

use crate::fake_bucket::{FakeBucket, Fault};
use crate::fake_upstream::pseudo_random;
use crate::gc::NOW;
use crate::gc::faults::{ABANDONED, SETTLED};
use crate::hosted::HostedRepository;
use crate::scrub::{FAST, begin, outcome_of, store_of, to_the_end, upkeep_of, upkeep_parts};

const EVERYTHING: ScrubOptions = ScrubOptions { bucket: true, ..FAST };

/// A store over the bucket, whose requests are not repeated: each failure is seen.
async fn store_over(bucket: &FakeBucket, directory: &Path) -> Arc<Store> {
    store_that_waits(bucket, directory, Duration::from_secs(10)).await
}

async fn store_that_waits(bucket: &FakeBucket, directory: &Path, timeout: Duration) -> Arc<Store> {
    let limits = BucketLimits { timeout, attempts: 1 };
    let settings = BucketSettings { limits, ..bucket.settings() };
    let client = BucketClient::s3(&settings, Metrics::new().unwrap().bucket.clone()).await.unwrap();
    let store = Store::open(StoreParts { bucket: Some(client), ..StoreParts::directory(&store_of(directory)) }).unwrap();
    store.bucket.clone().unwrap().find_out_preconditions().await;
    Arc::new(store)
}

/// What a bucket holds.
struct Content {
    /// A hosted image and a cached one, with their manifests.
    needed: Vec<(Digest, Bytes)>,
    /// Of these, one layer each.
    hosted: Digest,
    cached: Digest,
    /// What nothing refers to but a link.
    garbage: Vec<Digest>,
}

async fn bucket_with_content() -> (FakeBucket, Content) {
    let (bucket, directory) = (FakeBucket::start().await, TempDir::new().unwrap());
    let store = store_over(&bucket, directory.path()).await;
    let layers = [pseudo_random(1, 1000), pseudo_random(2, 1000)];
    let hosted = HostedRepository::create(&store, "team/app").await.push("1", &layers[..1]).await;
    let cached = HostedRepository::create(&store, "up/x").await.into_cache("0a1b").await.push("1", &layers[1..]).await;
    let orphan = pseudo_random(3, 1000);
    let garbage = vec![Digest::of(&orphan), HostedRepository::create(&store, "team/b").await.commit(&pseudo_random(4, 1000)).await];
    store.bucket.as_ref().unwrap().put(&garbage[0], orphan).await.unwrap();
    for digest in [&garbage[0], &cached.layers[0]] {
        store.records.write(&RecordKey::source_blob("0a1b", digest), &SourceBlobRecord { vouched_at: 1 }).await.unwrap();
    }
    let digests = [&hosted, &cached].into_iter().flat_map(|pushed| pushed.layers.iter().chain([&pushed.manifest]));
    let needed = digests.map(|digest| (*digest, Bytes::from(std::fs::read(bucket.file(&super::key(digest))).unwrap()))).collect();
    (bucket, Content { needed, hosted: hosted.layers[0], cached: cached.layers[0], garbage })
}

fn has(bucket: &FakeBucket, digest: &Digest) -> bool {
    bucket.file(&super::key(digest)).exists()
}

fn assert_holds(bucket: &FakeBucket, needed: &[(Digest, Bytes)], told: &str) {
    for (digest, bytes) in needed {
        let found = std::fs::read(bucket.file(&super::key(digest)));
        assert!(found.is_ok_and(|found| found == *bytes), "{told}: {digest} is lost");
    }
}

/// Whatever request of a collection meets `fault`, of every third from `first` on: what is needed stays,
/// and the next one does the rest.
async fn collections_survive(fault: Fault, first: usize) {
    let (template, content) = bucket_with_content().await;
    for nth in (first..).step_by(3) {
        let (bucket, directory, clock) = (template.copy().await, TempDir::new().unwrap(), Clock::system());
        clock.advance(SETTLED);
        let store = store_over(&bucket, directory.path()).await;
        bucket.break_nth(nth, fault);
        let outcome = outcome_of(upkeep_of(store, &clock).gc(NOW).await.unwrap()).await.1;
        let has_broken = bucket.has_broken();
        bucket.mend();
        let told = format!("{fault:?} of request {nth}: {outcome:?}");
        assert_holds(&bucket, &content.needed, &told);
        clock.advance(ABANDONED);
        let store = store_over(&bucket, directory.path()).await;
        let second = outcome_of(upkeep_of(store, &clock).gc(NOW).await.unwrap()).await.1.unwrap();
        assert_eq!(second.failed, 0, "{told}");
        assert_holds(&bucket, &content.needed, &told);
        for digest in &content.garbage {
            assert!(!has(&bucket, digest), "{told}, then {second:?}: {digest} is still there");
        }
        if !has_broken {
            assert!(nth > 20 && outcome.unwrap().deleted == 2, "{told}");
            return;
        }
    }
}

/// Whatever request of a scrub meets `fault`: what is sound stays, what is hosted stays though it is
/// rotten, and what is cached and rotten is gone after the next one.
async fn scrubs_survive(fault: Fault) {
    let (template, content) = bucket_with_content().await;
    for digest in [&content.hosted, &content.cached] {
        std::fs::write(template.file(&super::key(digest)), b"something else").unwrap();
    }
    let is_sound = |digest: &Digest| *digest != content.hosted && *digest != content.cached;
    let sound: Vec<_> = content.needed.iter().filter(|(digest, _)| is_sound(digest)).cloned().collect();
    for nth in 1.. {
        let (bucket, directory, clock) = (template.copy().await, TempDir::new().unwrap(), Clock::system());
        let store = store_over(&bucket, directory.path()).await;
        bucket.break_nth(nth, fault);
        let first = outcome_of(upkeep_of(store, &clock).scrub(EVERYTHING).await.unwrap()).await.1;
        let has_broken = bucket.has_broken();
        bucket.mend();
        let told = format!("{fault:?} of request {nth}: {first:?}");
        let store = store_over(&bucket, directory.path()).await;
        let second = outcome_of(upkeep_of(store, &clock).scrub(EVERYTHING).await.unwrap()).await.1.unwrap();
        assert_holds(&bucket, &sound, &told);
        assert!(has(&bucket, &content.hosted), "{told}");
        assert!(!has(&bucket, &content.cached), "{told}, then {second:?}");
        assert_eq!((second.rotten_hosted, second.not_mended), (1, 0), "{told}");
        if !has_broken {
            assert!(nth > 10 && first.unwrap().rotten_cached == 1, "{told}");
            return;
        }
    }
}

/// Several tests, since each takes its time and they may run side by side.
macro_rules! whichever_request {
    ($($meets:ident: $fault:ident),+ $(,)?) => {
        $(mod $meets {
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn collections_of_requests_1_4_7() { collections_survive(Fault::$fault, 1).await; }
            #[tokio::test(flavor = "multi_thread")]
            async fn collections_of_requests_2_5_8() { collections_survive(Fault::$fault, 2).await; }
            #[tokio::test(flavor = "multi_thread")]
            async fn collections_of_requests_3_6_9() { collections_survive(Fault::$fault, 3).await; }
            #[tokio::test(flavor = "multi_thread")]
            async fn scrubs() { scrubs_survive(Fault::$fault).await; }
        })+
    };
}

whichever_request!(is_told_to_slow_down: SlowDown, loses_its_answer: LostAnswer, is_answered_in_part: Truncate);

/// What is asked for meanwhile has long been answered: nobody may say that it was not.
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_of_which_much_is_removed_keeps_no_other_from_being_read() {
    const LATE: Duration = Duration::from_millis(20);
    let (bucket, directory, clock) = (FakeBucket::start().await, TempDir::new().unwrap(), Clock::system());
    let store = store_that_waits(&bucket, directory.path(), 50 * LATE).await;
    let given_up = HostedRepository::create(&store, "team/b").await;
    for seed in 0..100 {
        given_up.commit(&pseudo_random(seed, 10)).await;
    }
    let read = HostedRepository::create(&store, "team/a").await;
    for seed in 100..150 {
        read.push("1", &[pseudo_random(seed, 10)]).await;
    }
    clock.advance(SETTLED);
    bucket.break_with(Fault::Late(LATE));
    let report = outcome_of(upkeep_of(store, &clock).gc(NOW).await.unwrap()).await.1.unwrap();
    assert_eq!((report.failed, report.is_incomplete, report.links, report.manifests), (0, false, 100, 50), "{report:?}");
}

/// The first requests of a collection are for pages: of the marks, of the blobs, of the repositories. A scrub has no marks.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_lost_is_asked_for_again_and_ends_no_run() {
    let (template, content) = bucket_with_content().await;
    std::fs::write(template.file(&super::key(&content.cached)), b"something else").unwrap();
    for fault in [Fault::SlowDown, Fault::Truncate] {
        for nth in 1..=3 {
            let (bucket, directory, clock) = (template.copy().await, TempDir::new().unwrap(), Clock::system());
            clock.advance(SETTLED);
            let store = store_over(&bucket, directory.path()).await;
            bucket.break_nth(nth.min(2), fault);
            let scrubbed = outcome_of(upkeep_of(Arc::clone(&store), &clock).scrub(EVERYTHING).await.unwrap()).await.1;
            assert!(bucket.has_broken());
            let scrubbed = scrubbed.unwrap_or_else(|error| panic!("{fault:?} of request {nth} ends a scrub: {error}"));
            assert_eq!((scrubbed.rotten_cached, scrubbed.not_mended), (1, 0), "{fault:?} of request {nth}");
            bucket.break_nth(nth, fault);
            let collected = outcome_of(upkeep_of(store, &clock).gc(NOW).await.unwrap()).await.1;
            assert!(bucket.has_broken());
            let collected = collected.unwrap_or_else(|error| panic!("{fault:?} of request {nth} ends a collection: {error}"));
            assert_eq!((collected.deleted, collected.failed), (2, 0), "{fault:?} of request {nth}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_cannot_read_all_records_deletes_nothing_and_says_so() {
    let (bucket, content) = bucket_with_content().await;
    let (directory, clock) = (TempDir::new().unwrap(), Clock::system());
    clock.advance(SETTLED);
    let store = store_over(&bucket, directory.path()).await;
    bucket.break_path("/images/team/app/_manifests/", Fault::AccessDenied);
    let report = outcome_of(upkeep_of(Arc::clone(&store), &clock).gc(NOW).await.unwrap()).await.1.expect("the others are gone on with");
    assert!(report.is_incomplete && report.failed > 0, "{report:?}");
    assert_eq!((report.repositories, report.marked, report.deleted), (3, 0, 0));
    assert!(content.garbage.iter().all(|digest| has(&bucket, digest)));
    bucket.mend();
    let report = outcome_of(upkeep_of(store, &clock).gc(NOW).await.unwrap()).await.1.unwrap();
    assert_eq!((report.deleted, report.failed, report.is_incomplete), (2, 0, false));
    assert_holds(&bucket, &content.needed, "after a collection that could not read all");
}

/// The disk tier has what the bucket lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_the_bucket_lost_is_sent_to_it_again_from_disk() {
    for length in [1000, 20 * super::MIB] {
        let (fake, image, content) = super::fake_with_image(31, length).await;
        let bucket = FakeBucket::start().await;
        let server = super::replica(&fake, &bucket, "", "").await;
        super::pull(&server, &image).await;
        server.wait_for_fills().await;
        super::stored(&bucket, &image).await;
        let (layer, manifest) = (super::key(&image.layers[0]), super::key(&image.digest));
        super::eventually("the manifest is on disk", || crate::scrub::blob_file(server.directory.path(), &image.digest).exists()).await;
        // What is noted still would be sent again for that.
        let pending = server.directory.path().join("headpond-data/pending");
        super::eventually("nothing waits to be sent", || std::fs::read_dir(&pending).unwrap().next().is_none()).await;
        std::fs::remove_file(bucket.file(&layer)).unwrap();
        std::fs::remove_file(bucket.file(&manifest)).unwrap();
        fake.clear_journal();
        // The first upload of a blob may be ending still: then it is another scrub that finds it.
        let mut lost = 0;
        while lost < 2 {
            let (findings, report) = to_the_end(begin(server.directory.path(), FAST).await.unwrap()).await;
            assert!(!report.needs_somebody() && report.found_something() == (report.lost > 0), "{findings:?}");
            let of_lost = |finding: &Finding| (finding.wrong, finding.outcome) == (Wrong::LostBlob, Outcome::SentAgain);
            assert!(findings.iter().all(of_lost), "{findings:?}");
            lost += report.lost;
        }
        super::eventually("the layer is in the bucket", || std::fs::read(bucket.file(&layer)).is_ok_and(|bytes| bytes == content)).await;
        super::eventually("the manifest is in the bucket", || bucket.file(&manifest).exists()).await;
        assert_eq!(fake.journal().len(), 0, "upstream was asked");
        assert_eq!(server.metric("headpond_scrub_lost_blobs_total"), 2);
        assert_eq!(to_the_end(begin(server.directory.path(), FAST).await.unwrap()).await.1.lost, 0);
    }
}

/// As a garbage collection leaves it on the disks of other replicas.
#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_refers_to_is_not_sent_to_the_bucket_again() {
    let (bucket, content) = bucket_with_content().await;
    let (directory, clock) = (TempDir::new().unwrap(), Clock::system());
    let store = store_over(&bucket, directory.path()).await;
    let (garbage, lost) = (content.garbage[0], content.cached);
    for digest in [&garbage, &lost] {
        let file = bucket.file(&super::key(digest));
        store.blobs.put(digest, &std::fs::read(&file).unwrap()).unwrap();
        std::fs::remove_file(&file).unwrap();
    }
    let report = outcome_of(upkeep_of(Arc::clone(&store), &clock).scrub(FAST).await.unwrap()).await.1.unwrap();
    assert_eq!((report.lost, store.pending_uploads().list()), (1, vec![lost]));
}

/// It gets there between the look for it and the end of the scrub, as the upload of a fill does.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_was_on_its_way_to_the_bucket_when_a_scrub_looked_is_not_lost() {
    let (bucket, content) = bucket_with_content().await;
    let (directory, clock) = (TempDir::new().unwrap(), Clock::system());
    let store = store_over(&bucket, directory.path()).await;
    let file = bucket.file(&super::key(&content.cached));
    let bytes = std::fs::read(&file).unwrap();
    store.blobs.put(&content.cached, &bytes).unwrap();
    std::fs::remove_file(&file).unwrap();
    let has_arrived = file.clone();
    let arrives = Box::new(move |_: &Digest| std::fs::write(&file, &bytes).unwrap());
    let parts = UpkeepParts { forget_place: arrives, ..upkeep_parts(Arc::clone(&store), &clock) };
    let report = outcome_of(Upkeep::new(parts).scrub(FAST).await.unwrap()).await.1.unwrap();
    assert!(has_arrived.exists(), "the scrub was to miss it first");
    assert_eq!((report.lost, store.pending_uploads().list()), (0, vec![]));
}
