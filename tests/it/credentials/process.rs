//! Credential helpers of docker.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use headpond::app::World;

use super::{Log, fakes, pulls, tag, tells_no_more_than_that};
use crate::fake_upstream::FakeUpstream;
use crate::headpond::Headpond;

/// A helper that notes how it was called and what it was told, then does `what`.
fn write_helper(directory: &Path, what: &str) {
    let text = format!("#!/bin/sh\nread server\necho \"$* $server\" >> {}/calls\n{what}\n", directory.display());
    // Written beside and moved: a file that is open for writing anywhere cannot be run.
    let (new, helper) = (directory.join("helper.new"), directory.join("helper"));
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(new, helper).unwrap();
}

fn tells(username: &str, secret: &str) -> String {
    format!("echo '{{\"ServerURL\":\"x\",\"Username\":\"{username}\",\"Secret\":\"{secret}\"}}'")
}

fn calls(server: &Headpond) -> Vec<String> {
    let text = std::fs::read_to_string(server.directory.path().join("calls")).unwrap();
    text.lines().map(str::to_owned).collect()
}

async fn with_helper(fake: &FakeUpstream, what: &str) -> Headpond {
    let directory = tempfile::tempdir().unwrap();
    write_helper(directory.path(), what);
    let rule = "credentials: {process: [./helper, '--profile', 'a b;$x']}\nanonymous: true";
    Headpond::in_directory(fake, rule, "", directory, World::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_is_asked_once_for_the_host_and_again_when_it_is_refused() {
    let (fake, _) = fakes().await;
    fake.require_basic("user", "old");
    let server = with_helper(&fake, &tells("user", "old")).await;
    pulls(&server, 1).await;
    pulls(&server, 2).await;
    let call = format!("--profile a b;$x get {}", fake.host());
    assert_eq!(calls(&server), std::slice::from_ref(&call));
    write_helper(server.directory.path(), &tells("user", "new"));
    fake.require_basic("user", "new");
    pulls(&server, 3).await;
    assert_eq!(calls(&server), [call.clone(), call]);
}

#[tokio::test]
async fn a_helper_that_gives_no_password_is_logged_with_a_hint_and_without_its_words() {
    for (what, words) in [
        (
            "echo hunter2; echo 'hunter2: no such keychain' >&2; exit 3",
            "helper failed (exit status: 3); it says why when it is run by hand",
        ),
        ("echo 'credentials not found in native keychain'; exit 1", "has no credentials for 127.0.0.1"),
        ("echo hunter2", "printed no JSON object"),
        ("echo '{\"Username\":\"u\"}'; echo hunter2 >&2", "printed no JSON object"),
        ("echo '{\"Username\":\"<token>\",\"Secret\":\"hunter2\"}'", "is not taken; log in there with a user name and a password"),
        ("head -c 1000000 /dev/zero", "prints more than 65536 bytes"),
    ] {
        let (log, _guard) = Log::begin();
        let (fake, _) = fakes().await;
        fake.require_basic("user", "token");
        let server = with_helper(&fake, what).await;
        for number in 1..4 {
            tells_no_more_than_that(&server.get(&tag(number)).await);
        }
        let warnings = log.warnings();
        assert!(warnings.len() == 1 && warnings[0].contains(words), "{what}: {warnings:?}");
        assert!(!log.text().contains("hunter2"), "{what}: {}", log.text());
    }
}

/// What a helper writes on stderr is no line of this server's log.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_helper_writes_on_stderr_is_not_on_the_programs() {
    let (fake, _) = fakes().await;
    fake.require_basic("user", "token");
    let directory = tempfile::tempdir().unwrap();
    write_helper(directory.path(), "echo hunter2 >&2; exit 3");
    let file = directory.path().join("headpond.yaml");
    std::fs::write(&file, format!("rules: [{{prefix: up, upstream: '{}', credentials: {{process: [./helper]}}}}]\n", fake.url())).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_headpond"));
    command.args(["check-upstream", "up", "library/x:1", "--config"]).arg(&file);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(stdout.contains("helper failed (exit status: 3)"), "{stdout}{stderr}");
    assert!(!stdout.contains("hunter2") && !stderr.contains("hunter2"), "{stdout}{stderr}");
}

#[tokio::test]
async fn a_helper_that_is_not_there_is_logged_by_its_name() {
    let (log, _guard) = Log::begin();
    let (fake, _) = fakes().await;
    fake.require_basic("user", "token");
    let server = Headpond::with(&fake, "credentials: {process: docker-credential-nowhere}\nanonymous: true", "").await;
    tells_no_more_than_that(&server.get(&tag(1)).await);
    assert!(log.warnings()[0].contains("cannot run docker-credential-nowhere"), "{}", log.text());
}
