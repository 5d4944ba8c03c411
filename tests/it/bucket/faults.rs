//! The bucket fails its Nth request, for N = 1, 2, … until a whole scenario meets no fault: clients
//! get right bytes, and what the bucket holds is what its name says.

use std::time::Duration;

use headpond::oci::Digest;

use super::{MIB, fake_with_image, key, replica, replica_in_world};
use crate::fake_bucket::{FakeBucket, Fault};
use crate::fake_upstream::{FakeUpstream, Image};
use crate::faulty_disk::FaultyDisk;
use crate::headpond::Headpond;

/// One attempt, so that each fault is felt; a short wait, so that one that hangs is found out soon.
const LIMITS: &str = "limits: {bucket_attempts: 1, bucket_timeout: 1s, upload_part: 5MiB}";

/// Whatever is in the bucket under a digest has it.
fn assert_blobs_are_right(bucket: &FakeBucket, told: &str) {
    for name in bucket.keys().iter().filter(|key| key.starts_with("blobs/sha256/")) {
        let wanted = Digest::parse(&format!("sha256:{}", name.rsplit('/').next().unwrap())).unwrap();
        assert_eq!(Digest::of(&std::fs::read(bucket.file(name)).unwrap()), wanted, "{told}");
    }
}

async fn pull_right(server: &Headpond, image: &Image, told: &str) {
    let get = async |path: &str| tokio::time::timeout(Duration::from_secs(30), server.get(path)).await.expect("no answer in time");
    assert_eq!(get("/v2/up/library/x/manifests/1").await.digest(), image.digest, "{told}");
    for blob in std::iter::once(&image.config).chain(&image.layers) {
        assert_eq!(get(&Headpond::blob(blob)).await.digest(), *blob, "{told}");
    }
    server.wait_for_fills().await;
}

/// Cold, warm, with tags to revalidate, and by another replica that has nothing yet.
async fn scenario(fake: &FakeUpstream, bucket: &FakeBucket, image: &Image, told: &str) {
    let server = replica(fake, bucket, "", LIMITS).await;
    for round in ["cold", "warm", "stale"] {
        pull_right(&server, image, &format!("{round}, {told}")).await;
        server.clock.advance(Duration::from_secs(2 * 24 * 60 * 60));
    }
    server.stop().await;
    assert_blobs_are_right(bucket, told);
    let other = replica(fake, bucket, "", LIMITS).await;
    pull_right(&other, image, &format!("another replica, {told}")).await;
    other.stop().await;
}

/// Every fourth request from `first` on: one test alone would take too long.
async fn whatever_request_meets(fault: Fault, first: usize) {
    for nth in (first..).step_by(4) {
        let (fake, image, _) = fake_with_image(nth as u64, MIB).await;
        let bucket = FakeBucket::start().await;
        bucket.break_nth(nth, fault);
        Box::pin(scenario(&fake, &bucket, &image, &format!("request {nth} meets {fault:?}"))).await;
        assert_blobs_are_right(&bucket, &format!("request {nth} met {fault:?}"));
        if !bucket.has_broken() {
            assert!(nth > 20, "the scenario made only {nth} requests");
            return;
        }
    }
}

/// Every third call of the disk tier from `first` on, while the bucket is well.
async fn whatever_call_of_the_disk_fails(first: usize) {
    for nth in (first..).step_by(3) {
        let (fake, image, _) = fake_with_image(1, MIB / 4).await;
        let (bucket, disk) = (FakeBucket::start().await, FaultyDisk::failing_nth(nth));
        let server = replica_in_world(&fake, &bucket, LIMITS, disk.world()).await;
        let told = format!("call {nth} of the disk fails");
        for round in ["cold", "warm"] {
            pull_right(&server, &image, &format!("{round}, {told}")).await;
        }
        let directory = server.stop().await;
        assert_eq!(std::fs::read_dir(directory.path().join("headpond-data/staging")).unwrap().count(), 0, "{told}");
        assert_blobs_are_right(&bucket, &told);
        let other = replica(&fake, &bucket, "", LIMITS).await;
        pull_right(&other, &image, &format!("another replica, {told}")).await;
        other.stop().await;
        if !disk.has_failed() {
            assert!(nth > 10, "the scenario made only {nth} calls");
            return;
        }
    }
}

mod clients_and_bucket_get_right_bytes_whatever_call_of_the_disk_fails {
    use super::whatever_call_of_the_disk_fails;

    #[tokio::test(flavor = "multi_thread")]
    async fn of_calls_1_4_7() {
        Box::pin(whatever_call_of_the_disk_fails(1)).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_calls_2_5_8() {
        Box::pin(whatever_call_of_the_disk_fails(2)).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_calls_3_6_9() {
        Box::pin(whatever_call_of_the_disk_fails(3)).await;
    }
}

macro_rules! whatever_request_meets {
    ($($name:ident: $fault:ident;)+) => {
        $(mod $name {
            use super::*;
            #[tokio::test(flavor = "multi_thread")]
            async fn of_requests_1_5_9() { whatever_request_meets(Fault::$fault, 1).await; }
            #[tokio::test(flavor = "multi_thread")]
            async fn of_requests_2_6_10() { whatever_request_meets(Fault::$fault, 2).await; }
            #[tokio::test(flavor = "multi_thread")]
            async fn of_requests_3_7_11() { whatever_request_meets(Fault::$fault, 3).await; }
            #[tokio::test(flavor = "multi_thread")]
            async fn of_requests_4_8_12() { whatever_request_meets(Fault::$fault, 4).await; }
        })+
    };
}

whatever_request_meets! {
    clients_get_right_bytes_whatever_request_is_told_to_slow_down: SlowDown;
    clients_get_right_bytes_whatever_request_loses_its_answer: LostAnswer;
    clients_get_right_bytes_whatever_answer_breaks_off: Truncate;
    clients_get_right_bytes_whatever_request_hangs: Hang;
}

/// Begin, three parts, completion, and the look at what came of it.
async fn whatever_request_of_an_upload_meets(fault: Fault) {
    for nth in 1..=6 {
        let (fake, image, content) = fake_with_image(nth as u64, 12 * MIB).await;
        let bucket = FakeBucket::start().await;
        let server = replica(&fake, &bucket, "", LIMITS).await;
        assert_eq!(server.get("/v2/up/library/x/manifests/1").await.digest(), image.digest);
        bucket.break_nth(nth, fault);
        let layer = &image.layers[0];
        assert_eq!(server.get(&Headpond::blob(layer)).await.digest(), *layer, "request {nth} meets {fault:?}");
        super::eventually("the layer is in the bucket", || bucket.file(&key(layer)).exists()).await;
        assert!(std::fs::read(bucket.file(&key(layer))).unwrap() == content, "request {nth} met {fault:?}: other bytes");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_gets_there_whatever_request_of_its_upload_is_told_to_slow_down() {
    whatever_request_of_an_upload_meets(Fault::SlowDown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_gets_there_whatever_request_of_its_upload_loses_its_answer() {
    whatever_request_of_an_upload_meets(Fault::LostAnswer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_breaks_for_good_breaks_no_pull() {
    for fault in Fault::ALL {
        let (fake, image, _) = fake_with_image(1, MIB).await;
        let bucket = FakeBucket::start().await;
        bucket.break_with(fault);
        Box::pin(scenario(&fake, &bucket, &image, &format!("all requests meet {fault:?}"))).await;
    }
}
