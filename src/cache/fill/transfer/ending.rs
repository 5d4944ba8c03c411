//! How a transfer ends: committed, past the store, or failed.

use super::Transfer;
use crate::cache::fill::lend::{blocking, with_writer};
use crate::cache::fill::writer::Writer;
use crate::cache::fill::{FillError, Phase, not_kept_reason};
use crate::oci::{Digest, DigestHasher};
use crate::storage::StorageError;
use crate::telemetry::metrics::FillResult;
use crate::upstream::UpstreamError;

/// What a blob lacks that the store cannot keep.
enum Without {
    /// What comes behind this; followers go on by themselves, and verify it.
    Rest { from: u64, hasher: DigestHasher },
    /// Nothing: all of it is here, and has its digest.
    Nothing,
    /// All of it is here, and is something else.
    Match(FillError),
}

/// With all bytes here nobody goes on behind them, and so nobody but this compares the digest.
fn without_store(expected: &Digest, total_bytes: Option<u64>, (from, hasher): (u64, DigestHasher)) -> Without {
    if total_bytes != Some(from) {
        return Without::Rest { from, hasher };
    }
    let actual = hasher.finish();
    if actual == *expected {
        Without::Nothing
    } else {
        Without::Match(FillError::DigestMismatch { expected: Box::new(*expected), actual: Box::new(actual) })
    }
}

impl Transfer {
    /// The digest holds: everybody may have everything. Then it is made durable.
    pub(super) async fn commit(&mut self, writer: Option<Writer>) -> FillResult {
        self.holds().await;
        let Some(writer) = writer else { return FillResult::NotKept };
        if self.uploads.as_ref().is_some_and(|uploads| !uploads.keeps_on_disk()) {
            return self.handed_over(writer).await;
        }
        if let Some(upload) = &mut self.upload {
            upload.noted().await;
        }
        match blocking(move || writer.commit()).await {
            Ok(()) => FillResult::Committed,
            Err(error) => {
                self.log_not_kept(&error);
                FillResult::NotKept
            }
        }
    }

    /// Everybody may have everything, and whoever waits for that is told.
    async fn holds(&mut self) {
        self.fill.set_phase(Phase::Verified);
        if let Some((verified, total_bytes)) = self.verified.take().zip(self.total_bytes) {
            verified(total_bytes).await;
        }
    }

    /// Nothing is kept on disk: the blob is here until the bucket has it.
    async fn handed_over(&mut self, writer: Writer) -> FillResult {
        let taken = match self.upload.take() {
            Some(upload) => upload.taken().await,
            None => true,
        };
        let _ = blocking(move || {
            drop(writer); // and the staged file with it
            Ok(())
        })
        .await;
        if taken { FillResult::Committed } else { FillResult::NotKept }
    }

    pub(super) async fn unkept(&mut self, mut writer: Option<Writer>, error: &StorageError) -> FillResult {
        self.connections.shutdown().await;
        let hashed = match &mut writer {
            // Bytes that followers have read are hashed first, so that they can go on from there.
            Some(_) => with_writer(&mut writer, |writer| writer.hash_written().map(|()| writer.hashed())).await.ok(),
            None if self.fill.progress.borrow().file.is_none() => Some((0, DigestHasher::new(self.fill.digest.algorithm()))),
            // It was lost with its thread, and with it what has been hashed.
            None => None,
        };
        self.log_not_kept(error);
        match hashed.map(|hashed| without_store(self.fill.digest(), self.total_bytes, hashed)) {
            Some(Without::Rest { from, hasher }) => self.fill.set_phase(Phase::Unkept { from, hasher }),
            Some(Without::Nothing) => self.holds().await,
            Some(Without::Match(error)) => return self.failed(error),
            None => self.fill.set_phase(Phase::Failed(FillError::Read(error.to_string()))),
        }
        FillResult::NotKept
    }

    fn log_not_kept(&self, error: &StorageError) {
        self.origin.metrics.all().storage_failed(error.operation());
        tracing::warn!(
            digest = %self.fill.digest, rule = self.origin.metrics.rule(), %error,
            "blob was not kept: {}; clients are still served. Free space in storage.path, or give it more",
            not_kept_reason(error),
        );
    }

    pub(super) fn failed(&self, error: FillError) -> FillResult {
        let (digest, rule) = (self.fill.digest, self.origin.metrics.rule());
        let result = match &error {
            FillError::DigestMismatch { .. } => {
                self.origin.metrics.all().digest_mismatch.inc();
                if self.suspects.is_empty() {
                    FillResult::DigestMismatch
                } else {
                    let mirrors = self.suspects.mirrors.len();
                    tracing::error!(
                        %digest, rule, others = self.suspects.others, mirrors,
                        "the bucket, another replica or a mirror has other bytes under this digest; it is not asked for them for a while",
                    );
                    FillResult::Rotten
                }
            }
            FillError::Dropped => FillResult::Dropped,
            FillError::Upstream(_)
            | FillError::TooLong { .. }
            | FillError::Read(_)
            | FillError::NoConnection { .. }
            | FillError::TooManyBypasses => FillResult::Failed,
        };
        match &error {
            FillError::Dropped => tracing::info!(%digest, rule, "a fill was dropped: no client follows it, and there is no room for it"),
            // Told to the clients, whose requests are logged.
            FillError::Upstream(UpstreamError::NotFound { .. }) => tracing::debug!(%digest, rule, %error, "upstream does not have a blob"),
            FillError::Upstream(_)
            | FillError::DigestMismatch { .. }
            | FillError::TooLong { .. }
            | FillError::Read(_)
            | FillError::NoConnection { .. }
            | FillError::TooManyBypasses => tracing::warn!(%digest, rule, "a fill failed, nothing of it is kept: {error}"),
        }
        self.fill.set_phase(Phase::Failed(error));
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashed(bytes: &[u8]) -> (u64, DigestHasher) {
        let mut hasher = DigestHasher::new(Digest::of(b"").algorithm());
        hasher.update(bytes);
        (bytes.len() as u64, hasher)
    }

    #[test]
    fn followers_of_a_blob_that_is_not_kept_go_on_where_the_hash_stands() {
        let (digest, total) = (Digest::of(b"content"), b"content".len() as u64);
        for (total_bytes, here) in [(Some(total), "conten"), (Some(total), ""), (None, "content")] {
            let without = without_store(&digest, total_bytes, hashed(here.as_bytes()));
            let Without::Rest { from, hasher } = without else { panic!("{here:?} of {total_bytes:?}") };
            assert_eq!((from, hasher.finish()), (here.len() as u64, Digest::of(here.as_bytes())));
        }
    }

    #[test]
    fn a_blob_that_is_not_kept_and_is_all_here_is_given_out_only_if_it_has_its_digest() {
        let digest = Digest::of(b"content");
        assert!(matches!(without_store(&digest, Some(7), hashed(b"content")), Without::Nothing));
        let without = without_store(&digest, Some(7), hashed(b"c0ntent"));
        let Without::Match(FillError::DigestMismatch { expected, actual }) = without else { panic!("it passed") };
        assert_eq!((*expected, *actual), (digest, Digest::of(b"c0ntent")));
    }
}
