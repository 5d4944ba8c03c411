//! Finds out, by trying, what the bucket's conditional writes are worth. Some servers take the
//! headers and ignore them: only a write that should have been refused tells.

use std::time::Duration;

use object_store::path::Path as Key;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, Result, UpdateVersion};

use super::{Bucket, failure};
use crate::storage::{Preconditions, StorageError, Support};
use crate::telemetry::metrics::BucketResult;

/// First pause before a bucket that did not answer is tried again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest such pause.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// An entity tag that no object of the probe has.
const OTHER_E_TAG: &str = "\"00000000000000000000000000000000\"";

impl Bucket {
    /// What is known of the bucket's conditional writes.
    #[must_use]
    pub fn preconditions(&self) -> Preconditions {
        self.preconditions.get()
    }

    /// Finds out what the bucket's conditional writes are worth, and says what follows. Goes on until
    /// the bucket has answered.
    pub async fn find_out_preconditions(self) {
        let (mut pause, mut said) = (FIRST_PAUSE, false);
        loop {
            match self.probe().await {
                Ok(found) => return self.found(found),
                Err(error) if said || error.is_unavailable() => tracing::debug!(%error, "the bucket could not be tried yet"),
                Err(error) => {
                    said = true;
                    tracing::warn!(
                        %error,
                        "the bucket cannot be written and read as it should be; see the permissions in docs/operating.md. It is tried again"
                    );
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Tries once, with an object that is removed again.
    ///
    /// # Errors
    /// When the bucket does not say, or does not take an object.
    pub async fn probe(&self) -> Result<Preconditions, StorageError> {
        let key = &self.probe_key;
        let tried = try_all(&*self.objects, key).await;
        // Where the bucket goes away in between, the next attempt takes the same one.
        let removed = self.objects.delete(key).await;
        let found = tried.map_err(|error| StorageError::object(key, error))?;
        removed.map_err(|error| StorageError::object(key, error))?;
        Ok(found)
    }

    fn found(&self, found: Preconditions) {
        self.preconditions.set(found);
        self.metrics.preconditions_known([found.create.gauge(), found.update.gauge()]);
        let Preconditions { create, update, bare_e_tags: _ } = found;
        if create == Support::Honoured && update == Support::Honoured {
            tracing::info!("the bucket keeps to conditional writes: replicas do not overwrite each other's records");
        } else {
            tracing::warn!(
                ?create,
                ?update,
                "the bucket ignores conditional writes: records are safe from each other within one process only. Run one replica \
                 per prefix, or use a store that keeps to If-None-Match and If-Match"
            );
        }
    }
}

async fn try_all(objects: &dyn ObjectStore, key: &Key) -> Result<Preconditions> {
    let put = |text: &'static str, mode: PutMode| objects.put_opts(key, PutPayload::from(text), PutOptions::from(mode));
    put("first", PutMode::Overwrite).await?;
    let create = refusal(put("created over", PutMode::Create).await)?;

    let update = |e_tag: String| PutMode::Update(UpdateVersion { e_tag: Some(e_tag), version: None });
    let current = put("current", PutMode::Overwrite).await?.e_tag;
    let is_compared = refusal(put("updated over", update(OTHER_E_TAG.to_owned())).await)? == Support::Honoured;
    let (mut update_support, mut bare_e_tags) = (Support::Ignored, false);
    if let Some(e_tag) = current.filter(|_| is_compared) {
        update_support = acceptance(put("updated", update(e_tag.clone())).await)?;
        if update_support == Support::Ignored {
            update_support = acceptance(put("updated", update(e_tag.trim_matches('"').to_owned())).await)?;
            bare_e_tags = update_support == Support::Honoured;
        }
    }
    Ok(Preconditions { create, update: update_support, bare_e_tags })
}

/// What a write says that should have been refused.
fn refusal<T>(written: Result<T>) -> Result<Support> {
    match written {
        Ok(_) => Ok(Support::Ignored),
        Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Support::Honoured),
        // It does not know the header, and says so.
        Err(error) if failure::result(&error) == BucketResult::Answered => Ok(Support::Ignored),
        Err(error) => Err(error),
    }
}

/// What a write says that should have been taken.
fn acceptance<T>(written: Result<T>) -> Result<Support> {
    match written {
        Ok(_) => Ok(Support::Honoured),
        Err(error) if failure::result(&error) == BucketResult::Answered => Ok(Support::Ignored),
        Err(error) => Err(error),
    }
}
