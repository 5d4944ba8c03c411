//! Writers beside a collection.

#![expect(clippy::print_stdout, reason = "whoever lets them run for minutes is told what happened")]

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

use futures::future::join_all;
use headpond::storage::{GcState, Presence, RecordKey};
use tokio::time::Instant;

use super::*;
use crate::hosted::Pushed;

/// Polls a future once: true if it is not over.
async fn is_pending<F: Future + Unpin>(future: &mut F) -> bool {
    let polled = std::future::poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_pending()));
    polled.await
}

/// Condemns a blob, as a collection does.
async fn condemned(world: &World, digest: &Digest) -> headpond::storage::Condemned {
    let marks = world.store.gc_marks(&world.clock);
    assert!(marks.mark(digest, None).await.unwrap());
    let (_, version) = marks.read(digest).await.unwrap().unwrap();
    marks.condemn(digest, version).await.unwrap().expect("nobody else changes it")
}

#[tokio::test]
async fn a_condemned_blob_is_absent_and_its_commit_waits_for_the_deletion() {
    let world = World::on_disk().await;
    let orphan = world.orphan(1).await;
    let (hosted, marks) = (world.hosted("team/app").await, world.store.gc_marks(&world.clock));
    let doomed = condemned(&world, &orphan).await;
    assert!(!hosted.has(&orphan, 1000).await, "HEAD and mount say that it is not there");
    assert_eq!(hosted.put_manifest("1", &[(orphan, 1000)]).await, Err(crate::hosted::BlobUnknown));
    let bytes = orphan_bytes(1);
    let mut commit = Box::pin(hosted.commit(&bytes));
    for _ in 0..200 {
        assert!(is_pending(&mut commit).await, "it was written over before it was deleted");
        tokio::task::yield_now().await;
    }
    assert!(marks.delete(doomed, &[]).await.unwrap());
    assert!(!world.has(&orphan).await);
    assert_eq!(commit.await, orphan);
    assert!(world.has(&orphan).await);
    assert_eq!(marks.keep(&orphan).await.unwrap(), Presence::Kept);
    assert!(hosted.put_manifest("1", &[(orphan, 1000)]).await.is_ok());
}

#[tokio::test]
async fn a_mark_that_a_writer_has_released_cannot_be_condemned() {
    let world = World::on_disk().await;
    let orphan = world.orphan(1).await;
    let marks = world.store.gc_marks(&world.clock);
    assert!(marks.mark(&orphan, None).await.unwrap());
    let (_, seen) = marks.read(&orphan).await.unwrap().unwrap();
    assert!(world.hosted("team/app").await.has(&orphan, 1000).await);
    assert!(marks.condemn(&orphan, seen).await.unwrap().is_none());
    assert!(world.has(&orphan).await);
}

#[tokio::test]
async fn what_a_collector_condemned_and_left_is_deleted_by_the_writer_who_wants_it() {
    let world = World::on_disk().await;
    let orphan = world.orphan(1).await;
    drop(condemned(&world, &orphan).await);
    world.clock.advance(Duration::from_secs(11 * 60));
    let hosted = world.hosted("team/app").await;
    assert_eq!(hosted.commit(&orphan_bytes(1)).await, orphan);
    assert!(world.has(&orphan).await);
    assert_eq!(world.mark_of(&orphan).await, Some(GcState::Released));
}

#[tokio::test]
async fn what_a_collector_condemned_and_left_is_deleted_by_the_next_one_after_a_while() {
    let world = World::on_disk().await;
    let orphan = world.orphan(1).await;
    let late = condemned(&world, &orphan).await;
    world.gc(NOW).await;
    assert!(world.has(&orphan).await, "whoever condemned it may be about to delete it");
    world.clock.advance(Duration::from_secs(11 * 60));
    world.gc(NOW).await;
    assert!(!world.has(&orphan).await);
    // Whoever was late finds that it is not his any more.
    let hosted = world.hosted("team/app").await;
    hosted.push("1", &[orphan_bytes(1)]).await;
    assert!(!world.store.gc_marks(&world.clock).delete(late, &[]).await.unwrap());
    assert!(world.has(&orphan).await);
}

