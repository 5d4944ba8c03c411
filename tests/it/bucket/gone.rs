//! A bucket that is gone, and comes back.

use super::{MIB, fake_with_image, pull, replica, replica_in, stored};
use crate::fake_bucket::{FakeBucket, Fault};
use crate::fake_upstream::{Fault as UpstreamFault, On};
use crate::headpond::Headpond;

#[tokio::test(flavor = "multi_thread")]
async fn what_came_while_the_bucket_was_gone_is_sent_to_it_later() {
    for fault in [None, Some(Fault::SlowDown)] {
        let (fake, image, _) = fake_with_image(11, 20 * MIB).await;
        let bucket = FakeBucket::start().await;
        let server = replica(&fake, &bucket, "", "limits: {bucket_timeout: 1s}").await;
        match fault {
            None => bucket.stop().await,
            Some(fault) => bucket.break_with(fault),
        }
        for _ in 0..2 {
            pull(&server, &image).await;
            server.wait_for_fills().await;
        }
        assert_eq!(fake.blob_bytes_sent(&image.layers[0]), 20 * MIB as u64, "the second pull came from the disk tier");
        match fault {
            None => bucket.resume().await,
            Some(_) => bucket.mend(),
        }
        stored(&bucket, &image).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_remembers_what_is_to_be_sent_to_the_bucket() {
    let (fake, image, _) = fake_with_image(12, 20 * MIB).await;
    let bucket = FakeBucket::start().await;
    let server = replica(&fake, &bucket, "", "limits: {bucket_timeout: 1s}").await;
    bucket.stop().await;
    pull(&server, &image).await;
    server.wait_for_fills().await;
    let directory = server.stop().await;
    bucket.resume().await;
    let _server: Headpond = replica_in(&fake, &bucket, "", "", directory).await;
    let layer = super::key(&image.layers[0]);
    super::eventually("the layer is in the bucket", || bucket.keys().contains(&layer)).await;
}

/// On one thread, for which the subscriber is set.
#[tokio::test]
async fn it_is_said_once_that_the_bucket_is_gone_and_not_for_each_blob() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let writer = std::sync::Arc::new(log.reopen().unwrap());
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::WARN).with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let (fake, image, _) = fake_with_image(15, 20 * MIB).await;
    let bucket = FakeBucket::start().await;
    let server = replica(&fake, &bucket, "", "limits: {bucket_timeout: 1s}").await;
    bucket.stop().await;
    pull(&server, &image).await;
    server.wait_for_fills().await;
    server.stop().await;
    let said = std::fs::read_to_string(log.path()).unwrap();
    assert_eq!(said.matches("the bucket does not answer").count(), 1, "{said}");
    // Of a blob only that it was the one to find it so.
    let of_blobs = said.lines().filter(|line| line.contains("did not take a blob") && line.contains("is not asked again"));
    assert_eq!(of_blobs.count(), 0, "{said}");
}

/// What lies on disk for a while may rot there: the bucket does not get it, and gets the rest.
#[tokio::test(flavor = "multi_thread")]
async fn what_rots_while_it_waits_for_the_bucket_is_not_sent_to_it() {
    for length in [MIB, 20 * MIB] {
        let (fake, image, content) = fake_with_image(13, length).await;
        let bucket = FakeBucket::start().await;
        let server = replica(&fake, &bucket, "", "limits: {bucket_timeout: 1s}").await;
        bucket.stop().await;
        pull(&server, &image).await;
        server.wait_for_fills().await;
        let directory = server.stop().await;
        let on_disk = crate::scrub::blob_file(directory.path(), &image.layers[0]);
        crate::scrub::flip_a_byte(&on_disk);
        bucket.resume().await;
        let server = replica_in(&fake, &bucket, "", "", directory).await;
        super::eventually("the rotten layer is put aside", || !on_disk.exists()).await;
        let (config, layer) = (super::key(&image.config), super::key(&image.layers[0]));
        super::eventually("the config is in the bucket", || bucket.keys().contains(&config)).await;
        assert!(!bucket.keys().contains(&layer));
        pull(&server, &image).await;
        super::eventually("the layer is in the bucket", || std::fs::read(bucket.file(&layer)).is_ok_and(|bytes| bytes == content)).await;
    }
}

/// The upload of a fill that was given up takes its time to end; the next fill's is not lost over that.
#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_begins_while_an_earlier_upload_ends_is_sent_too() {
    let (fake, image, _) = fake_with_image(14, 40 * MIB).await;
    let bucket = FakeBucket::start().await;
    let server = replica(&fake, &bucket, "", "limits: {bucket_timeout: 1s}").await;
    assert_eq!(server.get("/v2/up/library/x/manifests/1").await.status, 200);
    fake.on(On::BlobGet).always(UpstreamFault::CutBodyAt(30 << 20));
    let path = Headpond::blob(&image.layers[0]);
    let cut = tokio::join!(server.get(&path), async {
        fake.wait_until_blob_bytes_sent(&image.layers[0], 20 << 20).await;
        // From now on no request of the first upload comes to an end by itself.
        bucket.break_with(Fault::Hang);
    });
    assert!(cut.0.body.is_err());
    fake.clear_faults();
    assert_eq!(server.get(&Headpond::blob(&image.layers[0])).await.digest(), image.layers[0]);
    bucket.mend();
    let layer = super::key(&image.layers[0]);
    super::eventually("the layer is in the bucket", || bucket.keys().contains(&layer)).await;
}
