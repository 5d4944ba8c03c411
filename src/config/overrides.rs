//! Operational knobs from flags and environment.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::listen::{Admin, Listen};
use super::log::{self, LogFormat};
use super::problems::Problems;
use super::{Config, ConfigProblems};

/// What flags and `HEADPOND_*` variables say; wins over the file. A path is relative to the working directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Addresses to listen on; empty leaves them as they are.
    pub listen: Vec<SocketAddr>,
    /// Address of the admin port.
    pub admin: Option<SocketAddr>,
    /// Directory of the store.
    pub storage: Option<PathBuf>,
    /// Log level, as in the file.
    pub log_level: Option<String>,
    /// Form of log lines.
    pub log_format: Option<LogFormat>,
}

/// Where a configuration comes from, to load it again on SIGHUP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigSource {
    /// The file; without one, the defaults.
    pub file: Option<PathBuf>,
    /// What wins over it.
    pub overrides: Overrides,
}

impl ConfigSource {
    /// Reads and validates.
    ///
    /// # Errors
    /// All problems found.
    pub fn load(&self) -> Result<Config, ConfigProblems> {
        Config::load(self.file.as_deref(), &self.overrides)
    }
}

impl Overrides {
    pub(super) fn apply(&self, config: &mut Config, problems: &mut Problems) {
        self.apply_listen(&mut config.listen, problems);
        if let Some(address) = self.admin {
            config.admin = Admin { address };
        }
        if let Some(path) = &self.storage {
            config.storage.path.clone_from(path);
        }
        if let Some(level) = &self.log_level {
            log::check_level(level, "--log-level", problems);
            config.log.level.clone_from(level);
        }
        if let Some(format) = self.log_format {
            config.log.format = format;
        }
    }

    /// One address in place of one keeps its TLS; anything else could turn a TLS listener into a
    /// plain one without saying so, and is refused.
    fn apply_listen(&self, listen: &mut Vec<Listen>, problems: &mut Problems) {
        match (self.listen.as_slice(), listen.as_mut_slice()) {
            ([], _) => {}
            ([address], [one]) => one.address = *address,
            (addresses, listeners) if listeners.iter().all(|one| one.tls.is_none() && !one.proxy_protocol) => {
                *listen = addresses.iter().map(|address| Listen { address: *address, tls: None, proxy_protocol: false }).collect();
            }
            _ => problems.add(
                "--listen",
                "would drop the TLS or PROXY protocol that the file gives its listeners",
                "change `listen` in the file instead",
            ),
        }
    }
}
