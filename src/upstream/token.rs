//! Bearer tokens: asked for once for all who need one, remembered for most of their life.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::{BoxFuture, FutureExt, Shared};
use moka::ops::compute::{CompResult, Op};
use moka::sync::Cache;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;

use super::address::shown;
use super::status::{self, Asked};
use super::transport::{Lane, Transport};
use super::{Unavailability, UpstreamError, UpstreamLimits};
use crate::clock::Clock;
use crate::telemetry::metrics::RuleMetrics;

/// Life of a token whose realm does not say (token specification, `expires_in`).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// A longer life is not believed.
const MAX_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// What a token is for.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    pub(super) realm: Url,
    pub(super) service: Option<String>,
    pub(super) scope: String,
    /// Whether it was asked for without the endpoint's credential.
    pub(super) is_anonymous: bool,
}

/// A token.
#[derive(Clone)]
pub(super) struct Token {
    /// `Bearer …`.
    pub(super) header: HeaderValue,
    /// 80 % of its life are over then.
    fresh_until: SystemTime,
}

type Outcome = Result<Token, UpstreamError>;
/// Under way or done. The request runs in a task of its own, owned by the slot: callers that leave
/// do not end it, and one that is not polled does not hold the others up.
type Slot = Shared<BoxFuture<'static, Outcome>>;

/// The tokens of one endpoint.
pub(super) struct Tokens {
    slots: Cache<TokenKey, Slot>,
}

impl Tokens {
    pub(super) fn new(max_tokens: u64) -> Self {
        Self { slots: Cache::new(max_tokens) }
    }

    /// The token for `request`: remembered, on its way, or asked for now. `rejected` is one that the
    /// upstream refused, and is not given again.
    ///
    /// # Errors
    /// What the realm answered.
    pub(super) async fn get(&self, request: TokenRequest, rejected: Option<&HeaderValue>) -> Outcome {
        let now = request.clock.now();
        let key = request.key.clone();
        let computed = self.slots.entry(key).and_compute_with(|slot| {
            if slot.is_some_and(|slot| is_usable(slot.value(), rejected, now)) { Op::Nop } else { Op::Put(request.start()) }
        });
        match computed {
            CompResult::Unchanged(entry) | CompResult::Inserted(entry) | CompResult::ReplacedWith(entry) => entry.into_value().await,
            CompResult::StillNone(_) | CompResult::Removed(_) => {
                Err(UpstreamError::unavailable(Unavailability::Broken, "no token was asked for"))
            }
        }
    }
}

/// On its way, or fresh and not the rejected one.
fn is_usable(slot: &Slot, rejected: Option<&HeaderValue>, now: SystemTime) -> bool {
    match slot.peek() {
        None => true,
        Some(Ok(token)) => now < token.fresh_until && Some(&token.header) != rejected,
        Some(Err(_)) => false,
    }
}

/// One request of a token.
pub(super) struct TokenRequest {
    pub(super) key: TokenKey,
    /// Sent to the realm; none asks for an anonymous token.
    pub(super) basic: Option<HeaderValue>,
    pub(super) transport: Arc<Transport>,
    pub(super) limits: UpstreamLimits,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<RuleMetrics>,
}

