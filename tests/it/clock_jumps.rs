//! The wall clock jumps, ahead and back: as a time service, or an operator, may have it.

use std::time::Duration;

use headpond::app::World;
use headpond::cache::Retired;

use crate::fake_bucket::FakeBucket;
use crate::fake_upstream::{FakeUpstream, Image};
use crate::headpond::{Headpond, configuration};

const TAG: &str = "/v2/up/library/x/manifests/1";
const HOUR: Duration = Duration::from_secs(60 * 60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A jump of the clock.
#[derive(Clone, Copy, Debug)]
enum Jump {
    Ahead(Duration),
    Back(Duration),
}

/// Ahead, back past where it began, and home again; then the same the other way round.
const JUMPS: [Jump; 6] = [Jump::Ahead(YEAR), Jump::Back(YEAR), Jump::Back(YEAR), Jump::Ahead(YEAR), Jump::Back(HOUR), Jump::Ahead(HOUR)];

fn make(jump: Jump, server: &Headpond) {
    match jump {
        Jump::Ahead(by) => server.clock.advance(by),
        Jump::Back(by) => server.clock.set_back(by),
    }
}

async fn pull(server: &Headpond, image: &Image, when: &str) {
    assert_eq!(server.get(TAG).await.digest(), image.digest, "{when}");
    for layer in &image.layers {
        assert_eq!(server.get(&Headpond::blob(layer)).await.digest(), *layer, "{when}");
    }
}

/// Through all jumps: with upstream there, what is cached is confirmed where it must be, and no byte of
/// it fetched again; without, it is served as it is.
async fn content_outlives_every_jump(bucket: Option<&FakeBucket>) {
    let fake = FakeUpstream::start().await;
    fake.require_bearer();
    let image = fake.put_image("library/x", "1", &["a layer".into()]);
    let text = configuration(&fake.url(), "", "");
    let text =
        bucket.map_or(text.clone(), |bucket| text.replace("path: headpond-data", &format!("path: headpond-data, s3: {}", bucket.s3())));
    let server = Headpond::of(&fake, &text, tempfile::tempdir().unwrap(), World::default()).await;
    pull(&server, &image, "before").await;
    server.wait_for_fills().await;
    for jump in JUMPS {
        fake.clear_journal();
        make(jump, &server);
        pull(&server, &image, &format!("{jump:?}")).await;
        assert_eq!((fake.manifest_gets(), fake.blob_bytes_sent(&image.layers[0])), (0, 0), "{jump:?}");
        assert!(fake.manifest_heads() <= 1, "{jump:?}");
    }
    fake.stop().await;
    for jump in JUMPS {
        make(jump, &server);
        pull(&server, &image, &format!("without upstream, {jump:?}")).await;
    }
    fake.restart();
    // Whatever the clock said when upstream failed holds nobody off for ever.
    server.clock.advance(HOUR);
    let moved = fake.put_image("library/x", "2", &["another layer".into()]);
    assert_eq!(server.get("/v2/up/library/x/manifests/2").await.digest(), moved.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_on_disk_outlives_every_jump() {
    content_outlives_every_jump(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_in_a_bucket_outlives_every_jump() {
    let bucket = FakeBucket::start().await;
    content_outlives_every_jump(Some(&bucket)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tag_that_moves_is_seen_after_every_jump() {
    let fake = FakeUpstream::start().await;
    fake.put_image("library/x", "1", &[]);
    let server = Headpond::before(&fake).await;
    server.get(TAG).await;
    for (number, jump) in JUMPS.into_iter().enumerate() {
        let moved = fake.put_image("library/x", "1", &[number.to_string().into()]);
        make(jump, &server);
        server.clock.advance(25 * HOUR);
        assert_eq!(server.get(TAG).await.digest(), moved.digest, "{jump:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tag_whose_check_failed_is_checked_again_after_a_jump_back() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let server = Headpond::before(&fake).await;
    server.get(TAG).await;
    server.clock.advance(49 * HOUR);
    fake.remove("library/x", "1");
    assert!(!server.get(TAG).await.header("warning").is_empty());
    let moved = fake.put_image("library/x", "1", &["new".into()]);
    assert_eq!(server.get(TAG).await.digest(), image.digest, "upstream is left alone for a while");
    server.clock.set_back(HOUR);
    assert_eq!(server.get(TAG).await.digest(), moved.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn retirement_after_a_jump_back_removes_nothing() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &["a layer".into()]);
    let server = Headpond::before(&fake).await;
    server.clock.advance(YEAR);
    pull(&server, &image, "before").await;
    server.wait_for_repository("up/library/x").await;
    server.wait_for_fills().await;
    server.clock.set_back(2 * YEAR);
    assert_eq!(server.running.retire().await.unwrap(), Retired::default());
    fake.stop().await;
    pull(&server, &image, "after").await;
}
