//! A bucket that is gone, and comes back.

use super::{MIB, fake_with_image, pull, replica, replica_in, stored};
use crate::fake_bucket::{FakeBucket, Fault};
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
