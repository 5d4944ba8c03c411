//! The control socket: who may run what, and when it ends.

use headpond::http::ControlError;
use headpond::upkeep::ScrubOptions;
use headpond::upkeep::report::Event;

use crate::fake_upstream::{FakeUpstream, pseudo_random};
use crate::headpond::Headpond;
use crate::scrub::{FAST, begin, directory_with_hosted_image, to_the_end};

/// One byte a second: it never ends by itself.
const SLOW: ScrubOptions = ScrubOptions { rate_bytes: Some(1), bucket: false };

async fn server() -> Headpond {
    let (directory, _) = directory_with_hosted_image().await;
    let fake = FakeUpstream::start().await;
    Headpond::in_directory(&fake, "", "", directory, Default::default()).await
}

#[tokio::test]
async fn a_second_scrub_is_refused_with_a_hint_while_one_runs() {
    let server = server().await;
    let mut first = begin(server.directory.path(), SLOW).await.unwrap();
    assert!(matches!(first.next().await.unwrap(), Some(Event::Progress { .. })));
    let refused = begin(server.directory.path(), FAST).await.err();
    let Some(ControlError::Refused { error, hint: Some(hint) }) = refused else { panic!("{refused:?}") };
    assert!(error.contains("already running") && hint.contains("wait"), "{error} {hint}");
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_run() {
    let server = server().await;
    let mut first = begin(server.directory.path(), SLOW).await.unwrap();
    assert!(first.next().await.unwrap().is_some());
    drop(first);
    for attempt in 0.. {
        match begin(server.directory.path(), FAST).await {
            Ok(events) => {
                assert!(!to_the_end(events).await.1.found_something());
                return;
            }
            Err(ControlError::Refused { .. }) if attempt < 10_000 => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_stops_ends_a_run_and_takes_its_socket_along() {
    let server = server().await;
    let mut events = begin(server.directory.path(), SLOW).await.unwrap();
    assert!(events.next().await.unwrap().is_some());
    let directory = server.stop().await;
    let rest = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        while let Ok(Some(event)) = events.next().await {
            assert!(matches!(event, Event::Progress { .. }), "{event:?}");
        }
    });
    rest.await.expect("the run goes on");
    assert!(!directory.path().join("headpond-data/headpond.sock").exists());
}

#[tokio::test]
async fn a_command_takes_the_place_of_the_scrub_in_the_background() {
    let fake = FakeUpstream::start().await;
    fake.put_image("library/x", "1", &[pseudo_random(1, 100_000)]);
    // A scrub in the background that never ends begins at once.
    let server = Headpond::with(&fake, "", "limits: {scrub_interval: 1ms, scrub_rate: 1}").await;
    assert_eq!(server.get("/v2/up/library/x/manifests/1").await.status, 200);
    while server.metric("headpond_scrubbed_bytes_total") == 0 {
        tokio::task::yield_now().await;
    }
    let (findings, report) = to_the_end(begin(server.directory.path(), FAST).await.unwrap()).await;
    assert_eq!((findings.len(), report.blobs), (0, 1));
}

#[tokio::test]
async fn unknown_options_and_paths_are_refused() {
    let server = server().await;
    let store = server.directory.path().join("headpond-data");
    let stream = || headpond::storage::connect_control(&store).unwrap();
    let refused = headpond::http::ask_control::<()>(stream(), "/scrub", &serde_json::json!({"fast": true})).await;
    assert!(matches!(refused, Err(ControlError::Refused { .. })));
    let refused = headpond::http::ask_control::<()>(stream(), "/nothing", &serde_json::json!({})).await;
    assert!(matches!(refused, Err(ControlError::Refused { .. })));
}
