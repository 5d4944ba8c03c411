//! What a failed call says of the bucket: that it answers, or that it does not.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use object_store::Error;
use object_store::client::HttpError;

use crate::telemetry::metrics::BucketResult;

/// Of the bucket, instead of an answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(in crate::storage) enum Unavailable {
    /// It was not asked.
    #[error("the bucket did not answer just now and is not asked again for {} ms ({cause})", retry_after.as_millis())]
    HeldOff {
        /// When it may be asked.
        retry_after: Duration,
        /// What it was last time.
        cause: Arc<str>,
    },
    /// It took too long.
    #[error("no answer within {} ms", within.as_millis())]
    TimedOut {
        /// The time it had.
        within: Duration,
    },
}

impl Unavailable {
    /// As an answer of the object store.
    pub(super) fn into_error(self) -> Error {
        Error::Generic { store: "bucket", source: Box::new(self) }
    }

    /// Finds it in an answer of the object store.
    pub(in crate::storage) fn of(error: &Error) -> Option<&Self> {
        if let Error::Generic { source, .. } = error { source.downcast_ref() } else { None }
    }
}

/// Whether asking again later may help: the bucket gave no answer, or one that says "not now".
pub(in crate::storage) fn may_pass(error: &Error) -> bool {
    result(error) == BucketResult::Failed
}

/// What `error` says of the bucket.
pub(super) fn result(error: &Error) -> BucketResult {
    match (error, status(error)) {
        (Error::PermissionDenied { .. } | Error::Unauthenticated { .. }, _) => BucketResult::Denied,
        // 501 is an answer; 408 and 429 are 503 in other words.
        (Error::Generic { .. }, Some(408 | 429 | 500 | 502..)) | (Error::Generic { .. }, None) => BucketResult::Failed,
        // Any other is an answer: NotFound, Precondition, AlreadyExists, NotModified, …
        _ => BucketResult::Answered,
    }
}

/// The status that the server answered with, if it did.
///
/// The crate keeps the type that holds it to itself and only prints it. Should the words change,
/// every answer it has no name for counts as a failure, and the tests of the bucket say so.
fn status(error: &Error) -> Option<u16> {
    let mut source = error.source();
    while let Some(error) = source {
        if error.is::<HttpError>() {
            return None;
        }
        if let Some((_, rest)) = error.to_string().split_once("status code: ") {
            return rest.get(..3)?.parse().ok();
        }
        source = error.source();
    }
    None
}
