//! Pushes of hosted content, and deletions of it, beside whatever else goes on in the bucket: tests/e2e has a server
//! collect garbage there meanwhile.

#![expect(clippy::print_stdout, reason = "whoever runs it is told what has to be there at the end")]

use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use headpond::oci::Digest;
use headpond::storage::{BucketClient, Store, StoreParts};

use crate::hosted::{HostedRepository, Pushed};
use crate::storage::contract::metrics;

/// Repositories that are pushed to at once.
const REPOSITORIES: usize = 3;
/// Images that each of them has.
const KEPT_IMAGES: usize = 4;
const LAYER_BYTES: usize = 1000;
/// Layers that lie in the bucket and are pushed some seconds later, when a collection may have got to any of its steps.
const ABANDONED_LAYERS: usize = 100;

/// What is pushed where, and for how long.
struct Pushes<'a> {
    store: &'a Store,
    until: Instant,
    /// Layers of pushes that were given up: nothing refers to them, and they may be gone by now.
    abandoned: Mutex<Vec<Bytes>>,
}

impl Pushes<'_> {
    /// Pushes and deletes images of one repository. The images it leaves, and how many it pushed.
    async fn push_until_the_end(&self, number: usize) -> (Vec<Pushed>, usize) {
        let hosted = HostedRepository::create(self.store, &format!("hosted/app{number}")).await;
        let mut kept = Vec::new();
        for round in 0..usize::MAX {
            let tag = format!("r{round}");
            let pushed = hosted.push(&tag, &[layer(), self.abandoned_layer(), self.abandoned_layer()]).await;
            self.abandon(2).await;
            kept.push((tag, pushed));
            if kept.len() > KEPT_IMAGES {
                let (tag, pushed) = kept.remove(any_below(KEPT_IMAGES));
                hosted.delete(&tag, &pushed).await;
            }
            for (tag, pushed) in &kept {
                assert_whole(&hosted, pushed, tag).await;
            }
            if Instant::now() >= self.until {
                return (kept.into_iter().map(|(_, pushed)| pushed).collect(), round + 1);
            }
        }
        unreachable!("nobody pushes that often")
    }

    /// Stores layers that nothing refers to.
    async fn abandon(&self, count: usize) {
        for _ in 0..count {
            let layer = layer();
            self.store.bucket.as_ref().unwrap().put(&Digest::of(&layer), layer.clone()).await.unwrap();
            self.abandoned.lock().unwrap().push(layer);
        }
    }

    fn abandoned_layer(&self) -> Bytes {
        let mut abandoned = self.abandoned.lock().unwrap();
        let index = any_below(abandoned.len());
        abandoned.swap_remove(index)
    }
}

fn layer() -> Bytes {
    Bytes::from(uuid::Uuid::new_v4().simple().to_string().repeat(LAYER_BYTES / 32))
}

fn any_below(count: usize) -> usize {
    usize::try_from(uuid::Uuid::new_v4().as_u128() % count as u128).unwrap()
}

async fn assert_whole(hosted: &HostedRepository<'_>, pushed: &Pushed, tag: &str) {
    for digest in pushed.layers.iter().chain([&pushed.manifest]) {
        assert!(hosted.is_stored(digest).await, "{digest} of {tag}, which was pushed, is lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_pushed_is_lost_and_no_push_is_refused() {
    let prefix = std::env::var("HEADPOND_TEST_PREFIX").unwrap_or_else(|_| crate::fresh_prefix());
    let seconds = std::env::var("HEADPOND_TEST_PUSH_SECONDS").map_or(1, |seconds| seconds.parse().unwrap());
    let client = BucketClient::s3(&crate::settings(prefix), metrics()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(StoreParts { bucket: Some(client), ..StoreParts::directory(directory.path()) }).unwrap();
    store.bucket.clone().unwrap().find_out_preconditions().await;
    let pushes = Pushes { store: &store, until: Instant::now() + Duration::from_secs(seconds), abandoned: Mutex::default() };
    pushes.abandon(ABANDONED_LAYERS).await;

    let ended = join_all((0..REPOSITORIES).map(|number| pushes.push_until_the_end(number))).await;

    for digest in ended.iter().flat_map(|(kept, _)| kept).flat_map(|image| image.layers.iter().chain([&image.manifest])) {
        println!("pushed {digest}");
    }
    println!("{} pushes", ended.iter().map(|(_, pushes)| pushes).sum::<usize>());
}
