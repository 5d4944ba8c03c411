//! What passes between a bucket's client and its server, as the server sees it.

use std::time::Duration;

use bytes::Bytes;
use headpond::oci::Digest;
use headpond::storage::{Bucket, BucketClient, BucketEncryption, BucketLimits, BucketSettings, Support};
use headpond::telemetry::metrics::Metrics;
use tokio::time::Instant;

use super::contract::metrics;
use crate::credentials::Log;
use crate::fake_bucket::{Call, FakeBucket, Fault};
use crate::fake_upstream::pseudo_random;

const MIB: usize = 1 << 20;
const ENCRYPTION: &str = "x-amz-server-side-encryption";
const KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";

async fn bucket_of(settings: &BucketSettings) -> Bucket {
    Bucket::new(BucketClient::s3(settings, metrics()).await.unwrap())
}

async fn put_in_one_and_in_parts(bucket: &Bucket) {
    bucket.put(&Digest::of(b"abc"), Bytes::from_static(b"abc")).await.unwrap();
    let mut upload = bucket.begin_upload(&Digest::of(b"abcd")).await.unwrap();
    upload.put_part(Bytes::from_static(b"abcd")).await.unwrap();
    upload.complete().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_an_object_says_what_it_is_to_be_encrypted_with() {
    const OF_THE_OPERATOR: &str = "arn:aws:kms:us-east-1:111122223333:key/a";
    let of_kms = BucketEncryption::Kms(Some(OF_THE_OPERATOR.to_owned()));
    for (encryption, algorithm, key) in [
        (BucketEncryption::None, None, None),
        (BucketEncryption::S3, Some("AES256"), None),
        (BucketEncryption::Kms(None), Some("aws:kms"), None),
        (of_kms, Some("aws:kms"), Some(OF_THE_OPERATOR)),
    ] {
        let fake = FakeBucket::start().await;
        let bucket = bucket_of(&BucketSettings { encryption: encryption.clone(), ..fake.settings() }).await;
        put_in_one_and_in_parts(&bucket).await;
        let calls = fake.take_journal();
        let makes_one = |call: &&Call| call.query.is_empty() && call.method == "PUT" || call.query.starts_with("uploads");
        let makers: Vec<_> = calls.iter().filter(makes_one).collect();
        assert_eq!(makers.iter().map(|call| call.method.as_str()).collect::<Vec<_>>(), ["PUT", "POST"], "{calls:#?}");
        for call in makers {
            let told = [ENCRYPTION, KEY].map(|name| call.headers.get(name).map(|value| value.to_str().unwrap()));
            assert_eq!(told, [algorithm, key], "{encryption:?}: {call:#?}");
        }
    }
}

/// One layer tries again: were there two, the attempts would multiply.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_bucket_never_answers_is_asked_as_often_as_the_limit_says() {
    let (digest, bytes) = (Digest::of(b"abc"), Bytes::from_static(b"abc"));
    for attempts in [1, 3] {
        for request in ["HEAD", "GET", "PUT", "POST"] {
            let fake = FakeBucket::start().await;
            let limits = BucketLimits { timeout: Duration::from_secs(60), attempts };
            let bucket = bucket_of(&BucketSettings { limits, ..fake.settings() }).await;
            fake.break_with(Fault::SlowDown);
            let failed = match request {
                "HEAD" => bucket.stat(&digest).await.map(drop),
                "GET" => bucket.read(&digest, None).await.map(drop),
                "PUT" => bucket.put(&digest, bytes.clone()).await,
                _ => bucket.begin_upload(&digest).await.map(drop),
            };
            failed.expect_err("it is told to slow down");
            let methods: Vec<_> = fake.take_journal().into_iter().map(|call| call.method).collect();
            assert_eq!(methods, vec![request; attempts]);
        }
    }
}

/// A blob takes as long as its bytes come.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_takes_longer_than_a_small_request_may_arrives() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let fake = FakeBucket::start().await;
    let limits = BucketLimits { timeout: TIMEOUT, attempts: 1 };
    let bucket = bucket_of(&BucketSettings { limits, ..fake.settings() }).await;
    let content = pseudo_random(1, 2 * MIB);
    let digest = Digest::of(&content);
    bucket.put(&digest, content.clone()).await.unwrap();
    fake.break_with(Fault::Drip(Duration::from_millis(100)));
    let began = Instant::now();
    let mut stream = bucket.read(&digest, None).await.unwrap().expect("the blob");
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    assert!(began.elapsed() > TIMEOUT, "it came in {:?}: nothing was put to the test", began.elapsed());
    assert!(bytes == content);
}

#[tokio::test]
async fn a_server_that_ignores_conditions_is_found_out_and_the_operator_is_told() {
    let fake = FakeBucket::without_conditions().await;
    let (log, _guard) = Log::begin();
    let metrics = Metrics::new().unwrap();
    let bucket = Bucket::new(BucketClient::s3(&fake.settings(), metrics.bucket.clone()).await.unwrap());
    bucket.clone().find_out_preconditions().await;
    let known = bucket.preconditions();
    assert_eq!((known.create, known.update), (Support::Ignored, Support::Ignored));
    let exposed = String::from_utf8(metrics.expose().unwrap()).unwrap();
    for kind in ["create", "update"] {
        let line = format!("headpond_bucket_preconditions{{kind=\"{kind}\"}} 0\n");
        assert!(exposed.contains(&line), "{line} is not in\n{exposed}");
    }
    let told = log.text();
    for part in [" WARN ", "the bucket ignores conditional writes", "Run one replica per prefix"] {
        assert!(told.contains(part), "{part}: {told}");
    }
}
