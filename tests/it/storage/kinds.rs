//! The kinds of stores in this process, each held to the contract.

use std::sync::Arc;

use headpond::storage::{Bucket, BucketClient, Preconditions, Records, Support};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tempfile::TempDir;

use super::contract::{ALL_HONOURED, Expected, Subject, facts, limits, metrics};
use crate::fake_bucket::FakeBucket;

facts!(memory);
facts!(disk);
facts!(s3s_fs);
facts!(without_conditions);

async fn memory() -> Subject {
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let client = || BucketClient::over(Arc::clone(&objects), limits(), metrics());
    let expected = Expected { preconditions: ALL_HONOURED, is_server: false };
    Subject::shared([client(), client()], expected).await
}

/// Local disk has no conditional update: one process holds the store, and its locks do.
async fn disk() -> Subject {
    let directory = TempDir::new().unwrap();
    let objects: Arc<dyn ObjectStore> = Arc::new(object_store::local::LocalFileSystem::new_with_prefix(directory.path()).unwrap());
    let expected = Expected { preconditions: Preconditions { update: Support::Ignored, ..ALL_HONOURED }, is_server: false };
    let bucket = Bucket::new(BucketClient::over(Arc::clone(&objects), limits(), metrics()));
    let records = Records::new(Arc::clone(&objects));
    let (unfinished_uploads, _keep) = (Box::new(|| 0), Box::new(directory));
    Subject { objects, bucket, records, replica: None, expected, unfinished_uploads, _keep }
}

/// S3 over HTTP.
async fn s3s_fs() -> Subject {
    let fake = FakeBucket::start().await;
    let expected = Expected { preconditions: ALL_HONOURED, is_server: true };
    let clients = [fake.client().await, fake.client().await];
    let subject = Subject::shared(clients, expected).await;
    Subject { unfinished_uploads: Box::new(move || fake.unfinished_uploads()), ..subject }
}

/// S3 over HTTP that ignores conditional writes: one process has its records for itself all the same.
async fn without_conditions() -> Subject {
    let fake = FakeBucket::without_conditions().await;
    let expected = Expected { preconditions: Preconditions::NONE, is_server: true };
    let clients = [fake.client().await, fake.client().await];
    let subject = Subject::shared(clients, expected).await;
    Subject { unfinished_uploads: Box::new(move || fake.unfinished_uploads()), replica: None, ..subject }
}
