//! URLs that let a client get one object for a while.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use object_store::path::Path as Key;
use object_store::signer::Signer;
use object_store::{Error, Result};

use super::credentials::Credentials;

/// A URL that holds for less is not worth handing out.
const MIN_LIFE: Duration = Duration::from_secs(10);

/// Signs URLs of the public endpoint, for no longer than the credentials themselves hold. Nothing is
/// signed but method, host, path and time: a client may add a `Range`.
#[derive(Clone)]
pub(super) struct Presigner {
    signer: Arc<dyn Signer>,
    prefix: Key,
    credentials: Credentials,
}

impl Presigner {
    pub(super) fn new(signer: Arc<dyn Signer>, prefix: Key, credentials: Credentials) -> Self {
        Self { signer, prefix, credentials }
    }

    /// A URL of the object `key` below the prefix.
    pub(super) async fn url(&self, key: &Key, expires_in: Duration) -> Result<String> {
        // Renews them, if their end is near.
        self.credentials.provider().get_credential().await?;
        let left = self.credentials.expire_at().map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
        let expires_in = left.map_or(expires_in, |left| left.min(expires_in));
        if expires_in < MIN_LIFE {
            let source = "the bucket's credentials end too soon for a URL to be of use".into();
            return Err(Error::Generic { store: "S3", source });
        }
        let key: Key = self.prefix.parts().chain(key.parts()).collect();
        Ok(self.signer.signed_url(http::Method::GET, &key, expires_in).await?.into())
    }
}

impl fmt::Debug for Presigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presigner").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use object_store::aws::AmazonS3Builder;

    use super::super::credentials::ChainCredentials;
    use super::*;

    const HOUR: Duration = Duration::from_secs(60 * 60);

    /// One whose credentials end after so long, if they do.
    fn presigner(credentials_last: Option<Duration>) -> Presigner {
        let expires_at = credentials_last.map(|last| SystemTime::now() + last);
        let found = aws_credential_types::Credentials::new("key", "secret", Some("token".to_owned()), expires_at, "test");
        let credentials = Credentials::Chain(Arc::new(ChainCredentials::of(found)));
        let builder = AmazonS3Builder::new().with_bucket_name("cache").with_region("us-east-1");
        let signer = builder.with_credentials(credentials.provider()).build().unwrap();
        Presigner::new(Arc::new(signer), Key::from("prod"), credentials)
    }

    /// Seconds for which a URL holds that is wanted for so long.
    async fn life(credentials_last: Option<Duration>, expires_in: Duration) -> Result<u64> {
        let url = presigner(credentials_last).url(&Key::from("blobs/x"), expires_in).await?;
        assert!(url.contains("/prod/blobs/x?"), "{url}");
        let (_, seconds) = url.split_once("X-Amz-Expires=").unwrap();
        Ok(seconds.split('&').next().unwrap().parse().unwrap())
    }

    #[tokio::test]
    async fn a_url_holds_for_as_long_as_is_wanted_and_no_longer_than_the_credentials() {
        assert_eq!(life(None, HOUR).await.unwrap(), 3600);
        assert_eq!(life(Some(2 * HOUR), HOUR).await.unwrap(), 3600);
        let of_a_minute = life(Some(Duration::from_secs(60)), HOUR).await.unwrap();
        assert!((MIN_LIFE.as_secs()..=60).contains(&of_a_minute), "{of_a_minute}");
    }

    #[tokio::test]
    async fn credentials_that_are_about_to_end_sign_nothing() {
        let error = life(Some(Duration::from_secs(5)), HOUR).await.expect_err("they end in five seconds");
        assert!(error.to_string().contains("end too soon"), "{error}");
    }
}
