//! Blobs that the bucket did not take, or that came while others took all of its time, sent from disk.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::supply::Supply;
use super::{UploadError, Uploads};
use crate::oci::{Digest, DigestHasher};

/// First pause before blobs that the bucket did not take are tried again; it doubles.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest such pause.
const MAX_RETRY: Duration = Duration::from_secs(60);

/// What became of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tried {
    /// The bucket has it, or it is not here any more.
    Done,
    /// It could not be sent; others may.
    Failed,
    /// The bucket does not answer: nor would it for the next one.
    Unavailable,
}

impl Uploads {
    /// Tries again, for as long as it runs, what the bucket did not take.
    pub async fn retry_pending(self) {
        let (mut pause, mut recoveries, mut last) = (FIRST_RETRY, self.shared.bucket.recoveries(), None);
        loop {
            // One that comes while this goes on ends the pause after it.
            recoveries.forget_past();
            pause = if self.retry_all(&mut last).await { FIRST_RETRY } else { (pause * 2).min(MAX_RETRY) };
            let pending = self.pending().await;
            let is_idle = pending.iter().all(|digest| self.shared.turns.is_taken(digest));
            if is_idle {
                self.shared.retry.notified().await;
            }
            let _ = tokio::time::timeout(pause, recoveries.next()).await;
        }
    }

    /// True if nothing failed. Begins behind the one that was tried last: it may be the one that never gets through.
    async fn retry_all(&self, last: &mut Option<Digest>) -> bool {
        let mut waiting = beginning_behind(*last, self.pending().await).into_iter();
        let mut under_way = FuturesUnordered::new();
        let (mut is_well, mut answers) = (true, true);
        loop {
            while answers && under_way.len() < self.shared.limits.max_uploads.max(1) {
                let Some(digest) = waiting.next() else { break };
                // What fills sees to itself.
                let Some(turn) = self.shared.turns.try_take(digest) else { continue };
                *last = Some(digest);
                under_way.push(async move {
                    let tried = self.retry_one(digest).await;
                    drop(turn);
                    tried
                });
            }
            match under_way.next().await {
                None => return is_well,
                Some(Tried::Done) => {}
                Some(Tried::Failed) => is_well = false,
                // Those that are under way may have sent most of theirs.
                Some(Tried::Unavailable) => (is_well, answers) = (false, false),
            }
        }
    }

    async fn retry_one(&self, digest: Digest) -> Tried {
        let blob = match self.shared.blobs.open_unused(&digest) {
            Ok(Some(blob)) => blob,
            // Gone before it could be sent: it comes from upstream again.
            Ok(None) => {
                self.forget(digest).await;
                return Tried::Done;
            }
            Err(error) => {
                tracing::warn!(%digest, %error, "a blob that the bucket is to get cannot be opened; it is tried again");
                return Tried::Failed;
            }
        };
        let replaces = self.replaces(digest).await;
        if !replaces {
            match self.shared.bucket.stat(&digest).await {
                Ok(Some(length_bytes)) if length_bytes == blob.length_bytes => {
                    self.forget(digest).await;
                    return Tried::Done;
                }
                Ok(_) => {}
                Err(error) if error.is_unavailable() => return Tried::Unavailable,
                Err(_) => return Tried::Failed,
            }
        }
        let hasher = Box::new(DigestHasher::new(digest.algorithm()));
        let (file, length_bytes) = (blob.file, blob.length_bytes);
        match self.run(digest, Supply::Whole { file: file.clone(), length_bytes, hasher }, replaces).await {
            Ok(()) | Err(UploadError::GivenUp) => Tried::Done,
            Err(UploadError::Rotten) => {
                self.put_aside(digest, file).await;
                Tried::Done
            }
            Err(UploadError::Storage(error)) if error.is_unavailable() => Tried::Unavailable,
            Err(UploadError::Storage(_) | UploadError::Read(_) | UploadError::Part(_) | UploadError::NoPlace) => Tried::Failed,
        }
    }
}

/// Blobs in the order of their digests, beginning behind `last`.
fn beginning_behind(last: Option<Digest>, mut blobs: Vec<Digest>) -> Vec<Digest> {
    let before = last.map_or(0, |last| blobs.partition_point(|digest| *digest <= last));
    blobs.rotate_left(before);
    blobs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_begins_behind_the_blob_that_the_last_one_ended_with() {
        let mut blobs = [b"a", b"b", b"c"].map(|bytes| Digest::of(bytes)).to_vec();
        blobs.sort_unstable();
        let [first, second, third] = blobs[..] else { panic!("three") };
        assert_eq!(beginning_behind(None, blobs.clone()), [first, second, third]);
        assert_eq!(beginning_behind(Some(first), blobs.clone()), [second, third, first]);
        assert_eq!(beginning_behind(Some(third), blobs.clone()), [first, second, third]);
        assert_eq!(beginning_behind(Some(second), vec![first, third]), [third, first]);
    }
}
