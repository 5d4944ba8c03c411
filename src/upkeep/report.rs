//! What a run tells while it goes on, and at its end. The same words go over the control socket, to
//! `--json`, and to the log.

use serde::{Deserialize, Serialize};

use crate::oci::Digest;

/// One word of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<R> {
    /// So far.
    Progress {
        /// The counts so far.
        report: R,
    },
    /// Something was wrong, or would be removed.
    Found {
        /// What, and what was done about it.
        finding: Finding,
    },
    /// A blob that nothing refers to; in a dry run.
    Unneeded {
        /// Which.
        blob: Unneeded,
    },
    /// The last one of a run that went through.
    Done {
        /// The counts.
        report: R,
    },
    /// The last one of a run that did not.
    Failed {
        /// Why.
        error: String,
    },
}

/// What was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrong {
    /// The bytes of a blob are not those of its digest, or cannot be read.
    RottenBlob,
    /// A manifest's record whose manifest is not there.
    ManifestWithoutBlob,
    /// A tag whose manifest has no record.
    TagWithoutManifest,
    /// A record that is not of its form.
    UnreadableRecord,
    /// A blob on disk that the bucket does not have any more.
    LostBlob,
}

impl Wrong {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::RottenBlob, Self::ManifestWithoutBlob, Self::TagWithoutManifest, Self::UnreadableRecord, Self::LostBlob];

    /// In words.
    #[must_use]
    pub const fn as_words(self) -> &'static str {
        match self {
            Self::RottenBlob => "rotten blob",
            Self::ManifestWithoutBlob => "manifest without its blob",
            Self::TagWithoutManifest => "tag without its manifest",
            Self::UnreadableRecord => "unreadable record",
            Self::LostBlob => "blob that the bucket lost",
        }
    }
}

/// What was done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The blob lies in `quarantine/` now; it is fetched again when it is next asked for.
    Quarantined,
    /// The record is gone; what it stood for is fetched again when it is next asked for.
    Removed,
    /// The bucket gets the blob from the disk.
    SentAgain,
    /// Nothing: it is hosted, and nobody else has it. Somebody has to look.
    Hosted,
    /// Nothing: the store could not do it. The log says why.
    NotMended,
}

impl Outcome {
    /// In words.
    #[must_use]
    pub const fn as_words(self) -> &'static str {
        match self {
            Self::Quarantined => "quarantined; it is fetched again when it is next asked for",
            Self::Removed => "removed; it is fetched again when it is next asked for",
            Self::SentAgain => "sent to the bucket again",
            Self::Hosted => "HOSTED: left as it is, push it again",
            Self::NotMended => "could not be mended, see the log of the server",
        }
    }
}

/// One thing that was wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was wrong.
    pub wrong: Wrong,
    /// What was done about it.
    pub outcome: Outcome,
    /// The blob or manifest, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The repository, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The tag, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// How it showed.
    pub detail: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.wrong.as_words())?;
        if let Some(repository) = &self.repository {
            write!(f, " {repository}")?;
        }
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, " {digest}")?;
        }
        write!(f, " ({}): {}", self.detail, self.outcome.as_words())
    }
}

/// A blob that nothing refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unneeded {
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub length_bytes: u64,
    /// How far it is.
    pub state: UnneededState,
}

/// How far a blob is that nothing refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnneededState {
    /// It is marked now.
    Marked,
    /// It is marked, and its grace is not over.
    Waiting,
    /// It is deleted now.
    Deleted,
}

/// What a scrub is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScrubPhase {
    /// Adding up what there is.
    #[default]
    Counting,
    /// Reading records.
    Records,
    /// Hashing blobs.
    Blobs,
}

/// The counts of a scrub.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubReport {
    /// What it is at.
    pub phase: ScrubPhase,
    /// Blobs there were when it began.
    pub total_blobs: u64,
    /// Their bytes.
    pub total_bytes: u64,
    /// Repositories whose records were read.
    pub repositories: u64,
    /// Records that were read.
    pub records: u64,
    /// Blobs that were hashed.
    pub blobs: u64,
    /// Bytes that were hashed.
    pub bytes: u64,
    /// Cached blobs that were rotten.
    pub rotten_cached: u64,
    /// Hosted ones.
    pub rotten_hosted: u64,
    /// Records of cached content that pointed nowhere, or could not be read, and were removed.
    pub mended_records: u64,
    /// Records of hosted content that do; they stay.
    pub damaged_hosted_records: u64,
    /// Blobs on disk that the bucket had lost, and gets again.
    pub lost: u64,
    /// What was found and could not be mended.
    pub not_mended: u64,
}

impl ScrubReport {
    /// Whether something hosted is damaged, or something could not be mended.
    #[must_use]
    pub const fn needs_somebody(&self) -> bool {
        self.rotten_hosted + self.damaged_hosted_records + self.not_mended > 0
    }

    /// Whether anything was wrong.
    #[must_use]
    pub const fn found_something(&self) -> bool {
        self.needs_somebody() || self.rotten_cached + self.mended_records + self.lost > 0
    }
}

/// What a garbage collection is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GcPhase {
    /// Listing blobs and marks.
    #[default]
    Blobs,
    /// Reading what repositories refer to.
    Repositories,
    /// Marking what nothing refers to, and unmarking what something does.
    Marks,
    /// Deleting.
    Deletion,
}

/// The counts of a garbage collection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcReport {
    /// Whether it only told what would go.
    pub dry_run: bool,
    /// What it is at.
    pub phase: GcPhase,
    /// Blobs there are.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Repositories that were read.
    pub repositories: u64,
    /// Manifests that were read.
    pub manifests: u64,
    /// Links that nobody needs, removed.
    pub links: u64,
    /// Blobs that nothing refers to, marked by this run.
    pub marked: u64,
    /// Marked ones whose grace is not over.
    pub waiting: u64,
    /// Marked ones that something refers to after all.
    pub unmarked: u64,
    /// Blobs deleted.
    pub deleted: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Operations that failed; what they were about is left for the next run.
    pub failed: u64,
    /// Some manifests' records could not be read. What they refer to is not known, so nothing was marked or deleted.
    pub is_incomplete: bool,
}
