//! The commands that change a store, by the built program.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use headpond::oci::Digest;
use headpond::storage::{Store, StoreParts};
use serde_json::Value;

use crate::fake_upstream::FakeUpstream;
use crate::headpond::Headpond;
use crate::hosted::Pushed;
use crate::scrub::{blob_file, directory_with_hosted_image, flip_a_byte, store_of};

fn headpond(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headpond"));
    command.args(arguments).stdin(Stdio::null()).env_remove("HEADPOND_CONFIG");
    command.env("HEADPOND_STORAGE", directory.join("headpond-data"));
    command
}

fn run(directory: &Path, arguments: &[&str]) -> Output {
    headpond(directory, arguments).output().unwrap()
}

/// The same, beside a server in this process.
async fn run_beside(server: &Headpond, arguments: &'static [&'static str]) -> Output {
    let directory = server.directory.path().to_owned();
    tokio::task::spawn_blocking(move || run(&directory, arguments)).await.unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn rot_a_hosted_blob(directory: &Path, pushed: &Pushed) {
    flip_a_byte(&blob_file(directory, &pushed.layers[0]));
}

#[tokio::test]
async fn scrub_of_a_sound_store_exits_0_offline_and_through_the_server() {
    let (directory, _) = directory_with_hosted_image().await;
    let output = run(directory.path(), &["scrub", "--offline", "--rate", "0"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("scrubbed 2 blobs") && stdout(&output).contains("nothing is wrong"), "{}", stdout(&output));
    let fake = FakeUpstream::start().await;
    let server = Headpond::in_directory(&fake, "", "", directory, Default::default()).await;
    let output = run_beside(&server, &["scrub", "--rate", "0", "--json"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!((report["blobs"].as_u64(), report["findings"].as_array().map(Vec::len)), (Some(2), Some(0)));
}

#[tokio::test]
async fn scrub_that_mends_exits_1_and_one_that_finds_hosted_damage_2() {
    let fake = FakeUpstream::start().await;
    let server = Headpond::before(&fake).await;
    let image = fake.put_image("library/x", "1", &[]);
    assert_eq!(server.get("/v2/up/library/x/manifests/1").await.digest(), image.digest);
    assert_eq!(server.get(&Headpond::blob(&image.config)).await.digest(), image.config);
    server.wait_for_fills().await;
    flip_a_byte(&blob_file(server.directory.path(), &image.config));
    let output = run_beside(&server, &["scrub", "--json"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let report: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(report["findings"][0]["outcome"], "quarantined");

    let (directory, pushed) = directory_with_hosted_image().await;
    rot_a_hosted_blob(directory.path(), &pushed);
    let output = run(directory.path(), &["scrub", "--offline"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stdout(&output).contains("1 rotten HOSTED blobs") && stderr(&output).contains("docs/operating.md"), "{}", stderr(&output));
}

#[test]
fn command_without_a_server_says_what_to_type_next() {
    let directory = tempfile::tempdir().unwrap();
    let output = run(directory.path(), &["scrub"]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.contains("no server runs on the store") && said.contains("headpond scrub --offline"), "{said}");
    let output = run(directory.path(), &["scrub", "--offline"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("there is no store at"), "{}", stderr(&output));
}

#[tokio::test]
async fn offline_beside_a_server_is_refused() {
    let fake = FakeUpstream::start().await;
    let server = Headpond::before(&fake).await;
    let output = run_beside(&server, &["scrub", "--offline"]).await;
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.contains("without --offline") && said.contains("in use by another process"), "{said}");
}

#[tokio::test]
async fn gc_tells_what_would_go_and_then_removes_it() {
    let (directory, pushed) = directory_with_hosted_image().await;
    let store = Store::open(StoreParts::directory(&store_of(directory.path()))).unwrap();
    store.blobs.put(&Digest::of(b"garbage"), b"garbage").unwrap();
    drop(store);
    let garbage = blob_file(directory.path(), &Digest::of(b"garbage"));
    let output = run(directory.path(), &["gc", "--offline", "--dry-run", "--grace", "0"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(said.contains(&format!("{} 7 B would be marked", Digest::of(b"garbage"))) && said.contains("1 would be marked"), "{said}");
    assert!(garbage.exists());
    let output = run(directory.path(), &["gc", "--offline", "--grace", "0", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!((report["deleted"].as_u64(), report["deleted_bytes"].as_u64()), (Some(1), Some(7)));
    assert!(!garbage.exists() && blob_file(directory.path(), &pushed.layers[0]).exists());
}

#[tokio::test]
async fn gc_through_the_server_keeps_what_is_young() {
    let (directory, _) = directory_with_hosted_image().await;
    let fake = FakeUpstream::start().await;
    let server = Headpond::in_directory(&fake, "", "", directory, Default::default()).await;
    let output = run_beside(&server, &["gc"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("2 blobs") && stdout(&output).contains("0 deleted"), "{}", stdout(&output));
    let output = run_beside(&server, &["gc", "--grace", "soon"]).await;
    assert_eq!(output.status.code(), Some(2));
}
