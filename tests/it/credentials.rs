//! Credentials that are read while the server runs.

mod ecr;
mod given;
mod process;
mod secrets_manager;

use headpond::app::World;
use reqwest::StatusCode;

use crate::fake_aws::FakeAws;
use crate::fake_upstream::FakeUpstream;
use crate::headpond::Headpond;

/// A secret of these tests.
const ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:ecr-pullthroughcache/hub-aB3dEf";

/// An upstream with tags 1 to 9 of `library/x`, and AWS by its clock.
async fn fakes() -> (FakeUpstream, FakeAws) {
    let fake = FakeUpstream::start().await;
    for tag in 1..10 {
        fake.put_image("library/x", &tag.to_string(), &[]);
    }
    let aws = FakeAws::start(fake.clock()).await;
    (fake, aws)
}

/// A server before both, with these credentials in its rule, for everybody.
async fn before(fake: &FakeUpstream, aws: &FakeAws, credentials: &str) -> Headpond {
    let world = World { aws: aws.client(), ..World::default() };
    let rule = format!("credentials: {credentials}\nanonymous: true");
    Headpond::in_directory(fake, &rule, "", tempfile::tempdir().unwrap(), world).await
}

fn secret(username: &str, token: &str) -> String {
    serde_json::json!({"username": username, "accessToken": token}).to_string()
}

fn tag(number: usize) -> String {
    format!("/v2/up/library/x/manifests/{number}")
}

async fn pulls(server: &Headpond, number: usize) {
    let answer = server.get(&tag(number)).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

/// How many requests the upstream refused.
fn refused(fake: &FakeUpstream) -> usize {
    fake.journal().iter().filter(|exchange| [401, 403].contains(&exchange.status)).count()
}
