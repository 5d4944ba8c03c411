//! Mirrors of a rule's upstream.

use std::path::{Path, PathBuf};

use super::prefix::Prefix;
use super::problems::Problems;
use super::raw::RawMirror;
use super::shapes::{List, TextOr};
use super::upstream_address::UpstreamAddress;

/// Most mirrors of one rule: each may be asked before a failure is told.
const MAX_MIRRORS: usize = 8;

const HINT: &str = "host[:port] for https, a URL such as http://127.0.0.1:5101, or {upstream: …, upstream_prefix: …, ca: …}";

/// A registry that has what the upstream of a rule has, and is asked without its credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where it is. No two of a rule are the same, nor one the rule's upstream.
    pub upstream: UpstreamAddress,
    /// What stands there in place of the rule's prefix. Default: the rule's own `upstream_prefix`.
    pub upstream_prefix: Option<Prefix>,
    /// Authorities in PEM, trusted beside the system's. Default: none.
    pub ca: Option<PathBuf>,
}

pub(super) fn validate(
    raw: Option<List<TextOr<RawMirror>>>,
    upstream: Option<&UpstreamAddress>,
    path: &str,
    directory: &Path,
    problems: &mut Problems,
) -> Vec<Mirror> {
    let Some(raw) = raw else { return Vec::new() };
    if !(1..=MAX_MIRRORS).contains(&raw.len()) {
        problems.add(path, format!("must be 1 to {MAX_MIRRORS} mirrors"), "leave the key out for none");
    }
    let mut mirrors: Vec<Mirror> = Vec::new();
    for (path, raw) in raw.entries(path).into_iter().take(MAX_MIRRORS) {
        let Some(mirror) = validate_one(raw, &path, directory, problems) else { continue };
        if upstream.is_some_and(|upstream| upstream.is_same(&mirror.upstream)) {
            problems.add(path, "is the upstream itself", "name another registry that has the same content");
        } else if mirrors.iter().any(|earlier| earlier.upstream.is_same(&mirror.upstream)) {
            problems.add(path, format!("{} is named twice", mirror.upstream), "name each mirror once");
        } else {
            mirrors.push(mirror);
        }
    }
    mirrors
}

fn validate_one(raw: TextOr<RawMirror>, path: &str, directory: &Path, problems: &mut Problems) -> Option<Mirror> {
    let (raw, upstream_path) = match raw {
        TextOr::Text(text) => (RawMirror { upstream: Some(super::shapes::Text(text)), ..RawMirror::default() }, path.to_owned()),
        TextOr::Mapping(raw) => (raw, format!("{path}.upstream")),
    };
    let upstream = match raw.upstream {
        None => {
            problems.add(upstream_path, "is missing", HINT);
            None
        }
        Some(text) => UpstreamAddress::parse(&text.0).map_err(|error| problems.add(upstream_path, error.to_string(), HINT)).ok(),
    };
    let upstream_prefix = raw.upstream_prefix.and_then(|text| {
        let prefix = Prefix::parse(&text.0);
        if prefix.is_none() {
            problems.add(format!("{path}.upstream_prefix"), format!("`{}` is no prefix", text.0), super::rule::PREFIX_HINT);
        }
        prefix
    });
    let ca = raw.ca.map(|ca| directory.join(ca.0));
    if let Some(ca) = &ca {
        problems.check_readable(&format!("{path}.ca"), ca);
    }
    Some(Mirror { upstream: upstream?, upstream_prefix, ca })
}
