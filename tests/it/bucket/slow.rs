//! A bucket that is slower than upstream.

use super::{MIB, eventually, key, replica};
use crate::fake_bucket::FakeBucket;
use crate::fake_upstream::{FakeUpstream, Fault, On, pseudo_random};
use crate::headpond::Headpond;

const INFLIGHT: &str = "headpond_bucket_uploads_inflight";
const LAYERS: usize = 9;

/// An upstream with as many layers of two parts each, and a server that has their manifest, with a bucket that takes no part.
async fn held_up(storage: &str, top: &str) -> (FakeUpstream, FakeBucket, Headpond, Vec<(headpond::oci::Digest, bytes::Bytes)>) {
    let fake = FakeUpstream::start().await;
    let contents: Vec<_> = (0..LAYERS).map(|number| pseudo_random(60 + number as u64, 6 * MIB)).collect();
    let image = fake.put_image("library/x", "1", &contents);
    let bucket = FakeBucket::start().await;
    let server = replica(&fake, &bucket, storage, top).await;
    assert_eq!(server.get("/v2/up/library/x/manifests/1").await.status, 200);
    bucket.hold_parts();
    (fake, bucket, server, image.layers.into_iter().zip(contents).collect())
}

async fn all_right(bucket: &FakeBucket, layers: &[(headpond::oci::Digest, bytes::Bytes)]) {
    for (digest, content) in layers {
        let file = bucket.file(&key(digest));
        eventually("the layer is in the bucket", || std::fs::read(&file).is_ok_and(|bytes| bytes == *content)).await;
    }
}

fn notes(server: &Headpond) -> usize {
    std::fs::read_dir(server.directory.path().join("headpond-data/pending")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_uploads_are_under_way_and_the_others_go_from_disk_in_turn() {
    let (fake, bucket, server, layers) = held_up("", "limits: {max_uploads: 2, upload_part: 5MiB, parallel_above: 100MiB}").await;
    for (digest, _) in &layers {
        assert_eq!(server.get(&Headpond::blob(digest)).await.digest(), *digest);
    }
    server.wait_for_fills().await;
    // As many again are taken up from disk, of those that found no place.
    eventually("uploads from disk have begun", || bucket.unfinished_uploads() >= 4).await;
    assert_eq!((server.metric(INFLIGHT), bucket.unfinished_uploads(), notes(&server)), (4, 4, LAYERS));
    bucket.release_parts();
    all_right(&bucket, &layers).await;
    eventually("nothing is noted any more", || notes(&server) == 0).await;
    assert_eq!(bucket.unfinished_uploads(), 0);
    for (digest, content) in &layers {
        assert_eq!(fake.blob_bytes_sent(digest), content.len() as u64, "upstream sent it once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_found_no_place_is_sent_after_a_restart() {
    let (fake, bucket, server, layers) = held_up("", "limits: {max_uploads: 1, upload_part: 5MiB}").await;
    for (digest, _) in &layers {
        assert_eq!(server.get(&Headpond::blob(digest)).await.digest(), *digest);
    }
    server.wait_for_fills().await;
    let stopped = tokio::join!(server.stop(), async { bucket.release_parts() });
    let _server = super::replica_in(&fake, &bucket, "", "", stopped.0).await;
    all_right(&bucket, &layers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_tier_a_blob_waits_for_its_place_in_the_bucket() {
    let (fake, bucket, server, layers) =
        held_up(", max_size: 0", "limits: {max_uploads: 2, upload_part: 5MiB, parallel_above: 100MiB}").await;
    for (digest, _) in &layers {
        assert_eq!(server.get(&Headpond::blob(digest)).await.digest(), *digest);
    }
    eventually("two uploads have begun", || bucket.unfinished_uploads() >= 2).await;
    assert_eq!((server.metric(INFLIGHT), bucket.unfinished_uploads(), server.staged()), (LAYERS as u64, 2, LAYERS));
    bucket.release_parts();
    all_right(&bucket, &layers).await;
    server.wait_for_fills().await;
    assert_eq!((server.staged(), server.stored_blobs().len()), (0, 0));
    for (digest, content) in &layers {
        assert_eq!(fake.blob_bytes_sent(digest), content.len() as u64, "upstream sent it once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_was_not_completed_waits_for_no_place() {
    let limits = "limits: {max_uploads: 1, upload_part: 5MiB, parallel_above: 100MiB, fill_attempts: 1}";
    let (fake, bucket, server, layers) = held_up(", max_size: 0", limits).await;
    let [(held, _), (cut, _), ..] = &layers[..] else { panic!("two") };
    assert_eq!(server.get(&Headpond::blob(held)).await.digest(), *held);
    eventually("its upload has begun", || bucket.unfinished_uploads() == 1).await;
    fake.hold_blobs_at(5 * MIB as u64 + 100);
    fake.on(On::BlobGet).always(Fault::CutBodyAt(5 * MIB as u64 + 200));
    let path = Headpond::blob(cut);
    let (answer, ()) = tokio::join!(server.get(&path), async {
        server.wait_until_filled(11 * MIB as u64 + 100).await;
        fake.release();
    });
    assert!(answer.body.is_err());
    server.wait_for_metric(INFLIGHT, 1).await;
    assert_eq!(bucket.unfinished_uploads(), 1);
    bucket.release_parts();
    all_right(&bucket, &layers[..1]).await;
}

/// It was noted before its fill failed, and it found no place.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_found_no_place_and_was_not_completed_is_forgotten() {
    let (fake, bucket, server, layers) =
        held_up("", "limits: {max_uploads: 1, upload_part: 5MiB, parallel_above: 100MiB, fill_attempts: 1}").await;
    let [(held, _), (cut, _), ..] = &layers[..] else { panic!("two") };
    assert_eq!(server.get(&Headpond::blob(held)).await.digest(), *held);
    eventually("its upload has begun", || bucket.unfinished_uploads() == 1).await;
    fake.hold_blobs_at(5 * MIB as u64 + 100);
    fake.on(On::BlobGet).always(Fault::CutBodyAt(5 * MIB as u64 + 200));
    let path = Headpond::blob(cut);
    let (answer, ()) = tokio::join!(server.get(&path), async {
        eventually("it is noted", || notes(&server) == 2).await;
        fake.release();
    });
    assert!(answer.body.is_err());
    server.wait_for_fills().await;
    eventually("it is forgotten", || notes(&server) == 1).await;
    assert_eq!(server.metric(INFLIGHT), 1);
    bucket.release_parts();
    all_right(&bucket, &layers[..1]).await;
}
