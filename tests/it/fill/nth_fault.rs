//! The store fails its Nth call, for N = 1, 2, … until a whole scenario passes without a fault.

use std::sync::Arc;
use std::sync::Mutex;

use headpond::app::World;
use object_store::ObjectStore;

use super::{LIMIT, MIB, assert_store_is_right};
use crate::fake_upstream::{FakeUpstream, Image, pseudo_random};
use crate::faulty_disk::FaultyDisk;
use crate::faulty_records::FaultyRecords;
use crate::headpond::{Answer, Headpond};

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
                server.clock.advance(std::time::Duration::from_secs(2 * 24 * 60 * 60));
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
