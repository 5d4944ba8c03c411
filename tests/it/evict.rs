//! Eviction as clients see it: a disk of a given size under pulls, and no pull that fails for it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use headpond::app::World;
use headpond::oci::Digest;
use headpond::storage::ManifestRecord;
use reqwest::StatusCode;

use crate::du::du;
use crate::fake_upstream::{FakeUpstream, Image, pseudo_random};
use crate::headpond::Headpond;

const MIB: usize = 1 << 20;
const CAP: u64 = 64 << 20;
const STORAGE: &str = "storage: {path: headpond-data, max_size: 64MiB, min_free: 0}";
const BLOB_HITS: &str = r#"headpond_cache_requests_total{kind="blob",result="hit",rule="up"}"#;

/// A server whose disk has this cap.
async fn capped(fake: &FakeUpstream, directory: tempfile::TempDir) -> Headpond {
    let text = format!(
        "listen: 127.0.0.1:0\nadmin: {{address: 127.0.0.1:0}}\n{STORAGE}\nlog: {{level: off}}\n\
         rules:\n  - prefix: up\n    upstream: {}\n",
        fake.url()
    );
    Headpond::of(fake, &text, directory, World::default()).await
}

async fn walked(server: &Headpond) {
    let store = server.directory.path().join("headpond-data");
    for _ in 0..10_000 {
        if server.metric("headpond_storage_used_bytes") == du(&store) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{} bytes are used, and it counts {}", du(&store), server.metric("headpond_storage_used_bytes"));
}

/// Images `library/i0:1`… with layers of their own, of which every other one shares a base.
struct Images {
    images: Vec<Image>,
    lengths: HashMap<Digest, usize>,
}

impl Images {
    fn put(fake: &FakeUpstream, count: usize) -> Self {
        let base: Vec<Bytes> = (0..2).map(|seed| pseudo_random(seed, 2 * MIB)).collect();
        let mut lengths = HashMap::new();
        let images = (0..count).map(|number| {
            let own =
                (0..3).map(|layer| pseudo_random((number * 10 + layer + 100) as u64, MIB / 2 + (number * 7 + layer * 5) % 13 * MIB / 8));
            let layers: Vec<Bytes> = if number % 2 == 0 { base.iter().cloned().chain(own).collect() } else { own.collect() };
            let image = fake.put_image(&format!("library/i{number}"), "1", &layers);
            lengths.extend(image.layers.iter().zip(&layers).map(|(digest, layer)| (*digest, layer.len())));
            lengths.insert(image.config, 200);
            image
        });
        Self { images: images.collect(), lengths }
    }

    fn blobs(&self, number: usize) -> impl Iterator<Item = Digest> + use<> {
        let image = &self.images[number];
        std::iter::once(image.config).chain(image.layers.clone())
    }
}

/// Pulls an image whole; what is wrong with an answer.
async fn pull(server: &Headpond, images: &Images, number: usize) -> Result<(), String> {
    let answer = server.get(&format!("/v2/up/library/i{number}/manifests/1")).await;
    if answer.status != StatusCode::OK || answer.digest() != images.images[number].digest {
        return Err(format!("manifest of {number}: {answer:?}"));
    }
    for digest in images.blobs(number) {
        let answer = server.get(&format!("/v2/up/library/i{number}/blobs/{digest}")).await;
        if answer.status != StatusCode::OK || !answer.body.as_ref().is_ok_and(|bytes| Digest::of(bytes) == digest) {
            return Err(format!("{digest} of {number}: {}", answer.status));
        }
    }
    Ok(())
}

/// Numbers below `count`, the low ones more often: as 1, 1/2, 1/3, …
struct Zipf {
    sums: Vec<f64>,
    state: u64,
}

impl Zipf {
    fn new(count: usize, seed: u64) -> Self {
        let weights = (1..=count).scan(0.0, |sum, rank| {
            *sum += 1.0 / rank as f64;
            Some(*sum)
        });
        Self { sums: weights.collect(), state: seed }
    }

    fn next(&mut self) -> usize {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let point = (self.state >> 11) as f64 / (1_u64 << 53) as f64 * self.sums[self.sums.len() - 1];
        self.sums.partition_point(|sum| *sum < point)
    }
}

/// An exact list of what was used, oldest first, of so many bytes.
struct ExactLru {
    order: Vec<Digest>,
    used_bytes: usize,
    hits: u64,
}

impl ExactLru {
    fn pull(&mut self, images: &Images, number: usize, cap_bytes: usize) {
        let length = |digest: &Digest| images.lengths[digest].next_multiple_of(4096);
        let blobs: Vec<Digest> = images.blobs(number).collect();
        for digest in &blobs {
            if let Some(at) = self.order.iter().position(|it| it == digest) {
                let digest = self.order.remove(at);
                self.order.push(digest);
            }
        }
        for digest in blobs {
            if let Some(at) = self.order.iter().position(|it| *it == digest) {
                self.hits += 1;
                self.order.remove(at);
            } else {
                self.used_bytes += length(&digest);
            }
            self.order.push(digest);
            while self.used_bytes > cap_bytes {
                self.used_bytes -= length(&self.order.remove(0));
            }
        }
    }
}

/// Images, as `(repository, digest)`, whose manifests are recorded and whose blobs are all on disk.
fn complete_images(store: &Path) -> Vec<(String, Digest)> {
    let mut found = Vec::new();
    let mut below = vec![store.join("images")];
    while let Some(directory) = below.pop() {
        for entry in std::fs::read_dir(&directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                below.push(path);
            } else if directory.ends_with("_manifests/sha256") {
                let record: ManifestRecord = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                let digest = Digest::parse(&format!("sha256:{}", entry.file_name().to_str().unwrap())).unwrap();
                let blobs = record.references.iter().map(|(digest, _)| digest).chain([&digest]);
                if blobs.map(|digest| blob_file(store, digest)).all(|file| file.exists()) {
                    let repository = path.strip_prefix(store.join("images")).unwrap().to_str().unwrap();
                    found.push((repository.split("/_manifests").next().unwrap().to_owned(), digest));
                }
            }
        }
    }
    found
}

