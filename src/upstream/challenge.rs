//! `WWW-Authenticate` (RFC 9110 §11.6.1): what an upstream wants to see.

use http_auth::parser::ChallengeParser;
use reqwest::Url;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

use crate::oci::RepositoryName;

/// What an upstream asks for. Remembered, so that later requests need no 401 first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token of this realm.
    Bearer(Bearer),
    /// Name and password.
    Basic,
}

/// A Bearer challenge (distribution specification's token authentication).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bearer {
    /// Where tokens are issued, as named. Not yet trusted.
    pub(super) realm: Url,
    /// Given back to the realm.
    pub(super) service: Option<String>,
    /// As named.
    scope: Option<String>,
}

impl Bearer {
    /// The scope to ask for, to pull from a repository: one that names no repository (`aws`) is for all.
    pub(super) fn scope(&self, repository: &RepositoryName) -> String {
        let fixed = self.scope.clone().filter(|scope| !scope.starts_with("repository:"));
        fixed.unwrap_or_else(|| format!("repository:{repository}:pull"))
    }

    /// The scope as named, by a host that may know the repository under another name.
    pub(super) fn named_scope(&self, repository: &RepositoryName) -> String {
        self.scope.clone().unwrap_or_else(|| self.scope(repository))
    }
}

/// Longest header line looked at, in bytes.
const MAX_LINE_BYTES: usize = 8 * 1024;

impl Challenge {
    /// The best challenge of all header lines: Bearer before Basic. `None` when there is neither.
    pub(super) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let lines = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|line| line.to_str().ok());
        let mut found = None;
        for challenge in lines.flat_map(Self::parse) {
            match challenge {
                Self::Bearer(_) => return Some(challenge),
                Self::Basic => found = Some(challenge),
            }
        }
        found
    }

    /// Every usable challenge of one line, up to the first syntax error.
    fn parse(line: &str) -> Vec<Self> {
        if line.len() > MAX_LINE_BYTES {
            return Vec::new();
        }
        ChallengeParser::new(line).map_while(Result::ok).filter_map(|challenge| Self::read(&challenge)).collect()
    }

    fn read(challenge: &http_auth::ChallengeRef<'_>) -> Option<Self> {
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !challenge.scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameter = |name: &str| {
            let (_, value) = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
            Some(value.to_unescaped())
        };
        let realm = Url::parse(&parameter("realm")?).ok()?;
        let scope = parameter("scope").filter(|scope| !scope.is_empty());
        Some(Self::Bearer(Bearer { realm, service: parameter("service"), scope }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn best(lines: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(WWW_AUTHENTICATE, line.parse().unwrap());
        }
        Challenge::from_headers(&headers)
    }

    fn bearer(lines: &[&str]) -> Bearer {
        match best(lines) {
            Some(Challenge::Bearer(bearer)) => bearer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_usual_challenge_is_read_whole() {
        let line =
            r#"Bearer realm="https://auth.example/token?account=x",service="one, with = and , signs",scope="repository:a/b:pull,push""#;
        let bearer = bearer(&[line]);
        assert_eq!(bearer.realm.as_str(), "https://auth.example/token?account=x");
        assert_eq!(bearer.service.as_deref(), Some("one, with = and , signs"));
        assert_eq!(bearer.scope(&RepositoryName::parse("c/d").unwrap()), "repository:c/d:pull");
    }

    #[test]
    fn bearer_is_preferred_in_whatever_order_and_lines() {
        let realm = r#"bearer realm="https://a/token""#;
        let together = format!(r#"Basic realm="x", {realm}"#);
        for lines in [&["Basic realm=x", realm][..], &[realm, "Basic realm=x"], &[together.as_str()], &["Negotiate", realm]] {
            assert_eq!(bearer(lines).realm.as_str(), "https://a/token", "{lines:?}");
        }
    }

    #[test]
    fn escapes_in_quotes_are_taken_out() {
        assert_eq!(bearer(&[r#"Bearer realm="https://a/t",service="a\"b""#]).service.as_deref(), Some("a\"b"));
    }

    #[test]
    fn a_scope_that_names_no_repository_is_kept() {
        let bearer = bearer(&[r#"Bearer realm="https://a/t",scope="aws""#]);
        assert_eq!(bearer.scope(&RepositoryName::parse("c/d").unwrap()), "aws");
    }

    #[test]
    fn what_cannot_be_used_is_left_out() {
        assert_eq!(best(&["Basic"]), Some(Challenge::Basic));
        assert_eq!(best(&[r#"Bearer service="x""#, "Negotiate", "Bearer realm=nowhere", "=,\"", ""]), None);
        assert_eq!(best(&[]), None);
        assert_eq!(best(&[&format!("Basic realm=\"{}\"", "x".repeat(9000))]), None);
    }

    proptest! {
        #[test]
        fn any_text_is_taken(line in "\\PC*|[ -~]*|(Bearer |Basic |[a-z]+=|\"|,|\\\\|https://a){0,20}") {
            let _ = Challenge::parse(&line);
        }
    }
}
