//! Where the bytes of a fill come from.
//!
//! To a fill all are sources, in an order: the bucket, the replicas that own the blob, upstream. One
//! that fails is left for the next, at the missing bytes; only upstream is asked again.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::cache::Origin;
use crate::oci::Digest;
use crate::storage::{Bucket, BucketStream, StorageError};
use crate::telemetry::metrics::FillSource;
use crate::upstream::{BlobStream, Replica, Unavailability, UpstreamError};

/// A place that may have a blob.
#[derive(Clone)]
pub(super) enum Source {
    /// The bucket, for a blob that the repository may serve.
    Bucket(Bucket),
    /// Another replica, which owns the blob.
    Replica(Replica),
    /// The origin's upstream.
    Upstream,
}

/// The sources of one blob, and which of them is asked.
pub(super) struct Sources {
    origin: Arc<Origin>,
    digest: Digest,
    current: Source,
    /// Counts the sources, so that a connection's failure is held against its own.
    number: usize,
    /// Replicas that have been asked.
    asked: Vec<SocketAddr>,
    /// False once a replica waits for this fill: would it wait for another one, two that take each
    /// other for the owner would wait for ever.
    replicas: bool,
}

/// What the failure of a source means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another source is asked from now on.
    Other,
    /// The same one is asked again, if at all.
    Same,
    /// It is the owner's word: nobody is asked again.
    Final,
}

/// The bytes that a source sends.
pub(super) enum SourceStream {
    Bucket(BucketStream),
    Upstream(Box<BlobStream>),
}

impl Sources {
    /// The bucket, if it is one, then the replicas, then upstream. With `upstream_only` it is all there is.
    pub(super) fn new(origin: Arc<Origin>, digest: Digest, bucket: Option<Bucket>, upstream_only: bool) -> Self {
        let mut sources = Self { origin, digest, current: Source::Upstream, number: 0, asked: Vec::new(), replicas: !upstream_only };
        sources.current = bucket.map_or_else(|| sources.next(), Source::Bucket);
        sources
    }

    /// The one that is asked now, and its number.
    pub(super) fn current(&self) -> (usize, Source) {
        (self.number, self.current.clone())
    }

    /// Source `number` failed with `error`.
    pub(super) fn leave(&mut self, number: usize, error: &UpstreamError) -> Next {
        if number != self.number {
            return Next::Other;
        }
        match (&self.current, error) {
            (Source::Upstream, _) => return Next::Same,
            (Source::Replica(_), UpstreamError::NotFound { .. } | UpstreamError::Denied { .. } | UpstreamError::TooManyRequests { .. }) => {
                return Next::Final;
            }
            // It is well, and cannot reach upstream: a third one is no better.
            (Source::Replica(_), UpstreamError::Unavailable { kind: Unavailability::Status(_), .. }) => self.replicas = false,
            (Source::Bucket(_) | Source::Replica(_), _) => {}
        }
        self.advance();
        Next::Other
    }

    /// A replica waits for this fill. True if that made another source the current one.
    pub(super) fn ask_no_replica(&mut self) -> bool {
        self.replicas = false;
        let was_replica = matches!(self.current, Source::Replica(_));
        if was_replica {
            self.advance();
        }
        was_replica
    }

    fn advance(&mut self) {
        self.current = self.next();
        self.number += 1;
    }

    /// The first replica that has not been asked, as the members are now; else upstream.
    fn next(&mut self) -> Source {
        if !self.replicas {
            return Source::Upstream;
        }
        let next = self.origin.blob_route(&self.digest).into_iter().find(|replica| !self.asked.contains(&replica.address()));
        match next {
            Some(replica) => {
                self.asked.push(replica.address());
                Source::Replica(replica)
            }
            None => Source::Upstream,
        }
    }
}

impl Source {
    /// What it is, as a metric's label.
    pub(super) const fn kind(&self) -> FillSource {
        match self {
            Self::Bucket(_) => FillSource::Bucket,
            Self::Replica(_) => FillSource::Replica,
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
            Self::Replica(replica) => {
                replica.get_blob(&origin.repository, digest, range).await.map(|stream| SourceStream::Upstream(Box::new(stream)))
            }
            Self::Upstream => {
                origin.reach()?.get_blob(&origin.remote, digest, range).await.map(|stream| SourceStream::Upstream(Box::new(stream)))
            }
        }
    }
}

impl SourceStream {
    /// The first byte that comes.
    pub(super) const fn start(&self) -> u64 {
        match self {
            Self::Bucket(stream) => stream.start,
            Self::Upstream(stream) => stream.start,
        }
    }

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
