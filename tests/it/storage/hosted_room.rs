//! What was pushed is never evicted where no bucket has it: nobody else does.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use headpond::clock::Clock;
use headpond::oci::{Digest, RepositoryName};
use headpond::storage::{RecordKey, StorageError, Store, StoreParts};
use tempfile::TempDir;

use super::room::{MIB, capped, fill, fill_all, is_here, parts};
use crate::fake_upstream::pseudo_random;
use crate::hosted::{HostedRepository, Pushed};
use crate::small_disk::SmallDisk;

fn layer(seed: u64) -> Bytes {
    pseudo_random(seed, MIB as usize)
}

async fn push(store: &Store, seeds: std::ops::Range<u64>) -> Pushed {
    let layers: Vec<Bytes> = seeds.map(layer).collect();
    HostedRepository::create(store, "team/app").await.push("1", &layers).await
}

fn all_of(pushed: &Pushed) -> impl Iterator<Item = &Digest> {
    pushed.layers.iter().chain([&pushed.manifest])
}

fn assert_all_here(store: &Store, pushed: &Pushed, when: &str) {
    let lost: Vec<_> = all_of(pushed).filter(|digest| !is_here(store, digest)).collect();
    assert!(lost.is_empty(), "{when}: {lost:?} are lost");
}

fn reopen(directory: &TempDir, store: Store) -> Store {
    drop(store);
    Store::open(parts(directory, Some(8 * MIB), &Clock::system())).unwrap()
}

#[tokio::test]
async fn pushed_images_stay_whatever_comes_also_after_a_restart() {
    let (directory, _, store) = capped(8 * MIB);
    // One of the layers is cached already.
    let cached = fill(&store, 3, MIB).unwrap();
    let pushed = push(&store, 1..4).await;
    assert!(pushed.layers.contains(&cached));
    fill_all(&store, 10..40, MIB);
    assert_all_here(&store, &pushed, "before the restart");
    let store = reopen(&directory, store);
    std::thread::scope(|scope| {
        let filling = scope.spawn(|| (50..70).filter(|seed| fill(&store, *seed, MIB).is_ok()).count());
        store.blobs.room().walk();
        filling.join().unwrap();
    });
    fill_all(&store, 70..100, MIB);
    assert_all_here(&store, &pushed, "after it");
    assert!(store.blobs.room().numbers().evicted_blobs > 20, "cached ones go");
    // Once it is deleted its room is for others again.
    all_of(&pushed).for_each(|digest| store.blobs.remove(digest).unwrap());
    assert!(store.blobs.room().numbers().kept_bytes < MIB);
    fill(&store, 200, 6 * MIB).unwrap();
}

/// Its file is there still, and it is not in the books any more: so it must not be promised.
#[test]
fn a_blob_that_is_just_being_evicted_is_not_promised_to_a_push() {
    let directory = TempDir::new().unwrap();
    let disk = SmallDisk::of(&directory, 1 << 40);
    let store = Store::open(StoreParts { disk: disk.clone(), ..parts(&directory, Some(8 * MIB), &Clock::system()) }).unwrap();
    store.blobs.room().walk();
    let digest = fill(&store, 1, MIB).unwrap();
    fill_all(&store, 2..8, MIB);
    let known = store.blobs.room().numbers().blobs;
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    let repository = runtime.block_on(HostedRepository::create(&store, "team/app"));
    std::thread::scope(|scope| {
        let removals = disk.removals.write().unwrap();
        scope.spawn(|| fill_all(&store, 8..10, MIB));
        while store.blobs.room().numbers().blobs >= known {
            std::thread::yield_now();
        }
        let (answer, answered) = mpsc::channel();
        let (runtime, repository) = (&runtime, &repository);
        scope.spawn(move || answer.send(runtime.block_on(repository.has(&digest, MIB as usize))).unwrap());
        // Time enough to promise it.
        let early = answered.recv_timeout(Duration::from_millis(300));
        drop(removals);
        assert!(!early.or_else(|_| answered.recv()).unwrap());
    });
    assert!(!is_here(&store, &digest));
}

/// What is promised stays, whatever is evicted beside it.
#[tokio::test(flavor = "multi_thread")]
async fn promised_blobs_stay_beside_evictions() {
    let (_directory, _, store) = capped(8 * MIB);
    let repository = HostedRepository::create(&store, "team/app").await;
    let mut promised = BTreeSet::new();
    for round in 0..60_u64 {
        let digest = fill(&store, 1000 + round, MIB / 16).unwrap();
        let filled = tokio::task::block_in_place(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| fill_all(&store, (round + 1) * 10_000..(round + 1) * 10_000 + 20, MIB / 2));
                tokio::runtime::Handle::current().block_on(repository.has(&digest, (MIB / 16) as usize))
            })
        });
        if filled {
            promised.insert(digest);
        }
    }
    assert!(promised.len() > 10, "{}", promised.len());
    assert!(promised.iter().all(|digest| is_here(&store, digest)));
}

#[tokio::test]
async fn a_repository_whose_record_is_torn_counts_as_hosted() {
    let (directory, _, store) = capped(8 * MIB);
    let pushed = push(&store, 1..3).await;
    let path = directory.path().join(RecordKey::repository(&RepositoryName::parse("team/app").unwrap()).to_string());
    std::fs::write(path, "{\"kind\":").unwrap();
    let store = reopen(&directory, store);
    store.blobs.room().walk();
    fill_all(&store, 10..30, MIB);
    assert_all_here(&store, &pushed, "after a restart");
}

#[tokio::test]
async fn nothing_goes_before_it_is_known_what_was_pushed() {
    let (directory, _, store) = capped(8 * MIB);
    let pushed = push(&store, 1..7).await;
    let store = reopen(&directory, store);
    assert!(matches!(fill(&store, 20, 2 * MIB), Err(StorageError::NoSpace { .. })));
    store.blobs.room().walk();
    assert!(matches!(fill(&store, 20, 2 * MIB), Err(StorageError::NoSpace { .. })), "there is nothing that could go");
    assert_all_here(&store, &pushed, "after the walk");
}
