//! Credentials as the AWS SDK finds them: environment, profile, web identity (IRSA), container (Pod
//! Identity), instance metadata. Kept, and renewed before they expire.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use aws_config::Region;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use object_store::aws::{AwsCredential, AwsCredentialProvider};
use object_store::{CredentialProvider, StaticCredentialProvider};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;

/// How long before their end credentials are renewed.
const RENEWED_BEFORE: Duration = Duration::from_secs(5 * 60);
/// How long before their end they are not used any more.
const UNUSED_BEFORE: Duration = Duration::from_secs(10);
/// After which credentials without an end are asked for again: a file of them may have changed.
const BELIEVED_FOR: Duration = Duration::from_secs(15 * 60);
/// Pause after credentials could not be renewed, in which those at hand are used.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Where keys come from.
#[derive(Clone, Debug)]
pub(super) enum Credentials {
    /// The configuration.
    Keys(AwsCredentialProvider),
    /// What the AWS SDK finds.
    Chain(Arc<ChainCredentials>),
}

impl Credentials {
    pub(super) fn new(keys: Option<&(SecretString, SecretString)>, region: &str) -> Self {
        match keys {
            Some((access_key, secret_key)) => {
                let (key_id, secret_key) = (access_key.expose_secret().to_owned(), secret_key.expose_secret().to_owned());
                Self::Keys(Arc::new(StaticCredentialProvider::new(AwsCredential { key_id, secret_key, token: None })))
            }
            None => Self::Chain(Arc::new(ChainCredentials::of_the_sdk(region))),
        }
    }

    pub(super) fn provider(&self) -> AwsCredentialProvider {
        match self {
            Self::Keys(provider) => Arc::clone(provider),
            Self::Chain(chain) => Arc::clone(chain) as AwsCredentialProvider,
        }
    }

    /// When those that were got last end, if they do.
    pub(super) fn expire_at(&self) -> Option<SystemTime> {
        match self {
            Self::Keys(_) => None,
            Self::Chain(chain) => chain.expire_at(),
        }
    }
}

/// Credentials of a chain, kept for as long as they hold.
#[derive(Debug)]
pub(super) struct ChainCredentials {
    region: String,
    chain: OnceCell<SharedCredentialsProvider>,
    kept: ArcSwapOption<Kept>,
    renewing: Mutex<()>,
}

#[derive(Debug)]
struct Kept {
    credential: Arc<AwsCredential>,
    expires_at: Option<SystemTime>,
    /// When they are asked for again.
    renew_at: Instant,
}

impl Kept {
    fn is_fresh(&self) -> bool {
        Instant::now() < self.renew_at && self.lasts(RENEWED_BEFORE)
    }

    fn lasts(&self, time: Duration) -> bool {
        self.expires_at.is_none_or(|at| at > SystemTime::now() + time)
    }
}

impl ChainCredentials {
    /// The SDK's own chain. Nothing is asked before the first use.
    fn of_the_sdk(region: &str) -> Self {
        Self { region: region.to_owned(), chain: OnceCell::new(), kept: ArcSwapOption::empty(), renewing: Mutex::new(()) }
    }

    /// Credentials of `provider`.
    #[cfg(test)]
    pub(super) fn of(provider: impl ProvideCredentials + 'static) -> Self {
        let chain = OnceCell::new_with(Some(SharedCredentialsProvider::new(provider)));
        Self { chain, ..Self::of_the_sdk("") }
    }

    /// When the credentials in use end, if they do.
    pub(super) fn expire_at(&self) -> Option<SystemTime> {
        self.kept.load().as_ref().and_then(|kept| kept.expires_at)
    }

    async fn renew(&self) -> object_store::Result<Arc<AwsCredential>> {
        let _one_at_a_time = self.renewing.lock().await;
        let kept = self.kept.load_full();
        if let Some(kept) = kept.as_ref().filter(|kept| kept.is_fresh()) {
            return Ok(Arc::clone(&kept.credential));
        }
        let chain = self.chain.get_or_init(|| async {
            let region = Region::new(self.region.clone());
            SharedCredentialsProvider::new(DefaultCredentialsChain::builder().region(region).build().await)
        });
        match chain.await.provide_credentials().await {
            Ok(found) => {
                let credential = Arc::new(AwsCredential {
                    key_id: found.access_key_id().to_owned(),
                    secret_key: found.secret_access_key().to_owned(),
                    token: found.session_token().map(str::to_owned),
                });
                self.keep(&credential, found.expiry(), BELIEVED_FOR);
                Ok(credential)
            }
            Err(error) => match kept.filter(|kept| kept.lasts(UNUSED_BEFORE)) {
                Some(kept) => {
                    tracing::warn!(error = %words(&error), "the bucket's credentials could not be renewed; those at hand are used while they last");
                    self.keep(&kept.credential, kept.expires_at, RETRY_AFTER);
                    Ok(Arc::clone(&kept.credential))
                }
                None => Err(object_store::Error::Generic {
                    store: "S3",
                    source: format!("no credentials for the bucket: {}", words(&error)).into(),
                }),
            },
        }
    }

