//! Who has sent bytes that a digest did not hold for.

use std::time::Duration;

use moka::sync::Cache as Moka;

use super::source::Source;
use crate::oci::Digest;
use crate::upstream::SourceId;

/// How long they are not asked for that blob.
const ROTTEN_FOR: Duration = Duration::from_secs(600);
/// So many such blobs are remembered.
const MAX_ROTTEN: u64 = 1_000;

/// Those who have sent some of a blob, beside its upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Suspects {
    /// The bucket, or another replica.
    pub(super) others: bool,
    /// These mirrors.
    pub(super) mirrors: Vec<SourceId>,
}

impl Suspects {
    /// Notes that a source has sent something.
    pub(super) fn note(&mut self, source: &Source) {
        match source {
            Source::Bucket(_) | Source::Replica(_) => self.others = true,
            Source::Mirror(mirror) if !self.mirrors.contains(mirror.id()) => self.mirrors.push(mirror.id().clone()),
            Source::Mirror(_) | Source::Upstream => {}
        }
    }

    /// Whether nobody but the upstream has sent anything.
    pub(super) const fn is_empty(&self) -> bool {
        !self.others && self.mirrors.is_empty()
    }
}

/// The blobs for which somebody is not asked for a while; cheap to clone.
#[derive(Clone)]
pub(super) struct Rotten(Moka<Digest, Suspects>);

impl Rotten {
    pub(super) fn new() -> Self {
        Self(Moka::builder().max_capacity(MAX_ROTTEN).time_to_live(ROTTEN_FOR).build())
    }

    /// Who is not asked for a blob.
    pub(super) fn of(&self, digest: &Digest) -> Suspects {
        self.0.get(digest).unwrap_or_default()
    }

    /// These are not asked for a blob either.
    pub(super) fn add(&self, digest: Digest, suspects: Suspects) {
        self.0.entry(digest).and_upsert_with(|known| {
            let mut all = known.map(moka::Entry::into_value).unwrap_or_default();
            all.others |= suspects.others;
            all.mirrors.extend(suspects.mirrors);
            all
        });
    }
}