fn blob_file(store: &Path, digest: &Digest) -> PathBuf {
    store.join("blobs/sha256").join(&digest.hex()[..2]).join(digest.hex())
}

fn store(server: &Headpond) -> PathBuf {
    server.directory.path().join("headpond-data")
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_hit_as_in_an_exact_lru_and_complete_images_need_no_upstream() {
    let fake = FakeUpstream::start().await;
    let images = Images::put(&fake, 30);
    let server = capped(&fake, tempfile::tempdir().unwrap()).await;
    let (mut zipf, mut exact) = (Zipf::new(30, 1), ExactLru { order: Vec::new(), used_bytes: 0, hits: 0 });
    let mut pulled = 0;
    for _ in 0..100 {
        let number = zipf.next();
        pull(&server, &images, number).await.unwrap();
        server.wait_for_fills().await;
        exact.pull(&images, number, CAP as usize);
        pulled += images.blobs(number).count();
        let taken = du(&store(&server));
        assert!(taken <= CAP, "{taken} bytes on disk");
    }
    let hits = server.metric(BLOB_HITS);
    assert!(hits as f64 >= exact.hits as f64 * 0.95, "{hits} hits where an exact list has {} of {pulled}", exact.hits);
    assert!(hits < pulled as u64 * 9 / 10 && server.metric("headpond_evicted_blobs_total") > 20, "nothing was put to the test");

    fake.stop().await;
    let complete = complete_images(&store(&server));
    assert!((3..30).contains(&complete.len()), "{} complete images", complete.len());
    for (repository, digest) in complete {
        let number = images.images.iter().position(|image| image.digest == digest).unwrap();
        assert_eq!(repository, format!("up/library/i{number}"));
        pull(&server, &images, number).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pull_of_many_clients_fails_while_blobs_go() {
    let fake = FakeUpstream::start().await;
    let images = Arc::new(Images::put(&fake, 30));
    let server = Arc::new(capped(&fake, tempfile::tempdir().unwrap()).await);
    let is_over = Arc::new(AtomicBool::new(false));
    let sampler = std::thread::spawn({
        let (is_over, server) = (Arc::clone(&is_over), Arc::clone(&server));
        move || {
            let (mut most, mut samples) = (0, 0);
            while !is_over.load(Ordering::Acquire) {
                let before = server.metric("headpond_evicted_blobs_total");
                let taken = du(&store(&server));
                // Else what has gone and what has come meanwhile would be added up.
                if server.metric("headpond_evicted_blobs_total") == before {
                    (most, samples) = (taken.max(most), samples + 1);
                }
            }
            (most, samples)
        }
    });
    let clients = (0..8_u64).map(|client| {
        let (server, images) = (Arc::clone(&server), Arc::clone(&images));
        tokio::spawn(async move {
            let mut zipf = Zipf::new(30, client);
            for _ in 0..20 {
                pull(&server, &images, zipf.next()).await?;
            }
            Ok::<(), String>(())
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap().unwrap();
    }
    server.wait_for_fills().await;
    is_over.store(true, Ordering::Release);
    let (most, samples) = sampler.join().unwrap();
    assert!((CAP * 3 / 4..=CAP).contains(&most) && samples > 10, "{most} bytes were there at one time, {samples} samples");
    assert!(server.metric("headpond_evicted_blobs_total") > 20);
    let evicted = server.metric("headpond_evicted_bytes_total");
    assert!(evicted > 20 * MIB as u64, "{evicted}");
    assert_eq!(server.metric("headpond_storage_max_bytes"), CAP);
}

/// Brings in images of one layer of `layer_mib`, and waits until they are on disk.
async fn pull_ones(server: &Headpond, fake: &FakeUpstream, names: &[&str], layer_mib: usize) -> Vec<Image> {
    let mut pulled = Vec::new();
    for (seed, name) in names.iter().enumerate() {
        let image = fake.put_image(
            &format!("library/{name}"),
            "1",
            &[pseudo_random(Digest::of(name.as_bytes()).hash()[0].into(), layer_mib * MIB + seed)],
        );
        assert_eq!(server.get(&format!("/v2/up/library/{name}/manifests/1")).await.status, StatusCode::OK);
        for digest in [image.config, image.layers[0]] {
            assert_eq!(server.get(&format!("/v2/up/library/{name}/blobs/{digest}")).await.status, StatusCode::OK);
        }
        server.wait_for_fills().await;
        pulled.push(image);
    }
    pulled
}

fn is_here(server: &Headpond, image: &Image) -> bool {
    blob_file(&store(server), &image.layers[0]).exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_a_manifest_that_is_served_are_used_with_it() {
    let fake = FakeUpstream::start().await;
    let server = capped(&fake, tempfile::tempdir().unwrap()).await;
    walked(&server).await;
    let images = pull_ones(&server, &fake, &["a", "b", "c"], 16).await;
    server.clock.advance(Duration::from_secs(120));
    // A node that has the layers asks for nothing else.
    assert_eq!(server.head("/v2/up/library/a/manifests/1").await.status, StatusCode::OK);
    tokio::time::timeout(Duration::from_secs(30), async {
        // The use is noted behind the answer; `b` is the oldest once it is.
        pull_ones(&server, &fake, &["d", "e"], 16).await;
    })
    .await
    .unwrap();
    assert_eq!(images.iter().map(|image| is_here(&server, image)).collect::<Vec<_>>(), [true, false, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_before_a_restart_goes_after_what_was_not() {
    let fake = FakeUpstream::start().await;
    let server = capped(&fake, tempfile::tempdir().unwrap()).await;
    let images = pull_ones(&server, &fake, &["a", "b", "c"], 16).await;
    server.clock.advance(Duration::from_secs(3600));
    let first = format!("/v2/up/library/a/blobs/{}", images[0].layers[0]);
    assert_eq!(server.get(&first).await.status, StatusCode::OK);
    let directory = server.stop().await;
    let server = capped(&fake, directory).await;
    walked(&server).await;
    pull_ones(&server, &fake, &["d"], 16).await;
    assert_eq!(images.iter().map(|image| is_here(&server, image)).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(server.get(&first).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_that_does_not_fit_is_streamed_and_nothing_goes_for_it() {
    let fake = FakeUpstream::start().await;
    let server = capped(&fake, tempfile::tempdir().unwrap()).await;
    let images = pull_ones(&server, &fake, &["a", "b"], 16).await;
    let large = fake.put_image("library/large", "1", &[pseudo_random(9, 65 * MIB)]);
    assert_eq!(server.get("/v2/up/library/large/manifests/1").await.status, StatusCode::OK);
    let answer = server.get(&format!("/v2/up/library/large/blobs/{}", large.layers[0])).await;
    assert_eq!((answer.status, answer.digest()), (StatusCode::OK, large.layers[0]));
    server.wait_for_metric(r#"headpond_fills_total{result="not_kept"}"#, 1).await;
    assert!(images.iter().all(|image| is_here(&server, image)));
    assert_eq!(server.metric("headpond_storage_refusals_total"), 1);
    assert_eq!(server.metric("headpond_evicted_blobs_total"), 0);
}
