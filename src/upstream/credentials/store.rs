//! Keeps the credentials of a source: read once for all who need them, given while they hold.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use futures::future::{BoxFuture, FutureExt, Shared};
use reqwest::header::HeaderValue;
use tokio_util::task::AbortOnDropHandle;

use super::super::{Unavailability, UpstreamBuildError, UpstreamError};
use super::{Aws, CredentialSource, Login, ReadError, ecr, file, process, secrets_manager};
use crate::clock::Clock;
use crate::telemetry::metrics::CredentialMetrics;

/// Of one read of a source, with a role to assume first.
const READ_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a source that failed is left alone. What is at hand is used meanwhile.
const FAILED_PAUSE: Duration = Duration::from_secs(10);
/// After a read that a refusal of the upstream asked for, others are not heard for so long: what is
/// wrong for good would have the source read at every request.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

/// All stores of a process. Upstreams with equal sources have one store, so that they read it once.
pub struct CredentialStores {
    aws: Aws,
    clock: Clock,
    metrics: CredentialMetrics,
    in_use: Mutex<Vec<Weak<CredentialStore>>>,
}

impl CredentialStores {
    /// No stores yet.
    #[must_use]
    pub const fn new(aws: Aws, clock: Clock, metrics: CredentialMetrics) -> Self {
        Self { aws, clock, metrics, in_use: Mutex::new(Vec::new()) }
    }

    /// The store of a source; reads nothing yet.
    ///
    /// # Errors
    /// When a given name or password cannot be sent.
    pub fn of(&self, source: &CredentialSource) -> Result<Arc<CredentialStore>, UpstreamBuildError> {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.retain(|store| store.strong_count() > 0);
        if let Some(store) = in_use.iter().filter_map(Weak::upgrade).find(|store| store.source == *source) {
            return Ok(store);
        }
        let store = Arc::new(CredentialStore::new(source.clone(), self)?);
        in_use.push(Arc::downgrade(&store));
        Ok(store)
    }
}

type Outcome = Result<Arc<Login>, Failed>;
/// Under way or done. The read runs in a task of its own, owned by this: callers that leave do not
/// end it.
type Reading = Shared<BoxFuture<'static, Outcome>>;

/// The credentials of one source.
pub struct CredentialStore {
    source: CredentialSource,
    aws: Aws,
    clock: Clock,
    metrics: CredentialMetrics,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: Option<Arc<Login>>,
    reading: Option<Reading>,
    failed: Option<Failed>,
    /// Until then, a refusal does not have the source read.
    heard_from: Option<SystemTime>,
}

#[derive(Clone)]
struct Failed {
    error: ReadError,
    /// The end of the pause that follows.
    until: SystemTime,
}

/// What a request does.
enum Step {
    Use(HeaderValue),
    Wait(Reading),
    GiveUp(Option<ReadError>),
}

impl CredentialStore {
    fn new(source: CredentialSource, stores: &CredentialStores) -> Result<Self, UpstreamBuildError> {
        let now = stores.clock.now();
        let kept = match &source {
            CredentialSource::Password { credential, .. } => {
                let login = Login::lasting(&credential.username, &credential.password, now);
                Some(Arc::new(login.map_err(|_| UpstreamBuildError::Username)?))
            }
            CredentialSource::SecretsManager { .. } | CredentialSource::Ecr(_) | CredentialSource::Process { .. } => None,
        };
        let (aws, clock, metrics) = (stores.aws.clone(), stores.clock.clone(), stores.metrics.clone());
        Ok(Self { source, aws, clock, metrics, state: Mutex::new(State { kept, ..State::default() }) })
    }

    /// What it keeps the credentials of.
    pub(in super::super) const fn source(&self) -> &CredentialSource {
        &self.source
    }

    /// The credentials. Past the time to read the source again they are given while that goes on.
    ///
    /// # Errors
    /// When there are none that hold, and none can be had.
    pub(in super::super) async fn current(&self) -> Result<HeaderValue, UpstreamError> {
        let read = match self.step(None) {
            Step::Use(header) => return Ok(header),
            Step::Wait(reading) => reading.await.map(|login| login.header.clone()).map_err(|failed| failed.error),
            Step::GiveUp(error) => Err(error.unwrap_or_else(|| ReadError::refused("there are none"))),
        };
        read.map_err(|error| {
            let detail = format!("the rule's credentials cannot be had: {error}");
            UpstreamError::unavailable(Unavailability::Credentials, detail)
        })
    }

