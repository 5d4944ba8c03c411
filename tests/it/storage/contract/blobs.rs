//! Blobs in a bucket: whole, in parts, by interval; listed, signed, removed.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use headpond::oci::Digest;
use headpond::storage::{Bucket, StorageError, StoredBlob};
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutPayload};

use super::Subject;

const MIB: usize = 1024 * 1024;
/// Smallest part that S3 takes but for the last one.
const PART_BYTES: usize = 5 * MIB;

/// Bytes that differ from place to place, and their digest.
fn blob(length: usize) -> (Digest, Bytes) {
    let bytes: Vec<u8> = (0..length).map(|at| u8::try_from((at ^ (at >> 8) ^ (at >> 16)) & 0xff).unwrap()).collect();
    (Digest::of(&bytes), bytes.into())
}

async fn read(bucket: &Bucket, digest: &Digest, range: Option<std::ops::Range<u64>>) -> Option<Vec<u8>> {
    let mut stream = bucket.read(digest, range).await.unwrap()?;
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(bytes.len() as u64, stream.end - stream.start);
    Some(bytes)
}

async fn listed(bucket: &Bucket) -> Vec<StoredBlob> {
    let mut blobs: Vec<_> = bucket.list().try_collect().await.unwrap();
    blobs.sort_by_key(|blob| blob.length_bytes);
    blobs
}

pub(crate) async fn a_blob_that_is_not_there_is_none(subject: Subject) {
    let (digest, _) = blob(1);
    assert_eq!(subject.bucket.stat(&digest).await.unwrap(), None);
    assert_eq!(read(&subject.bucket, &digest, None).await, None);
    assert_eq!(read(&subject.bucket, &digest, Some(0..1)).await, None);
    assert_eq!(listed(&subject.bucket).await, []);
    subject.bucket.delete(&digest).await.unwrap();
}

pub(crate) async fn a_small_blob_reads_as_it_was_put(subject: Subject) {
    for length in [0, 1, 100_000] {
        let (digest, bytes) = blob(length);
        for _ in 0..2 {
            subject.bucket.put(&digest, bytes.clone()).await.unwrap();
        }
        assert_eq!(subject.bucket.stat(&digest).await.unwrap(), Some(length as u64));
        assert_eq!(read(&subject.bucket, &digest, None).await.as_deref(), Some(&bytes[..]));
    }
}

pub(crate) async fn a_blob_in_parts_is_there_once_it_is_complete(subject: Subject) {
    let (digest, bytes) = blob(2 * PART_BYTES + 17);
    let mut upload = subject.bucket.begin_upload(&digest).await.unwrap();
    let parts: Vec<_> = [0..PART_BYTES, PART_BYTES..2 * PART_BYTES, 2 * PART_BYTES..bytes.len()]
        .map(|part| upload.put_part(bytes.slice(part)))
        .into_iter()
        .rev()
        .collect();
    futures::future::try_join_all(parts).await.unwrap();
    assert_eq!(subject.bucket.stat(&digest).await.unwrap(), None, "it is not complete");
    assert_eq!(listed(&subject.bucket).await, []);
    upload.complete().await.unwrap();
    assert_eq!(subject.bucket.stat(&digest).await.unwrap(), Some(bytes.len() as u64));
    assert!(read(&subject.bucket, &digest, None).await.as_deref() == Some(&bytes[..]), "other bytes");
}

pub(crate) async fn a_blob_that_comes_twice_in_parts_is_there(subject: Subject) {
    let (digest, bytes) = blob(PART_BYTES + 1);
    let mut uploads = [subject.bucket.begin_upload(&digest).await.unwrap(), subject.bucket.begin_upload(&digest).await.unwrap()];
    for upload in &mut uploads {
        upload.put_part(bytes.slice(..PART_BYTES)).await.unwrap();
        upload.put_part(bytes.slice(PART_BYTES..)).await.unwrap();
    }
    for upload in uploads {
        upload.complete().await.unwrap();
        assert!(read(&subject.bucket, &digest, None).await.as_deref() == Some(&bytes[..]), "other bytes");
    }
}

pub(crate) async fn an_upload_that_is_given_up_leaves_no_blob(subject: Subject) {
    let (digest, bytes) = blob(PART_BYTES + 1);
    for is_dropped in [false, true] {
        let mut upload = subject.bucket.begin_upload(&digest).await.unwrap();
        upload.put_part(bytes.slice(..PART_BYTES)).await.unwrap();
        if is_dropped { drop(upload) } else { upload.abort().await }
    }
    subject.bucket.settle(Duration::from_secs(10)).await;
    assert_eq!(subject.bucket.stat(&digest).await.unwrap(), None);
    assert_eq!((subject.unfinished_uploads)(), 0);
}

pub(crate) async fn an_interval_of_a_blob_is_that_interval(subject: Subject) {
    let (digest, bytes) = blob(3 * MIB);
    subject.bucket.put(&digest, bytes.clone()).await.unwrap();
    for (asked, sent) in
        [(0..1, 0..1), (5..2 * MIB, 5..2 * MIB), (MIB..3 * MIB, MIB..3 * MIB), (3 * MIB - 1..9 * MIB, 3 * MIB - 1..3 * MIB)]
    {
        let range = asked.start as u64..asked.end as u64;
        let stream = subject.bucket.read(&digest, Some(range.clone())).await.unwrap().expect("the blob");
        assert_eq!((stream.start, stream.end, stream.total_bytes), (sent.start as u64, sent.end as u64, bytes.len() as u64));
        assert!(read(&subject.bucket, &digest, Some(range)).await.as_deref() == Some(&bytes[sent.clone()]), "{sent:?}");
    }
}

