//! Blobs on their way through the bucket.

use std::time::Duration;

use reqwest::Method;

use super::{MIB, fake_with_image, key, pull, replica, replica_by, replica_in, stored};
use crate::fake_bucket::{FakeBucket, Fault};
use crate::fake_upstream::{FakeUpstream, pseudo_random};
use crate::faulty_disk::{FaultyDisk, Operation};
use crate::fill::Reader;
use crate::headpond::{Headpond, configuration};

/// On a slow machine several connections may seem worth it, and what is under way when one takes over is sent twice.
const ONE_CONNECTION: &str = "limits: {parallel_above: 100MiB}";
const WAITING: &str = r#"headpond_upstream_connections_waited_for{rule="up"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_pulled_another_one_serves_without_upstream() {
    let (fake, image, _) = fake_with_image(1, 20 * MIB).await;
    let bucket = FakeBucket::start().await;
    let first = replica(&fake, &bucket, "", "").await;
    pull(&first, &image).await;
    stored(&bucket, &image).await;
    assert_eq!(std::fs::read(bucket.file(&key(&image.layers[0]))).unwrap(), pseudo_random(1, 20 * MIB));
    assert_eq!(bucket.unfinished_uploads(), 0);
    first.stop().await;
    let asked = fake.journal().len();
    let second = replica(&fake, &bucket, "", "").await;
    pull(&second, &image).await;
    assert_eq!(fake.journal().len(), asked, "upstream was asked");
    second.wait_for_fills().await;
    assert_eq!(second.stored_blobs().len(), 2, "config and layer are in the disk tier now");
    assert_eq!(fake.blob_bytes_sent(&image.layers[0]), 20 * MIB as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_goes_into_the_bucket_while_it_comes() {
    const LENGTH: usize = 64 * MIB;
    let (fake, image, content) = fake_with_image(2, LENGTH).await;
    let bucket = FakeBucket::start().await;
    let server = replica(&fake, &bucket, "", ONE_CONNECTION).await;
    assert_eq!(server.get("/v2/up/library/x/manifests/1").await.status, 200);
    fake.hold_blobs_at(LENGTH as u64 / 2);
    let mut reader = Reader::open(&server, &image.layers[0], "", &content).await;
    reader.read_to(LENGTH * 45 / 100).await;
    let mut parts = 0;
    while parts < 3 {
        parts += bucket.take_journal().iter().filter(|call| call.method == "PUT" && call.query.contains("partNumber")).count();
        tokio::task::yield_now().await;
    }
    assert!(!bucket.file(&key(&image.layers[0])).exists(), "nothing is visible before the digest holds");
    fake.release();
    assert_eq!(reader.rest().await, Ok(LENGTH));
    super::eventually("the blob is in the bucket", || bucket.file(&key(&image.layers[0])).exists()).await;
    assert_eq!(fake.blob_bytes_sent(&image.layers[0]), LENGTH as u64, "upstream sent it once");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_tier_nothing_stays_on_disk() {
    let (fake, image, _) = fake_with_image(3, 20 * MIB).await;
    let bucket = FakeBucket::start().await;
    let server = replica(&fake, &bucket, ", max_size: 0", "").await;
    for _ in 0..2 {
        pull(&server, &image).await;
        stored(&bucket, &image).await;
        server.wait_for_fills().await;
        assert_eq!((server.stored_blobs().len(), server.staged()), (0, 0));
    }
    assert_eq!(fake.blob_bytes_sent(&image.layers[0]), 20 * MIB as u64, "the second pull came from the bucket");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tier_held_goes_when_there_is_to_be_none() {
    let (fake, image, _) = fake_with_image(5, MIB).await;
    let bucket = FakeBucket::start().await;
    let with_tier = replica(&fake, &bucket, "", "").await;
    pull(&with_tier, &image).await;
    stored(&bucket, &image).await;
    let pending = with_tier.directory.path().join("headpond-data/pending");
    super::eventually("nothing waits for the bucket", || std::fs::read_dir(&pending).unwrap().count() == 0).await;
    assert!(!with_tier.stored_blobs().is_empty());
    let without = replica_in(&fake, &bucket, ", max_size: 0", "", with_tier.stop().await).await;
    super::eventually("nothing is on disk", || without.stored_blobs().is_empty()).await;
    pull(&without, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_of_a_blob_in_the_bucket_is_that_range() {
    let (fake, image, content) = fake_with_image(4, 40 * MIB).await;
    let bucket = FakeBucket::start().await;
    let first = replica(&fake, &bucket, "", ONE_CONNECTION).await;
    pull(&first, &image).await;
    stored(&bucket, &image).await;
    let second = replica(&fake, &bucket, "", "").await;
    for start in [30 * MIB, 5, 39 * MIB] {
        let range = format!("bytes={start}-{}", start + 999_999);
        let mut reader = Reader::open(&second, &image.layers[0], &range, &content).await;
        assert_eq!(reader.rest().await, Ok(start + 1_000_000));
    }
    assert_eq!(fake.blob_bytes_sent(&image.layers[0]), 40 * MIB as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_bucket_through_another_upstream_is_not_served_without_its_word() {
    let (fake, image, _) = fake_with_image(5, MIB).await;
    let bucket = FakeBucket::start().await;
    let first = replica(&fake, &bucket, "", "").await;
    pull(&first, &image).await;
    stored(&bucket, &image).await;
    let (other, _, _) = fake_with_image(6, 10).await;
    let second = replica(&other, &bucket, "", "").await;
    assert_eq!(second.get(&Headpond::blob(&image.layers[0])).await.status, 404);
    // An upstream that has it too is asked for its word, not for the bytes.
    let digest = other.put_blob(pseudo_random(5, MIB));
    let third = replica(&other, &bucket, "", "").await;
    assert_eq!(third.get(&Headpond::blob(&digest)).await.digest(), digest);
    assert_eq!(other.blob_bytes_sent(&digest), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_rotten_in_the_bucket_comes_from_upstream_and_is_replaced() {
    let (fake, image, content) = fake_with_image(7, 10 * MIB).await;
    let bucket = FakeBucket::start().await;
    let first = replica(&fake, &bucket, "", "").await;
    pull(&first, &image).await;
    stored(&bucket, &image).await;
    let file = bucket.file(&key(&image.layers[0]));
    let mut bytes = content.to_vec();
    bytes[5] ^= 1;
    bucket.replace(&key(&image.layers[0]), &bytes);
    let second = replica(&fake, &bucket, "", "").await;
    let answer = second.get(&Headpond::blob(&image.layers[0])).await;
    assert!(answer.body.is_err(), "nobody gets all of it");
    second.wait_for_fills().await;
    let again = second.get(&Headpond::blob(&image.layers[0])).await;
    assert_eq!(again.digest(), image.layers[0]);
    super::eventually("the blob in the bucket is right again", || std::fs::read(&file).unwrap() == content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_upstream_does_not_complete_leaves_nothing_in_the_bucket() {
    let (fake, image, _) = fake_with_image(8, 40 * MIB).await;
    let bucket = FakeBucket::start().await;
    let server = replica(&fake, &bucket, "", "").await;
    assert_eq!(server.get("/v2/up/library/x/manifests/1").await.status, 200);
    fake.on(crate::fake_upstream::On::BlobGet).always(crate::fake_upstream::Fault::CutBodyAt(30 << 20));
    let answer = server.ask(Method::GET, &Headpond::blob(&image.layers[0]), &[]).await;
    assert!(answer.body.is_err());
    server.wait_for_fills().await;
    super::eventually("the upload is aborted", || bucket.unfinished_uploads() == 0).await;
    assert!(!bucket.file(&key(&image.layers[0])).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_replica_retired_is_recorded_again_when_it_is_pulled_from_memory() {
    let (fake, image, _) = fake_with_image(8, MIB).await;
    let bucket = FakeBucket::start().await;
    let server = replica(&fake, &bucket, "", "").await;
    pull(&server, &image).await;
    stored(&bucket, &image).await;
    let hex = image.digest.hex();
    let record = bucket.file(&format!("images/up/library/x/_manifests/sha256/{hex}"));
    let links = bucket.file("images/up/library/x/_blobs");
    std::fs::remove_file(&record).unwrap();
    std::fs::remove_dir_all(&links).unwrap();
    server.clock.advance(Duration::from_secs(7 * 3600));
    let answer = server.get(&format!("/v2/up/library/x/manifests/{}", image.digest)).await;
    assert_eq!(answer.digest(), image.digest);
    super::eventually("it is recorded again", || record.exists()).await;
    let linked = [&image.config, &image.layers[0]].map(|digest| links.join("sha256").join(digest.hex()).exists());
    assert_eq!(linked, [true, true], "links are written before the manifest's record");
}

#[tokio::test(flavor = "multi_thread")]
async fn late_pull_record_in_a_bucket_cannot_bring_back_what_was_retired() {
    let (fake, image, _) = fake_with_image(8, MIB).await;
    let bucket = FakeBucket::start().await;
    let server = replica(&fake, &bucket, "", "").await;
    pull(&server, &image).await;
    stored(&bucket, &image).await;
    server.clock.advance(Duration::from_secs(91 * 24 * 3600));
    assert_eq!(server.running.retire().await.unwrap().manifests, 1);
    server.stop().await;
    let late = bucket.file(&format!("images/up/library/x/_pulled/sha256/{}", image.digest.hex()));
    std::fs::create_dir_all(late.parent().unwrap()).unwrap();
    std::fs::write(&late, r#"{"last_pulled_at":4000000000}"#).unwrap();
    fake.stop().await;
    let other = replica(&fake, &bucket, "", "").await;
    assert_eq!(other.get("/v2/_catalog").await.bytes(), r#"{"repositories":[]}"#);
    for path in ["manifests/1", &format!("manifests/{}", image.digest), "tags/list"] {
        assert_eq!(other.get(&format!("/v2/up/library/x/{path}")).await.status, 503, "{path}");
    }
}

/// Of two requests to the bucket one is refused; upstream, which is next, has no place free.
#[tokio::test(flavor = "multi_thread")]
async fn the_bucket_goes_on_with_a_blob_while_its_rest_waits_in_vain_for_a_place_upstream() {
    const LENGTH: usize = 24 * MIB;
    let (fake, bucket) = (FakeUpstream::start().await, FakeBucket::start().await);
    let contents = [pseudo_random(41, LENGTH), pseudo_random(42, 4 * MIB)];
    let [wanted, other] = fake.put_image("library/x", "1", &contents).layers.try_into().unwrap();
    let first = replica(&fake, &bucket, "", ONE_CONNECTION).await;
    assert_eq!(first.get("/v2/up/library/x/manifests/1").await.status, 200);
    assert_eq!(first.get(&Headpond::blob(&wanted)).await.status, 200);
    super::eventually("the blob is in the bucket", || bucket.file(&key(&wanted)).exists()).await;
    first.stop().await;

    let top = "limits: {parallel_above: 100MiB, connection_wait: 200ms}";
    let second = replica_by(&fake, &bucket, "max_connections: 1", top).await;
    assert_eq!(second.get("/v2/up/library/x/manifests/1").await.status, 200);
    fake.clear_journal();
    fake.hold_blobs_at(2 * MIB as u64);
    let mut holding = Reader::open(&second, &other, "", &contents[1]).await;
    holding.read_to(MIB).await;
    // Some seconds for all of it.
    bucket.break_path(&key(&wanted), Fault::Drip(Duration::from_millis(2)));
    let mut whole = Reader::open(&second, &wanted, "", &contents[0]).await;
    whole.read_to(MIB).await;
    bucket.break_path(&key(&wanted), Fault::AccessDenied);
    let text = format!("bytes={}-{}", LENGTH - 2 * MIB, LENGTH - MIB - 1);
    let range = async {
        let mut range = Reader::open(&second, &wanted, &text, &contents[0]).await;
        range.rest().await
    };
    let release = async {
        second.wait_for_metric(WAITING, 1).await;
        // More than a connection brings that is cut short to make room.
        whole.read_to(LENGTH - 4 * MIB).await;
        assert_eq!(fake.blob_bytes_sent(&wanted), 0, "it has no place");
        fake.release();
        (whole.rest().await, holding.rest().await)
    };
    let (range, (whole, held)) = tokio::join!(range, release);
    assert_eq!((whole, range, held), (Ok(LENGTH), Ok(LENGTH - MIB), Ok(4 * MIB)));
    assert_eq!(second.metric(r#"headpond_fills_total{result="failed"}"#), 0);
}

/// The bucket refuses it, so it waits for a place of its rule's; what it had for the bucket is another rule's then.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_place_past_the_store_keeps_no_slot_of_those_of_other_rules() {
    const LENGTH: usize = 4 * MIB;
    let (fake, bucket, other) = (FakeUpstream::start().await, FakeBucket::start().await, FakeUpstream::start().await);
    let contents = [43, 44, 45].map(|seed| pseudo_random(seed, LENGTH));
    let [known, held] = fake.put_image("library/x", "1", &contents[..2]).layers.try_into().unwrap();
    let [beside] = other.put_image("library/y", "1", &contents[2..]).layers.try_into().unwrap();
    let first = replica(&fake, &bucket, "", ONE_CONNECTION).await;
    assert_eq!(first.get("/v2/up/library/x/manifests/1").await.status, 200);
    assert_eq!(first.get(&Headpond::blob(&known)).await.status, 200);
    super::eventually("the blob is in the bucket", || bucket.file(&key(&known)).exists()).await;
    first.stop().await;

    let text = configuration(&fake.url(), "max_connections: 1", "limits: {max_bypasses: 2}")
        + &format!("  - {{prefix: other, upstream: \"{}\"}}\n", other.url());
    let text = text.replace("storage: {path: headpond-data}", &format!("storage: {{path: headpond-data, s3: {}}}", bucket.s3()));
    let world = FaultyDisk::full_from(Operation::Create, 1).world();
    let server = Headpond::of(&fake, &text, tempfile::tempdir().unwrap(), world).await;
    for path in ["up/library/x", "other/library/y"] {
        assert_eq!(server.get(&format!("/v2/{path}/manifests/1")).await.status, 200);
    }
    fake.hold_blobs_at(2 * MIB as u64);
    let mut holding = Reader::open(&server, &held, "", &contents[1]).await;
    holding.read_to(MIB).await;
    bucket.break_path(&key(&known), Fault::AccessDenied);
    let waiting = async { Reader::open(&server, &known, "", &contents[0]).await.rest().await };
    let beside = async {
        server.wait_for_metric(WAITING, 1).await;
        let served = server.get(&format!("/v2/other/library/y/blobs/{beside}")).await;
        assert_eq!((served.status, served.bytes()), (reqwest::StatusCode::OK, &contents[2]));
        assert_eq!(server.metric(WAITING), 1, "it did not wait for that");
        fake.release();
        holding.rest().await
    };
    assert_eq!(tokio::join!(waiting, beside), (Ok(LENGTH), Ok(LENGTH)));
    server.wait_for_metric("headpond_bypasses_inflight", 0).await;
}
