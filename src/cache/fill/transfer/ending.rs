//! How a transfer ends: committed, past the store, or failed.

use super::Transfer;
use crate::cache::fill::lend::{blocking, with_writer};
use crate::cache::fill::writer::Writer;
use crate::cache::fill::{FillError, Phase, not_kept_reason};
use crate::storage::StorageError;
use crate::telemetry::metrics::FillResult;
use crate::upstream::UpstreamError;

impl Transfer {
    /// The digest holds: everybody may have everything. Then it is made durable.
    pub(super) async fn commit(&mut self, writer: Option<Writer>) -> FillResult {
        self.fill.set_phase(Phase::Verified);
        if let Some((verified, total_bytes)) = self.verified.take().zip(self.total_bytes) {
            verified(total_bytes).await;
        }
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
            None if self.fill.progress.borrow().file.is_none() => Some((0, crate::oci::DigestHasher::new(self.fill.digest.algorithm()))),
            // It was lost with its thread, and with it what has been hashed.
            None => None,
        };
        self.log_not_kept(error);
        match hashed {
            Some((from, hasher)) => self.fill.set_phase(Phase::Unkept { from, hasher }),
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
