//! Reads everything there is and compares it with its name.
//!
//! Where the store is the disk, its records are read first: they say which blobs are hosted, and
//! those that point nowhere are mended (`mend`). Then every blob is hashed. A rotten one that is
//! cached is put aside and fetched again when it is next asked for. A rotten one that is hosted is
//! nobody else's to give: it is reported and left alone.
//!
//! Where the disk stands in front of a bucket, what is sound is looked for there, too (`lost`).
//!
//! Somebody may have pushed an image with a blob that was there, and sent none of its bytes: before a
//! rotten one goes, it is looked for in the repositories once more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::StreamExt;

use super::UpkeepParts;
use super::pace::Pace;
use super::report::{Finding, Outcome, ScrubPhase, ScrubReport, Wrong};
use super::run::Teller;
use crate::clock::unix_seconds;
use crate::oci::Digest;
use crate::storage::{BlobCheck, Inventory, StorageError, StoredBlob};

/// Rotten hosted blobs whose repositories are looked for.
const MAX_NAMED: u64 = 10;

/// How a scrub is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScrubOptions {
    /// Bytes a second; the configuration's if none are named, zero for as fast as it goes.
    pub rate_bytes: Option<u64>,
    /// Whether the bucket is read as well, where there is one.
    pub bucket: bool,
}

/// One scrub.
pub(super) struct Scrub {
    pub(super) parts: Arc<UpkeepParts>,
    options: ScrubOptions,
    pub(super) report: ScrubReport,
    pub(super) teller: Teller<ScrubReport>,
    pace: Pace,
    pub(super) hosted: HostedBlobs,
    /// How fast blobs are looked for in the bucket; none if they are not.
    pub(super) look_pace: Option<Pace>,
    /// Those that it does not have.
    pub(super) lost: HashMap<Digest, u64>,
}

/// The blobs that somebody pushed, by the first bytes of their digests: a million are 35 MB.
#[derive(Debug, Default)]
pub(super) struct HostedBlobs {
    pub(super) prefixes: HashSet<[u8; 16]>,
    /// Some records could not be read: then any blob may be hosted.
    pub(super) is_incomplete: bool,
}

/// How a blob turned out.
enum Checked {
    Sound,
    Vanished,
    Rotten(BlobCheck, String),
    Unknown(String),
}

impl Scrub {
    pub(super) fn new(parts: Arc<UpkeepParts>, options: ScrubOptions, teller: Teller<ScrubReport>) -> Self {
        let pace = Pace::new(options.rate_bytes.unwrap_or(parts.limits.scrub_rate_bytes));
        let looks = parts.limits.scrub_looks as u64;
        let look_pace = (looks > 0).then(|| Pace::new(looks));
        let (report, hosted, lost) = (ScrubReport::default(), HostedBlobs::default(), HashMap::new());
        Self { parts, options, report, teller, pace, hosted, look_pace, lost }
    }

    /// Runs it to its end.
    pub(super) async fn run(mut self) -> (Teller<ScrubReport>, Result<ScrubReport, StorageError>) {
        let outcome = self.scrub().await;
        match &outcome {
            Ok(()) => self.log_end(),
            Err(error) => tracing::warn!(%error, "a scrub could not go on; it begins anew next time"),
        }
        (self.teller, outcome.map(|()| self.report))
    }

    async fn scrub(&mut self) -> Result<(), StorageError> {
        let has_bucket = self.parts.store.bucket.is_some();
        let mut places = vec![self.parts.disk()];
        if has_bucket && self.options.bucket {
            places.push(self.parts.truth());
        }
        for place in &places {
            self.count(place).await?;
        }
        // What is on disk in front of a bucket is a copy: nothing of it is hosted.
        if !has_bucket || self.options.bucket {
            self.report.phase = ScrubPhase::Records;
            self.mend_records().await?;
        }
        self.report.phase = ScrubPhase::Blobs;
        for place in &places {
            let is_truth = !has_bucket || matches!(place, Inventory::Bucket(_));
            let mut blobs = place.list();
            while let Some(blob) = blobs.next().await {
                match blob {
                    Ok(blob) => self.blob(place, is_truth, &blob).await?,
                    // A directory: the others can be read.
                    Err(error) if matches!(place, Inventory::Disk(_)) => self.not_listed(&error).await,
                    Err(error) => return Err(error),
                }
            }
        }
        self.send_lost_again().await?;
        self.parts.metrics.scrub_ended(unix_seconds(self.parts.clock.now()));
        Ok(())
    }

    async fn count(&mut self, place: &Inventory) -> Result<(), StorageError> {
        let mut blobs = place.list();
        while let Some(blob) = blobs.next().await {
            let blob = match blob {
                Ok(blob) => blob,
                // What cannot be listed is told when it is to be read.
                Err(_) if matches!(place, Inventory::Disk(_)) => continue,
                Err(error) => return Err(error),
            };
            self.report.total_blobs += 1;
            self.report.total_bytes += blob.length_bytes;
            self.teller.progress(&self.report);
        }
        Ok(())
    }