    fn keep(&self, credential: &Arc<AwsCredential>, expires_at: Option<SystemTime>, renew_after: Duration) {
        let kept = Kept { credential: Arc::clone(credential), expires_at, renew_at: Instant::now() + renew_after };
        self.kept.store(Some(Arc::new(kept)));
    }
}

/// An error with its causes: the outermost one alone says little.
fn words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source()).map(|cause| format!(": {cause}"));
    std::iter::once(error.to_string()).chain(causes).collect()
}

#[async_trait]
impl CredentialProvider for ChainCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        if let Some(kept) = self.kept.load().as_ref() {
            let is_renewed_by_another = || kept.lasts(UNUSED_BEFORE) && self.renewing.try_lock().is_err();
            if kept.is_fresh() || is_renewed_by_another() {
                return Ok(Arc::clone(&kept.credential));
            }
        }
        self.renew().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use aws_credential_types::Credentials;
    use aws_credential_types::provider::error::CredentialsError;
    use aws_credential_types::provider::future;

    use super::*;

    /// Credentials that end after so long, counted; none after so many.
    #[derive(Debug)]
    struct Issuer {
        lasts: Option<Duration>,
        most: usize,
        issued: Arc<AtomicUsize>,
    }

    impl ProvideCredentials for Issuer {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let number = self.issued.fetch_add(1, Ordering::SeqCst);
            if number >= self.most {
                return future::ProvideCredentials::ready(Err(CredentialsError::not_loaded("planned by the test")));
            }
            let expires_at = self.lasts.map(|lasts| SystemTime::now() + lasts);
            let token = Some("token".to_owned());
            future::ProvideCredentials::ready(Ok(Credentials::new(format!("key{number}"), "secret", token, expires_at, "test")))
        }
    }

    fn credentials(lasts: Option<Duration>, most: usize) -> (ChainCredentials, Arc<AtomicUsize>) {
        let issued = Arc::new(AtomicUsize::new(0));
        (ChainCredentials::of(Issuer { lasts, most, issued: Arc::clone(&issued) }), issued)
    }

    async fn key(credentials: &ChainCredentials) -> object_store::Result<String> {
        credentials.get_credential().await.map(|credential| credential.key_id.clone())
    }

    #[tokio::test]
    async fn credentials_that_last_are_asked_for_once() {
        let (credentials, issued) = credentials(Some(Duration::from_secs(3600)), 9);
        assert_eq!(credentials.expire_at(), None);
        for _ in 0..5 {
            assert_eq!(key(&credentials).await.unwrap(), "key0");
        }
        assert_eq!(issued.load(Ordering::SeqCst), 1);
        assert!(credentials.expire_at().unwrap() > SystemTime::now() + Duration::from_secs(3000));
    }

    #[tokio::test]
    async fn credentials_near_their_end_are_renewed() {
        let (credentials, _) = credentials(Some(Duration::from_secs(60)), 9);
        assert_eq!(key(&credentials).await.unwrap(), "key0");
        assert_eq!(key(&credentials).await.unwrap(), "key1");
    }

    #[tokio::test]
    async fn credentials_that_cannot_be_renewed_are_used_while_they_last() {
        let (credentials, _) = credentials(Some(Duration::from_secs(60)), 1);
        for _ in 0..3 {
            assert_eq!(key(&credentials).await.unwrap(), "key0");
        }
    }

    #[tokio::test]
    async fn credentials_that_have_ended_are_not_used() {
        let (credentials, _) = credentials(Some(Duration::from_secs(5)), 1);
        key(&credentials).await.unwrap();
        let error = key(&credentials).await.expect_err("they have ended");
        assert!(error.to_string().contains("planned by the test"), "{error}");
    }

    #[tokio::test]
    async fn credentials_without_an_end_are_asked_for_again_after_a_while() {
        let (credentials, issued) = credentials(None, 9);
        for _ in 0..2 {
            assert_eq!(key(&credentials).await.unwrap(), "key0");
        }
        credentials.keep(&credentials.get_credential().await.unwrap(), None, Duration::ZERO);
        assert_eq!(key(&credentials).await.unwrap(), "key1");
        assert_eq!((issued.load(Ordering::SeqCst), credentials.expire_at()), (2, None));
    }
}
