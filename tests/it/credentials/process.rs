//! Credential helpers of docker.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use headpond::app::World;
use reqwest::StatusCode;

use super::{fakes, pulls, tag};
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

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_that_gives_no_password_is_told_in_words_without_one() {
    for (what, words) in [
        ("echo hunter2; echo 'no such keychain' >&2; exit 3", "helper failed (exit status: 3): no such keychain"),
        ("echo 'credentials not found in native keychain'; exit 1", "has no credentials for 127.0.0.1"),
        ("echo hunter2", "printed no JSON object"),
        ("echo '{\"Username\":\"u\"}'; echo hunter2 >&2", "printed no JSON object"),
        ("echo '{\"Username\":\"<token>\",\"Secret\":\"hunter2\"}'", "gives an identity token"),
        ("head -c 1000000 /dev/zero", "prints more than 65536 bytes"),
    ] {
        let (fake, _) = fakes().await;
        fake.require_basic("user", "token");
        let server = with_helper(&fake, what).await;
        let answer = server.get(&tag(1)).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{what}: {answer:?}");
        assert!(answer.message().contains(words), "{what}: {}", answer.message());
        assert!(!answer.message().contains("hunter2"), "{}", answer.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_that_is_not_there_is_told_by_its_name() {
    let (fake, _) = fakes().await;
    fake.require_basic("user", "token");
    let server = Headpond::with(&fake, "credentials: {process: docker-credential-nowhere}\nanonymous: true", "").await;
    let answer = server.get(&tag(1)).await;
    assert!(answer.message().contains("cannot run docker-credential-nowhere"), "{}", answer.message());
}
