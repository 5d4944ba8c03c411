//! A line to the bucket that is slow, and otherwise well.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headpond::oci::Digest;
use headpond::storage::{Bucket, BucketClient, StorageError};
use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};

use super::contract::{limits, metrics};

const PART_BYTES: usize = 8 << 20;

async fn upload(bucket: &Bucket, bytes: &Bytes) -> Result<(), StorageError> {
    let mut upload = bucket.begin_upload(&Digest::of(bytes)).await?;
    match upload.put_part(bytes.clone()).await {
        Ok(()) => upload.complete().await,
        Err(error) => {
            upload.abort().await;
            Err(error)
        }
    }
}

/// 16 KiB a second: what is left for each of five parts of a line of 650 kbit/s.
#[tokio::test(start_paused = true)]
async fn a_part_that_takes_long_is_waited_for_longer_each_time_until_it_is_there() {
    let slow = ThrottleConfig { wait_put_per_call: Duration::from_secs(512), ..ThrottleConfig::default() };
    let objects = Arc::new(ThrottledStore::new(InMemory::new(), slow));
    let bucket = Bucket::new(BucketClient::over(objects, limits(), metrics()));
    let bytes = Bytes::from(vec![7; PART_BYTES]);
    let mut tries = 1;
    while let Err(error) = upload(&bucket, &bytes).await {
        assert!(error.is_unavailable() && tries < 5, "try {tries}: {error}");
        tries += 1;
        // As the retry of what the bucket did not take does.
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    assert!(tries > 1, "it is not slow");
    assert_eq!(bucket.stat(&Digest::of(&bytes)).await.unwrap(), Some(PART_BYTES as u64));
    // The next one has its time from the first.
    let other = Bytes::from(vec![8; PART_BYTES]);
    upload(&bucket, &other).await.unwrap();
}
