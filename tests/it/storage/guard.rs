//! The guard before the bucket: who waits, for how long, and what is kept meanwhile.

use std::time::Duration;

use bytes::Bytes;
use headpond::oci::{Digest, RepositoryName, Tag};
use headpond::storage::{Bucket, BucketClient, BucketLimits, BucketSettings, Expected, RecordKey, StorageError, TagRecord};
use headpond::telemetry::metrics::Metrics;
use tokio::time::Instant;

use crate::fake_bucket::{FakeBucket, Fault};

/// The time a call has in all, and after which one is taken for one that hangs.
const TIMEOUT: Duration = Duration::from_secs(9);
const SLOW: Duration = Duration::from_secs(3);
/// What takes no time takes less.
const AT_ONCE: Duration = Duration::from_secs(1);
/// For what a busy machine adds to a wait. Less than lies between `SLOW` and `TIMEOUT`.
const MARGIN: Duration = Duration::from_secs(4);

struct Guarded {
    fake: FakeBucket,
    bucket: Bucket,
    metrics: Metrics,
}

impl Guarded {
    async fn start(attempts: usize) -> Self {
        let (fake, metrics) = (FakeBucket::start().await, Metrics::new().unwrap());
        let limits = BucketLimits { timeout: TIMEOUT, attempts };
        let settings = BucketSettings { limits, ..fake.settings() };
        let client = BucketClient::s3(&settings, metrics.bucket.clone()).await.unwrap();
        Self { fake, bucket: Bucket::new(client), metrics }
    }

    fn is_open(&self) -> bool {
        self.metrics.bucket.circuit_state.get() == 1
    }

