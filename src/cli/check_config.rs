//! `headpond check-config`

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::access::Users;
use crate::config::{Config, ConfigProblems, Overrides, Problem, Rule};
use crate::http::tls::TlsContext;

#[derive(Debug, Args)]
pub(super) struct CheckConfig {
    /// The configuration file, in YAML.
    #[arg(long, value_name = "FILE", env = "HEADPOND_CONFIG")]
    config: PathBuf,
}

impl CheckConfig {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let checked = Config::load(Some(&self.config), &Overrides::default()).and_then(|config| check_files(config, &self.config));
        match checked {
            Err(problems) => {
                super::say(&format!("{problems}\n\nnext: correct the file, then check it again; `headpond schema` describes it"));
                Ok(ExitCode::FAILURE)
            }
            Ok(config) => {
                super::print(&summary(&config, &self.config))?;
                for warning in config.warnings() {
                    super::say(&format!("warning: {warning}"));
                }
                super::say(&format!("next: headpond serve --config {}", self.config.display()));
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// Reads the files that the configuration names, as `serve` would.
fn check_files(config: Config, file: &Path) -> Result<Config, ConfigProblems> {
    let mut problems = Vec::new();
    let mut add = |path: String, what: String| problems.push(Problem { path, what, hint: None });
    for (index, listen) in config.listen.iter().enumerate() {
        if let Some(Err(error)) = listen.tls.as_ref().map(TlsContext::load) {
            add(format!("listen[{index}].tls"), error.to_string());
        }
    }
    if let Some(Err(error)) = config.auth.users.as_deref().map(Users::load) {
        add("auth.users".to_owned(), error.to_string());
    }
    if problems.is_empty() { Ok(config) } else { Err(ConfigProblems { file: Some(file.to_owned()), problems }) }
}

fn summary(config: &Config, file: &Path) -> String {
    let plural = if config.rules.len() == 1 { "" } else { "s" };
    let mut text = format!("{}: no problems, {} rule{plural}", file.display(), config.rules.len());
    let width = config.rules.iter().map(|rule| rule.prefix.as_str().len()).max().unwrap_or_default();
    for rule in &config.rules {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  {:width$}  {}{}", rule.prefix.as_str(), rule.upstream, remarks(rule));
    }
    text
}

fn remarks(rule: &Rule) -> String {
    let credentials = rule.credentials.as_ref().map(|credentials| match rule.anonymous {
        true => credentials.shown(),
        false => format!("{}, for users only", credentials.shown()),
    });
    let remarks: Vec<String> = credentials.into_iter().chain(rule.mirror.then(|| "mirror".to_owned())).collect();
    if remarks.is_empty() { String::new() } else { format!("  ({})", remarks.join("; ")) }
}
