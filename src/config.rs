//! The configuration: a YAML file, read to raw shapes, then validated to plain data.
//!
//! Every problem is reported at once, each with its path and a hint ([`ConfigProblems`]); keys that
//! are unknown, or that belong to a part this version does not have, are refused. Secrets are
//! resolved here, so that nothing behind this module knows references; of an upstream's password the
//! file is told too, as it may change. Nothing here opens a socket or writes a file.

pub mod auth;
pub mod cluster;
pub mod credentials;
mod default_rules;
pub mod freshness;
pub mod limits;
pub mod line;
pub mod listen;
pub mod log;
pub mod mirrors;
pub mod network;
mod overrides;
pub mod pattern;
pub mod prefetch;
pub mod prefix;
pub mod problems;
mod raw;
mod read;
pub mod rule;
mod schema;
pub mod secret;
mod shapes;
pub mod storage;
mod unknown_keys;
pub mod upstream_address;
mod warnings;

use std::path::Path;

pub use auth::{AnonymousPull, Auth};
pub use cluster::Cluster;
pub use credentials::{Credentials, EcrAccount, SecretArn};
pub use freshness::FreshnessRule;
pub use limits::Limits;
pub use listen::{Admin, Listen, Tls, reachable};
pub use log::{Log, LogFormat};
pub use mirrors::Mirror;
pub use network::{ClientCertificate, PrivateHosts};
pub use overrides::{ConfigSource, Overrides};
pub use pattern::Pattern;
pub use prefetch::Prefetch;
pub use prefix::Prefix;
pub use problems::{ConfigProblems, Problem};
pub use rule::Rule;
pub use schema::schema;
pub use secret::Secret;
pub use storage::{DeliveryMode, Encryption, S3, S3Credentials, Storage};
pub use upstream_address::{Scheme, UpstreamAddress};

use problems::Problems;
use raw::RawConfig;

/// A validated configuration. Plain data: it can be compared, cloned and printed, and printing it
/// shows no secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where clients connect. Default: `127.0.0.1:5000`, plain.
    pub listen: Vec<Listen>,
    /// Where operators connect: health, metrics. Default: `127.0.0.1:5001`.
    pub admin: Admin,
    /// Where content is kept. Default: `./headpond-data`.
    pub storage: Storage,
    /// Who may pull. Default: everybody who can reach a listener.
    pub auth: Auth,
    /// The other replicas over the same bucket. Default: none.
    pub cluster: Option<Cluster>,
    /// The pull-through cache rules. Default: eight public registries.
    pub rules: Vec<Rule>,
    /// Log lines. Default: `info`, as text.
    pub log: Log,
    /// Every limit and wait.
    pub limits: Limits,
}

impl Config {
    /// Reads and validates a file, or the defaults where `path` is `None`; `overrides` (flags and
    /// environment) win over the file.
    ///
    /// # Errors
    /// All problems found, each with its path; never only the first.
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigProblems> {
        let mut problems = Problems::default();
        let directory = path.and_then(Path::parent).unwrap_or_else(|| Path::new(""));
        let raw = match path {
            Some(path) => read::read(path, &mut problems),
            None => RawConfig::default(),
        };
        let mut config = Self::validate(raw, directory, &mut problems);
        overrides.apply(&mut config, &mut problems);
        listen::refuse_shared_addresses(&config.listen, &config.admin, &mut problems);
        cluster::refuse_unheard(config.cluster.as_ref(), &config.listen, &mut problems);
        problems.into_result(path, config)
    }

    /// Like [`Config::load`], from the text of a file that lies in `directory`.
    ///
    /// # Errors
    /// All problems found, each with its path.
    pub fn parse(text: &str, directory: &Path) -> Result<Self, ConfigProblems> {
        let mut problems = Problems::default();
        let raw = read::parse(text, &mut problems);
        let config = Self::validate(raw, directory, &mut problems);
        listen::refuse_shared_addresses(&config.listen, &config.admin, &mut problems);
        cluster::refuse_unheard(config.cluster.as_ref(), &config.listen, &mut problems);
        problems.into_result(None, config)
    }

    fn validate(raw: RawConfig, directory: &Path, problems: &mut Problems) -> Self {
        let storage = storage::validate(raw.storage, directory, problems);
        let auth = auth::validate(raw.auth, directory, problems);
        Self {
            listen: listen::validate(raw.listen, directory, problems),
            admin: listen::validate_admin(raw.admin, problems),
            cluster: cluster::validate(raw.cluster, &storage, &auth, problems),
            storage,
            auth,
            rules: rule::validate_all(raw.rules, directory, problems),
            log: log::validate(raw.log, problems),
            limits: limits::validate(raw.limits, problems),
        }
    }

    /// What is allowed but probably not meant; empty for most configurations.
    #[must_use]
    pub fn warnings(&self) -> Vec<Problem> {
        warnings::warnings(self)
    }
}

/// What `headpond serve` runs with when no file is given.
impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![Listen::default()],
            admin: Admin::default(),
            storage: Storage::default(),
            auth: Auth::default(),
            cluster: None,
            rules: default_rules::default_rules(),
            log: Log::default(),
            limits: Limits::default(),
        }
    }
}
