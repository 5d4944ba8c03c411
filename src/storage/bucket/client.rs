//! The S3 clients of a bucket, made from plain settings. What is not in the settings is not taken
//! from the environment, but for credentials and region where none are given.

use std::sync::Arc;
use std::time::Duration;

use aws_config::default_provider::region::DefaultRegionChain;
use object_store::aws::{AmazonS3Builder, resolve_bucket_region};
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, Certificate, ClientOptions, HeaderValue, ObjectStore, RetryConfig};
use secrecy::SecretString;

use super::credentials::Credentials;
use super::presign::Presigner;
use super::routed::Routed;
use super::{BucketClient, BucketLimits, sending};
use crate::storage::StorageError;
use crate::telemetry::metrics::BucketMetrics;

/// For the region of a bucket to be found out.
const REGION_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait before a request is tried again.
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// How a bucket is reached.
#[derive(Clone, Debug)]
pub struct BucketSettings {
    /// Its name.
    pub bucket: String,
    /// What all keys start with; may be empty.
    pub prefix: String,
    /// URL of the server; `None` is AWS.
    pub endpoint: Option<String>,
    /// URL under which clients reach it, if it is another one.
    pub public_endpoint: Option<String>,
    /// Region; `None` is found out.
    pub region: Option<String>,
    /// Whether the bucket's name goes into the path, not into the host.
    pub path_style: bool,
    /// What the server is asked to encrypt with.
    pub encryption: BucketEncryption,
    /// Access key and secret key; `None` is what the AWS SDK finds.
    pub keys: Option<(SecretString, SecretString)>,
    /// Certificates, as PEM, that are trusted beside the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// To open a connection.
    pub connect_timeout: Duration,
    /// Limits of requests.
    pub limits: BucketLimits,
}

/// Encryption at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BucketEncryption {
    /// As the bucket is set up.
    None,
    /// With keys of S3.
    S3,
    /// With a key of KMS; `None` is the account's own.
    Kms(Option<String>),
}

impl BucketClient {
    /// A client of a bucket. The server is asked for nothing but the region, where it is not given.
    ///
    /// # Errors
    /// When the settings cannot be used, or the region cannot be found out.
    pub async fn s3(settings: &BucketSettings, metrics: BucketMetrics) -> Result<Self, StorageError> {
        let wrong = |error: object_store::Error| StorageError::bucket(&settings.bucket, &error);
        let prefix = Key::parse(&settings.prefix).map_err(|error| wrong(error.into()))?;
        let region = region(settings).await?;
        let credentials = Credentials::new(settings.keys.as_ref(), &region);
        let attempts = u32::try_from(settings.limits.attempts.max(1)).unwrap_or(u32::MAX);
        let build = |endpoint: Option<&String>, attempt_timeout: Duration| {
            let builder = builder(settings, endpoint.map(String::as_str), &region, attempt_timeout)?;
            builder.with_credentials(credentials.provider()).build()
        };
        let quick = build(settings.endpoint.as_ref(), settings.limits.timeout / attempts).map_err(wrong)?;
        // The guard ends what takes too long: it knows how fast the line has been.
        let sending = build(settings.endpoint.as_ref(), sending::LONGEST + settings.limits.timeout).map_err(wrong)?;
        let public = settings.public_endpoint.as_ref().or(settings.endpoint.as_ref());
        let signer = build(public, settings.limits.timeout).map_err(wrong)?;
        let (quick, sending) = (PrefixStore::new(quick, prefix.clone()), PrefixStore::new(sending, prefix.clone()));
        Ok(Self {
            objects: Arc::new(Routed::new(Arc::new(quick), Arc::new(sending))) as Arc<dyn ObjectStore>,
            presigner: Some(Presigner::new(Arc::new(signer), prefix, credentials)),
            limits: settings.limits.clone(),
            metrics,
        })
    }
}

fn builder(
    settings: &BucketSettings,
    endpoint: Option<&str>,
    region: &str,
    attempt_timeout: Duration,
) -> object_store::Result<AmazonS3Builder> {
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&settings.bucket)
        .with_region(region)
        .with_virtual_hosted_style_request(!settings.path_style)
        .with_client_options(client_options(settings, endpoint, attempt_timeout)?)
        .with_retry(retries(&settings.limits))
        .with_disable_tagging(true)
        // Not every server has DeleteObjects, and a gc is not in a hurry.
        .with_disable_bulk_delete(true);
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(bucket_endpoint(endpoint, settings));
    }
    let header = |name: &str| name.parse::<object_store::aws::AmazonS3ConfigKey>();
    match &settings.encryption {
        BucketEncryption::None => {}
        BucketEncryption::S3 => builder = builder.with_config(header("aws_server_side_encryption")?, "AES256"),
        BucketEncryption::Kms(None) => builder = builder.with_config(header("aws_server_side_encryption")?, "aws:kms"),
        BucketEncryption::Kms(Some(key)) => builder = builder.with_sse_kms_encryption(key),
    }
    Ok(builder)
}

fn client_options(settings: &BucketSettings, endpoint: Option<&str>, attempt_timeout: Duration) -> object_store::Result<ClientOptions> {
    let mut options = ClientOptions::new()
        .with_user_agent(HeaderValue::from_static(concat!("headpond/", env!("CARGO_PKG_VERSION"))))
        // A body has no total timeout: a blob takes as long as its bytes come.
        .with_timeout_disabled()
        .with_read_timeout(attempt_timeout)
        .with_connect_timeout(settings.connect_timeout.min(attempt_timeout))
        .with_http1_only()
        .with_allow_http(endpoint.is_some_and(|url| url.starts_with("http://")));
    if let Some(pem) = &settings.ca_pem {
        for certificate in Certificate::from_pem_bundle(pem)? {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

/// The one layer that tries again.
fn retries(limits: &BucketLimits) -> RetryConfig {
    let backoff = BackoffConfig { max_backoff: MAX_BACKOFF, ..BackoffConfig::default() };
    RetryConfig { backoff, max_retries: limits.attempts.saturating_sub(1), retry_timeout: limits.timeout }
}

/// The endpoint as the client wants it: with the bucket's name in the host, if that is where it goes.
fn bucket_endpoint(endpoint: &str, settings: &BucketSettings) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) if !settings.path_style => format!("{scheme}://{}.{host}", settings.bucket),
        _ => endpoint.to_owned(),
    }
}

/// The region: as configured, of the environment, or as the bucket itself says.
async fn region(settings: &BucketSettings) -> Result<String, StorageError> {
    if let Some(region) = &settings.region {
        return Ok(region.clone());
    }
    let of_environment = async { DefaultRegionChain::builder().build().region().await };
    if let Ok(Some(region)) = tokio::time::timeout(REGION_TIMEOUT, of_environment).await {
        return Ok(region.as_ref().to_owned());
    }
    let options = client_options(settings, None, REGION_TIMEOUT).map_err(|error| StorageError::bucket(&settings.bucket, &error))?;
    let asked = tokio::time::timeout(REGION_TIMEOUT, resolve_bucket_region(&settings.bucket, &options)).await;
    let why = match asked {
        Ok(Ok(region)) => return Ok(region),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer".to_owned(),
    };
    let detail = format!("its region is not known ({why}); write `storage.s3.region`");
    Err(StorageError::Bucket { bucket: settings.bucket.clone(), detail })
}
