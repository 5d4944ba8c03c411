//! `Link: <…>; rel="next"` (RFC 8288): the next page of a list.

use reqwest::Url;

use super::status::Asked;
use super::{UpstreamError, address};

/// The next page of the list at `url`: of a link only the query is used. Behind base paths and
/// proxies the rest of it is often wrong; that it names another host is a lie.
pub(super) fn next_page(url: &Url, link: &str, asked: &Asked) -> Result<Url, UpstreamError> {
    let lied = |what: &str| UpstreamError::lied(format!("{} names a next page {what}", asked.shown()));
    let target = url.join(link).map_err(|_| lied("that is no URL"))?;
    if !address::same_origin(&target, url) {
        return Err(lied("on another host"));
    }
    let mut next = url.clone();
    next.set_query(target.query());
    if &next == url { Err(lied("that is this one")) } else { Ok(next) }
}

/// The target of the first link with the relation `next`, not yet resolved.
pub(super) fn next(value: &str) -> Option<&str> {
    let mut rest = value;
    loop {
        let (_, after) = rest.split_once('<')?;
        let (target, parameters) = after.split_once('>')?;
        let parameters_end = parameters.find(",").unwrap_or(parameters.len());
        let (own, others) = parameters.split_at_checked(parameters_end)?;
        if own.split(';').any(is_next) {
            return Some(target);
        }
        rest = others;
    }
}

fn is_next(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else { return false };
    let relations = value.trim().trim_matches('"');
    name.trim().eq_ignore_ascii_case("rel") && relations.split_ascii_whitespace().any(|relation| relation.eq_ignore_ascii_case("next"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn next_page_is_found_among_links() {
        assert_eq!(next(r#"</v2/a/tags/list?last=b&n=1>; rel="next""#), Some("/v2/a/tags/list?last=b&n=1"));
        assert_eq!(next("<x,y>; Rel=next"), Some("x,y"));
        assert_eq!(next(r#"<a>; rel="prev", <b>; title=x; rel="last next""#), Some("b"));
        assert_eq!(next(r#"<a>; rel="prev", <b>"#), None);
        assert_eq!(next("a; rel=next"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_taken(value in "\\PC*|(<|>|,|;|rel=|next|\"|a){0,30}") {
            let _ = next(&value);
        }
    }
}