async fn assert_whole(hosted: &HostedRepository<'_>, pushed: &Pushed, when: &str) {
    for digest in pushed.layers.iter().chain([&pushed.manifest]) {
        assert!(hosted.is_stored(digest).await, "{digest} of an image that was pushed is lost: {when}");
    }
}

/// Collects until told to stop.
async fn collect_until(world: &World, stop: &AtomicBool, deleted: &AtomicU64) {
    while !stop.load(Ordering::SeqCst) {
        let report = world.gc(NOW).await;
        assert_eq!(report.failed, 0);
        deleted.fetch_add(report.deleted, Ordering::SeqCst);
        tokio::task::yield_now().await;
    }
}

/// How long there are pushes beside collections: until enough was collected, or as long as `make e2e-long` says.
fn at_least() -> Duration {
    let seconds = std::env::var("GC_SECONDS").map_or(0, |seconds| seconds.parse().expect("GC_SECONDS is a number"));
    Duration::from_secs(seconds)
}

/// Pushes and deletes images of layers that others push and delete, too, until enough was collected
/// meanwhile. What it leaves.
async fn push_until(world: &World, writer: u64, deleted: &AtomicU64) -> Vec<(String, Pushed)> {
    let hosted = world.hosted(&format!("team/app{writer}")).await;
    let (mut refusals, mut kept) = (0, Vec::new());
    let (began, at_least) = (Instant::now(), at_least());
    for round in 0..u64::MAX {
        assert!(round < 2000 || began.elapsed() < at_least + Duration::from_secs(60), "too little was collected beside {round} pushes");
        // One layer of its own, and two that everybody has now and then.
        let seeds = [round % 5, (round + writer) % 7, 1000 * (writer + 1) + round];
        let layers: Vec<Bytes> = seeds.into_iter().map(orphan_bytes).collect();
        let tag = format!("r{round}");
        let pushed = hosted.push_counting(&tag, &layers, &mut refusals).await;
        assert_whole(&hosted, &pushed, "right after the answer").await;
        kept.push((tag, pushed));
        if kept.len() > 3 {
            let (tag, pushed) = kept.remove(usize::try_from(round % 4).unwrap());
            hosted.delete(&tag, &pushed).await;
        }
        for (tag, pushed) in &kept {
            assert_whole(&hosted, pushed, tag).await;
        }
        // What is in memory never waits, and would let nobody else go on.
        tokio::task::yield_now().await;
        if round >= 25 && deleted.load(Ordering::SeqCst) >= 30 && began.elapsed() >= at_least {
            println!("{} pushes, {refusals} of them told to begin again", round + 1);
            return kept;
        }
    }
    unreachable!("nobody pushes that often")
}

async fn nothing_is_lost_without_a_grace(world: World) {
    let (stop, deleted) = (AtomicBool::new(false), AtomicU64::new(0));
    let writers = async {
        let kept = join_all((0..3).map(|writer| push_until(&world, writer, &deleted))).await;
        stop.store(true, Ordering::SeqCst);
        kept
    };
    let (kept, (), ()) = tokio::join!(writers, collect_until(&world, &stop, &deleted), collect_until(&world, &stop, &deleted));
    println!("{} blobs were deleted meanwhile", deleted.load(Ordering::SeqCst));
    world.gc(NOW).await;
    for (writer, kept) in kept.iter().enumerate() {
        let hosted = world.hosted(&format!("team/app{writer}")).await;
        for (tag, pushed) in kept {
            assert_whole(&hosted, pushed, tag).await;
        }
    }
}

