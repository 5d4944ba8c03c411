//! One question to an upstream: authorized, sent, redirected, and answered.

use std::sync::Arc;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use super::admission::Admission;
use super::challenge::{Bearer, Challenge};
use super::quota::Quota;
use super::redirect::Trail;
use super::status::{self, Asked};
use super::token::{TokenKey, TokenRequest};
use super::transport::Lane;
use super::{CredentialStore, Upstream, UpstreamError, address, realm};
use crate::oci::RepositoryName;

/// A question.
#[derive(Clone)]
pub(super) struct Question<'a> {
    pub(super) method: Method,
    pub(super) lane: Lane,
    pub(super) repository: &'a RepositoryName,
    pub(super) url: Url,
    pub(super) accept: Option<&'static str>,
    pub(super) range: Option<HeaderValue>,
}

/// An answer: the head, whatever its status, and the body to come.
pub(super) struct Answer {
    pub(super) response: Response,
    pub(super) asked: Asked,
    /// It came from the upstream's own origin.
    pub(super) is_from_home: bool,
}

impl Answer {
    /// One that came without detours.
    pub(super) const fn of(response: Response, asked: Asked) -> Self {
        Self { response, asked, is_from_home: true }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }
}

impl Upstream {
    /// Asks. A 401 of the upstream itself is answered with the credentials it asks for, once; a 401 to
    /// a remembered token with a fresh one, once; a refusal of credentials with others, once, where
    /// their source has others by now; a 401 of a host that it redirects to with an anonymous token, once.
    ///
    /// # Errors
    /// When no answer could be had; an answer of any status is not an error here.
    pub(super) async fn ask(&self, question: &Question<'_>, admission: &mut Admission) -> Result<Answer, UpstreamError> {
        let mut answer = self.ask_at_home(question, admission).await?;
        if answer.status() == StatusCode::UNAUTHORIZED && !answer.is_from_home {
            answer = self.ask_elsewhere(question, answer, admission).await?;
        }
        // A 401 counts for whoever has not said who it is yet; another host counts for itself.
        if answer.is_from_home
            && question.lane == Lane::Small
            && answer.status() != StatusCode::UNAUTHORIZED
            && let Some(quota) = Quota::from_headers(answer.headers())
        {
            admission.told(&quota);
        }
        Ok(answer)
    }

    async fn ask_at_home(&self, question: &Question<'_>, admission: &mut Admission) -> Result<Answer, UpstreamError> {
        let remembered = self.endpoint.challenge.load_full();
        let first = match &remembered {
            Some(challenge) => self.authorization(challenge, question.repository, None).await.inspect_err(|error| self.doubt(error))?,
            None => None,
        };
        let answer = self.follow(question, first.clone(), Some(admission)).await?;
        if !self.is_refused(&answer, remembered.as_deref()) {
            return Ok(answer);
        }
        let Some(challenge) = Challenge::from_headers(answer.headers()).map(Arc::new).or(remembered) else { return Ok(answer) };
        self.endpoint.challenge.store(Some(Arc::clone(&challenge)));
        let second = self.authorization(&challenge, question.repository, first.as_ref()).await?;
        if second.is_none() || second == first {
            return Ok(answer);
        }
        drop(answer);
        let answer = self.follow(question, second.clone(), Some(admission)).await?;
        let is_first_use = first.is_none() && *challenge == Challenge::Basic;
        if !is_first_use || !self.is_refused(&answer, Some(&challenge)) {
            return Ok(answer);
        }
        match self.authorization(&challenge, question.repository, second.as_ref()).await? {
            None => Ok(answer),
            third => self.follow(question, third, Some(admission)).await,
        }
    }

