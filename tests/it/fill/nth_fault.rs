//! The store fails its Nth call, for N = 1, 2, … until a whole scenario passes without a fault.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use headpond::app::{World, start};
use headpond::config::Config;
use object_store::ObjectStore;

use super::{LIMIT, MIB, assert_store_is_right};
use crate::du::du;
use crate::fake_upstream::{FakeUpstream, Image, pseudo_random};
use crate::faulty_disk::FaultyDisk;
use crate::faulty_records::FaultyRecords;
use crate::headpond::{Answer, Headpond, configuration};

const MANIFEST: &str = "/v2/up/library/x/manifests/1";

async fn fake_with_image() -> (FakeUpstream, Image) {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[pseudo_random(1, MIB)]);
    (fake, image)
}

async fn get(server: &Headpond, path: &str) -> Answer {
    tokio::time::timeout(LIMIT, server.get(path)).await.expect("no answer in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_call_of_the_disk_fails_clients_get_right_bytes() {
    for nth in 1.. {
        let (fake, image) = fake_with_image().await;
        let disk = FaultyDisk::failing_nth(nth);
        let server = Headpond::in_directory(&fake, "", "", tempfile::tempdir().unwrap(), disk.world()).await;
        for round in ["cold", "warm"] {
            assert_eq!(get(&server, MANIFEST).await.digest(), image.digest, "{round}, fault {nth}");
            for blob in [image.config, image.layers[0]] {
                assert_eq!(get(&server, &Headpond::blob(&blob)).await.digest(), blob, "{round}, fault {nth}");
                server.wait_for_fills().await;
                assert_store_is_right(&server);
            }
        }
        let directory = server.stop().await;
        assert_eq!(std::fs::read_dir(directory.path().join("headpond-data/staging")).unwrap().count(), 0, "fault {nth}");
        if !disk.has_failed() {
            assert!(nth > 10, "the scenario made only {nth} calls");
            return;
        }
    }
}

/// Long beside what a call takes, and short beside what anybody waits for.
const PAUSE: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn whatever_call_of_the_disk_is_slow_it_is_waited_for_and_nothing_is_fetched_twice() {
    for nth in 1.. {
        let (fake, image) = fake_with_image().await;
        let disk = FaultyDisk::slow_nth(nth, PAUSE);
        let server = Headpond::in_directory(&fake, "", "", tempfile::tempdir().unwrap(), disk.world()).await;
        for round in ["cold", "warm"] {
            assert_eq!(get(&server, MANIFEST).await.digest(), image.digest, "{round}, call {nth}");
            for blob in [image.config, image.layers[0]] {
                assert_eq!(get(&server, &Headpond::blob(&blob)).await.digest(), blob, "{round}, call {nth}");
                server.wait_for_fills().await;
            }
        }
        for blob in [image.config, image.layers[0]] {
            assert!(server.stored_blobs().contains(&blob.hex()), "call {nth}");
            assert_eq!(fake.requests_matching("GET", &blob.to_string()), 1, "call {nth}");
        }
        assert_store_is_right(&server);
        let directory = server.stop().await;
        assert_eq!(std::fs::read_dir(directory.path().join("headpond-data/staging")).unwrap().count(), 0, "call {nth}");
        if !disk.has_failed() {
            assert!(nth > 10, "the scenario made only {nth} calls");
            return;
        }
    }
}

/// A server whose disk holds one of the images, and the records.
async fn server_for_one_image(fake: &FakeUpstream, disk: &Arc<FaultyDisk>) -> Headpond {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::parse(&configuration(&fake.url(), "", ""), directory.path()).unwrap();
    // Less than the file may say: images that fill so much would take too long.
    config.storage.max_size = Some(ROOM_BYTES);
    config.storage.min_free = Some(0);
    let running = start(config, World { clock: fake.clock(), ..disk.world() }).await.unwrap();
    Headpond { running, clock: fake.clock(), directory, client: reqwest::Client::builder().no_proxy().build().unwrap() }
}

const ROOM_BYTES: u64 = MIB as u64;

/// Each image makes the one before it go. Every third call from `first` on: one test alone would take too long.
async fn whatever_call_of_the_disk_fails_while_blobs_make_room(first: usize) {
    let fake = FakeUpstream::start().await;
    let images = [1, 2].map(|seed| fake.put_image("library/x", &seed.to_string(), &[pseudo_random(seed, MIB / 2)]));
    for nth in (first..).step_by(3) {
        let disk = FaultyDisk::failing_nth(nth);
        let server = server_for_one_image(&fake, &disk).await;
        for (round, image) in [&images[0], &images[1], &images[0]].into_iter().enumerate() {
            let told = format!("pull {round}, fault {nth}");
            let manifest = format!("/v2/up/library/x/manifests/{}", image.digest);
            assert_eq!(get(&server, &manifest).await.digest(), image.digest, "{told}");
            for blob in [image.config, image.layers[0]] {
                assert_eq!(get(&server, &Headpond::blob(&blob)).await.digest(), blob, "{told}");
                server.wait_for_fills().await;
            }
            assert_store_is_right(&server);
            let taken = du(&server.directory.path().join("headpond-data"));
            assert!(taken <= ROOM_BYTES, "{taken} bytes, {told}");
        }
        let (evicted, is_last) = (server.metric("headpond_evicted_blobs_total"), !disk.has_failed());
        let directory = server.stop().await;
        assert_eq!(std::fs::read_dir(directory.path().join("headpond-data/staging")).unwrap().count(), 0, "fault {nth}");
        if is_last {
            assert!(nth > 10 && evicted >= 2, "the scenario made only {nth} calls, and {evicted} blobs went");
            return;
        }
    }
}

mod clients_get_right_bytes_whatever_call_of_the_disk_fails_while_blobs_make_room {
    use super::whatever_call_of_the_disk_fails_while_blobs_make_room;

    #[tokio::test(flavor = "multi_thread")]
    async fn of_calls_1_4_7() {
        whatever_call_of_the_disk_fails_while_blobs_make_room(1).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_calls_2_5_8() {
        whatever_call_of_the_disk_fails_while_blobs_make_room(2).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_calls_3_6_9() {
        whatever_call_of_the_disk_fails_while_blobs_make_room(3).await;
    }
}

/// What the next server's records are wrapped in: `World` takes a plain function.
static NEXT: Mutex<Option<Arc<FaultyRecords>>> = Mutex::new(None);

fn around_records(records: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
    let plan = NEXT.lock().unwrap().clone().unwrap();
    plan.around(records)
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_call_of_the_records_fails_clients_are_served() {
    for nth in 1.. {
        let (fake, image) = fake_with_image().await;
        let faulty = Arc::new(FaultyRecords::failing_nth(nth));
        *NEXT.lock().unwrap() = Some(Arc::clone(&faulty));
        let mut directory = tempfile::tempdir().unwrap();
        // Cold; with tags to revalidate; from a new process; with tags to revalidate.
        for round in ["cold", "restarted"] {
            let world = World { around_records, ..World::default() };
            let server = Headpond::in_directory(&fake, "", "", directory, world).await;
            for _ in 0..2 {
                assert_eq!(get(&server, MANIFEST).await.digest(), image.digest, "{round}, fault {nth}");
                for blob in [image.config, image.layers[0]] {
                    assert_eq!(get(&server, &Headpond::blob(&blob)).await.digest(), blob, "{round}, fault {nth}");
                }
                assert_eq!(get(&server, &format!("/v2/up/library/x/manifests/{}", image.digest)).await.digest(), image.digest);
                server.wait_for_fills().await;
                server.clock.advance(Duration::from_secs(2 * 24 * 60 * 60));
            }
            assert_store_is_right(&server);
            directory = server.stop().await;
        }
        if !faulty.has_failed() {
            assert!(nth > 10, "the scenario made only {nth} calls");
            return;
        }
    }
}
