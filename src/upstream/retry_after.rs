//! `Retry-After` (RFC 9110 §10.2.3), and what registries send in its place.

use std::time::{Duration, SystemTime};

use reqwest::header::HeaderMap;

/// Numbers from here on are a point in time, in seconds since 1970, and no count of seconds (31 years).
const UNIX_TIME_FROM: u64 = 1_000_000_000;

/// How long to wait: from seconds, an HTTP date, or a unix time, in `Retry-After` or `X-Retry-After`.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    ["retry-after", "x-retry-after"].iter().find_map(|name| parse(headers.get(*name)?.to_str().ok()?, now))
}

fn parse(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let until = match value.parse::<u64>() {
        Ok(seconds) if seconds < UNIX_TIME_FROM => return Some(Duration::from_secs(seconds)),
        Ok(unix_seconds) => SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(unix_seconds))?,
        Err(_) => httpdate::parse_http_date(value).ok()?,
    };
    Some(until.duration_since(now).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn seconds_dates_and_unix_times_are_understood() {
        let date = httpdate::fmt_http_date(now() + Duration::from_secs(90));
        assert_eq!(parse(" 120 ", now()), Some(Duration::from_secs(120)));
        assert_eq!(parse(&date, now()), Some(Duration::from_secs(90)));
        assert_eq!(parse("1800000030", now()), Some(Duration::from_secs(30)));
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT", now()), Some(Duration::ZERO));
        assert_eq!(parse("soon", now()), None);
        assert_eq!(parse("-1", now()), None);
    }

    #[test]
    fn the_other_header_is_read_where_the_first_is_missing() {
        let mut headers = HeaderMap::new();
        headers.insert("x-retry-after", "7".parse().unwrap());
        assert_eq!(retry_after(&headers, now()), Some(Duration::from_secs(7)));
        headers.insert("retry-after", "5".parse().unwrap());
        assert_eq!(retry_after(&headers, now()), Some(Duration::from_secs(5)));
    }

    proptest! {
        #[test]
        fn any_text_is_taken(value in "\\PC*|[0-9]{1,30}") {
            let _ = parse(&value, now());
        }
    }
}
