//! Names and passwords that the configuration refers to.

use std::time::Duration;

use headpond::app::World;

use super::{fakes, pulls, refused, tag};
use crate::fake_upstream::FakeUpstream;
use crate::headpond::Headpond;

async fn with_file(fake: &FakeUpstream, username: &str, password: &str) -> Headpond {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("password"), password).unwrap();
    let rule = format!("credentials: {{username: {username}, password: 'file:password'}}\nanonymous: true");
    Headpond::in_directory(fake, &rule, "", directory, World::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_file_that_was_written_anew_is_used_by_the_next_pull() {
    let (fake, _) = fakes().await;
    fake.require_basic("user", "old");
    let server = with_file(&fake, "user", "old\n").await;
    pulls(&server, 1).await;
    std::fs::write(server.directory.path().join("password"), "new\n").unwrap();
    fake.require_basic("user", "new");
    fake.clear_journal();
    pulls(&server, 2).await;
    assert_eq!(refused(&fake), 1);
    pulls(&server, 3).await;
    assert_eq!(refused(&fake), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_file_is_read_after_five_minutes_and_may_be_gone() {
    let (fake, _) = fakes().await;
    fake.require_basic("user", "old");
    let server = with_file(&fake, "user", "old").await;
    pulls(&server, 1).await;
    let file = server.directory.path().join("password");
    std::fs::remove_file(&file).unwrap();
    fake.clock().advance(Duration::from_secs(301));
    pulls(&server, 2).await;
    server.wait_for_metric(r#"headpond_credential_reads_total{outcome="unreachable",source="file"}"#, 1).await;
    std::fs::write(&file, "new").unwrap();
    fake.clock().advance(Duration::from_secs(11));
    pulls(&server, 3).await;
    server.wait_for_metric(r#"headpond_credential_reads_total{outcome="read",source="file"}"#, 1).await;
    fake.require_basic("user", "new");
    fake.clear_journal();
    pulls(&server, 4).await;
    assert_eq!(refused(&fake), 0);
}

/// A service account's key as it is downloaded, a key in base64, an access token; a service principal
/// and a token of a registry.
#[tokio::test(flavor = "multi_thread")]
async fn names_and_passwords_of_google_and_azure_are_taken_by_their_realms() {
    let key =
        "{\n  \"type\": \"service_account\",\n  \"private_key\": \"-----BEGIN PRIVATE KEY-----\\nAA==\\n-----END PRIVATE KEY-----\\n\"\n}";
    for (username, password) in [
        ("_json_key", key),
        ("_json_key_base64", "ewogICJ0eXBlIjogInNlcnZpY2VfYWNjb3VudCIKfQ=="),
        ("oauth2accesstoken", "ya29.a0AfB-_x"),
        ("00000000-1111-2222-3333-444444444444", "a~principal's:secret"),
        ("pull-token", "abc/def+ghi="),
    ] {
        let (fake, _) = fakes().await;
        fake.require_bearer_of(username, password);
        let server = with_file(&fake, username, &format!("{password}\n")).await;
        let answer = server.get(&tag(1)).await;
        assert_eq!(answer.status, 200, "{username}: {answer:?}");
    }
}