    /// Asks until it is answered; a bucket that is back is found out by a request.
    async fn answered(&self) {
        let asked = tokio::time::timeout(Duration::from_secs(60), async {
            while self.bucket.stat(&digest()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        asked.await.expect("it never answered again");
        assert!(!self.is_open());
    }
}

fn digest() -> Digest {
    Digest::of(b"abc")
}

fn key() -> RecordKey<TagRecord> {
    RecordKey::tag(&RepositoryName::parse("a/b").unwrap(), &Tag::parse("1").unwrap())
}

fn tag_key(tag: &str) -> RecordKey<TagRecord> {
    RecordKey::tag(&RepositoryName::parse("a/b").unwrap(), &Tag::parse(tag).unwrap())
}

fn record(number: u64) -> TagRecord {
    TagRecord { digest: digest(), source: "s".to_owned(), updated_at: number }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_hangs_keeps_all_waiting_once_and_then_nobody() {
    let guarded = Guarded::start(3).await;
    guarded.fake.break_with(Fault::Hang);
    let began = Instant::now();
    let calls = (0..50).map(|_| async {
        let error = guarded.bucket.stat(&digest()).await.expect_err("it hangs");
        (began.elapsed(), error)
    });
    let mut took: Vec<_> = futures::future::join_all(calls).await;
    took.sort_by_key(|(took, _)| *took);
    // One goes on as the probe; the others are told as soon as it is clear.
    assert!(took[48].0 < SLOW + MARGIN, "{:?}", took[48]);
    assert!(took[48].1.is_unavailable(), "{}", took[48].1);
    assert!(took[49].0 < TIMEOUT + MARGIN, "{:?}", took[49]);
    assert!(guarded.is_open());
    let began = Instant::now();
    for _ in 0..100 {
        let error = guarded.bucket.stat(&digest()).await.expect_err("it is known to hang");
        assert!(error.is_unavailable(), "{error}");
    }
    assert!(began.elapsed() < AT_ONCE, "nobody waits: {:?}", began.elapsed());
    guarded.fake.mend();
    guarded.answered().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_gone_is_left_alone_until_it_is_back() {
    let guarded = Guarded::start(1).await;
    guarded.bucket.put(&digest(), Bytes::from_static(b"abc")).await.unwrap();
    guarded.fake.stop().await;
    let error = guarded.bucket.stat(&digest()).await.expect_err("it is gone");
    assert!(!error.is_unavailable(), "the first one tells why: {error}");
    let error = guarded.bucket.stat(&digest()).await.expect_err("it is gone");
    assert!(error.is_unavailable() && error.to_string().contains("not asked again"), "{error}");
    assert!(guarded.is_open());
    guarded.fake.resume().await;
    guarded.answered().await;
    assert_eq!(guarded.bucket.stat(&digest()).await.unwrap(), Some(3));
}

/// Whoever has something for the bucket may be at work while it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_came_back_while_nobody_waited_is_told_to_the_next_who_waits() {
    let guarded = Guarded::start(1).await;
    let mut recoveries = guarded.bucket.recoveries();
    for _ in 0..2 {
        guarded.fake.break_nth(1, Fault::SlowDown);
        guarded.bucket.stat(&digest()).await.expect_err("a fault");
        guarded.answered().await;
        tokio::time::timeout(AT_ONCE, recoveries.next()).await.expect("the recovery was missed");
    }
    assert!(tokio::time::timeout(Duration::from_millis(50), recoveries.next()).await.is_err(), "told twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_take_long_waits_for_a_short_call_that_looks_whether_the_bucket_is_back() {
    let guarded = Guarded::start(1).await;
    guarded.fake.break_nth(1, Fault::SlowDown);
    guarded.bucket.stat(&digest()).await.expect_err("a fault");
    let large = Bytes::from(vec![7; 1024 * 1024]);
    let stored = tokio::time::timeout(Duration::from_secs(60), async {
        while guarded.bucket.put(&Digest::of(&large), large.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    stored.await.expect("nothing looked whether it is back");
    let methods: Vec<_> = guarded.fake.take_journal().into_iter().map(|call| call.method).collect();
    assert_eq!(methods, ["HEAD", "HEAD", "PUT"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_says_that_the_bucket_is_not_there_holds_others_off() {
    let guarded = Guarded::start(1).await;
    for (fault, opens) in [(Fault::AccessDenied, false), (Fault::SlowDown, true), (Fault::Reset, true), (Fault::LostAnswer, true)] {
        guarded.fake.break_nth(1, fault);
        guarded.bucket.stat(&digest()).await.expect_err("a fault");
        assert_eq!(guarded.is_open(), opens, "{fault:?}");
        guarded.answered().await;
    }
    assert_eq!(guarded.bucket.stat(&digest()).await.unwrap(), None, "not there is an answer");
    assert!(!guarded.is_open());
    let exposed = String::from_utf8(guarded.metrics.expose().unwrap()).unwrap();
    for line in [r#"operation="get",result="denied"} 1"#, r#"operation="get",result="failed"} 3"#] {
        assert!(exposed.contains(line), "{line} is not in\n{exposed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_once_is_tried_again_and_nobody_is_told() {
    let guarded = Guarded::start(3).await;
    guarded.bucket.put(&digest(), Bytes::from_static(b"abc")).await.unwrap();
    for fault in [Fault::SlowDown, Fault::Reset, Fault::LostAnswer, Fault::Hang, Fault::Truncate] {
        guarded.fake.break_nth(1, fault);
        let mut stream = guarded.bucket.read(&digest(), None).await.unwrap().expect("the blob");
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(bytes, b"abc", "{fault:?}");
        assert!(guarded.fake.has_broken());
        guarded.answered().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_an_error_and_never_an_end() {
    let guarded = Guarded::start(1).await;
    guarded.bucket.put(&digest(), Bytes::from_static(b"abcdef")).await.unwrap();
    guarded.bucket.records().write(&key(), &record(1)).await.unwrap();
    guarded.fake.break_with(Fault::Truncate);
    let read = async {
        let mut stream = guarded.bucket.read(&digest(), None).await?.expect("the blob");
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok::<_, StorageError>(bytes)
    };
    read.await.expect_err("it broke off");
    guarded.bucket.records().read(&key()).await.expect_err("it broke off");
    guarded.fake.mend();
    guarded.answered().await;
    assert_eq!(guarded.bucket.records().read(&key()).await.unwrap(), Some(record(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_was_lost_is_known_to_have_been_written() {
    let guarded = Guarded::start(3).await;
    let records = guarded.bucket.records();
    guarded.bucket.clone().find_out_preconditions().await;
    guarded.fake.break_nth(1, Fault::LostAnswer);
    let first = records.write_if(&key(), &record(1), Expected::Absent).await.unwrap().expect("no conflict with itself");
    assert!(guarded.fake.has_broken());
    guarded.fake.break_nth(1, Fault::LostAnswer);
    records.write_if(&key(), &record(2), Expected::Version(first)).await.unwrap().expect("no conflict with itself");
    assert_eq!(records.read(&key()).await.unwrap(), Some(record(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_completion_was_not_answered_is_complete() {
    let guarded = Guarded::start(3).await;
    let mut upload = guarded.bucket.begin_upload(&digest()).await.unwrap();
    upload.put_part(Bytes::from_static(b"abc")).await.unwrap();
    guarded.fake.break_nth(1, Fault::LostAnswer);
    upload.complete().await.unwrap();
    assert!(guarded.fake.has_broken());
    assert_eq!(guarded.bucket.stat(&digest()).await.unwrap(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_behind_is_read_at_once_and_in_the_bucket_once_that_is_back() {
    let guarded = Guarded::start(1).await;
    let sending = tokio::spawn(guarded.bucket.clone().send_later());
    let records = guarded.bucket.records();
    guarded.fake.stop().await;
    for number in 1..4 {
        records.write_behind(&key(), &record(number)).await.unwrap();
        assert_eq!(records.read(&key()).await.unwrap(), Some(record(number)));
    }
    guarded.bucket.put_behind(&digest(), Bytes::from_static(b"abc")).await.unwrap();
    assert_eq!(guarded.bucket.kept(&digest()).as_deref(), Some(&b"abc"[..]));
    assert_eq!(guarded.fake.keys(), Vec::<String>::new());
    guarded.fake.resume().await;
    let sent = tokio::time::timeout(Duration::from_secs(60), async {
        while guarded.bucket.kept(&digest()).is_some() || guarded.fake.keys().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    sent.await.expect("it was never sent");
    assert_eq!(records.read(&key()).await.unwrap(), Some(record(3)));
    assert_eq!(guarded.bucket.stat(&digest()).await.unwrap(), Some(3));
    sending.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_does_not_go_over_what_was_written_since() {
    let guarded = Guarded::start(1).await;
    let records = guarded.bucket.records();
    guarded.bucket.clone().find_out_preconditions().await;
    let [plain, compared, created, deleted, failed] = ["plain", "compared", "created", "deleted", "failed"].map(tag_key);
    guarded.fake.stop().await;
    for key in [&plain, &compared, &created, &deleted, &failed] {
        records.write_behind(key, &record(1)).await.unwrap();
    }
    records.write(&failed, &record(2)).await.expect_err("the bucket is gone");
    assert_eq!(records.read(&failed).await.unwrap(), Some(record(1)), "what is kept is kept");
    guarded.fake.resume().await;
    guarded.answered().await;
    records.write(&plain, &record(2)).await.unwrap();
    let (_, seen) = records.read_versioned(&compared).await.unwrap().expect("it is kept");
    records.write_if(&compared, &record(2), Expected::Version(seen)).await.unwrap().expect("nobody else wrote");
    records.write_if(&created, &record(2), Expected::Absent).await.unwrap().expect_err("it is kept");
    records.delete(&deleted).await.unwrap();
    let sending = tokio::spawn(guarded.bucket.clone().send_later());
    for key in [&plain, &compared, &created, &deleted, &failed] {
        tokio::time::timeout(Duration::from_secs(60), guarded.bucket.sent(&digest(), key)).await.expect("it was never sent");
    }
    for (key, expected) in [(&plain, Some(2)), (&compared, Some(2)), (&created, Some(1)), (&deleted, None), (&failed, Some(1))] {
        assert_eq!(records.read(key).await.unwrap(), expected.map(record), "{key}");
    }
    sending.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_bucket_never_takes_keeps_nothing_behind_it_waiting() {
    let guarded = Guarded::start(1).await;
    let records = guarded.bucket.records();
    guarded.fake.stop().await;
    for tag in 0..8 {
        records.write_behind(&tag_key(&format!("never-{tag}")), &record(tag)).await.unwrap();
    }
    for tag in 0..16 {
        records.write_behind(&tag_key(&format!("good-{tag}")), &record(tag)).await.unwrap();
    }
    guarded.fake.break_path("/never-", Fault::SlowDown);
    guarded.fake.resume().await;
    let sending = tokio::spawn(guarded.bucket.clone().send_later());
    let sent = tokio::time::timeout(Duration::from_secs(120), async {
        while guarded.fake.keys().len() < 16 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    sent.await.expect("eight that are never taken stop all others");
    let (blob, good) = (digest(), tag_key("good-0"));
    tokio::time::timeout(Duration::from_secs(60), guarded.bucket.sent(&blob, &good)).await.expect("others are not waited for");
    guarded.fake.mend();
    for tag in 0..8 {
        let never = tag_key(&format!("never-{tag}"));
        tokio::time::timeout(Duration::from_secs(120), guarded.bucket.sent(&digest(), &never)).await.expect("they are given up");
    }
    assert_eq!(guarded.fake.keys().len(), 24);
    sending.abort();
}

/// Its body broke off, and it was deleted before the client asked for the rest.
#[tokio::test(flavor = "multi_thread")]
async fn record_that_is_deleted_while_it_is_read_is_absent() {
    let guarded = Guarded::start(3).await;
    let records = guarded.bucket.records();
    records.write(&key(), &record(1)).await.unwrap();
    guarded.fake.break_nth(1, Fault::Vanish);
    assert_eq!(records.read(&key()).await.unwrap(), None);
    assert!(guarded.fake.has_broken() && !guarded.is_open());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_bucket_refuses_is_not_kept_for_later() {
    let guarded = Guarded::start(1).await;
    guarded.fake.break_with(Fault::AccessDenied);
    guarded.bucket.records().write_behind(&key(), &record(1)).await.expect_err("denied");
    guarded.bucket.put_behind(&digest(), Bytes::from_static(b"abc")).await.expect_err("denied");
    assert_eq!(guarded.bucket.kept(&digest()), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_conditional_writes_are_worth_is_found_out_once_the_bucket_is_there() {
    let guarded = Guarded::start(1).await;
    guarded.fake.stop().await;
    let finding_out = tokio::spawn(guarded.bucket.clone().find_out_preconditions());
    guarded.bucket.stat(&digest()).await.expect_err("it is gone");
    guarded.fake.resume().await;
    tokio::time::timeout(Duration::from_secs(60), finding_out).await.expect("never found out").unwrap();
    let known = guarded.bucket.preconditions();
    assert_eq!(known.create, headpond::storage::Support::Honoured);
    let exposed = String::from_utf8(guarded.metrics.expose().unwrap()).unwrap();
    assert!(exposed.contains(r#"headpond_bucket_preconditions{kind="create"} 1"#), "{exposed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_object_of_the_probe_is_gone_afterwards_and_one_that_stayed_goes_with_the_next_try() {
    let guarded = Guarded::start(1).await;
    guarded.bucket.probe().await.unwrap();
    let calls = guarded.fake.take_journal();
    assert!(calls.iter().all(|call| call.path.contains("/probe/") && call.path == calls[0].path), "{calls:?}");
    assert_eq!(calls.last().map(|call| call.method.as_str()), Some("DELETE"));
    assert_eq!(guarded.fake.keys(), Vec::<String>::new());
    guarded.fake.break_nth(calls.len(), Fault::SlowDown);
    guarded.bucket.probe().await.expect_err("the object could not be removed");
    assert!(guarded.fake.has_broken());
    assert_eq!(guarded.fake.keys().len(), 1);
    guarded.answered().await;
    guarded.bucket.probe().await.unwrap();
    assert_eq!(guarded.fake.keys(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_try_the_bucket_with_an_object_each() {
    let fake = FakeBucket::start().await;
    let replicas = [Bucket::new(fake.client().await), Bucket::new(fake.client().await)];
    for found in futures::future::join_all(replicas.iter().map(Bucket::probe)).await {
        let found = found.unwrap();
        assert_eq!((found.create, found.update), (headpond::storage::Support::Honoured, headpond::storage::Support::Honoured));
    }
    let paths: std::collections::HashSet<_> = fake.take_journal().into_iter().map(|call| call.path).collect();
    assert_eq!((paths.len(), fake.keys()), (2, Vec::new()));
}
