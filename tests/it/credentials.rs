//! Credentials that are read while the server runs.

mod ecr;
mod given;
mod process;
mod secrets_manager;

use std::io;
use std::sync::{Arc, Mutex};

use headpond::app::World;
use reqwest::StatusCode;
use tracing::subscriber::DefaultGuard;

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

/// What is logged by this thread. Not below `info`: there the AWS SDK writes whole answers, which the real log leaves out.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Of a test with one thread; ends with the guard.
    pub(crate) fn begin() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_ansi(false).with_writer(move || writer.clone());
        let guard = tracing::subscriber::set_default(subscriber.finish());
        (log, guard)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The warnings that credentials cannot be read.
    fn warnings(&self) -> Vec<String> {
        let is_one = |line: &&str| line.contains(" WARN ") && line.contains("cannot read the credentials of an upstream");
        self.text().lines().filter(is_one).map(str::to_owned).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The client is told that there are no credentials, and nothing of whose, or why.
fn tells_no_more_than_that(answer: &crate::headpond::Answer) {
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    let told = "the upstream registry gives no answer, and this is not cached: the credentials of this rule could not be obtained; the server's log says why";
    assert_eq!(answer.message(), told);
}
