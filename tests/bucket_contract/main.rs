//! The contract of a store, held by a real S3 server that the environment names. Not part of
//! `cargo test`: tests/e2e starts a server and runs it.
//!
//! ```sh
//! HEADPOND_TEST_S3_ENDPOINT=http://127.0.0.1:7480 HEADPOND_TEST_S3_BUCKET=cache \
//! HEADPOND_TEST_S3_ACCESS_KEY=… HEADPOND_TEST_S3_SECRET_KEY=… \
//! HEADPOND_TEST_S3_E_TAGS=bare cargo test --test bucket_contract
//! ```
//!
//! The last one is as for Ceph: how `If-Match` has to say an entity tag. Without it, as AWS: `quoted`.
//!
//! Pushes go on for a second in a prefix of their own, or for HEADPOND_TEST_PUSH_SECONDS in HEADPOND_TEST_PREFIX, where
//! somebody may collect garbage meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice)]

#[path = "../it/hosted.rs"]
#[expect(dead_code, reason = "tests in process do more with it")]
mod hosted;
mod pushes;
mod storage;

use std::time::Duration;

use headpond::storage::{BucketClient, BucketEncryption, BucketSettings, Preconditions};
use secrecy::SecretString;

use storage::contract::{ALL_HONOURED, Expected, Subject, facts, limits, metrics};

facts!(server);

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: this test needs an S3 server with an empty bucket; the head of tests/bucket_contract/main.rs has all")
    })
}

/// A prefix of its own for each test.
fn fresh_prefix() -> String {
    format!("contract/{}", uuid::Uuid::new_v4().simple())
}

fn settings(prefix: String) -> BucketSettings {
    BucketSettings {
        bucket: variable("HEADPOND_TEST_S3_BUCKET"),
        prefix,
        endpoint: Some(variable("HEADPOND_TEST_S3_ENDPOINT")),
        public_endpoint: None,
        region: Some(std::env::var("HEADPOND_TEST_S3_REGION").unwrap_or_else(|_| "us-east-1".to_owned())),
        path_style: true,
        encryption: BucketEncryption::None,
        keys: Some((
            SecretString::from(variable("HEADPOND_TEST_S3_ACCESS_KEY")),
            SecretString::from(variable("HEADPOND_TEST_S3_SECRET_KEY")),
        )),
        ca_pem: None,
        connect_timeout: Duration::from_secs(5),
        limits: limits(),
    }
}

async fn server() -> Subject {
    let settings = settings(fresh_prefix());
    let client = async || BucketClient::s3(&settings, metrics()).await.unwrap();
    let bare_e_tags = std::env::var("HEADPOND_TEST_S3_E_TAGS").is_ok_and(|form| form == "bare");
    let preconditions = Preconditions { bare_e_tags, ..ALL_HONOURED };
    Subject::shared([client().await, client().await], Expected { preconditions, is_server: true }).await
}
