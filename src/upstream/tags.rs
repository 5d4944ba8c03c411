//! Lists of tags, all pages of them.

use std::collections::BTreeSet;

use reqwest::header::LINK;
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use super::admission::Admission;
use super::circuit::{Asking, Purpose};
use super::exchange::{Answer, Question};
use super::status::body_within;
use super::transport::Lane;
use super::{Upstream, UpstreamError, address, link};
use crate::oci::{RepositoryName, Tag};

/// Tags asked for on each page: what most registries allow at most.
const PAGE_TAGS: usize = 1000;

/// The answer of `tags/list` (distribution specification, "Listing Tags"); some send `null`.
#[derive(Deserialize)]
struct Page {
    tags: Option<Vec<String>>,
}

impl Upstream {
    /// Every tag of a repository, sorted, each once. Names that are no tags are left out.
    ///
    /// # Errors
    /// Every [`UpstreamError`]; [`UpstreamError::Lied`] also for more pages or tags than the limits, and
    /// for a next page elsewhere. A part of the list is never returned as the whole.
    pub async fn list_tags(&self, repository: &RepositoryName, purpose: Purpose) -> Result<Vec<Tag>, UpstreamError> {
        let limits = &self.endpoint.settings.limits;
        let mut url = self.endpoint.url(&format!("{repository}/tags/list"));
        url.set_query(Some(&format!("n={PAGE_TAGS}")));
        let mut tags = BTreeSet::new();
        for _ in 0..limits.max_tag_pages {
            let mut admission = self.admit(Asking::List, purpose)?;
            let outcome = self.in_time(self.ask_page(repository, &url, &mut admission)).await;
            admission.settle(&outcome);
            let (page, next) = outcome?;
            tags.extend(page.tags.unwrap_or_default().iter().filter_map(|tag| Tag::parse(tag).ok()));
            if tags.len() > limits.max_tags {
                return Err(UpstreamError::lied(format!("{} lists more than {} tags", address::shown(&url), limits.max_tags)));
            }
            match next {
                Some(next) => url = next,
                None => return Ok(tags.into_iter().collect()),
            }
        }
        Err(UpstreamError::lied(format!("{} lists more than {} pages of tags", address::shown(&url), limits.max_tag_pages)))
    }

    async fn ask_page(
        &self,
        repository: &RepositoryName,
        url: &Url,
        admission: &mut Admission,
    ) -> Result<(Page, Option<Url>), UpstreamError> {
        let question = Question {
            method: Method::GET,
            lane: Lane::Small,
            repository,
            url: url.clone(),
            accept: Some("application/json"),
            range: None,
        };
        let answer = self.ask(&question, admission).await?;
        if answer.status() != StatusCode::OK {
            return Err(self.refusal(answer).await);
        }
        let Answer { response, asked, .. } = answer;
        let link = response.headers().get(LINK).and_then(|value| value.to_str().ok()).and_then(link::next).map(str::to_owned);
        let body = body_within(response, &asked, self.endpoint.settings.limits.max_tag_page_bytes, &self.endpoint.settings.limits).await?;
        let page =
            serde_json::from_slice(&body).map_err(|_| UpstreamError::lied(format!("{} answered with no list of tags", asked.shown())))?;
        let next = link.map(|link| link::next_page(url, &link, &asked)).transpose()?;
        Ok((page, next))
    }
}
