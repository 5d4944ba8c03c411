//! Which part of a content a request wants, and whether it has it already (RFC 9110 §13, §14).
//!
//! The entity tag of everything here is its digest, in quotes.

use axum::http::HeaderMap;
use axum::http::header::{IF_NONE_MATCH, IF_RANGE, RANGE};

use crate::oci::{Digest, RangeRequest};

/// The entity tag of a content.
pub(super) fn entity_tag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether the client has the content: answered 304.
pub(super) fn is_known(headers: &HeaderMap, digest: &Digest) -> bool {
    if !headers.contains_key(IF_NONE_MATCH) {
        return false;
    }
    let ours = entity_tag(digest);
    let values = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).any(|theirs| theirs == "*" || theirs.trim_start_matches("W/") == ours)
}

/// The range asked for; `None` if the whole is wanted, or `If-Range` names another content.
pub(super) fn range(headers: &HeaderMap, digest: &Digest) -> Option<RangeRequest> {
    let range = headers.get(RANGE)?.to_str().ok()?;
    if let Some(condition) = headers.get(IF_RANGE)
        && condition.to_str().ok() != Some(entity_tag(digest).as_str())
    {
        return None;
    }
    RangeRequest::parse(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, String)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_list_of_entity_tags_is_searched() {
        let digest = Digest::of(b"x");
        assert!(is_known(&headers(&[("if-none-match", format!("\"a\", W/\"{digest}\""))]), &digest));
        assert!(is_known(&headers(&[("if-none-match", "*".to_owned())]), &digest));
        assert!(!is_known(&headers(&[("if-none-match", format!("{digest}"))]), &digest));
        assert!(!is_known(&headers(&[]), &digest));
    }

    #[test]
    fn if_range_of_another_content_takes_the_range_away() {
        let digest = Digest::of(b"x");
        let asked = ("range", "bytes=1-2".to_owned());
        let wanted = Some(RangeRequest::FromTo { first: 1, last: 2 });
        assert_eq!(range(&headers(std::slice::from_ref(&asked)), &digest), wanted);
        assert_eq!(range(&headers(&[asked.clone(), ("if-range", format!("\"{digest}\""))]), &digest), wanted);
        assert_eq!(range(&headers(&[asked, ("if-range", "\"other\"".to_owned())]), &digest), None);
    }
}
