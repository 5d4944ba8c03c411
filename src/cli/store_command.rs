//! What the commands that change a store have in common: where the store is, who does the work, and
//! how it is shown.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use bytesize::ByteSize;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::app;
use crate::config::{Config, ConfigSource, Overrides};
use crate::http::{ControlError, ControlEvents, ask_control};
use crate::upkeep::report::{Event, Finding, Unneeded, UnneededState};
use crate::upkeep::{Run, Upkeep};

/// Without a terminal, a line of progress no more often than this.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Findings that `--json` lists; the report counts them all.
const MAX_FINDINGS: usize = 1000;

#[derive(Debug, Args)]
pub(super) struct StoreFlags {
    /// The configuration file that the server runs with. Without it, the defaults.
    #[arg(long, value_name = "FILE", env = "HEADPOND_CONFIG")]
    config: Option<PathBuf>,
    /// Directory of the store. Wins over the file.
    #[arg(long, value_name = "DIR", env = "HEADPOND_STORAGE")]
    storage: Option<PathBuf>,
    /// Do the work here instead of asking the running server; for a store that no server holds.
    #[arg(long)]
    offline: bool,
    /// Print one JSON object at the end, and nothing else, to stdout.
    #[arg(long)]
    pub(super) json: bool,
}

/// A kind of run, as its command shows it.
pub(super) trait Shown: Serialize + DeserializeOwned + Send + 'static {
    /// Of the progress bar.
    const BAR: &str;

    /// How far it is: done and to do, if that is known; and in words.
    fn progress(&self) -> (u64, Option<u64>, String);
}

/// What a run has told to its end.
#[derive(Debug, Serialize)]
pub(super) struct Told<R> {
    #[serde(flatten)]
    pub(super) report: R,
    findings: Vec<Finding>,
}

/// Where events come from.
pub(super) enum Events<R> {
    Server(Box<ControlEvents<R>>),
    Here(Run<R>),
}

impl StoreFlags {
    fn load(&self) -> anyhow::Result<Config> {
        let overrides = Overrides { storage: self.storage.clone(), ..Overrides::default() };
        Ok(ConfigSource { file: self.config.clone(), overrides }.load()?)
    }

    /// Has `command` run by the server, or by `here` under the store's lock, and shows it.
    pub(super) fn run<R, F>(
        &self,
        command: &str,
        options: &(impl Serialize + Sync),
        here: impl FnOnce(Upkeep) -> F,
    ) -> anyhow::Result<Told<R>>
    where
        R: Shown,
        F: Future<Output = anyhow::Result<Run<R>>>,
    {
        let config = self.load()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            let events = if self.offline {
                Events::Here(here(app::upkeep::offline(&config).await?).await?)
            } else {
                let stream = app::upkeep::connect(&config, command)?;
                Events::Server(Box::new(ask_control(stream, &format!("/{command}"), options).await.map_err(with_hint)?))
            };
            show(events, self.json).await
        })
    }
}

fn with_hint(error: ControlError) -> anyhow::Error {
    match &error {
        ControlError::Refused { hint: Some(hint), .. } => anyhow!("{error}\n    hint: {hint}"),
        ControlError::Refused { hint: None, .. } | ControlError::Gone(_) | ControlError::Socket(_) => anyhow!(error),
    }
}

impl<R: Shown> Events<R> {
    async fn next(&mut self) -> anyhow::Result<Option<Event<R>>> {
        match self {
            Self::Server(events) => events.next().await.map_err(with_hint),
            Self::Here(run) => Ok(run.next().await),
        }
    }
}

/// Shows a run: on a terminal as a bar, else as lines, all of it on stderr.
async fn show<R: Shown>(mut events: Events<R>, is_json: bool) -> anyhow::Result<Told<R>> {
    let bar = io::stderr().is_terminal().then(|| bar(R::BAR));
    let say = |text: String| match &bar {
        Some(bar) => bar.println(text),
        None => super::say(&text),
    };
    let (mut findings, mut said_at) = (Vec::new(), Instant::now());
    let outcome = loop {
        match events.next().await? {
            Some(Event::Progress { report }) => {
                let (done, total, words) = report.progress();
                if let Some(bar) = &bar {
                    bar.set_length(total.unwrap_or(done));
                    bar.set_position(done);
                    bar.set_message(words);
                } else if said_at.elapsed() >= LINE_EVERY {
                    said_at = Instant::now();
                    say(words);
                }
            }
            Some(Event::Found { finding }) => {
                say(finding.to_string());
                if findings.len() < MAX_FINDINGS {
                    findings.push(finding);
                }
            }
            Some(Event::Unneeded { blob }) if !is_json => super::print(&unneeded(&blob))?,
            Some(Event::Unneeded { .. }) => {}
            Some(Event::Done { report }) => break Ok(report),
            Some(Event::Failed { error }) => break Err(anyhow!(error)),
            None => break Err(anyhow!("it was ended before it was through: the server stops, or its log says why")),
        }
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    outcome.map(|report| Told { report, findings })
}

fn unneeded(blob: &Unneeded) -> String {
    let state = match blob.state {
        UnneededState::Marked => "would be marked",
        UnneededState::Waiting => "is marked, its grace is not over",
        UnneededState::Deleted => "would be deleted",
    };
    format!("{} {} {state}", blob.digest, ByteSize::b(blob.length_bytes).display().iec())
}

fn bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    // The templates are constants; a wrong one would show the default bar.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
