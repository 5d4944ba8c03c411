//! Tags and repositories that more than one replica writes: two servers over one bucket.

use std::cell::Cell;
use std::time::Duration;

use headpond::app::World;
use headpond::clock::unix_seconds;
use headpond::oci::Digest;
use reqwest::{Method, StatusCode};
use tempfile::TempDir;

use crate::auth::write_secrets;
use crate::fake_bucket::{FakeBucket, Fault as BucketFault};
use crate::fake_upstream::{FakeUpstream, Fault, Image, On};
use crate::headpond::{Answer, Headpond, configuration};
use crate::hosted::hosted_record;

const TAG: &str = "/v2/up/library/x/manifests/1";
const TAG_KEY: &str = "images/up/library/x/_tags/1";
const VALIDATED_KEY: &str = "images/up/library/x/_validated/1";
const REPOSITORY_KEY: &str = "repositories/up!library!x";
const NOW: [(&str, &str); 1] = [("cache-control", "no-cache")];
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Longer than what is in memory is believed.
const BELIEVED: Duration = Duration::from_secs(11);

/// A server over the bucket, with a disk of its own.
/// One that has found out what the bucket is worth: a fault that a test plans is met by what it is meant for.
async fn replica(fake: &FakeUpstream, bucket: &FakeBucket, top: &str) -> Headpond {
    let directory = TempDir::new().unwrap();
    write_secrets(directory.path());
    let text = configuration(&fake.url(), "", top).replace("path: headpond-data", &format!("path: headpond-data, s3: {}", bucket.s3()));
    let server = Box::pin(Headpond::of(fake, &text, directory, World::default())).await;
    server.wait_for_metric(r#"headpond_bucket_preconditions{kind="create"}"#, 1).await;
    server
}

async fn two_replicas() -> (FakeUpstream, FakeBucket, Headpond, Headpond) {
    let (fake, bucket) = (FakeUpstream::start().await, FakeBucket::start().await);
    let (one, other) = (replica(&fake, &bucket, "").await, replica(&fake, &bucket, "").await);
    (fake, bucket, one, other)
}

/// Two replicas that both have the tag.
async fn two_with_tag() -> (FakeUpstream, FakeBucket, Headpond, Headpond, Image) {
    let (fake, bucket, one, other) = two_replicas().await;
    let image = fake.put_image("library/x", "1", &[]);
    assert_eq!(one.get(TAG).await.digest(), image.digest);
    wait_for_record(&bucket, VALIDATED_KEY, &image.digest).await;
    wait_for(|| bucket.file(REPOSITORY_KEY).exists()).await;
    assert_eq!(other.get(TAG).await.digest(), image.digest);
    fake.clear_journal();
    (fake, bucket, one, other, image)
}

async fn now(server: &Headpond) -> Answer {
    server.ask(Method::GET, TAG, &NOW).await
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

/// Whether a record of the bucket names this digest.
fn says(bucket: &FakeBucket, key: &str, digest: &Digest) -> bool {
    std::fs::read_to_string(bucket.file(key)).is_ok_and(|text| text.contains(&digest.to_string()))
}

/// Waits for a record of the tag, and that of the manifest it points to.
async fn wait_for_record(bucket: &FakeBucket, key: &str, digest: &Digest) {
    let manifest = bucket.file(&format!("images/up/library/x/_manifests/sha256/{}", digest.hex()));
    wait_for(|| says(bucket, key, digest) && manifest.exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tag_that_one_replica_moved_is_seen_by_the_other_within_its_belief_and_without_upstream() {
    let (fake, bucket, one, other, image) = two_with_tag().await;
    let moved = fake.put_image("library/x", "1", &["new".into()]);
    assert_eq!(now(&one).await.digest(), moved.digest);
    wait_for_record(&bucket, TAG_KEY, &moved.digest).await;
    fake.clear_journal();
    assert_eq!(other.get(TAG).await.digest(), image.digest, "what is in memory is believed for a while");
    other.clock.advance(BELIEVED);
    let seen = other.get(TAG).await;
    assert_eq!((seen.digest(), seen.header("warning")), (moved.digest, ""));
    assert_eq!(fake.journal(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn tag_in_use_is_compared_behind_its_requests() {
    let (fake, bucket, one, other, _) = two_with_tag().await;
    let moved = fake.put_image("library/x", "1", &["new".into()]);
    assert_eq!(now(&one).await.digest(), moved.digest);
    wait_for_record(&bucket, TAG_KEY, &moved.digest).await;
    other.clock.advance(BELIEVED / 2 + Duration::from_secs(1));
    while other.get(TAG).await.digest() != moved.digest {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_tag_costs_one_conditional_request_each_time_it_is_compared() {
    let (_fake, bucket, one, _other, image) = two_with_tag().await;
    one.clock.advance(BELIEVED);
    one.get(TAG).await;
    bucket.take_journal();
    one.clock.advance(BELIEVED);
    for _ in 0..20 {
        assert_eq!(one.get(TAG).await.digest(), image.digest);
    }
    let asked: Vec<_> = bucket.take_journal().into_iter().filter(|call| call.path.contains("/_tags/")).collect();
    assert_eq!(asked.len(), 1, "{asked:#?}");
    assert!(asked[0].headers.contains_key("if-none-match"), "{asked:#?}");
}

/// The slow replica has been told of one move when the tag moves again and the other one writes that.
#[tokio::test(flavor = "multi_thread")]
async fn slow_revalidation_cannot_turn_back_a_tag_that_another_replica_moved() {
    let (fake, bucket, slow, quick, _) = two_with_tag().await;
    let between = fake.put_image("library/x", "1", &["between".into()]);
    fake.on(On::ManifestGet).once(Fault::HangHead);
    let path = slow.url(TAG);
    let client = tokio::spawn(slow.client.get(path).header("cache-control", "no-cache").send());
    fake.wait_until_requests("GET", &between.digest.to_string(), 1).await;
    let last = fake.put_image("library/x", "1", &["last".into()]);
    assert_eq!(now(&quick).await.digest(), last.digest);
    wait_for_record(&bucket, TAG_KEY, &last.digest).await;
    fake.clear_journal();
    fake.release();
    assert_eq!(Answer::read(client.await.unwrap().unwrap()).await.status, StatusCode::OK);
    // It is refused the write, and asks upstream once more behind.
    fake.wait_until_requests("HEAD", "/manifests/1", 1).await;
    assert!(says(&bucket, TAG_KEY, &last.digest));
    assert_eq!(slow.get(TAG).await.digest(), last.digest);
    let (slow, quick) = (slow.stop().await, quick.stop().await);
    assert!(says(&bucket, TAG_KEY, &last.digest), "nothing that was under way has turned it back");
    drop((slow, quick));
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_first_pull_cannot_write_over_what_another_replica_wrote() {
    let (fake, bucket, slow, quick) = two_replicas().await;
    let first = fake.put_image("library/x", "1", &["first".into()]);
    fake.on(On::ManifestGet).once(Fault::HoldBodyAt(10));
    let client = tokio::spawn(slow.client.get(slow.url(TAG)).send());
    fake.wait_until_blob_bytes_sent(&first.digest, 10).await;
    let second = fake.put_image("library/x", "1", &["second".into()]);
    assert_eq!(quick.get(TAG).await.digest(), second.digest);
    wait_for_record(&bucket, TAG_KEY, &second.digest).await;
    fake.release();
    assert_eq!(Answer::read(client.await.unwrap().unwrap()).await.digest(), first.digest, "what upstream told this client");
    fake.wait_until_requests("HEAD", "/manifests/1", 1).await;
    assert_eq!(slow.get(TAG).await.digest(), second.digest);
    slow.stop().await;
    assert!(says(&bucket, TAG_KEY, &second.digest));
}

/// The slow replica does not see what is in the tag's place, and is told of the old image long after the other one was
/// told of the new one.
#[tokio::test(flavor = "multi_thread")]
async fn slow_pull_that_saw_no_place_cannot_turn_back_a_tag_that_another_replica_moved_meanwhile() {
    let (fake, bucket, slow, quick) = two_replicas().await;
    bucket.break_with(BucketFault::SlowDown);
    let first = fake.put_image("library/x", "1", &["first".into()]);
    fake.on(On::ManifestGet).once(Fault::HoldBodyAt(10));
    let client = tokio::spawn(slow.client.get(slow.url(TAG)).send());
    fake.wait_until_blob_bytes_sent(&first.digest, 10).await;
    bucket.mend();
    let second = fake.put_image("library/x", "1", &["second".into()]);
    slow.clock.advance(Duration::from_secs(2));
    assert_eq!(now(&quick).await.digest(), second.digest);
    wait_for_record(&bucket, TAG_KEY, &second.digest).await;
    wait_for_record(&bucket, VALIDATED_KEY, &second.digest).await;
    slow.clock.advance(Duration::from_secs(2));
    fake.release();
    assert_eq!(Answer::read(client.await.unwrap().unwrap()).await.digest(), first.digest, "what upstream told this client");
    while slow.get(TAG).await.digest() != second.digest {
        assert!(says(&bucket, TAG_KEY, &second.digest), "it was turned back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    slow.stop().await;
    assert!(says(&bucket, TAG_KEY, &second.digest), "nothing that was under way has turned it back");
}

/// A replica that saw no place is told of a tag in the second in which another one was told of another image.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_answers_of_one_second_the_written_one_stands_until_upstream_was_asked_again() {
    let (fake, bucket, one, _other, _) = two_with_tag().await;
    for attempt in 0..20 {
        let new = replica(&fake, &bucket, "").await;
        bucket.break_with(BucketFault::SlowDown);
        // It finds out that the bucket does not answer, and then asks upstream at once.
        new.get("/v2/up/library/x/manifests/none").await;
        let moved = fake.put_image("library/x", "1", &[attempt.to_string().into()]);
        let second = unix_seconds(one.clock.now());
        assert_eq!(new.get(TAG).await.digest(), moved.digest);
        let is_of_one_second = unix_seconds(one.clock.now()) == second;
        if is_of_one_second {
            date(&bucket, TAG_KEY, "updated_at", second);
            date(&bucket, VALIDATED_KEY, "validated_at", second);
            fake.clear_journal();
            bucket.mend();
            wait_for(|| says(&bucket, TAG_KEY, &moved.digest)).await;
            assert_eq!(fake.manifest_heads(), 1);
            return;
        }
        bucket.mend();
        new.stop().await;
    }
    panic!("no answer came within the second in which it was asked for");
}

/// Gives a record of the bucket another time.
fn date(bucket: &FakeBucket, key: &str, field: &str, seconds: u64) {
    let text = std::fs::read_to_string(bucket.file(key)).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
    record[field] = seconds.into();
    bucket.replace(key, record.to_string().as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn late_confirmation_is_a_hint_that_does_not_count_for_another_digest() {
    let (fake, bucket, one, other, image) = two_with_tag().await;
    let moved = fake.put_image("library/x", "1", &["new".into()]);
    assert_eq!(now(&one).await.digest(), moved.digest);
    wait_for_record(&bucket, VALIDATED_KEY, &moved.digest).await;
    // What a replica writes that was told of the old digest before.
    let late = format!(r#"{{"digest":"{}","validated_at":4000000000}}"#, image.digest);
    std::fs::write(bucket.file(VALIDATED_KEY), late).unwrap();
    other.clock.advance(BELIEVED);
    assert_eq!(other.get(TAG).await.digest(), moved.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn confirmation_by_one_replica_saves_the_other_one_the_request() {
    let (fake, bucket, one, other, image) = two_with_tag().await;
    let before = std::fs::read(bucket.file(VALIDATED_KEY)).unwrap();
    one.clock.advance(DAY);
    assert_eq!(one.get(TAG).await.digest(), image.digest);
    wait_for(|| std::fs::read(bucket.file(VALIDATED_KEY)).unwrap() != before).await;
    let seen = other.get(TAG).await;
    assert_eq!((seen.digest(), seen.header("warning")), (image.digest, ""));
    assert_eq!((fake.manifest_heads(), fake.journal().len()), (1, 1));
    assert!(says(&bucket, TAG_KEY, &image.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_memory_stays_in_force_while_the_bucket_fails() {
    let (fake, bucket) = (FakeUpstream::start().await, FakeBucket::start().await);
    let server = replica(&fake, &bucket, "limits: {revalidate_wait: 200ms}").await;
    let image = fake.put_image("library/x", "1", &[]);
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    wait_for_record(&bucket, VALIDATED_KEY, &image.digest).await;
    fake.clear_journal();
    for fault in BucketFault::ALL {
        bucket.break_with(fault);
        server.clock.advance(BELIEVED);
        let began = tokio::time::Instant::now();
        let answer = server.get(TAG).await;
        assert_eq!((answer.digest(), answer.header("warning")), (image.digest, ""), "{fault:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{fault:?}");
    }
    bucket.stop().await;
    server.clock.advance(BELIEVED);
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    assert_eq!(fake.journal(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn tag_that_moved_while_the_bucket_was_away_is_written_when_it_is_back() {
    let (fake, bucket, one, other, _) = two_with_tag().await;
    bucket.break_with(BucketFault::SlowDown);
    let moved = fake.put_image("library/x", "1", &["new".into()]);
    assert_eq!(now(&one).await.digest(), moved.digest);
    one.clock.advance(BELIEVED);
    assert_eq!(one.get(TAG).await.digest(), moved.digest);
    bucket.mend();
    fake.clear_journal();
    one.clock.advance(Duration::from_secs(120));
    while !says(&bucket, TAG_KEY, &moved.digest) {
        assert_eq!(one.get(TAG).await.digest(), moved.digest);
        one.clock.advance(BELIEVED);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    other.clock.advance(BELIEVED);
    assert_eq!(other.get(TAG).await.digest(), moved.digest);
    assert_eq!(fake.journal(), [], "its manifest has been written too");
}

#[tokio::test(flavor = "multi_thread")]
async fn first_pull_while_the_bucket_is_away_is_written_when_it_is_back() {
    let (fake, bucket, one, other) = two_replicas().await;
    let image = fake.put_image("library/x", "1", &[]);
    bucket.break_with(BucketFault::SlowDown);
    assert_eq!(one.get(TAG).await.digest(), image.digest);
    bucket.mend();
    while !says(&bucket, TAG_KEY, &image.digest) {
        one.clock.advance(BELIEVED);
        assert_eq!(one.get(TAG).await.digest(), image.digest);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    wait_for(|| bucket.file(REPOSITORY_KEY).exists()).await;
    fake.clear_journal();
    assert_eq!(other.get(TAG).await.digest(), image.digest);
    assert_eq!(fake.journal(), []);
}

/// A replica that has just started knows nothing of a tag that upstream moved in the bucket's absence.
#[tokio::test(flavor = "multi_thread")]
async fn tag_that_a_new_replica_asked_for_while_the_bucket_was_away_is_not_turned_back() {
    let (fake, bucket, one, _other, image) = two_with_tag().await;
    one.stop().await;
    let new = replica(&fake, &bucket, "").await;
    bucket.break_with(BucketFault::SlowDown);
    let moved = fake.put_image("library/x", "1", &["new".into()]);
    new.clock.advance(BELIEVED);
    assert_eq!(new.get(TAG).await.digest(), moved.digest);
    bucket.mend();
    while !says(&bucket, TAG_KEY, &moved.digest) {
        assert!(says(&bucket, TAG_KEY, &image.digest));
        new.clock.advance(BELIEVED);
        assert_eq!(new.get(TAG).await.digest(), moved.digest, "it was served before");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tag_that_another_replica_retired_is_fetched_and_written_again() {
    let (fake, bucket, one, _other, image) = two_with_tag().await;
    // What is being written behind an answer may be in the way for a moment.
    wait_for(|| std::fs::remove_dir_all(bucket.file("images/up")).is_ok()).await;
    std::fs::remove_file(bucket.file(REPOSITORY_KEY)).unwrap();
    one.clock.advance(BELIEVED);
    assert_eq!(one.get(TAG).await.digest(), image.digest);
    assert_eq!(fake.manifest_gets(), 1);
    wait_for_record(&bucket, TAG_KEY, &image.digest).await;
    wait_for(|| bucket.file(REPOSITORY_KEY).exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repository_that_another_replica_made_private_is_so_here_when_its_rule_is_gone() {
    let (fake, bucket, one, _other, _) = two_with_tag().await;
    let top = "auth: {users: users, anonymous: {pull: true}}";
    let directory = TempDir::new().unwrap();
    write_secrets(directory.path());
    let text = configuration(&fake.url(), "", top)
        .replace("path: headpond-data", &format!("path: headpond-data, s3: {}", bucket.s3()))
        .replace("prefix: up", "prefix: other");
    let orphan = Headpond::of(&fake, &text, directory, World::default()).await;
    assert_eq!(orphan.get(TAG).await.status, StatusCode::OK);
    let record = std::fs::read_to_string(bucket.file(REPOSITORY_KEY)).unwrap();
    std::fs::write(bucket.file(REPOSITORY_KEY), record.replace(r#""needs_user":false"#, r#""needs_user":true"#)).unwrap();
    orphan.clock.advance(BELIEVED);
    assert_eq!(orphan.get(TAG).await.status, StatusCode::NOT_FOUND);
    assert_eq!(orphan.get("/v2/_catalog").await.bytes(), r#"{"repositories":[]}"#);
    bucket.stop().await;
    orphan.clock.advance(BELIEVED);
    assert_eq!(orphan.get(TAG).await.status, StatusCode::NOT_FOUND, "a bucket that is away opens nothing");
    drop(one);
}

/// The bucket does not say whether the repository has a record, neither behind the first answer nor behind its manifest.
#[tokio::test(flavor = "multi_thread")]
async fn repository_whose_record_could_not_be_looked_for_is_recorded_with_the_next_pull() {
    let (fake, bucket, one, _other) = two_replicas().await;
    let image = fake.put_image("library/x", "1", &[]);
    let path = format!("/v2/up/library/x/manifests/{}", image.digest);
    bucket.break_path("/repositories/", BucketFault::AccessDenied);
    bucket.take_journal();
    assert_eq!(one.get(&path).await.digest(), image.digest);
    let looks = Cell::new(0);
    wait_for(|| {
        looks.set(looks.get() + bucket.take_journal().iter().filter(|call| call.path.contains("/repositories/")).count());
        looks.get() == 2
    })
    .await;
    bucket.mend();
    let manifest = bucket.file(&format!("images/up/library/x/_manifests/sha256/{}", image.digest.hex()));
    assert!(manifest.exists() && !bucket.file(REPOSITORY_KEY).exists());
    assert_eq!(one.get(&path).await.digest(), image.digest);
    wait_for(|| bucket.file(REPOSITORY_KEY).exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repository_whose_record_was_removed_is_recorded_again_while_it_is_pulled() {
    let (fake, bucket) = (FakeUpstream::start().await, FakeBucket::start().await);
    let server = replica(&fake, &bucket, "").await;
    let image = fake.put_image("library/x", "1", &[]);
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    wait_for(|| bucket.file(REPOSITORY_KEY).exists()).await;
    // It is in memory, then.
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    std::fs::remove_file(bucket.file(REPOSITORY_KEY)).unwrap();
    server.clock.advance(DAY / 2);
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    wait_for(|| bucket.file(REPOSITORY_KEY).exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosted_repository_in_a_bucket_stays_one_when_a_rule_covers_its_name() {
    let (fake, bucket, one, _other) = two_replicas().await;
    let image = fake.put_image("library/x", "1", &[]);
    let record = hosted_record("up/library/x");
    std::fs::create_dir_all(bucket.file("repositories")).unwrap();
    bucket.replace(REPOSITORY_KEY, &record);
    assert_eq!(one.get(TAG).await.digest(), image.digest);
    wait_for_record(&bucket, VALIDATED_KEY, &image.digest).await;
    one.stop().await;
    assert_eq!(std::fs::read(bucket.file(REPOSITORY_KEY)).unwrap(), record);
}

/// The calls of a revalidation fail one after the other, until there is none left to fail.
#[tokio::test(flavor = "multi_thread")]
async fn revalidation_holds_whichever_call_of_the_bucket_fails() {
    let (fake, bucket) = (FakeUpstream::start().await, FakeBucket::start().await);
    fake.put_image("library/x", "1", &[]);
    for nth in 1.. {
        let server = replica(&fake, &bucket, "").await;
        server.get(TAG).await;
        server.clock.advance(DAY);
        let moved = fake.put_image("library/x", "1", &[nth.to_string().into()]);
        bucket.break_nth(nth, BucketFault::AccessDenied);
        assert_eq!(server.get(TAG).await.digest(), moved.digest, "{nth}");
        server.stop().await;
        let has_broken = bucket.has_broken();
        bucket.mend();
        let other = replica(&fake, &bucket, "").await;
        assert_eq!(other.get(TAG).await.digest(), moved.digest, "{nth}");
        other.stop().await;
        assert!(says(&bucket, TAG_KEY, &moved.digest), "{nth}");
        if !has_broken {
            assert!(nth > 5, "{nth}");
            return;
        }
    }
}
