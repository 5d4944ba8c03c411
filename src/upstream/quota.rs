//! What an upstream tells of its pull limit: `RateLimit-Limit` and `-Remaining`, as Docker Hub sends them
//! with manifests (`100;w=21600`: 100 in 21 600 seconds).
//!
//! No numbers mean nothing: accounts and images without a limit have none. What was told counts for
//! its window, and for one that tells none, an hour.

use std::time::{Duration, SystemTime};

use reqwest::header::HeaderMap;

use super::circuit::Pause;
use super::error_body::harmless;

/// How long a quota counts whose window is not told.
const UNTOLD_WINDOW: Duration = Duration::from_secs(60 * 60);
/// A longer window is not believed.
const MAX_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

/// What is left of a pull limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Pulls in each window.
    pub limit: Option<u64>,
    /// Those that are left.
    pub remaining: u64,
    /// How long a window lasts.
    pub window: Duration,
    /// Whom the pulls are counted for: an address, or the identifier of a user.
    pub source: Option<String>,
}

impl Quota {
    /// What the headers of an answer tell. `None` where they do not tell how many are left.
    pub(super) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let (remaining, window) = counted(text("ratelimit-remaining")?)?;
        let limit = text("ratelimit-limit").and_then(counted);
        let window = window.or(limit.and_then(|(_, window)| window)).unwrap_or(UNTOLD_WINDOW).min(MAX_WINDOW);
        let source = text("docker-ratelimit-source").map(harmless).filter(|source| !source.is_empty());
        Some(Self { limit: limit.map(|(limit, _)| limit), remaining, window, source })
    }
}

/// `100;w=21600`: a number, and the seconds that it is for. Of several only the first.
fn counted(value: &str) -> Option<(u64, Option<Duration>)> {
    let mut parts = value.split(',').next()?.split(';').map(str::trim);
    let count = parts.next()?.parse().ok()?;
    let seconds = parts.find_map(|part| part.strip_prefix("w=")?.parse().ok());
    Some((count, seconds.map(Duration::from_secs)))
}

/// What was told last, and when.
#[derive(Debug, Default)]
pub(super) struct QuotaBook {
    told: Option<(Quota, SystemTime)>,
    /// When a request was let through under the floor, to see what is left.
    looked_at: Option<SystemTime>,
}

impl QuotaBook {
    /// Enters what was told. True if it is news.
    pub(super) fn enter(&mut self, quota: &Quota, now: SystemTime) -> bool {
        let before = self.told.replace((quota.clone(), now));
        before.is_none_or(|(before, _)| before != *quota)
    }

    /// What was told within its window.
    pub(super) fn current(&self, now: SystemTime) -> Option<&Quota> {
        self.left_of_window(now).and(self.told.as_ref()).map(|(quota, _)| quota)
    }

    /// How long a quota of which nothing remains counts at most.
    pub(super) fn used_up_for(&self, now: SystemTime) -> Option<Duration> {
        self.left_of_window(now).filter(|_| self.told.as_ref().is_some_and(|(quota, _)| quota.remaining == 0))
    }

    /// Where no more than `floor` remain: for how long that may hold. A floor of 0 is none.
    pub(super) fn saved_for(&self, floor: u64, now: SystemTime) -> Option<Duration> {
        let (quota, _) = self.told.as_ref()?;
        self.left_of_window(now).filter(|_| floor > 0 && quota.remaining <= floor)
    }

    /// For how long what is left needs not be looked up again: nobody has for `every`.
    pub(super) fn known_for(&self, every: Duration, now: SystemTime) -> Option<Duration> {
        let told_at = self.told.as_ref().map(|(_, at)| *at);
        let since = told_at.max(self.looked_at)?;
        Pause { since, lasts: every }.left(now)
    }

    /// A request is let through to see what is left.
    pub(super) fn looks(&mut self, now: SystemTime) {
        self.looked_at = Some(now);
    }

    fn left_of_window(&self, now: SystemTime) -> Option<Duration> {
        let (quota, told_at) = self.told.as_ref()?;
        Pause { since: *told_at, lasts: quota.window }.left(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quota(lines: &[(&'static str, &str)]) -> Option<Quota> {
        let headers = lines.iter().map(|(name, value)| (reqwest::header::HeaderName::from_static(name), value.parse().unwrap()));
        Quota::from_headers(&headers.collect())
    }

    #[test]
    fn docker_hubs_headers_are_understood() {
        let told =
            quota(&[("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", "20;w=21600"), ("docker-ratelimit-source", "192.0.2.1")]);
        let window = Duration::from_secs(21_600);
        assert_eq!(told, Some(Quota { limit: Some(100), remaining: 20, window, source: Some("192.0.2.1".to_owned()) }));
    }

    #[test]
    fn other_spellings_are_understood_and_nonsense_tells_nothing() {
        let remaining = |value: &str| quota(&[("ratelimit-remaining", value)]).map(|quota| (quota.remaining, quota.window.as_secs()));
        assert_eq!(remaining("0"), Some((0, 3600)));
        assert_eq!(remaining(" 7 ; comment=\"x\" ; w=60, 1000;w=3600"), Some((7, 60)));
        assert_eq!(remaining("7;w=99999999999"), Some((7, 86_400)));
        for nothing in ["", "many", "-1", ";w=60", "w=60"] {
            assert_eq!(remaining(nothing), None, "{nothing}");
        }
        assert_eq!(quota(&[("ratelimit-limit", "100;w=21600")]), None);
        let from_limit = quota(&[("ratelimit-limit", "5;w=10"), ("ratelimit-remaining", "1")]).unwrap();
        assert_eq!((from_limit.limit, from_limit.window.as_secs()), (Some(5), 10));
    }

    #[test]
    fn what_was_told_counts_for_its_window() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut book = QuotaBook::default();
        assert_eq!((book.current(at(0)), book.saved_for(10, at(0))), (None, None));
        let quota = quota(&[("ratelimit-remaining", "0;w=100")]).unwrap();
        assert!(book.enter(&quota, at(1000)) && !book.enter(&quota, at(1000)));
        assert_eq!(book.saved_for(10, at(1040)), Some(Duration::from_secs(60)));
        assert_eq!((book.saved_for(0, at(1040)), book.used_up_for(at(1040))), (None, Some(Duration::from_secs(60))));
        assert_eq!((book.current(at(1100)), book.saved_for(10, at(1100)), book.used_up_for(at(1100))), (None, None, None));
        assert_eq!(book.known_for(Duration::from_secs(60), at(1060)), None);
        book.looks(at(1060));
        assert_eq!(book.known_for(Duration::from_secs(60), at(1070)), Some(Duration::from_secs(50)));
    }

    proptest! {
        #[test]
        fn any_text_is_taken(value in "[ -~]*|([0-9]{1,25}|;|w=|,| ){0,9}") {
            let _ = counted(&value);
        }
    }
}