    /// Whether the upstream itself refuses what it was sent, and may take something else.
    fn is_refused(&self, answer: &Answer, challenge: Option<&Challenge>) -> bool {
        let is_over = |credentials: &Arc<CredentialStore>| challenge == Some(&Challenge::Basic) && credentials.source().is_over_at_403();
        answer.is_from_home
            && match answer.status() {
                StatusCode::UNAUTHORIZED => true,
                StatusCode::FORBIDDEN => self.endpoint.credentials.as_ref().is_some_and(is_over),
                _ => false,
            }
    }

    /// Asks the host again that the upstream redirects to, and that asks for a token: an anonymous one, of
    /// a realm that this host may name. The credentials are the upstream's, and do not go there.
    async fn ask_elsewhere(&self, question: &Question<'_>, refused: Answer, admission: &mut Admission) -> Result<Answer, UpstreamError> {
        let Some(Challenge::Bearer(bearer)) = Challenge::from_headers(refused.headers()) else { return Ok(refused) };
        let there = refused.asked.url.clone();
        realm::check(&bearer.realm, &there, &self.endpoint.settings.realms)?;
        let scope = bearer.named_scope(question.repository);
        let token = self.endpoint.tokens.get(self.token_request(&bearer, scope, None), None).await?;
        drop(refused);
        let again = Question { url: there, ..question.clone() };
        let answer = self.follow(&again, Some(token.header), Some(admission)).await?;
        Ok(Answer { is_from_home: false, ..answer })
    }

    /// Asks at a URL that the upstream redirected to before: without authorization, and whatever comes
    /// says nothing of the upstream.
    ///
    /// # Errors
    /// As [`Upstream::ask`].
    pub(super) async fn ask_there(&self, question: &Question<'_>) -> Result<Answer, UpstreamError> {
        self.follow(question, None, None).await
    }

    /// The remembered challenge did not lead to a token: the next request asks the upstream anew.
    fn doubt(&self, error: &UpstreamError) {
        if matches!(error, UpstreamError::Denied { .. } | UpstreamError::Lied { .. }) {
            self.endpoint.challenge.store(None);
        }
    }

