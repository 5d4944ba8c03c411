//! Fills from upstreams as they are out there: TLS, tokens, blobs on another host.

use std::sync::Arc;
use std::time::Duration;

use headpond::app::World;

use super::{MIB, Reader, assert_at_most};
use crate::fake_upstream::{FakeUpstream, Fault, On, pseudo_random};
use crate::headpond::Headpond;

const LENGTH: usize = 20 * MIB;
const CUT: u64 = LENGTH as u64 * 7 / 10;

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_a_transfer_is_shared_cut_and_taken_up_again() {
    let fake = FakeUpstream::start_tls().await;
    let content = pseudo_random(1, LENGTH);
    let digest = fake.put_blob(content.clone());
    fake.on(On::BlobGet).once(Fault::CutBodyAt(CUT));
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("ca.pem"), fake.ca_pem()).unwrap();
    let server = Arc::new(Headpond::in_directory(&fake, "ca: ca.pem", "", directory, World::default()).await);
    let mut clients = tokio::task::JoinSet::new();
    for range in ["", "", "bytes=0-", "bytes=10485760-15728639", "bytes=-1000000"] {
        let (server, content) = (Arc::clone(&server), content.clone());
        clients.spawn(async move { Reader::open(&server, &digest, range, &content).await.rest().await });
    }
    let mut ends: Vec<_> = clients.join_all().await;
    ends.sort_unstable();
    assert_eq!(ends, [Ok(15_728_640), Ok(LENGTH), Ok(LENGTH), Ok(LENGTH), Ok(LENGTH)]);
    server.wait_for_fills().await;
    // Where a connection is cut, what was on its way is lost: a few times here.
    assert_at_most(fake.blob_bytes_sent(&digest), 100, LENGTH + 3 * 8 * MIB);
    assert_eq!(server.stored_blobs(), [digest.hex()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_outlives_its_token_and_its_redirect() {
    let fake = FakeUpstream::start().await;
    let content = pseudo_random(2, LENGTH);
    let digest = fake.put_blob(content.clone());
    fake.require_bearer();
    fake.token_lifetime(Duration::from_secs(60));
    fake.redirect_blobs_to_cdn();
    fake.hold_blobs_at(CUT / 2);
    fake.on(On::BlobGet).once(Fault::CutBodyAt(CUT));
    let server = Headpond::before(&fake).await;
    let mut client = Reader::open(&server, &digest, "", &content).await;
    client.read_to(MIB).await;
    fake.revoke_tokens();
    server.clock.advance(Duration::from_secs(3600));
    fake.release();
    assert_eq!(client.rest().await, Ok(LENGTH));
    assert_at_most(fake.blob_bytes_sent(&digest), 101, LENGTH);
    assert_eq!(fake.token_requests(), 2);
    assert!(fake.journal().iter().all(|exchange| !exchange.at_cdn || exchange.authorization.is_none()));
}