    /// Looks at one blob. What is wrong with it is told; an error says that the bucket is gone.
    async fn blob(&mut self, place: &Inventory, is_truth: bool, blob: &StoredBlob) -> Result<(), StorageError> {
        match self.check(place, &blob.digest).await? {
            Checked::Sound if is_truth => {}
            Checked::Sound => self.look_in_bucket(blob).await,
            // Evicted, or collected, since it was listed.
            Checked::Vanished => return Ok(()),
            Checked::Rotten(_, detail) if is_truth && self.hosted.prefixes.contains(&blob.digest.prefix()) => {
                self.hosted_is_rotten(&blob.digest, detail).await;
            }
            Checked::Rotten(_, detail) if is_truth && self.hosted.is_incomplete => {
                self.not_mended(&blob.digest, format!("{detail}; left alone: it may be hosted, since some records cannot be read")).await;
            }
            Checked::Rotten(check, detail) if is_truth => match self.became_hosted(&blob.digest).await {
                Ok(false) => self.quarantine(place, &blob.digest, check, detail).await,
                Ok(true) => self.hosted_is_rotten(&blob.digest, detail).await,
                Err(error) => self.not_mended(&blob.digest, format!("{detail}; it is not known whether it is hosted: {error}")).await,
            },
            Checked::Rotten(check, detail) => self.quarantine(place, &blob.digest, check, detail).await,
            Checked::Unknown(detail) => self.not_mended(&blob.digest, detail).await,
        }
        self.report.blobs += 1;
        self.teller.progress(&self.report);
        Ok(())
    }

    async fn check(&mut self, place: &Inventory, digest: &Digest) -> Result<Checked, StorageError> {
        let check = match self.parts.patiently(|| place.check(digest)).await {
            Ok(Some(check)) => check,
            Ok(None) => return Ok(Checked::Vanished),
            Err(error) if error.is_unavailable() => return Err(error),
            Err(error) => return Ok(Checked::Unknown(error.to_string())),
        };
        Ok(self.hash(check, digest).await)
    }

    async fn hash(&mut self, mut check: BlobCheck, digest: &Digest) -> Checked {
        loop {
            match check.step().await {
                Ok(Some(bytes)) => {
                    self.report.bytes += bytes;
                    self.parts.metrics.scrubbed_bytes.inc_by(bytes);
                    self.teller.progress(&self.report);
                    self.pace.spend(bytes).await;
                }
                Ok(None) if check.holds(digest) => return Checked::Sound,
                Ok(None) => return Checked::Rotten(check, "its bytes have another digest".to_owned()),
                // A disk that cannot read a file has lost it; a bucket that does not answer has not.
                Err(error) if matches!(check, BlobCheck::File(_)) => return Checked::Rotten(check, error.to_string()),
                Err(error) => return Checked::Unknown(error.to_string()),
            }
        }
    }

    async fn quarantine(&mut self, place: &Inventory, digest: &Digest, check: BlobCheck, detail: String) {
        match place.quarantine(digest, check, self.parts.limits.quarantine_bytes).await {
            // Somebody has fetched it anew meanwhile.
            Ok(false) => {}
            Ok(true) => {
                (self.parts.forget)(digest);
                self.report.rotten_cached += 1;
                self.parts.metrics.found_rotten(false);
                self.parts.metrics.quarantined_blobs.inc();
                tracing::warn!(%digest, detail, "a cached blob has rotted; it lies in the quarantine and is fetched again");
                self.found(Outcome::Quarantined, digest, detail).await;
            }
            Err(error) => self.not_mended(digest, error.to_string()).await,
        }
    }

    async fn hosted_is_rotten(&mut self, digest: &Digest, detail: String) {
        self.report.rotten_hosted += 1;
        self.parts.metrics.found_rotten(true);
        // Where everything rots, looking for names would take longer than the scrub.
        let names = if self.report.rotten_hosted <= MAX_NAMED { self.referring_to(digest).await.unwrap_or_default() } else { Vec::new() };
        let repositories = names.join(", ");
        tracing::error!(%digest, repositories, detail, "a HOSTED blob has rotted: restore it from a backup, or push it again");
        let repository = Some(repositories).filter(|names| !names.is_empty());
        let (wrong, outcome) = (Wrong::RottenBlob, Outcome::Hosted);
        self.teller.found(Finding { wrong, outcome, digest: Some(*digest), repository, tag: None, detail }).await;
    }

    async fn not_mended(&mut self, digest: &Digest, detail: String) {
        self.report.not_mended += 1;
        tracing::error!(%digest, detail, "a blob has rotted, or cannot be read, and could not be put aside");
        self.found(Outcome::NotMended, digest, detail).await;
    }

    async fn not_listed(&mut self, error: &StorageError) {
        self.report.not_mended += 1;
        tracing::error!(%error, "some blobs cannot be listed, and were not looked at");
        let (wrong, outcome) = (Wrong::RottenBlob, Outcome::NotMended);
        self.teller.found(Finding { wrong, outcome, digest: None, repository: None, tag: None, detail: error.to_string() }).await;
    }

    async fn found(&mut self, outcome: Outcome, digest: &Digest, detail: String) {
        let finding = Finding { wrong: Wrong::RottenBlob, outcome, digest: Some(*digest), repository: None, tag: None, detail };
        self.teller.found(finding).await;
    }

    fn log_end(&self) {
        let report = &self.report;
        tracing::info!(
            blobs = report.blobs,
            bytes = report.bytes,
            rotten_cached = report.rotten_cached,
            rotten_hosted = report.rotten_hosted,
            mended_records = report.mended_records,
            damaged_hosted_records = report.damaged_hosted_records,
            lost = report.lost,
            not_mended = report.not_mended,
            "scrubbed the store"
        );
    }
}
