//! Pull-through cache rules.

use std::path::{Path, PathBuf};

use super::credentials::{self, Credentials};
use super::default_rules::default_rules;
use super::freshness::{self, FreshnessRule};
use super::line::{self, LineRule};
use super::mirrors::{self, Mirror};
use super::network::{self, ClientCertificate, PrivateHosts};
use super::pattern::Pattern;
use super::prefetch::{self, Prefetch};
use super::prefix::Prefix;
use super::problems::Problems;
use super::raw::RawRule;
use super::shapes::{List, Text};
use super::upstream_address::{self, UpstreamAddress};

/// Most rules in one file. Each has a client, a circuit and metrics of its own.
const MAX_RULES: usize = 1000;

/// Names that start with `prefix` are pulled from `upstream`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Unique among the rules.
    pub prefix: Prefix,
    /// Where the registry is.
    pub upstream: UpstreamAddress,
    /// Registries with the same content, in the order in which they are asked. Default: none.
    pub mirrors: Vec<Mirror>,
    /// Further hosts this rule answers for in `?ns=`, in lower case, `host[:port]`. Default: none.
    pub hosts: Vec<String>,
    /// Where two rules answer for one host, whether this is the one. Default: false.
    pub mirror: bool,
    /// What stands upstream in place of the prefix. Default: [`Prefix::Root`], nothing.
    pub upstream_prefix: Prefix,
    /// Authorities in PEM, trusted beside the system's. Default: none.
    pub ca: Option<PathBuf>,
    /// Shown to the upstream where it asks for one. Default: none.
    pub client_certificate: Option<ClientCertificate>,
    /// Private addresses to which the upstream may lead. Default: none but its own.
    pub private_hosts: PrivateHosts,
    /// Default: none, the upstream is asked anonymously.
    pub credentials: Option<Credentials>,
    /// Further hosts whose token service may be given the credentials, `host[:port]`. Default: none.
    pub realms: Vec<String>,
    /// Whether what is fetched with the credentials may be pulled by anybody who may pull. Default: false.
    pub anonymous: bool,
    /// Names (without the prefix) that may be pulled; empty is all. Default: empty.
    pub allow: Vec<Pattern>,
    /// Names that may not; wins over `allow`. Default: empty.
    pub deny: Vec<Pattern>,
    /// How long tags are fresh.
    pub freshness: FreshnessRule,
    /// Pulls of the upstream's quota that are kept for what is not cached. Default: 0, none.
    pub quota_floor: u64,
    /// How much of the line to the upstream blobs may use.
    pub line: LineRule,
    /// What the first missing blob of an image brings with it. Default: nothing.
    pub prefetch: Prefetch,
}

impl Rule {
    /// Whether the upstream is asked as somebody, by credentials or by a certificate: what that unlocks may
    /// not be for everybody.
    #[must_use]
    pub const fn asks_as_somebody(&self) -> bool {
        self.credentials.is_some() || self.client_certificate.is_some()
    }

    /// A rule with nothing but a prefix and an upstream.
    #[must_use]
    pub fn new(prefix: Prefix, upstream: UpstreamAddress) -> Self {
        Self {
            prefix,
            upstream,
            mirrors: Vec::new(),
            hosts: Vec::new(),
            mirror: false,
            upstream_prefix: Prefix::Root,
            ca: None,
            client_certificate: None,
            private_hosts: PrivateHosts::default(),
            credentials: None,
            realms: Vec::new(),
            anonymous: false,
            allow: Vec::new(),
            deny: Vec::new(),
            freshness: FreshnessRule::default(),
            quota_floor: 0,
            line: LineRule::default(),
            prefetch: Prefetch::Off,
        }
    }
}

pub(super) fn validate_all(raw: Option<List<RawRule>>, directory: &Path, problems: &mut Problems) -> Vec<Rule> {
    let Some(raw) = raw else { return default_rules() };
    if !(1..=MAX_RULES).contains(&raw.len()) {
        problems.add("rules", format!("must be 1 to {MAX_RULES} rules"), "leave the key out for the default rules");
    }
    let mut rules: Vec<Rule> = Vec::new();
    let mut prefixes: Vec<(Prefix, String)> = Vec::new();
    for (path, raw) in raw.entries("rules").into_iter().take(MAX_RULES) {
        let prefix = validate_prefix(raw.prefix.as_ref(), &path, problems);
        if let Some(prefix) = &prefix {
            match prefixes.iter().find(|(earlier, _)| earlier == prefix) {
                Some((_, earlier)) => problems.add(
                    format!("{path}.prefix"),
                    format!("`{prefix}` is the prefix of {earlier} already"),
                    "give each rule a prefix of its own",
                ),
                None => prefixes.push((prefix.clone(), path.clone())),
            }
        }
        rules.extend(validate(raw, prefix, &path, directory, problems));
    }
    rules
}