    /// Others than `refused`, which the upstream or its realm did not take; `None` where the source has
    /// no others.
    pub(in super::super) async fn other_than(&self, refused: &HeaderValue) -> Option<HeaderValue> {
        let other = match self.step(Some(refused)) {
            Step::Use(header) => Some(header),
            Step::Wait(reading) => reading.await.ok().map(|login| login.header.clone()),
            Step::GiveUp(_) => None,
        };
        other.filter(|header| header != refused)
    }

    fn step(&self, refused: Option<&HeaderValue>) -> Step {
        let now = self.clock.now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.settle(&mut state);
        let is_usable = |login: &&Arc<Login>| login.holds(now) && Some(&login.header) != refused;
        if let Some(login) = state.kept.as_ref().filter(is_usable).cloned() {
            if now >= login.renew_at && self.source.changes() && !state.is_left_alone(now) {
                drop(self.begin(&mut state));
            }
            return Step::Use(login.header.clone());
        }
        if let Some(reading) = &state.reading {
            return Step::Wait(reading.clone());
        }
        if state.is_left_alone(now) || !self.source.changes() {
            return Step::GiveUp(state.failed.as_ref().map(|failed| failed.error.clone()));
        }
        if refused.is_some() {
            if state.heard_from.is_some_and(|from| now < from) {
                return Step::GiveUp(None);
            }
            state.heard_from = Some(now + REFUSED_PAUSE);
            tracing::info!(source = %self.source.shown(), "credentials were refused upstream: reading {} again", self.source.shown());
        }
        Step::Wait(self.begin(&mut state))
    }

    /// Takes over what a read that is done has brought.
    fn settle(&self, state: &mut MutexGuard<'_, State>) {
        match state.reading.clone().and_then(FutureExt::now_or_never) {
            None => return,
            Some(Ok(login)) => {
                state.failed = None;
                if state.kept.as_ref().is_some_and(|kept| kept.header != login.header) {
                    tracing::info!(source = %self.source.shown(), "{} has other credentials now", self.source.shown());
                }
                state.kept = Some(login);
            }
            Some(Err(failed)) => state.failed = Some(failed),
        }
        state.reading = None;
    }

    /// Reads the source, unless that goes on already.
    fn begin(&self, state: &mut MutexGuard<'_, State>) -> Reading {
        if let Some(reading) = &state.reading {
            return reading.clone();
        }
        let (source, aws, clock, metrics) = (self.source.clone(), self.aws.clone(), self.clock.clone(), self.metrics.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let late = || ReadError::unreachable(format!("{} did not answer within {READ_TIMEOUT:?}", source.shown()));
            let read = tokio::time::timeout(READ_TIMEOUT, read(&source, &aws, &clock)).await.unwrap_or_else(|_| Err(late()));
            metrics.read(source.kind(), read.as_ref().map_or_else(ReadError::outcome, |_| "read"));
            match &read {
                Ok(_) => tracing::debug!(source = %source.shown(), "read the credentials from {}", source.shown()),
                Err(error) => tracing::warn!(source = %source.shown(), "cannot read the credentials of an upstream: {error}"),
            }
            read.map(Arc::new).map_err(|error| Failed { error, until: clock.now() + FAILED_PAUSE })
        }));
        let ended_at = self.clock.now();
        let ended = move |joined: Result<Outcome, _>| {
            joined.unwrap_or_else(|_| Err(Failed { error: ReadError::unreachable("the read was ended"), until: ended_at }))
        };
        let reading = task.map(ended).boxed().shared();
        state.reading = Some(reading.clone());
        reading
    }
}

impl State {
    fn is_left_alone(&self, now: SystemTime) -> bool {
        self.failed.as_ref().is_some_and(|failed| now < failed.until)
    }
}

async fn read(source: &CredentialSource, aws: &Aws, clock: &Clock) -> Result<Login, ReadError> {
    let now = clock.now();
    let credential = match source {
        CredentialSource::Password { credential, file: None } => credential.clone(),
        CredentialSource::Password { credential, file: Some(path) } => {
            return Login::lasting(&credential.username, &file::read(path).await?, now);
        }
        CredentialSource::SecretsManager { arn, region } => secrets_manager::read(aws, arn, region).await?,
        CredentialSource::Ecr(tokens) => {
            let (credential, ends_at) = ecr::read(aws, tokens).await?;
            return Login::ending(&credential.username, &credential.password, now, ends_at);
        }
        CredentialSource::Process { command, server } => process::read(command, server).await?,
    };
    Login::lasting(&credential.username, &credential.password, now)
}
