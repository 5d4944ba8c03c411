//! `headpond gc`

use std::process::ExitCode;

use bytesize::ByteSize;
use clap::Args;

use super::store_command::{Shown, StoreFlags, Told};
use crate::upkeep::GcOptions;
use crate::upkeep::report::{GcPhase, GcReport};

#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 done; 1 something failed and is left for the next run, or it could not run.")]
pub(super) struct Gc {
    #[command(flatten)]
    store: StoreFlags,
    /// Only tell what would go; nothing is changed, and nothing marked.
    #[arg(long)]
    dry_run: bool,
    /// How long what nothing refers to is kept, such as 36h. With 0 it is marked and deleted in one run, and a push that is
    /// under way has to begin again. Default: limits.gc_grace.
    #[arg(long, value_name = "DURATION", value_parser = parse_grace)]
    grace: Option<std::time::Duration>,
}

fn parse_grace(text: &str) -> Result<std::time::Duration, humantime::DurationError> {
    if text == "0" { Ok(std::time::Duration::ZERO) } else { humantime::parse_duration(text) }
}

impl Gc {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let grace_ms = self.grace.map(|grace| u64::try_from(grace.as_millis())).transpose()?;
        let options = GcOptions { dry_run: self.dry_run, grace_ms };
        let told = self.store.run("gc", &options, |upkeep| async move { Ok(upkeep.gc(options).await?) })?;
        if self.store.json {
            super::print(&serde_json::to_string(&told)?)?;
        } else {
            super::print(&summary(&told))?;
        }
        Ok(if told.report.failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn summary(told: &Told<GcReport>) -> String {
    let report = &told.report;
    let would = if report.dry_run { "would be " } else { "" };
    let size = |bytes: u64| ByteSize::b(bytes).display().iec();
    let mut lines = vec![
        format!(
            "{} blobs ({}), {} repositories with {} manifests",
            report.blobs,
            size(report.bytes),
            report.repositories,
            report.manifests
        ),
        format!("  {} {would}deleted ({})", report.deleted, size(report.deleted_bytes)),
        format!("  {} {would}marked: deleted by a run after the grace, unless something refers to them by then", report.marked),
        format!("  {} marked before, their grace is not over", report.waiting),
    ];
    for (count, words) in [
        (report.unmarked, "unmarked: something refers to them after all"),
        (report.links, "links removed that nobody needs"),
        (report.failed, "failed and are left for the next run, see the log"),
    ] {
        if count > 0 {
            lines.push(format!("  {count} {words}"));
        }
    }
    if report.is_incomplete {
        lines.push("  nothing was marked or deleted: not all manifests could be read, see the log of the server".to_owned());
    }
    lines.join("\n")
}

impl Shown for GcReport {
    const BAR: &str = "{spinner} {elapsed} {msg}";

    fn progress(&self) -> (u64, Option<u64>, String) {
        let words = match self.phase {
            GcPhase::Blobs => format!("listing blobs: {}", self.blobs),
            GcPhase::Repositories => {
                format!("reading what is referred to: {} repositories, {} manifests", self.repositories, self.manifests)
            }
            GcPhase::Marks => format!("marking: {} marked, {} unmarked", self.marked, self.unmarked),
            GcPhase::Deletion => format!("deleting: {} blobs, {}", self.deleted, ByteSize::b(self.deleted_bytes).display().iec()),
        };
        (self.blobs, None, words)
    }
}