/// Without any grace a push may be told to begin again; but what was acknowledged is never lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_acknowledged_is_lost_beside_collections_without_a_grace() {
    let worlds = [World::on_disk().await, World::in_a_bucket().await];
    for ended in join_all(worlds.map(|world| tokio::spawn(nothing_is_lost_without_a_grace(world)))).await {
        ended.unwrap();
    }
}

/// Pushes of layers that a collection deletes meanwhile, and of others. How many it deleted.
async fn no_push_breaks_in(world: World) -> u64 {
    const BLOBS: u64 = 200;
    let mut orphans = Vec::new();
    for seed in 0..BLOBS {
        orphans.push(world.orphan(seed).await);
    }
    world.clock.advance(GRACE);
    assert_eq!(world.gc(USUAL).await.marked, BLOBS);
    // Just over: what is written from now on is young to any collection of this test. One clock for all: a
    // writer whose own is hours behind takes what was just condemned for long abandoned, and deletes it himself.
    world.clock.advance(GRACE);
    let hosted = world.hosted("team/app").await;
    let pushes = async {
        let mut pushed = Vec::new();
        for seed in (0..BLOBS / 2).rev() {
            tokio::task::yield_now().await;
            pushed.push(hosted.push(&format!("t{seed}"), &[orphan_bytes(seed), orphan_bytes(BLOBS + seed)]).await);
        }
        pushed
    };
    let (pushed, report) = tokio::join!(pushes, world.gc(USUAL));
    assert_eq!(report.failed, 0);
    for image in &pushed {
        assert_whole(&hosted, image, "pushed beside a collection").await;
    }
    for orphan in &orphans[(BLOBS / 2) as usize..] {
        assert!(!world.has(orphan).await, "what nobody wanted is still there");
    }
    report.deleted - BLOBS / 2
}

/// With a grace no push is ever refused, even where its layers are just being deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_push_breaks_on_blobs_that_are_just_being_deleted() {
    let (began, at_least) = (Instant::now(), at_least());
    let (mut rounds, mut deleted) = (0, 0);
    while rounds == 0 || began.elapsed() < at_least {
        deleted += no_push_breaks_in(World::on_disk().await).await + no_push_breaks_in(World::in_a_bucket().await).await;
        rounds += 1;
    }
    println!("{rounds} rounds of 200 pushes, of whose layers {deleted} had just been deleted");
    assert!(deleted > 0, "no push met a deletion");
}

#[tokio::test]
async fn a_cached_image_beside_collections_is_served_right() {
    use crate::fake_upstream::FakeUpstream;
    use crate::headpond::Headpond;
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[pseudo_random(1, 300_000)]);
    let server = Headpond::with(&fake, "", "limits: {gc_settle: 0}").await;
    let ask = || headpond::storage::connect_control(&store_of(server.directory.path())).unwrap();
    for _ in 0..5 {
        let pull = async {
            assert_eq!(server.get("/v2/up/library/x/manifests/1").await.digest(), image.digest);
            for blob in [image.config, image.layers[0]] {
                assert_eq!(server.get(&Headpond::blob(&blob)).await.digest(), blob);
            }
        };
        let collect = async { crate::scrub::to_the_end::<GcReport>(headpond::http::ask_control(ask(), "/gc", &NOW).await.unwrap()).await };
        let ((), (_, report)) = tokio::join!(pull, collect);
        assert_eq!(report.failed, 0);
    }
    server.wait_for_fills().await;
    server.wait_for_repository("up/library/x").await;
    // What the manifest refers to stays; upstream is not needed for it.
    let (_, report) = crate::scrub::to_the_end::<GcReport>(headpond::http::ask_control(ask(), "/gc", &NOW).await.unwrap()).await;
    assert_eq!(report.deleted, 0);
    let link = RecordKey::blob_link(&RepositoryName::parse("up/library/x").unwrap(), &image.layers[0]);
    let directory = server.stop().await;
    let store = Store::open(StoreParts::directory(&store_of(directory.path()))).unwrap();
    assert!(store.records.read(&link).await.unwrap().is_some());
}
