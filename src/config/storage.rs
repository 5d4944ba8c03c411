//! Where content is kept.

use std::path::{Path, PathBuf};

use super::limits;
use super::problems::Problems;
use super::raw::{RawS3, RawStorage};
use super::secret::{self, Secret};
use super::shapes::Text;

/// Least `max_size`, if it is not 0: less would go to records, and hold no layer.
const MIN_SIZE_BYTES: u64 = 64 * 1024 * 1024;

/// The store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// The directory; made if missing. With a bucket, the disk tier in front of it. Default: `./headpond-data` in the
    /// working directory.
    pub path: PathBuf,
    /// Most bytes that are kept in it; with a bucket, 0 keeps no blob there. Default: no limit.
    pub max_size: Option<u64>,
    /// Bytes left free on its file system. Default: 5 % of it, at most 1 GiB.
    pub min_free: Option<u64>,
    /// A bucket. Default: none.
    pub s3: Option<S3>,
    /// How blobs that the bucket holds reach clients. Default: through this server.
    pub delivery: DeliveryMode,
}

/// A bucket, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3 {
    /// Its name.
    pub bucket: String,
    /// What all keys start with; may be empty, neither starts nor ends with `/`.
    pub prefix: String,
    /// URL of the server, if it is not AWS.
    pub endpoint: Option<String>,
    /// URL under which clients reach it, if it is another one.
    pub public_endpoint: Option<String>,
    /// Region; `None` is that of the environment.
    pub region: Option<String>,
    /// Whether the bucket's name goes into the path, not into the host.
    pub path_style: bool,
    /// What the server is asked to encrypt with.
    pub encryption: Encryption,
    /// `None`: as the AWS SDK finds them.
    pub credentials: Option<S3Credentials>,
}

/// Keys for a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Credentials {
    /// The access key's identifier.
    pub access_key: Secret,
    /// The secret key.
    pub secret_key: Secret,
}

/// Encryption at rest that the server is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// As the bucket is set up.
    None,
    /// With keys of S3.
    S3,
    /// With a key of KMS; `None` is the account's own.
    Kms(Option<String>),
}

/// How blobs that the bucket holds reach clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// Through this server.
    Proxy,
    /// By a redirect to a presigned URL.
    Redirect,
}

impl Default for Storage {
    fn default() -> Self {
        Self { path: PathBuf::from("./headpond-data"), max_size: None, min_free: None, s3: None, delivery: DeliveryMode::Proxy }
    }
}

pub(super) fn validate(raw: Option<RawStorage>, directory: &Path, problems: &mut Problems) -> Storage {
    let raw = raw.unwrap_or_default();
    let path = raw.path.map_or_else(|| Storage::default().path, |path| directory.join(path.0));
    let max_size = limits::size(raw.max_size, "storage.max_size", problems);
    let min_free = limits::size(raw.min_free, "storage.min_free", problems);
    let s3 = raw.s3.and_then(|raw| validate_s3(raw, directory, problems));
    if max_size == Some(0) && s3.is_none() {
        problems.add("storage.max_size", "is 0, which keeps nothing", "give it a size, or keep content in a bucket (`storage.s3`)");
    }
    if max_size.is_some_and(|bytes| (1..MIN_SIZE_BYTES).contains(&bytes)) {
        problems.add("storage.max_size", "is less than 64MiB", "records alone need some; give it at least the size of your largest images");
    }
    let delivery = match raw.delivery.as_ref().map(|text| text.0.as_str()) {
        None | Some("proxy") => DeliveryMode::Proxy,
        Some("redirect") => DeliveryMode::Redirect,
        Some(other) => {
            problems.add("storage.delivery", format!("`{other}` means nothing here"), "proxy or redirect");
            DeliveryMode::Proxy
        }
    };
    if delivery == DeliveryMode::Redirect && s3.is_none() {
        problems.add("storage.delivery", "there is no bucket to redirect to", "add `storage.s3`, or leave it out");
    }
    Storage { path, max_size, min_free, s3, delivery }
}

