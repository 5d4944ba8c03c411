//! The client of the configured bucket.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use secrecy::SecretString;

use crate::config::{Encryption, Limits, S3, Secret};
use crate::storage::{Bucket, BucketClient, BucketEncryption, BucketLimits, BucketSettings};
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;

/// For uploads that were given up to be aborted, at the end.
pub(super) const SETTLE_DEADLINE: Duration = Duration::from_secs(2);

/// A client of the bucket. The server is asked for nothing but its region, where that is not written.
pub(super) async fn client(s3: &S3, limits: &Limits, metrics: &Metrics) -> anyhow::Result<BucketClient> {
    let secret = |secret: &Secret| SecretString::from(secret.expose().to_owned());
    let settings = BucketSettings {
        bucket: s3.bucket.clone(),
        prefix: s3.prefix.clone(),
        endpoint: s3.endpoint.clone(),
        public_endpoint: s3.public_endpoint.clone(),
        region: s3.region.clone(),
        path_style: s3.path_style,
        encryption: match &s3.encryption {
            Encryption::None => BucketEncryption::None,
            Encryption::S3 => BucketEncryption::S3,
            Encryption::Kms(key) => BucketEncryption::Kms(key.clone()),
        },
        keys: s3.credentials.as_ref().map(|keys| (secret(&keys.access_key), secret(&keys.secret_key))),
        ca_pem: ca_bundle()?,
        connect_timeout: limits.connect_timeout,
        limits: BucketLimits { timeout: limits.bucket_timeout, attempts: limits.bucket_attempts },
    };
    Ok(BucketClient::s3(&settings, metrics.bucket.clone()).await?)
}

/// Certificates of `AWS_CA_BUNDLE`, which every client of AWS trusts beside the system's.
fn ca_bundle() -> anyhow::Result<Option<Vec<u8>>> {
    let Some(path) = std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty()) else { return Ok(None) };
    let read = std::fs::read(Path::new(&path));
    read.map(Some).with_context(|| format!("cannot read {}, which AWS_CA_BUNDLE names", Path::new(&path).display()))
}

/// Behind the start: finds out what the bucket's conditional writes are worth, and sends what it did
/// not take when it was to be written.
pub(super) fn tend_behind(bucket: &Bucket, tasks: &Tasks) {
    tasks.spawn("bucket-preconditions", bucket.clone().find_out_preconditions());
    tasks.spawn("bucket-later", bucket.clone().send_later());
}
