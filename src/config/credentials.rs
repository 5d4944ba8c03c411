//! Credentials for an upstream.

use std::path::Path;

use super::problems::Problems;
use super::raw::RawCredentials;
use super::secret::{self, Secret};
use super::shapes::TextOr;

/// A name and a password for an upstream; never sent anywhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The name; not a secret.
    pub username: String,
    /// The password or token, already resolved.
    pub password: Secret,
}

const PASSWORD_HINT: &str = "refer to it: env:NAME for an environment variable, file:PATH for a file";

pub(super) fn validate(raw: TextOr<RawCredentials>, path: &str, directory: &Path, problems: &mut Problems) -> Option<Credentials> {
    let raw = match raw {
        TextOr::Mapping(raw) => raw,
        TextOr::Text(text) => {
            let kind = if text == "ecr" || text.starts_with("arn:") {
                "this kind of credentials is not available in this version"
            } else {
                "not credentials"
            };
            problems.add(path, kind, "write {username: NAME, password: \"env:VARIABLE\"}");
            return None;
        }
    };
    let username = raw.username.map(|username| username.0);
    let username_path = format!("{path}.username");
    match &username {
        None => problems.add(&username_path, "is missing", "the name that the upstream registry knows"),
        Some(name) if name.is_empty() || name.contains(':') || name.chars().any(char::is_control) => {
            problems.add(&username_path, "must not be empty or hold a ':' or control characters", "HTTP cannot send such a name");
        }
        Some(_) => {}
    }
    let password_path = format!("{path}.password");
    let password = match raw.password {
        None => {
            problems.add(password_path, "is missing", PASSWORD_HINT);
            None
        }
        Some(reference) => {
            secret::resolve(&reference.0, directory).map_err(|error| problems.add(password_path, error.to_string(), PASSWORD_HINT)).ok()
        }
    };
    Some(Credentials { username: username?, password: password? })
}