    /// What the challenge asks for, other than what was `rejected`. `None` where that is a name and
    /// password and there are none, or no others.
    async fn authorization(
        &self,
        challenge: &Challenge,
        repository: &RepositoryName,
        rejected: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, UpstreamError> {
        match (challenge, &self.endpoint.credentials) {
            (Challenge::Basic, None) => Ok(None),
            (Challenge::Basic, Some(credentials)) => match rejected {
                Some(rejected) => Ok(credentials.other_than(rejected).await),
                None => credentials.current().await.map(Some),
            },
            (Challenge::Bearer(bearer), credentials) => self.token(bearer, credentials.as_ref(), repository, rejected).await.map(Some),
        }
    }

    /// Whether the realm gives a token for a repository.
    ///
    /// # Errors
    /// What the realm answered.
    pub(super) async fn token_for(&self, bearer: &Bearer, repository: &RepositoryName) -> Result<(), UpstreamError> {
        self.authorization(&Challenge::Bearer(bearer.clone()), repository, None).await.map(drop)
    }

    /// A token. Where the realm refuses the credentials, it is asked once more with others, if there are.
    async fn token(
        &self,
        bearer: &Bearer,
        credentials: Option<&Arc<CredentialStore>>,
        repository: &RepositoryName,
        rejected: Option<&HeaderValue>,
    ) -> Result<HeaderValue, UpstreamError> {
        realm::check(&bearer.realm, &self.endpoint.settings.base, &self.endpoint.settings.realms)?;
        let Some(credentials) = credentials else { return self.token_as(None, bearer, repository, rejected).await };
        let basic = credentials.current().await?;
        match self.token_as(Some(basic.clone()), bearer, repository, rejected).await {
            Err(error @ UpstreamError::Denied { .. }) => match credentials.other_than(&basic).await {
                Some(other) => self.token_as(Some(other), bearer, repository, rejected).await,
                None => Err(error),
            },
            outcome => outcome,
        }
    }

    async fn token_as(
        &self,
        basic: Option<HeaderValue>,
        bearer: &Bearer,
        repository: &RepositoryName,
        rejected: Option<&HeaderValue>,
    ) -> Result<HeaderValue, UpstreamError> {
        let request = self.token_request(bearer, bearer.scope(repository), basic);
        Ok(self.endpoint.tokens.get(request, rejected).await?.header)
    }

    fn token_request(&self, bearer: &Bearer, scope: String, basic: Option<HeaderValue>) -> TokenRequest {
        let endpoint = &self.endpoint;
        let (realm, service, is_anonymous) = (bearer.realm.clone(), bearer.service.clone(), basic.is_none());
        TokenRequest {
            key: TokenKey { realm, service, scope, is_anonymous },
            basic,
            transport: Arc::clone(&endpoint.transport),
            limits: endpoint.settings.limits.clone(),
            clock: endpoint.clock.clone(),
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// Sends the question, and after it where redirects lead. The authorization goes to the upstream's
    /// own origin only: once left, it is dropped for good. Without an admission it was left before.
    async fn follow(
        &self,
        question: &Question<'_>,
        authorization: Option<HeaderValue>,
        mut admission: Option<&mut Admission>,
    ) -> Result<Answer, UpstreamError> {
        let mut trail = Trail::new(question.url.clone(), self.endpoint.settings.limits.max_redirects, &self.endpoint.reach);
        let mut headers = headers(question, authorization);
        let mut url = question.url.clone();
        let mut is_from_home = admission.is_some();
        loop {
            let response = self.send(question, &url, &headers).await?;
            if !is_redirect(response.status()) {
                let asked = Asked { method: question.method.clone(), url };
                return Ok(Answer { response, asked, is_from_home });
            }
            let next = trail.follow(&url, response.headers())?;
            if !address::same_origin(&url, &next) {
                headers.remove(AUTHORIZATION);
                is_from_home = false;
                if let (Lane::Blobs, Some(admission)) = (question.lane, &mut admission) {
                    // What a content network does with a blob says nothing of the registry.
                    admission.answered();
                }
            }
            url = next;
        }
    }

    /// One request, counted.
    async fn send(&self, question: &Question<'_>, url: &Url, headers: &HeaderMap) -> Result<Response, UpstreamError> {
        let began = tokio::time::Instant::now();
        let sent = self.endpoint.transport.send(question.lane, question.method.clone(), url, headers.clone()).await;
        let code = sent.as_ref().map_or(0, |response| response.status().as_u16());
        let took = began.elapsed();
        self.metrics.asked_upstream(question.method.as_str(), code, took.as_secs_f64());
        let (method, shown) = (&question.method, address::shown(url));
        tracing::debug!(%method, url = %shown, status = code, duration_ms = took.as_secs_f64() * 1000.0, "asked upstream: {method} {shown}");
        sent
    }

    /// The error that an answer which is no success stands for.
    pub(super) async fn refusal(&self, answer: Answer) -> UpstreamError {
        let endpoint = &self.endpoint;
        let asks_for_a_user = answer.is_from_home
            && answer.status() == StatusCode::UNAUTHORIZED
            && endpoint.credentials.is_none()
            && Challenge::from_headers(answer.headers()) == Some(Challenge::Basic);
        if asks_for_a_user {
            let detail = format!("{} asks for a user name and password, and the rule has no credentials", answer.asked.shown());
            return UpstreamError::Denied { status: 401, detail };
        }
        status::refusal(answer.response, &answer.asked, &endpoint.settings.limits, endpoint.clock.now()).await
    }
}

fn headers(question: &Question<'_>, authorization: Option<HeaderValue>) -> HeaderMap {
    let accept = question.accept.map(|accept| (ACCEPT, HeaderValue::from_static(accept)));
    let range = question.range.clone().map(|range| (RANGE, range));
    let authorization = authorization.map(|authorization| (AUTHORIZATION, authorization));
    accept.into_iter().chain(range).chain(authorization).collect()
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}
