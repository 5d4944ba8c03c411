//! `headpond schema`

use std::process::ExitCode;

use clap::Args;

use crate::config;

#[derive(Debug, Args)]
pub(super) struct PrintSchema {}

impl PrintSchema {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        super::print(&serde_json::to_string_pretty(&config::schema())?)?;
        Ok(ExitCode::SUCCESS)
    }
}
