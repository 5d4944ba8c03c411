//! The commands that change a store, by the built program.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::fake_upstream::FakeUpstream;
use crate::headpond::Headpond;
use crate::hosted::Pushed;
use crate::scrub::{blob_file, directory_with_hosted_image, flip_a_byte};

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
