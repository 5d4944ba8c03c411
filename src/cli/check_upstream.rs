//! `headpond check-upstream`

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use crate::app::check_upstream::{CheckReport, Checked, Outcome, check_upstream};
use crate::config::{Config, ConfigSource, Overrides, reachable};

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 nothing failed; 1 a step failed, or it could not run. Getting at a blob takes up to two pulls of a quota. Mirrors are tried too, without credentials."
)]
pub(super) struct CheckUpstream {
    /// The prefix of the rule, such as docker-hub.
    rule: String,
    /// An image to try, IMAGE[:TAG], without the prefix. Default: one that the registry is known to have.
    image: Option<String>,
    /// The configuration file. Default: the default rules.
    #[arg(long, value_name = "FILE", env = "HEADPOND_CONFIG")]
    config: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl CheckUpstream {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let config = ConfigSource { file: self.config.clone(), overrides: Overrides::default() }.load()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
        let checked = runtime.block_on(check_upstream(&config, &self.rule, self.image.as_deref()))?;
        if self.json {
            super::print(&serde_json::to_string(&checked.report)?)?;
        } else {
            super::print(&steps(&self.rule, &checked.report))?;
            super::say(&format!("next: {}", self.next(&config, &checked)));
        }
        Ok(if checked.report.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// The command to type now.
    fn next(&self, config: &Config, checked: &Checked) -> String {
        let file = self.config.as_ref().map(|file| format!(" --config {}", file.display())).unwrap_or_default();
        match &checked.pulled {
            _ if !checked.report.is_ok() => {
                let image = self.image.as_ref().map(|image| format!(" {image}")).unwrap_or_default();
                format!("follow the hint, then: headpond check-upstream {}{image}{file}", self.rule)
            }
            None => format!("headpond check-upstream {} IMAGE:TAG{file}", self.rule),
            Some(name) => {
                let address = config.listen.first().map(|listen| reachable(listen.address).to_string()).unwrap_or_default();
                format!("headpond serve{file}, and then: docker pull {address}/{name}")
            }
        }
    }
}

fn steps(rule: &str, report: &CheckReport) -> String {
    let mut text = format!("{rule}: {}", report.upstream);
    write_steps(&mut text, report);
    for mirror in &report.mirrors {
        // Writing to a String cannot fail.
        let _ = write!(text, "\nmirror of {rule}: {}", mirror.upstream);
        write_steps(&mut text, mirror);
    }
    text
}

fn write_steps(text: &mut String, report: &CheckReport) {
    for step in &report.steps {
        let outcome = match step.outcome {
            Outcome::Ok => "ok",
            Outcome::Failed => "FAILED",
            Outcome::Skipped => "skipped",
        };
        let _ = write!(text, "\n  {outcome:7}  {:9}  {}", step.step.as_str(), step.seen);
        if let Some(hint) = step.hint {
            let _ = write!(text, "\n           hint: {hint}");
        }
    }
}
