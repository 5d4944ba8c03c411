//! The client of the configured bucket.

use std::sync::Arc;

use object_store::aws::AmazonS3Builder;
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore};

use crate::config::S3;
use crate::storage::BucketClient;

/// A client of the bucket. It asks the server nothing yet.
pub(super) fn client(s3: &S3) -> anyhow::Result<BucketClient> {
    let prefix = Key::parse(&s3.prefix)?;
    let store = Arc::new(builder(s3, s3.endpoint.as_deref()).build()?);
    let signer = Arc::new(builder(s3, s3.public_endpoint.as_deref().or(s3.endpoint.as_deref())).build()?);
    let objects: Arc<dyn ObjectStore> = if prefix.as_ref().is_empty() { store } else { Arc::new(PrefixStore::new(store, prefix.clone())) };
    Ok(BucketClient { objects, signer: Some(signer), prefix })
}

fn builder(s3: &S3, endpoint: Option<&str>) -> AmazonS3Builder {
    let options = ClientOptions::new().with_timeout_disabled().with_allow_http(endpoint.is_some_and(|url| url.starts_with("http://")));
    let mut builder =
        AmazonS3Builder::new().with_bucket_name(&s3.bucket).with_virtual_hosted_style_request(!s3.path_style).with_client_options(options);
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &s3.region {
        builder = builder.with_region(region);
    }
    if let Some(credentials) = &s3.credentials {
        builder = builder.with_access_key_id(credentials.access_key.expose()).with_secret_access_key(credentials.secret_key.expose());
    }
    builder
}