pub(crate) async fn an_interval_outside_a_blob_is_an_error_and_the_bucket_is_there(subject: Subject) {
    let (digest, bytes) = blob(10);
    subject.bucket.put(&digest, bytes.clone()).await.unwrap();
    for _ in 0..3 {
        let error = subject.bucket.read(&digest, Some(10..20)).await.map(|_| ()).expect_err("outside");
        assert!(!subject.expected.is_server || !error.is_unavailable(), "{error}");
    }
    if subject.expected.is_server {
        assert_eq!(read(&subject.bucket, &digest, Some(9..10)).await.as_deref(), Some(&bytes[9..]));
    }
}

pub(crate) async fn blobs_are_listed_with_length_and_time(subject: Subject) {
    let before = SystemTime::now() - Duration::from_secs(120);
    let mut expected = Vec::new();
    for length in 1..40 {
        let (digest, bytes) = blob(length);
        subject.bucket.put(&digest, bytes).await.unwrap();
        expected.push((digest, length as u64));
    }
    let sha512 = Digest::parse(&format!("sha512:{}", "ab".repeat(64))).unwrap();
    subject.bucket.put(&sha512, vec![0; 50].into()).await.unwrap();
    expected.push((sha512, 50));
    // What others put there is none of it.
    for key in ["blobs/readme.txt", "blobs/sha256/ab/abc", "blobs/md5/ab/abab", "images/a/_tags/1"] {
        subject.objects.put(&Key::from(key), PutPayload::from("x")).await.unwrap();
    }
    let found = listed(&subject.bucket).await;
    assert_eq!(found.iter().map(|blob| (blob.digest, blob.length_bytes)).collect::<Vec<_>>(), expected);
    let after = SystemTime::now() + Duration::from_secs(120);
    assert!(found.iter().all(|blob| blob.modified > before && blob.modified < after), "{found:?}");
}

pub(crate) async fn a_deleted_blob_is_gone(subject: Subject) {
    let (digest, bytes) = blob(10);
    subject.bucket.put(&digest, bytes).await.unwrap();
    for _ in 0..2 {
        subject.bucket.delete(&digest).await.unwrap();
        assert_eq!(subject.bucket.stat(&digest).await.unwrap(), None);
    }
}

pub(crate) async fn blobs_and_records_do_not_meet(subject: Subject) {
    let (digest, bytes) = blob(10);
    subject.bucket.put(&digest, bytes).await.unwrap();
    super::records::every_kind_of_record_reads_as_it_was_written_in(&subject.records).await;
    assert_eq!(listed(&subject.bucket).await.len(), 1);
}

pub(crate) async fn a_signed_url_serves_a_blob_and_its_ranges_to_anybody(subject: Subject) {
    let (digest, bytes) = blob(1000);
    subject.bucket.put(&digest, bytes.clone()).await.unwrap();
    let url = subject.bucket.presigned(&digest, Duration::from_secs(60)).await.unwrap();
    assert_eq!(url.is_some(), subject.expected.is_server);
    let Some(url) = url else { return };
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    assert_eq!(client.get(&url).send().await.unwrap().bytes().await.unwrap(), bytes);
    let range = client.get(&url).header("range", "bytes=10-19").send().await.unwrap();
    assert_eq!((range.status().as_u16(), range.bytes().await.unwrap()), (206, bytes.slice(10..20)));
    let other = blob(1001).0;
    subject.bucket.put(&other, blob(1001).1).await.unwrap();
    let tampered =
        url.replace(&digest.hex(), &other.hex()).replace(&format!("/{}/", &digest.hex()[..2]), &format!("/{}/", &other.hex()[..2]));
    assert_ne!(tampered, url);
    assert_eq!(client.get(&tampered).send().await.unwrap().status().as_u16(), 403, "signed for another blob");
    assert_eq!(client.delete(&url).send().await.unwrap().status().as_u16(), 403, "signed for GET");
    assert!(!url.contains("Signature=&") && url.contains("X-Amz-Expires=60"), "{url}");
}

pub(crate) async fn what_conditional_writes_are_worth_is_found_out(subject: Subject) {
    assert_eq!(subject.bucket.probe().await.unwrap(), subject.expected.preconditions);
    let left: Vec<_> = subject.objects.list(None).try_collect::<Vec<_>>().await.unwrap();
    assert!(left.is_empty(), "the probe is removed: {left:?}");
}

/// Errors of a bucket name what was asked for.
pub(crate) async fn an_error_names_its_key(subject: Subject) {
    let (digest, bytes) = blob(10);
    subject.bucket.put(&digest, bytes).await.unwrap();
    let error = subject.bucket.read(&digest, Some(100..200)).await.map(|_| ()).expect_err("outside");
    assert!(matches!(error, StorageError::Object { .. }), "{error:?}");
    assert!(error.to_string().contains(&digest.hex()), "{error}");
}