fn validate_s3(raw: RawS3, directory: &Path, problems: &mut Problems) -> Option<S3> {
    let has_endpoint = raw.endpoint.is_some();
    let credentials = validate_credentials(raw.access_key, raw.secret_key, directory, problems);
    let encryption = validate_encryption(raw.sse.as_ref(), raw.kms_key, problems);
    let endpoint = url(raw.endpoint, "storage.s3.endpoint", problems);
    let public_endpoint = url(raw.public_endpoint, "storage.s3.public_endpoint", problems);
    let prefix = validate_prefix(raw.prefix, problems);
    let region = raw.region.map(|text| text.0).or_else(|| has_endpoint.then(|| "us-east-1".to_owned()));
    let Some(Text(bucket)) = raw.bucket.filter(|text| !text.0.is_empty()) else {
        problems.add("storage.s3.bucket", "is missing", "the name of a bucket that exists");
        return None;
    };
    if !bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)) {
        problems.add("storage.s3.bucket", "is not a bucket's name", "the name alone, such as cache; no s3://, no path, no ARN");
    }
    // A certificate for all buckets covers no dot.
    let path_style = raw.path_style.unwrap_or(has_endpoint || bucket.contains('.'));
    if !path_style && [&endpoint, &public_endpoint].into_iter().flatten().any(|url| has_ip_address(url)) {
        problems.add("storage.s3.path_style", "is false, and no host name can begin an IP address", "leave it out, or name the server");
    }
    Some(S3 { bucket, prefix, endpoint, public_endpoint, region, path_style, encryption, credentials })
}

fn validate_prefix(raw: Option<Text>, problems: &mut Problems) -> String {
    let prefix = raw.map(|text| text.0.trim_matches('/').to_owned()).unwrap_or_default();
    let is_part =
        |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+=@".contains(&b));
    if !prefix.is_empty() && !prefix.split('/').all(is_part) {
        problems.add(
            "storage.s3.prefix",
            "is not a path of plain names",
            "letters, digits and ._-+=@ between single slashes, such as prod/cache",
        );
    }
    prefix
}

fn has_ip_address(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default();
    host.starts_with('[') || host.split(':').next().is_some_and(|host| host.parse::<std::net::Ipv4Addr>().is_ok())
}

fn validate_credentials(
    access_key: Option<Text>,
    secret_key: Option<Text>,
    directory: &Path,
    problems: &mut Problems,
) -> Option<S3Credentials> {
    let mut resolve = |text: Option<Text>, path: &str| {
        let reference = text?;
        secret::resolve(&reference.0, directory).map_err(|error| problems.add(path, error.to_string(), error.hint())).ok()
    };
    let one_is_missing = access_key.is_some() != secret_key.is_some();
    let access_key = resolve(access_key, "storage.s3.access_key");
    let secret_key = resolve(secret_key, "storage.s3.secret_key");
    if one_is_missing {
        problems.add("storage.s3", "`access_key` and `secret_key` go together", "write both, or neither to use what the AWS SDK finds");
    }
    Some(S3Credentials { access_key: access_key?, secret_key: secret_key? })
}

fn validate_encryption(sse: Option<&Text>, kms_key: Option<Text>, problems: &mut Problems) -> Encryption {
    let kms_key = kms_key.map(|text| text.0);
    let encryption = match sse.map(|text| text.0.as_str()) {
        None | Some("none") => Encryption::None,
        Some("s3") => Encryption::S3,
        Some("kms") => return Encryption::Kms(kms_key),
        Some(other) => {
            problems.add("storage.s3.sse", format!("`{other}` means nothing here"), "none, s3 or kms");
            Encryption::None
        }
    };
    if kms_key.is_some() {
        problems.add("storage.s3.kms_key", "is used with `sse: kms` only", "write `sse: kms`, or leave it out");
    }
    encryption
}

/// An http or https URL without a path that means anything.
fn url(text: Option<Text>, path: &str, problems: &mut Problems) -> Option<String> {
    let Text(text) = text?;
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match rest.map(|rest| rest.trim_end_matches('/')) {
        Some(rest) if !rest.is_empty() && !rest.contains(['@', '?', '#', ' ']) => Some(text.trim_end_matches('/').to_owned()),
        _ => {
            problems.add(
                path,
                "is not a URL of a server",
                "such as https://s3.example.com or http://127.0.0.1:9000; keys go into access_key and secret_key",
            );
            None
        }
    }
}
