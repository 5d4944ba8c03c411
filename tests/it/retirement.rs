//! What nobody pulls goes; what somebody pulls stays, with all that belongs to it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use headpond::app::World;
use headpond::cache::Retired;
use headpond::oci::{Digest, MediaType};
use reqwest::StatusCode;
use serde_json::json;
use tempfile::TempDir;

use crate::fake_bucket::{FakeBucket, Fault as BucketFault};
use crate::fake_upstream::{FakeUpstream, Image, pseudo_random};
use crate::headpond::{Headpond, configuration, walk};
use crate::scrub::directory_with_hosted_image;

const TAG: &str = "/v2/up/library/x/manifests/1";
const MINUTE: Duration = Duration::from_secs(61);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const NOTHING: Retired = Retired { tags: 0, manifests: 0, links: 0, repositories: 0, words: 0 };

async fn with_image(layers: &[&'static str]) -> (FakeUpstream, Headpond, Image) {
    let fake = FakeUpstream::start().await;
    let layers: Vec<bytes::Bytes> = layers.iter().map(|layer| bytes::Bytes::from(*layer)).collect();
    let image = fake.put_image("library/x", "1", &layers);
    let server = Headpond::before(&fake).await;
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    recorded(&server, "1", &image.digest).await;
    (fake, server, image)
}

/// Waits until a tag of the repository is recorded, with all that is written with it.
async fn recorded(server: &Headpond, tag: &str, digest: &Digest) {
    server.wait_for_repository("up/library/x").await;
    wait_for(|| record(server, &format!("_validated/{tag}")).exists() && record(server, &of("_manifests", digest)).exists()).await;
}

fn record(server: &Headpond, key: &str) -> PathBuf {
    server.directory.path().join("headpond-data/images/up/library/x").join(key)
}

fn of(kind: &str, digest: &Digest) -> String {
    format!("{kind}/sha256/{}", digest.hex())
}

fn by_digest(digest: &Digest) -> String {
    format!("/v2/up/library/x/manifests/{digest}")
}

async fn wait_for(holds: impl Fn() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain");
}

async fn retire(server: &Headpond) -> Retired {
    server.running.retire().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_are_written_down_behind_and_seldom() {
    let (_fake, server, image) = with_image(&[]).await;
    let path = record(&server, &of("_pulled", &image.digest));
    server.clock.advance(HOUR);
    server.get(TAG).await;
    server.clock.advance(5 * HOUR);
    assert!(!path.exists(), "that it came says as much");
    server.head(TAG).await;
    wait_for(|| path.exists()).await;
    let first = std::fs::read(&path).unwrap();
    for _ in 0..5 {
        server.clock.advance(MINUTE);
        server.get(TAG).await;
    }
    assert_eq!(std::fs::read(&path).unwrap(), first);
    server.clock.advance(6 * HOUR);
    server.get(&by_digest(&image.digest)).await;
    wait_for(|| std::fs::read(&path).is_ok_and(|now| now != first)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_pulled_is_removed_and_can_be_pulled_again() {
    let (fake, server, image) = with_image(&["layer"]).await;
    server.get(&Headpond::blob(&image.layers[0])).await;
    server.wait_for_fills().await;
    server.clock.advance(89 * DAY);
    assert_eq!(retire(&server).await, NOTHING);
    server.clock.advance(2 * DAY);
    assert_eq!(retire(&server).await, Retired { tags: 1, manifests: 1, links: 2, repositories: 1, ..NOTHING });
    assert_eq!(server.get("/v2/_catalog").await.bytes(), r#"{"repositories":[]}"#);
    let root = server.directory.path().join("headpond-data");
    assert!(!root.join("images/up").exists(), "nor are empty directories left");
    assert_eq!(server.metric(r#"headpond_retired_records_total{kind="manifest"}"#), 1);
    assert_eq!(retire(&server).await, NOTHING);

    fake.clear_journal();
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    assert_eq!(server.get(&Headpond::blob(&image.layers[0])).await.digest(), image.layers[0]);
    assert_eq!((fake.manifest_gets(), fake.requests_matching("GET", "/blobs/")), (1, 0), "bytes are left to eviction");
    recorded(&server, "1", &image.digest).await;
    assert_eq!(retire(&server).await, NOTHING);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_pulled_of_a_repository_without_a_record_is_removed() {
    let (_fake, server, image) = with_image(&[]).await;
    std::fs::remove_file(server.directory.path().join("headpond-data/repositories/up!library!x")).unwrap();
    server.clock.advance(91 * DAY);
    assert_eq!(retire(&server).await, Retired { tags: 1, manifests: 1, links: 1, ..NOTHING });
    assert!(!record(&server, &of("_manifests", &image.digest)).exists());
}

/// A manifest that was pushed names no source.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_to_a_repository_without_a_record_stays() {
    let (_fake, server, image) = with_image(&[]).await;
    std::fs::remove_file(server.directory.path().join("headpond-data/repositories/up!library!x")).unwrap();
    let path = record(&server, &of("_manifests", &image.digest));
    let mut pushed: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    pushed["source"] = "".into();
    std::fs::write(&path, pushed.to_string()).unwrap();
    server.clock.advance(91 * DAY);
    assert_eq!(retire(&server).await, NOTHING);
    assert!(path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_pulled_stays_with_its_layers() {
    let (fake, server, kept) = with_image(&["shared", "its own"]).await;
    let other = fake.put_image("library/x", "2", &["shared".into(), "the other's".into()]);
    server.get("/v2/up/library/x/manifests/2").await;
    recorded(&server, "2", &other.digest).await;
    server.clock.advance(60 * DAY);
    server.get(TAG).await;
    wait_for(|| record(&server, &of("_pulled", &kept.digest)).exists()).await;
    server.clock.advance(40 * DAY);
    assert_eq!(retire(&server).await, Retired { tags: 1, manifests: 1, links: 2, repositories: 0, ..NOTHING });
    let link = |digest: &Digest| record(&server, &of("_blobs", digest)).exists();
    assert!(link(&kept.layers[0]) && link(&kept.layers[1]) && link(&kept.config) && !link(&other.layers[1]) && !link(&other.config));
    let directory = server.stop().await;
    fake.stop().await;
    let server = Headpond::in_directory(&fake, "", "", directory, World::default()).await;
    assert_eq!(server.get(TAG).await.digest(), kept.digest);
    assert_eq!(server.get("/v2/up/library/x/manifests/2").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_an_index_that_is_pulled_stays_and_so_do_its_signatures() {
    let fake = FakeUpstream::start().await;
    let images = ["a", "b"].map(|layer| fake.put_image("library/x", layer, &[layer.into()]));
    let entries: Vec<_> = images
        .iter()
        .map(|image| json!({"mediaType": MediaType::OCI_MANIFEST, "digest": image.digest, "size": image.manifest.len()}))
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": entries}).to_string();
    let index = fake.put_manifest("library/x", "1", index, MediaType::OCI_INDEX);
    let signature = fake.put_referrer("library/x", &images[0].digest, "a/signature", "x");
    let server = Headpond::before(&fake).await;
    for digest in [&images[0].digest, &images[1].digest, &signature] {
        server.get(&by_digest(digest)).await;
        wait_for(|| record(&server, &of("_manifests", digest)).exists()).await;
    }
    server.get(TAG).await;
    recorded(&server, "1", &index).await;
    server.clock.advance(60 * DAY);
    server.head(TAG).await;
    wait_for(|| record(&server, &of("_pulled", &index)).exists()).await;
    server.clock.advance(40 * DAY);
    assert_eq!(retire(&server).await, NOTHING);
    server.clock.advance(60 * DAY);
    assert_eq!(retire(&server).await, Retired { tags: 1, manifests: 4, links: 5, repositories: 1, ..NOTHING });
}

#[tokio::test(flavor = "multi_thread")]
async fn late_pull_record_cannot_bring_back_a_deleted_image() {
    let (fake, server, image) = with_image(&[]).await;
    server.clock.advance(91 * DAY);
    assert_eq!(retire(&server).await.manifests, 1);
    let late = record(&server, &of("_pulled", &image.digest));
    std::fs::create_dir_all(late.parent().unwrap()).unwrap();
    std::fs::write(&late, r#"{"last_pulled_at":4000000000}"#).unwrap();
    assert_eq!(server.get("/v2/_catalog").await.bytes(), r#"{"repositories":[]}"#);
    let directory = server.stop().await;
    fake.stop().await;
    let server = Headpond::in_directory(&fake, "", "", directory, World::default()).await;
    for path in [TAG, &by_digest(&image.digest), "/v2/up/library/x/tags/list", &format!("/v2/up/library/x/referrers/{}", image.digest)] {
        assert_eq!(server.get(path).await.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
    }
    assert_eq!(retire(&server).await, NOTHING);
}

#[tokio::test(flavor = "multi_thread")]
async fn repository_whose_image_is_pulled_while_it_is_retired_is_whole_in_the_end() {
    let (fake, server, image) = with_image(&["layer"]).await;
    for _ in 0..20 {
        server.clock.advance(91 * DAY);
        let (_, pulled) = tokio::join!(retire(&server), server.get(TAG));
        assert_eq!(pulled.digest(), image.digest);
        // Whatever was lost of it is written anew, once memory has it no more.
        server.clock.advance(2 * DAY);
        assert_eq!(server.get(TAG).await.digest(), image.digest);
    }
    let directory = server.stop().await;
    let root = directory.path().join("headpond-data");
    let manifest = root.join("images/up/library/x").join(of("_manifests", &image.digest));
    assert!(!manifest.exists() || root.join("repositories/up!library!x").exists());
    drop(fake);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_may_retire_the_same_at_the_same_time() {
    let (fake, bucket) = (FakeUpstream::start().await, FakeBucket::start().await);
    let replica = async || {
        let text = configuration(&fake.url(), "", "").replace("path: headpond-data", &format!("path: headpond-data, s3: {}", bucket.s3()));
        Headpond::of(&fake, &text, TempDir::new().unwrap(), World::default()).await
    };
    let (one, other) = (replica().await, replica().await);
    let image = fake.put_image("library/x", "1", &["layer".into()]);
    // Named like one inside it, in front of its own records and behind them.
    for name in ["library/x", "library/x/0", "library/x/a"] {
        fake.put_image(name, "1", &["layer".into()]);
        one.get(&format!("/v2/up/{name}/manifests/1")).await;
        wait_for(|| bucket.file(&format!("images/up/{name}/_validated/1")).exists()).await;
        wait_for(|| bucket.file(&format!("repositories/{}", format!("up/{name}").replace('/', "!"))).exists()).await;
    }
    assert_eq!(other.get(TAG).await.digest(), image.digest);
    one.clock.advance(60 * DAY);
    other.get("/v2/up/library/x/a/manifests/1").await;
    wait_for(|| bucket.keys().iter().any(|key| key.contains("library/x/a/_pulled"))).await;
    one.clock.advance(40 * DAY);
    let (first, second) = tokio::join!(retire(&one), retire(&other));
    assert!(first.repositories + second.repositories >= 2, "{first:?} {second:?}");
    assert_eq!(one.get("/v2/_catalog").await.bytes(), r#"{"repositories":["up/library/x/a"]}"#);
    assert!(bucket.keys().iter().all(|key| !key.starts_with("images/") || key.starts_with("images/up/library/x/a/")));
    fake.clear_journal();
    assert_eq!(other.get(TAG).await.digest(), image.digest);
    assert_eq!(fake.manifest_gets(), 1, "what was in memory is compared with the bucket");
    wait_for(|| bucket.file("repositories/up!library!x").exists()).await;
}

/// The calls of a retirement fail one after the other, until there is none left to fail.
#[tokio::test(flavor = "multi_thread")]
async fn retirement_that_is_broken_off_at_any_call_leaves_nothing_wrong_and_the_next_one_ends_it() {
    let (fake, bucket) = (FakeUpstream::start().await, FakeBucket::start().await);
    let text = configuration(&fake.url(), "", "").replace("path: headpond-data", &format!("path: headpond-data, s3: {}", bucket.s3()));
    let server = Headpond::of(&fake, &text, TempDir::new().unwrap(), World::default()).await;
    let image = fake.put_image("library/x", "1", &[]);
    let manifest = format!("images/up/library/x/{}", of("_manifests", &image.digest));
    let (tag, repository) = ("images/up/library/x/_tags/1", "repositories/up!library!x");
    let has = |key: &str| bucket.file(key).exists();
    for nth in 1.. {
        assert_eq!(server.get(TAG).await.digest(), image.digest);
        wait_for(|| [&manifest, tag, repository, "images/up/library/x/_validated/1"].iter().all(|key| has(key))).await;
        server.clock.advance(91 * DAY);
        bucket.break_nth(nth, BucketFault::AccessDenied);
        let _ = server.running.retire().await;
        let has_broken = bucket.has_broken();
        bucket.mend();
        assert!((has(repository) || !has(&manifest)) && (has(&manifest) || !has(tag)), "{nth}: {:#?}", bucket.keys());
        retire(&server).await;
        let left: Vec<_> = bucket.keys().into_iter().filter(|key| key.starts_with("images/") || key.starts_with("repositories/")).collect();
        assert_eq!(left, Vec::<String>::new(), "{nth}");
        if !has_broken {
            assert!(nth > 10, "{nth}");
            return;
        }
    }
}

/// What was pushed is nowhere else.
#[tokio::test(flavor = "multi_thread")]
async fn hosted_repository_that_nobody_pulls_keeps_all_its_records() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let (directory, pushed) = directory_with_hosted_image().await;
    let server = Headpond::in_directory(&fake, "", "", directory, World::default()).await;
    let root = server.directory.path().join("headpond-data");
    let hosted = ["repositories/team!app", "images/team/app/_tags/1"].map(|key| root.join(key));
    let of_digests =
        [of("_manifests", &pushed.manifest), of("_blobs", &pushed.layers[0])].map(|key| root.join("images/team/app").join(key));
    let is_whole = || hosted.iter().chain(&of_digests).all(|path| path.exists());
    assert!(is_whole(), "{hosted:?} {of_digests:?}");
    // A cached one beside it goes.
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    recorded(&server, "1", &image.digest).await;
    server.clock.advance(1000 * DAY);
    assert_eq!(retire(&server).await.repositories, 1);
    assert!(is_whole());
    assert_eq!(retire(&server).await, NOTHING);
    assert!(is_whole());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_retired_where_that_is_not_wanted() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let server = Headpond::with(&fake, "", "limits: {retire_after: 0}").await;
    server.get(TAG).await;
    recorded(&server, "1", &image.digest).await;
    server.clock.advance(1000 * DAY);
    assert_eq!(retire(&server).await, NOTHING);
}

/// The blobs that some source has given its word for.
fn words(server: &Headpond) -> BTreeSet<String> {
    let mut files = Vec::new();
    walk(&server.directory.path().join("headpond-data/sources"), &mut files);
    files.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn word_of_a_source_goes_once_its_blob_was_evicted_and_stays_with_its_blob() {
    let fake = FakeUpstream::start().await;
    let layers = [1, 2].map(|seed| pseudo_random(seed, 40 << 20));
    let text = configuration(&fake.url(), "", "").replace("path: headpond-data", "path: headpond-data, max_size: 64MiB, min_free: 0");
    let server = Headpond::of(&fake, &text, TempDir::new().unwrap(), World::default()).await;
    let [evicted, kept] = layers.map(|layer| fake.put_blob(layer));
    for blob in [&evicted, &kept] {
        assert_eq!(server.get(&Headpond::blob(blob)).await.digest(), *blob);
        server.wait_for_fills().await;
    }
    assert_eq!(server.stored_blobs(), [kept.hex()]);
    assert_eq!(words(&server), [evicted.hex(), kept.hex()].into());
    server.clock.advance(91 * DAY);
    assert_eq!(retire(&server).await.words, 1);
    assert_eq!(words(&server), [kept.hex()].into());
    assert_eq!(server.metric(r#"headpond_retired_records_total{kind="word"}"#), 1);

    fake.clear_journal();
    assert_eq!(server.get(&Headpond::blob(&evicted)).await.digest(), evicted);
    server.wait_for_fills().await;
    assert_eq!(words(&server), [evicted.hex(), kept.hex()].into(), "who fetches it writes it anew");
    assert_eq!(retire(&server).await.words, 1, "now the other one is evicted");
}

#[tokio::test(flavor = "multi_thread")]
async fn word_of_a_source_whose_blob_was_only_asked_for_goes_when_it_is_old() {
    let fake = FakeUpstream::start().await;
    let (server, blob) = (Headpond::before(&fake).await, fake.put_blob("never pulled"));
    assert_eq!(server.head(&Headpond::blob(&blob)).await.status, StatusCode::OK);
    assert_eq!(words(&server), [blob.hex()].into());
    server.clock.advance(89 * DAY);
    assert_eq!(retire(&server).await.words, 0);
    server.clock.advance(2 * DAY);
    assert_eq!(retire(&server).await.words, 1);
    assert_eq!(words(&server), BTreeSet::new());
    assert_eq!(server.head(&Headpond::blob(&blob)).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn link_of_a_repository_of_which_blobs_alone_were_asked_for_goes_when_it_is_old() {
    let fake = FakeUpstream::start().await;
    let (server, blob) = (Headpond::before(&fake).await, fake.put_blob("never pulled"));
    assert_eq!(server.head(&Headpond::blob(&blob)).await.status, StatusCode::OK);
    let link = record(&server, &of("_blobs", &blob));
    server.clock.advance(89 * DAY);
    assert_eq!((retire(&server).await.links, link.exists()), (0, true));
    server.clock.advance(2 * DAY);
    assert_eq!((retire(&server).await.links, link.exists()), (1, false));
    assert_eq!(server.head(&Headpond::blob(&blob)).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn words_are_compared_with_the_blobs_of_a_bucket_without_a_request_for_each() {
    let (fake, bucket) = (FakeUpstream::start().await, FakeBucket::start().await);
    let text = configuration(&fake.url(), "", "").replace("path: headpond-data", &format!("path: headpond-data, s3: {}", bucket.s3()));
    let server = Headpond::of(&fake, &text, TempDir::new().unwrap(), World::default()).await;
    let blobs: Vec<Digest> = (0..12).map(|number| fake.put_blob(format!("blob {number}"))).collect();
    let (pulled, asked_for) = blobs.split_at(6);
    for blob in pulled {
        assert_eq!(server.get(&Headpond::blob(blob)).await.digest(), *blob);
    }
    for blob in asked_for {
        assert_eq!(server.head(&Headpond::blob(blob)).await.status, StatusCode::OK);
    }
    let of = |kind: &'static str| move |key: &&String| key.starts_with(kind);
    wait_for(|| bucket.keys().iter().filter(of("blobs/")).count() == 6 && bucket.keys().iter().filter(of("sources/")).count() == 12).await;
    server.clock.advance(91 * DAY);
    bucket.take_journal();
    assert_eq!(retire(&server).await.words, 6);
    let looks = bucket.take_journal().into_iter().filter(|call| call.method == "HEAD" && call.path.contains("/blobs/")).count();
    assert_eq!(looks, 6, "only those that are not listed");
    let keys = bucket.keys();
    let left: BTreeSet<&str> = keys.iter().filter(of("sources/")).filter_map(|key| key.rsplit('/').next()).collect();
    let expected: Vec<String> = pulled.iter().map(Digest::hex).collect();
    assert_eq!(left, expected.iter().map(String::as_str).collect());
}
