//! Who may pull.

use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::problems::Problems;
use super::raw::{RawAnonymous, RawAuth};
use super::secret::{self, Secret};
use super::shapes::{List, TextOr};

/// Who may pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Who may pull without credentials; `None` is nobody. Default: everybody, or nobody once there are users.
    pub anonymous: Option<AnonymousPull>,
    /// A htpasswd file with bcrypt hashes. Default: none.
    pub users: Option<PathBuf>,
    /// A key that all replicas share. Default: none.
    pub token_key: Option<Secret>,
}

/// A shorter key could be guessed.
const MIN_TOKEN_KEY_BYTES: usize = 32;

/// Pulls without credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnonymousPull {
    /// Networks they may come from; empty is everywhere.
    pub cidrs: Vec<IpNet>,
}

impl Default for Auth {
    fn default() -> Self {
        Self { anonymous: Some(AnonymousPull::default()), users: None, token_key: None }
    }
}

pub(super) fn validate(raw: Option<RawAuth>, directory: &Path, problems: &mut Problems) -> Auth {
    let raw = raw.unwrap_or_default();
    let users = raw.users.map(|users| directory.join(users.0));
    if let Some(users) = &users {
        problems.check_readable("auth.users", users);
    }
    let anonymous = match raw.anonymous {
        None => users.is_none().then(AnonymousPull::default),
        Some(TextOr::Text(text)) if text == "none" => None,
        Some(TextOr::Text(text)) => {
            problems.add("auth.anonymous", format!("`{text}` means nothing here"), "none, or {pull: true, cidrs: [10.0.0.0/8]}");
            None
        }
        Some(TextOr::Mapping(raw)) => validate_anonymous(raw, problems),
    };
    let token_key = raw.token_key.and_then(|reference| validate_token_key(&reference.0, directory, problems));
    Auth { anonymous, users, token_key }
}

fn validate_token_key(reference: &str, directory: &Path, problems: &mut Problems) -> Option<Secret> {
    let hint = "refer to a file or variable with 32 bytes or more, such as `openssl rand -base64 48` makes";
    match secret::resolve(reference, directory) {
        Ok(key) if key.expose().len() < MIN_TOKEN_KEY_BYTES => {
            problems.add("auth.token_key", format!("is shorter than {MIN_TOKEN_KEY_BYTES} bytes"), hint);
            None
        }
        Ok(key) => Some(key),
        Err(error) => {
            problems.add("auth.token_key", error.to_string(), hint);
            None
        }
    }
}

fn validate_anonymous(raw: RawAnonymous, problems: &mut Problems) -> Option<AnonymousPull> {
    let names_none = raw.cidrs.as_ref().is_some_and(List::is_empty);
    let mut cidrs = Vec::new();
    for (path, cidr) in raw.cidrs.into_iter().flat_map(|cidrs| cidrs.entries("auth.anonymous.cidrs")) {
        match parse_cidr(&cidr.0) {
            Some(cidr) => cidrs.push(cidr),
            None => problems.add(path, format!("`{}` is no network", cidr.0), "such as 10.0.0.0/8, fd00::/8, or one address"),
        }
    }
    if names_none {
        // No list means everywhere; an empty one must not.
        problems.add("auth.anonymous.cidrs", "names no network", "leave the key out for everybody, or write `anonymous: none`");
    }
    raw.pull.unwrap_or(true).then_some(AnonymousPull { cidrs })
}

/// A network, or one address as the network of itself.
fn parse_cidr(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
}
