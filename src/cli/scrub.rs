//! `headpond scrub`

use std::process::ExitCode;

use bytesize::ByteSize;
use clap::Args;

use super::store_command::{Shown, StoreFlags, Told};
use crate::upkeep::ScrubOptions;
use crate::upkeep::report::{ScrubPhase, ScrubReport};

/// Nothing was wrong.
const CLEAN: u8 = 0;
/// What was wrong is mended.
const MENDED: u8 = 1;
/// Hosted content is damaged, something could not be mended, or the scrub could not run.
const NEEDS_SOMEBODY: u8 = 2;

#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 nothing was wrong; 1 what was wrong is mended; 2 hosted content is damaged, or it could not run.")]
pub(super) struct Scrub {
    #[command(flatten)]
    store: StoreFlags,
    /// Bytes a second to read, such as 200MiB; 0 is as fast as it goes. Default: limits.scrub_rate.
    #[arg(long, value_name = "SIZE")]
    rate: Option<ByteSize>,
    /// Read the blobs of the bucket, too, where there is one: that costs requests and traffic.
    #[arg(long)]
    bucket: bool,
}

impl Scrub {
    #[allow(clippy::unnecessary_wraps)] // as all commands; its failures have an exit code of their own
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let options = ScrubOptions { rate_bytes: self.rate.map(|rate| rate.as_u64()), bucket: self.bucket };
        let run = self.store.run("scrub", &options, |upkeep| async move { Ok(upkeep.scrub(options).await?) });
        let code = match run.and_then(|told| self.print(&told).map(|()| told)) {
            Ok(told) if told.report.needs_somebody() => NEEDS_SOMEBODY,
            Ok(told) if told.report.found_something() => MENDED,
            Ok(_) => CLEAN,
            Err(error) => {
                super::say(&format!("error: {error:#}"));
                NEEDS_SOMEBODY
            }
        };
        Ok(ExitCode::from(code))
    }

    fn print(&self, told: &Told<ScrubReport>) -> anyhow::Result<()> {
        if self.store.json {
            return super::print(&serde_json::to_string(told)?);
        }
        super::print(&summary(&told.report))?;
        if told.report.needs_somebody() {
            super::say("next: docs/operating.md, \"A scrub reports damage\"");
        }
        Ok(())
    }
}

fn summary(report: &ScrubReport) -> String {
    let (blobs, bytes) = (report.blobs, ByteSize::b(report.bytes).display().iec());
    let mut text = format!("scrubbed {blobs} blobs ({bytes}) and {} records", report.records);
    for (count, words) in [
        (report.rotten_cached, "rotten cached blobs put aside"),
        (report.mended_records, "records of cached content that pointed nowhere removed"),
        (report.lost, "blobs that the bucket had lost are sent to it again"),
        (report.rotten_hosted, "rotten HOSTED blobs"),
        (report.damaged_hosted_records, "damaged HOSTED records"),
        (report.not_mended, "findings that could not be mended"),
    ] {
        if count > 0 {
            text.push_str(&format!("\n  {count} {words}"));
        }
    }
    if !report.found_something() {
        text.push_str(": nothing is wrong");
    }
    text
}

impl Shown for ScrubReport {
    const BAR: &str = "{bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} ETA {eta}  {msg}";

    fn progress(&self) -> (u64, Option<u64>, String) {
        let words = match self.phase {
            ScrubPhase::Counting => format!("counting: {} blobs", self.total_blobs),
            ScrubPhase::Records => format!("reading records: {} in {} repositories", self.records, self.repositories),
            ScrubPhase::Blobs => {
                format!(
                    "{} of {} blobs, {} of {}",
                    self.blobs,
                    self.total_blobs,
                    ByteSize::b(self.bytes).display().iec(),
                    ByteSize::b(self.total_bytes).display().iec()
                )
            }
        };
        (self.bytes, Some(self.total_bytes), words)
    }
}
