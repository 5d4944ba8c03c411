//! Who may ask, and the tokens.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

enum Demand {
    Nothing,
    Basic { authorization: String },
    Bearer { login: Option<String> },
}

struct Issued {
    scope: String,
    expires_at: SystemTime,
}

/// How a realm says what it gives.
pub(super) struct TokenForm {
    /// `token`, or what others call it.
    pub(super) field: &'static str,
    /// Whether it tells how long the token lives.
    pub(super) tells_life: bool,
}

pub(super) struct Auth {
    demand: Demand,
    pub(super) form: TokenForm,
    /// The one scope that there is, whatever the repository.
    pub(super) scope: Option<String>,
    pub(super) lifetime: Duration,
    pub(super) realm: String,
    pub(super) lines: Option<Vec<String>>,
    issued: HashMap<String, Issued>,
    issued_total: usize,
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{password}")))
}

impl Auth {
    pub(super) fn none(realm: String) -> Self {
        let form = TokenForm { field: "token", tells_life: true };
        Self {
            demand: Demand::Nothing,
            form,
            scope: None,
            lifetime: Duration::from_secs(300),
            realm,
            lines: None,
            issued: HashMap::new(),
            issued_total: 0,
        }
    }

    pub(super) fn require_nothing(&mut self) {
        self.demand = Demand::Nothing;
    }

    pub(super) fn require_basic(&mut self, username: &str, password: &str) {
        self.demand = Demand::Basic { authorization: basic(username, password) };
    }

    pub(super) fn require_bearer(&mut self, login: Option<(&str, &str)>) {
        self.demand = Demand::Bearer { login: login.map(|(username, password)| basic(username, password)) };
    }

    pub(super) fn revoke(&mut self) {
        self.issued.clear();
    }

    /// The answer of `/token`; none is 401.
    pub(super) fn issue(&mut self, scope: &str, authorization: Option<&str>, now: SystemTime) -> Option<serde_json::Value> {
        if let Demand::Bearer { login: Some(login) } = &self.demand
            && authorization != Some(login)
        {
            return None;
        }
        self.issued_total += 1;
        let token = format!("token-{}", self.issued_total);
        self.issued.insert(token.clone(), Issued { scope: scope.to_owned(), expires_at: now + self.lifetime });
        let mut answer = serde_json::Map::from_iter([(self.form.field.to_owned(), token.into())]);
        if self.form.tells_life {
            answer.insert("expires_in".to_owned(), self.lifetime.as_secs().into());
        }
        Some(answer.into())
    }

    /// The `WWW-Authenticate` lines for a request that may not pass.
    pub(super) fn challenge(&self, repository: &str, authorization: Option<&str>, now: SystemTime) -> Option<Vec<String>> {
        let scope = self.scope.clone().unwrap_or_else(|| format!("repository:{repository}:pull"));
        let token = authorization.and_then(|value| value.strip_prefix("Bearer "));
        let (passes, line) = match &self.demand {
            Demand::Nothing => return None,
            Demand::Basic { authorization: expected } => (authorization == Some(expected), r#"Basic realm="fake""#),
            Demand::Bearer { .. } => (
                token.and_then(|token| self.issued.get(token)).is_some_and(|issued| issued.scope == scope && now < issued.expires_at),
                r#"Bearer realm="{realm}",service="fake",scope="{scope}""#,
            ),
        };
        let lines = self.lines.clone().unwrap_or_else(|| vec![line.to_owned()]);
        let filled = lines.iter().map(|line| line.replace("{realm}", &self.realm).replace("{scope}", &scope));
        (!passes).then(|| filled.collect())
    }
}
