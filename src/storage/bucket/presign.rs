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
