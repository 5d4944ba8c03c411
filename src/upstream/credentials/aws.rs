//! The APIs of AWS, as the environment names them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;

use super::ReadError;

/// Of one call with its attempts. A read, which may assume a role first, has a limit of its own.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Of one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts at one call: nobody else tries again before a pause is over.
const ATTEMPTS: u32 = 2;

/// The way to AWS: region by region, set up once, with credentials found by the SDK's own chain
/// (environment, profile, web identity, container, instance). Cheap to clone.
#[derive(Clone, Default)]
pub struct Aws {
    place: Option<Place>,
    by_region: Arc<Mutex<HashMap<String, SdkConfig>>>,
}

/// A server in place of AWS, and keys for it.
#[derive(Clone)]
struct Place {
    endpoint: String,
    access_key: String,
    secret_key: SecretString,
}

impl Aws {
    /// All of AWS at one URL.
    #[must_use]
    pub fn at(endpoint: String, access_key: String, secret_key: SecretString) -> Self {
        Self { place: Some(Place { endpoint, access_key, secret_key }), by_region: Arc::default() }
    }

    /// The configuration for one region. The map has as many as rules name.
    pub(super) async fn config(&self, region: &str) -> SdkConfig {
        let mut by_region = self.by_region.lock().await;
        if let Some(config) = by_region.get(region) {
            return config.clone();
        }
        let timeouts = TimeoutConfig::builder().operation_timeout(CALL_TIMEOUT).operation_attempt_timeout(ATTEMPT_TIMEOUT).build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(timeouts);
        if let Some(place) = &self.place {
            let keys = Credentials::new(&place.access_key, place.secret_key.expose_secret(), None, None, "given");
            loader = loader.endpoint_url(&place.endpoint).credentials_provider(keys);
        }
        let config = loader.load().await;
        by_region.insert(region.to_owned(), config.clone());
        config
    }
}

/// An answer of AWS that is an error: its code and its words.
pub(super) struct Refusal<'a> {
    pub(super) code: &'a str,
    pub(super) message: &'a str,
}

impl Refusal<'_> {
    /// Whether the role may not do what was asked.
    pub(super) fn is_of_permissions(&self) -> bool {
        self.code.contains("AccessDenied")
    }

    /// Whether AWS may answer otherwise in a moment.
    fn is_passing(&self) -> bool {
        ["Throttl", "TooManyRequests", "InternalService", "ServerException", "ServiceUnavailable"]
            .iter()
            .any(|part| self.code.contains(part))
    }

    /// The error, with `hint` where the code is known.
    pub(super) fn error(&self, what: &str, hint: Option<&str>) -> ReadError {
        let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        let said = format!("{what}: {} ({}){hint}", self.code, self.message);
        if self.is_passing() { ReadError::unreachable(said) } else { ReadError::refused(said) }
    }
}

/// An error with its causes, of which the outermost says little. They hold no bodies.
pub(super) fn words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source()).map(|cause| format!(": {cause}"));
    std::iter::once(error.to_string()).chain(causes).collect()
}
