//! Collections that are cut off, or whose store fails.

use headpond::storage::Disk;
use object_store::local::LocalFileSystem;

use super::*;
use crate::faulty_disk::FaultyDisk;
use crate::faulty_records::FaultyRecords;
use crate::hosted::Pushed;

/// Older than links that a collection leaves whatever the grace.
pub(crate) const SETTLED: Duration = Duration::from_secs(61);
/// Long enough for what a collection condemned and left to be taken over.
pub(crate) const ABANDONED: Duration = Duration::from_secs(11 * 60);

#[tokio::test]
async fn a_collection_that_is_cut_off_is_completed_by_the_next_ones() {
    let world = World::on_disk().await;
    let mut orphans = Vec::new();
    for seed in 0..600 {
        orphans.push(world.orphan(seed).await);
    }
    let pushed = world.hosted("team/app").await.push("1", &[pseudo_random(1000, 1000)]).await;
    // Each is ended somewhere: at the first event, at the second, …
    for events in 1..20 {
        let mut run = upkeep_of(Arc::clone(&world.store), &world.clock).gc(NOW).await.unwrap();
        for _ in 0..events {
            if run.next().await.is_none() {
                break;
            }
        }
        drop(run);
    }
    world.clock.advance(ABANDONED);
    for _ in 0..100 {
        world.gc(NOW).await;
        let left = futures::future::join_all(orphans.iter().map(|orphan| world.has(orphan))).await;
        if !left.contains(&true) {
            break;
        }
        tokio::task::yield_now().await;
    }
    for orphan in &orphans {
        assert!(!world.has(orphan).await);
    }
    assert!(world.has(&pushed.layers[0]).await && world.has(&pushed.manifest).await);
}

/// A hosted image, a cached one, a link that nobody needs, and two blobs that nothing refers to.
async fn store_with_garbage() -> (TempDir, Vec<Digest>, Vec<Digest>) {
    let world = World::on_disk().await;
    let hosted = world.hosted("team/app").await.push("1", &[pseudo_random(1, 1000)]).await;
    let cached = world.hosted("up/x").await.into_cache("0a1b").await.push("1", &[pseudo_random(2, 1000)]).await;
    let garbage = vec![world.orphan(3).await, world.hosted("team/b").await.commit(&orphan_bytes(4)).await];
    for digest in garbage.iter().chain([&cached.layers[0]]) {
        world.store.records.write(&RecordKey::source_blob("0a1b", digest), &SourceBlobRecord { vouched_at: 1 }).await.unwrap();
    }
    let needed = [hosted, cached].into_iter().flat_map(|Pushed { manifest, layers }| layers.into_iter().chain([manifest])).collect();
    (world.directory, needed, garbage)
}

/// Whatever call fails: what is referred to stays, and the next collections do the rest.
async fn assert_a_fault_costs_nothing(fault: impl Fn(usize, &Path) -> (Store, Box<dyn Fn() -> bool>)) {
    let (template, needed, garbage) = store_with_garbage().await;
    for nth in 1.. {
        let directory = crate::scrub::copy_of(template.path());
        let path = store_of(directory.path());
        let clock = Clock::system();
        clock.advance(SETTLED);
        let (store, has_failed) = fault(nth, &path);
        let first = outcome_of(upkeep_of(store, &clock).gc(NOW).await.unwrap()).await.1;
        clock.advance(ABANDONED);
        let store = Arc::new(Store::open(StoreParts::directory(&path)).unwrap());
        let world = World { store, clock, directory, objects: Arc::default() };
        for digest in &needed {
            assert!(world.has(digest).await, "fault {nth}: {digest} is lost: {first:?}");
        }
        let second = world.gc(NOW).await;
        assert_eq!(second.failed, 0);
        for digest in &needed {
            assert!(world.has(digest).await, "fault {nth}");
        }
        for digest in &garbage {
            assert!(!world.has(digest).await, "fault {nth}: {digest} is still there: {first:?}, then {second:?}");
        }
        if !has_failed() {
            let first = first.unwrap();
            assert_eq!((first.deleted, first.links, first.failed), (2, 1, 0));
            assert!(nth > 1, "nothing was called");
            return;
        }
    }
}

#[tokio::test]
async fn whatever_call_of_the_records_fails_nothing_needed_is_lost() {
    assert_a_fault_costs_nothing(|nth, path| {
        let faulty = Arc::new(FaultyRecords::failing_nth(nth));
        let mut store = Store::open(StoreParts::directory(path)).unwrap();
        store.records = Records::new(faulty.around(Arc::new(LocalFileSystem::new_with_prefix(path).unwrap())));
        (store, Box::new(move || faulty.has_failed()))
    })
    .await;
}

#[tokio::test]
async fn whatever_call_of_the_disk_fails_nothing_needed_is_lost() {
    assert_a_fault_costs_nothing(|nth, path| {
        let disk = FaultyDisk::failing_nth(nth);
        let store = Store::open(StoreParts { disk: Arc::clone(&disk) as Arc<dyn Disk>, ..StoreParts::directory(path) }).unwrap();
        (store, Box::new(move || disk.has_failed()))
    })
    .await;
}