fn validate(mut raw: RawRule, prefix: Option<Prefix>, path: &str, directory: &Path, problems: &mut Problems) -> Option<Rule> {
    let line = line::validate(&mut raw, path, problems);
    let prefetch = prefetch::validate(raw.prefetch, &format!("{path}.prefetch"), problems);
    let upstream = validate_upstream(raw.upstream.as_ref(), path, problems);
    let upstream_prefix = validate_upstream_prefix(raw.upstream_prefix.as_ref(), prefix.as_ref(), path, problems);
    let mirrors = mirrors::validate(raw.mirrors, upstream.as_ref(), &format!("{path}.mirrors"), directory, problems);
    let ca = raw.ca.map(|ca| directory.join(ca.0));
    if let Some(ca) = &ca {
        problems.check_readable(&format!("{path}.ca"), ca);
    }
    let certificate_path = format!("{path}.client_certificate");
    let client_certificate =
        raw.client_certificate.and_then(|raw| network::validate_certificate(raw, &certificate_path, directory, problems));
    let private_hosts = network::validate_private_hosts(raw.private_hosts, &format!("{path}.private_hosts"), problems);
    let credentials =
        raw.credentials.and_then(|raw| credentials::validate(raw, upstream.as_ref(), &format!("{path}.credentials"), directory, problems));
    let hosts = validate_hosts(raw.hosts, &format!("{path}.hosts"), problems);
    let realms = validate_hosts(raw.realms, &format!("{path}.realms"), problems);
    let allow = validate_patterns(raw.allow, &format!("{path}.allow"), problems);
    let deny = validate_patterns(raw.deny, &format!("{path}.deny"), problems);
    let freshness = freshness::validate(raw.freshness.unwrap_or_default(), &format!("{path}.freshness"), problems);
    Some(Rule {
        prefix: prefix?,
        upstream: upstream?,
        mirrors,
        hosts,
        mirror: raw.mirror.unwrap_or(false),
        upstream_prefix,
        ca,
        client_certificate,
        private_hosts,
        credentials,
        realms,
        anonymous: raw.anonymous.unwrap_or(false),
        allow,
        deny,
        freshness,
        quota_floor: raw.quota_floor.unwrap_or(0),
        line,
        prefetch,
    })
}

pub(super) const PREFIX_HINT: &str = "2 to 30 characters: lower-case letters and digits, joined by '.', '_', '-' or '/'; or ROOT";

fn validate_prefix(raw: Option<&Text>, path: &str, problems: &mut Problems) -> Option<Prefix> {
    let path = format!("{path}.prefix");
    let Some(Text(text)) = raw else {
        problems.add(path, "is missing", PREFIX_HINT);
        return None;
    };
    let prefix = Prefix::parse(text);
    if prefix.is_none() {
        problems.add(path, format!("`{text}` is no prefix"), PREFIX_HINT);
    }
    prefix
}

fn validate_upstream_prefix(raw: Option<&Text>, prefix: Option<&Prefix>, path: &str, problems: &mut Problems) -> Prefix {
    let path = format!("{path}.upstream_prefix");
    let Some(Text(text)) = raw else { return Prefix::Root };
    let parsed = Prefix::parse(text);
    match &parsed {
        None => problems.add(path, format!("`{text}` is no prefix"), PREFIX_HINT),
        Some(Prefix::Name(_)) if prefix == Some(&Prefix::Root) => {
            problems.add(path, "cannot be set where the prefix is ROOT", "leave it out: names go upstream as they are");
        }
        Some(_) => {}
    }
    parsed.unwrap_or(Prefix::Root)
}

fn validate_upstream(raw: Option<&Text>, path: &str, problems: &mut Problems) -> Option<UpstreamAddress> {
    const HINT: &str = "host[:port] for https, or a URL without user and query: http://127.0.0.1:5100, https://host/base";
    let path = format!("{path}.upstream");
    let Some(Text(text)) = raw else {
        problems.add(path, "is missing", HINT);
        return None;
    };
    UpstreamAddress::parse(text).map_err(|error| problems.add(path, error.to_string(), HINT)).ok()
}

fn validate_hosts(raw: Option<List<Text>>, path: &str, problems: &mut Problems) -> Vec<String> {
    let mut hosts = Vec::new();
    for (path, Text(text)) in raw.into_iter().flat_map(|raw| raw.entries(path)) {
        match upstream_address::parse_authority(&text) {
            Some((host, port)) => hosts.push(port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"))),
            None => problems.add(path, format!("`{text}` is no host"), "host or host:port, such as docker.io"),
        }
    }
    hosts
}

fn validate_patterns(raw: Option<List<Text>>, path: &str, problems: &mut Problems) -> Vec<Pattern> {
    let names_none = raw.as_ref().is_some_and(List::is_empty);
    let mut patterns = Vec::new();
    for (path, Text(text)) in raw.into_iter().flat_map(|raw| raw.entries(path)) {
        match Pattern::parse(&text) {
            Some(pattern) => patterns.push(pattern),
            None => problems.add(path, format!("`{text}` is no pattern"), "a name, with `*` for any run of characters, such as library/*"),
        }
    }
    if names_none {
        problems.add(path, "names no pattern", "leave the key out, or name at least one");
    }
    patterns
}
