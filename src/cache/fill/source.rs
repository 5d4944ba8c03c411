//! Where the bytes of a fill come from.
//!
//! To a fill all are sources, in an order: the bucket, then upstream. One that fails is left for the
//! next, at the missing bytes; only the last one is asked again.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::cache::Origin;
use crate::oci::Digest;
use crate::storage::{Bucket, BucketStream, StorageError};
use crate::telemetry::metrics::FillSource;
use crate::upstream::{BlobStream, Unavailability, UpstreamError};

/// A place that may have a blob.
#[derive(Clone, Debug)]
pub enum Source {
    /// The bucket, for a blob that the repository may serve.
    Bucket(Bucket),
    /// The origin's upstream.
    Upstream,
}

/// The sources of one blob, and which of them is asked.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    list: Vec<Source>,
    at: usize,
}

/// The bytes that a source sends.
pub(super) enum SourceStream {
    Bucket(BucketStream),
    Upstream(BlobStream),
}

impl Sources {
    /// `first` in their order, then upstream.
    pub(super) fn before_upstream(mut first: Vec<Source>) -> Self {
        first.push(Source::Upstream);
        Self { list: first, at: 0 }
    }

    /// The one that is asked now, and its number.
    pub(super) fn current(&self) -> (usize, Source) {
        (self.at, self.list.get(self.at).cloned().unwrap_or(Source::Upstream))
    }

    /// Source `number` failed. True if another one is asked from now on; the last one stays.
    pub(super) fn leave(&mut self, number: usize) -> bool {
        let has_next = number + 1 < self.list.len();
        if has_next {
            self.at = self.at.max(number + 1);
        }
        has_next
    }
}

impl Source {
    /// What it is, as a metric's label.
    pub(super) const fn kind(&self) -> FillSource {
        match self {
            Self::Bucket(_) => FillSource::Bucket,
            Self::Upstream => FillSource::Upstream,
        }
    }

    /// Asks for a blob, or the interval `range` of it.
    pub(super) async fn open(
        &self,
        origin: &Arc<Origin>,
        digest: &Digest,
        range: Option<Range<u64>>,
    ) -> Result<SourceStream, UpstreamError> {
        match self {
            Self::Bucket(bucket) => match bucket.read(digest, range).await {
                Ok(Some(stream)) => Ok(SourceStream::Bucket(stream)),
                Ok(None) => Err(UpstreamError::NotFound { detail: "the bucket does not have it".to_owned() }),
                Err(error) => {
                    origin.metrics.all().storage_failed(error.operation());
                    Err(unavailable(&error))
                }
            },
            Self::Upstream => origin.reach()?.get_blob(&origin.remote, digest, range).await.map(SourceStream::Upstream),
        }
    }
}

impl SourceStream {
    /// Length of the blob, if it was told.
    pub(super) const fn total_bytes(&self) -> Option<u64> {
        match self {
            Self::Bucket(stream) => Some(stream.total_bytes),
            Self::Upstream(stream) => stream.total_bytes,
        }
    }

    /// Whether more comes than was asked for, from the blob's first byte on.
    pub(super) fn is_more_than(&self, asked: &Range<u64>) -> bool {
        match self {
            Self::Bucket(stream) => stream.start != asked.start || stream.end > asked.end,
            Self::Upstream(stream) => stream.start != asked.start || stream.end.is_none_or(|end| end > asked.end),
        }
    }

    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        match self {
            Self::Bucket(stream) => stream.next().await.map(|bytes| bytes.map_err(|error| unavailable(&error))),
            Self::Upstream(stream) => stream.next().await,
        }
    }
}

/// The bucket's failure in the words of a source.
fn unavailable(error: &StorageError) -> UpstreamError {
    UpstreamError::Unavailable { kind: Unavailability::Broken, retry_after: None, detail: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_fails_is_left_once_and_the_last_one_stays() {
        let mut sources = Sources { list: vec![Source::Upstream, Source::Upstream, Source::Upstream], at: 0 };
        assert!(sources.leave(0));
        assert!(sources.leave(0), "another connection of the same source");
        assert_eq!(sources.current().0, 1);
        assert!(sources.leave(1));
        assert!(!sources.leave(2));
        assert_eq!(sources.current().0, 2);
    }
}
