//! Lists of referrers: by the API, or by the tag that stands in for it where there is none.

use std::collections::BTreeMap;

use reqwest::header::{CONTENT_TYPE, LINK};
use reqwest::{Method, StatusCode, Url};

use super::admission::Admission;
use super::circuit::{Asking, Purpose};
use super::exchange::{Answer, Question};
use super::status::body_within;
use super::transport::Lane;
use super::{Upstream, UpstreamError, address, link};
use crate::oci::{Digest, ManifestSummary, MediaType, Reference, Referrer, RepositoryName};

/// What a request for a page brought.
enum Page {
    /// The upstream does not have the API.
    Unsupported,
    Listed(Vec<Referrer>, Option<Url>),
}

/// All pages so far, within the limits.
#[derive(Default)]
struct Collected {
    referrers: BTreeMap<Digest, Referrer>,
    weight_bytes: usize,
}

impl Upstream {
    /// Every manifest that says it is about `subject`, each once, by digest. Registries without the API
    /// are asked for the tag that stands in for it; one that has neither has no referrers.
    ///
    /// # Errors
    /// Every [`UpstreamError`]; [`UpstreamError::Lied`] also for more pages or entries than the limits,
    /// and for a next page elsewhere. A part of the list is never returned as the whole.
    pub async fn list_referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        purpose: Purpose,
    ) -> Result<Vec<Referrer>, UpstreamError> {
        match self.referrers_by_api(repository, subject, purpose).await {
            Ok(Some(referrers)) => Ok(referrers),
            // Many registries refuse paths that they do not know: the tag tells whether it was that.
            Ok(None) | Err(UpstreamError::Denied { .. }) => self.referrers_by_tag(repository, subject, purpose).await,
            Err(error) => Err(error),
        }
    }

    /// `None` where the upstream does not have the API.
    async fn referrers_by_api(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        purpose: Purpose,
    ) -> Result<Option<Vec<Referrer>>, UpstreamError> {
        let limits = &self.endpoint.settings.limits;
        let mut url = self.endpoint.url(&format!("{repository}/referrers/{subject}"));
        let mut collected = Collected::default();
        for number in 0..limits.max_referrer_pages {
            let mut admission = self.admit(Asking::List, purpose)?;
            let outcome = self.in_time(self.ask_referrers(repository, &url, &mut admission)).await;
            admission.settle(&outcome);
            match outcome? {
                Page::Unsupported if number == 0 => return Ok(None),
                Page::Unsupported => {
                    return Err(UpstreamError::lied(format!("{} is named as a next page, and is none", address::shown(&url))));
                }
                Page::Listed(page, next) => {
                    if !collected.takes(page, limits.max_referrers, limits.max_referrers_bytes) {
                        return Err(UpstreamError::lied(format!("{} lists more referrers than this server takes", address::shown(&url))));
                    }
                    let Some(next) = next else { return Ok(Some(collected.referrers.into_values().collect())) };
                    url = next;
                }
            }
        }
        Err(UpstreamError::lied(format!("{} lists more than {} pages of referrers", address::shown(&url), limits.max_referrer_pages)))
    }

    async fn ask_referrers(&self, repository: &RepositoryName, url: &Url, admission: &mut Admission) -> Result<Page, UpstreamError> {
        let question = Question {
            method: Method::GET,
            lane: Lane::Small,
            repository,
            url: url.clone(),
            accept: Some(MediaType::OCI_INDEX),
            range: None,
        };
        let answer = self.ask(&question, admission).await?;
        if is_unsupported(&answer) {
            return Ok(Page::Unsupported);
        }
        if answer.status() != StatusCode::OK {
            return Err(self.refusal(answer).await);
        }
        let Answer { response, asked, .. } = answer;
        let link = response.headers().get(LINK).and_then(|value| value.to_str().ok()).and_then(link::next).map(str::to_owned);
        let body = body_within(response, &asked, ManifestSummary::MAX_BYTES, &self.endpoint.settings.limits).await?;
        let referrers = Referrer::parse_index(&body)
            .ok_or_else(|| UpstreamError::lied(format!("{} answered with no list of referrers", asked.shown())))?;
        let next = link.map(|link| link::next_page(url, &link, &asked)).transpose()?;
        Ok(Page::Listed(referrers, next))
    }

    async fn referrers_by_tag(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        purpose: Purpose,
    ) -> Result<Vec<Referrer>, UpstreamError> {
        let Some(tag) = Referrer::fallback_tag(subject) else { return Ok(Vec::new()) };
        let body = match self.get_manifest(repository, &Reference::Tag(tag), purpose).await {
            Ok(body) => body,
            Err(UpstreamError::NotFound { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let limits = &self.endpoint.settings.limits;
        let mut collected = Collected::default();
        let listed = Referrer::parse_index(&body.bytes).unwrap_or_default();
        if collected.takes(listed, limits.max_referrers, limits.max_referrers_bytes) {
            Ok(collected.referrers.into_values().collect())
        } else {
            Err(UpstreamError::lied(format!("{repository} lists more referrers of {subject} than this server takes")))
        }
    }
}

impl Collected {
    /// Takes a page; false if that is more than the limits.
    fn takes(&mut self, page: Vec<Referrer>, max_referrers: usize, max_bytes: usize) -> bool {
        self.weight_bytes += page.iter().map(Referrer::weight_bytes).sum::<usize>();
        self.referrers.extend(page.into_iter().map(|referrer| (referrer.digest, referrer)));
        self.referrers.len() <= max_referrers && self.weight_bytes <= max_bytes
    }
}

/// What registries say of a path that they do not have; some send a page for people.
fn is_unsupported(answer: &Answer) -> bool {
    match answer.status().as_u16() {
        400 | 404 | 405 | 406 | 410 | 501 => true,
        200 => {
            let sent = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
            !sent
                .and_then(|text| MediaType::parse(text).ok())
                .is_some_and(|sent| sent.as_str() == MediaType::OCI_INDEX || sent.is_generic())
        }
        _ => false,
    }
}