impl TokenRequest {
    fn start(self) -> Slot {
        let metrics = Arc::clone(&self.metrics);
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let outcome = self.run().await;
            metrics.asked_token(match &outcome {
                Ok(_) => "issued",
                Err(UpstreamError::Denied { .. }) => "refused",
                Err(_) => "failed",
            });
            outcome
        }));
        let joined = task.map(|joined| {
            joined.unwrap_or_else(|_| Err(UpstreamError::unavailable(Unavailability::Broken, "the request of a token was ended")))
        });
        joined.boxed().shared()
    }

    async fn run(self) -> Outcome {
        let realm = shown(&self.key.realm);
        let asked_at = self.clock.now();
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(basic) = &self.basic {
            headers.insert(AUTHORIZATION, basic.clone());
        }
        let work = async {
            let response = self.transport.send(Lane::Small, Method::GET, &self.url(), headers).await?;
            tracing::debug!(realm, status = response.status().as_u16(), "asked {realm} for a token");
            let asked = Asked { method: Method::GET, url: self.key.realm.clone() };
            let status = response.status();
            if status != StatusCode::OK {
                return Err(refused(status, status::refusal(response, &asked, &self.limits, self.clock.now()).await));
            }
            status::body_within(response, &asked, self.limits.max_token_bytes, &self.limits).await
        };
        let late = || UpstreamError::unavailable(Unavailability::Timeout, format!("the token realm {realm} did not answer in time"));
        let body = tokio::time::timeout(self.limits.head_timeout, work).await.map_err(|_| late())??;
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_| UpstreamError::lied(format!("the token realm {realm} answered with no JSON object")))?;
        answer.token(asked_at).ok_or_else(|| UpstreamError::lied(format!("the token realm {realm} answered without a usable token")))
    }

    /// The realm, with what is asked for; a query of its own is kept.
    fn url(&self) -> Url {
        let mut url = self.key.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &self.key.service {
                query.append_pair("service", service);
            }
            query.append_pair("scope", &self.key.scope);
        }
        url
    }
}

/// Of what exists a realm says nothing: it gives a token or refuses it, with whatever status.
fn refused(status: StatusCode, error: UpstreamError) -> UpstreamError {
    match error {
        UpstreamError::NotFound { detail } | UpstreamError::Denied { detail, .. } => {
            UpstreamError::Denied { status: status.as_u16(), detail }
        }
        UpstreamError::Lied { detail } if status.is_client_error() => UpstreamError::Denied { status: status.as_u16(), detail },
        UpstreamError::Lied { .. } | UpstreamError::TooManyRequests { .. } | UpstreamError::Unavailable { .. } => error,
    }
}

/// The answer of a realm (token specification, "Token Response Fields").
#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<Value>,
}

impl Answer {
    fn token(self, asked_at: SystemTime) -> Option<Token> {
        let text = self.token.filter(|token| !token.is_empty()).or(self.access_token).filter(|token| !token.is_empty())?;
        let mut header = HeaderValue::try_from(format!("Bearer {text}")).ok()?;
        header.set_sensitive(true);
        let life = self.expires_in.as_ref().and_then(seconds).map_or(DEFAULT_LIFE, |seconds| Duration::from_secs(seconds).min(MAX_LIFE));
        Some(Token { header, fresh_until: asked_at + life.mul_f64(0.8) })
    }
}

/// A whole number, as some write it: also with a fraction, or in quotes. A negative one is 0.
fn seconds(value: &Value) -> Option<u64> {
    let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates, which is what is wanted")]
    let whole = number as u64;
    number.is_finite().then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(json: &str) -> Option<Duration> {
        let now = SystemTime::UNIX_EPOCH;
        let answer: Answer = serde_json::from_str(json).unwrap();
        Some(answer.token(now)?.fresh_until.duration_since(now).unwrap())
    }

    #[test]
    fn tokens_are_used_for_most_of_their_life() {
        assert_eq!(life(r#"{"token":"t","expires_in":300}"#), Some(Duration::from_secs(240)));
        assert_eq!(life(r#"{"access_token":"t"}"#), Some(Duration::from_secs(48)));
        assert_eq!(life(r#"{"token":"","access_token":"t","expires_in":"1.5"}"#), Some(Duration::from_millis(800)));
        assert_eq!(life(r#"{"token":"t","expires_in":-5}"#), Some(Duration::ZERO));
        assert_eq!(life(r#"{"token":"t","expires_in":1e300}"#), Some(Duration::from_secs(86_400).mul_f64(0.8)));
        assert_eq!(life(r#"{"token":"t","expires_in":[]}"#), Some(Duration::from_secs(48)));
    }

    #[test]
    fn answers_without_a_usable_token_are_none() {
        for json in ["{}", r#"{"token":""}"#, r#"{"token":null}"#, r#"{"token":"a\nb"}"#] {
            assert_eq!(life(json), None, "{json}");
        }
    }
}
