//! `headpond serve`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use crate::app;
use crate::config::{ConfigSource, LogFormat, Overrides};

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// The configuration file, in YAML. Without it, the defaults.
    #[arg(long, value_name = "FILE", env = "HEADPOND_CONFIG")]
    config: Option<PathBuf>,
    /// Address that clients connect to; may be given several times. Wins over the file.
    #[arg(long, value_name = "ADDR:PORT", env = "HEADPOND_LISTEN", value_delimiter = ',')]
    listen: Vec<SocketAddr>,
    /// Address of the admin port: health and metrics. Wins over the file.
    #[arg(long, value_name = "ADDR:PORT", env = "HEADPOND_ADMIN")]
    admin: Option<SocketAddr>,
    /// Directory of the store. Wins over the file.
    #[arg(long, value_name = "DIR", env = "HEADPOND_STORAGE")]
    storage: Option<PathBuf>,
    /// Log level, such as info or info,headpond::upstream=debug. Wins over the file.
    #[arg(long, value_name = "LEVEL", env = "HEADPOND_LOG_LEVEL")]
    log_level: Option<String>,
    /// Form of log lines. Wins over the file.
    #[arg(long, value_name = "FORMAT", env = "HEADPOND_LOG_FORMAT")]
    log_format: Option<LogFormat>,
}

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let overrides = Overrides {
            listen: self.listen,
            admin: self.admin,
            storage: self.storage,
            log_level: self.log_level,
            log_format: self.log_format,
        };
        let source = ConfigSource { file: self.config, overrides };
        let config = source.load()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
        runtime.block_on(app::run(config, source))?;
        Ok(ExitCode::SUCCESS)
    }
}
