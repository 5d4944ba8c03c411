//! Where the bytes of a fill come from.
//!
//! To a fill all are sources, in an order: the bucket, the replicas that own the blob, upstream and its
//! mirrors, those that are well first. One that fails is left for the next, at the missing bytes. Upstream
//! is asked again after all, and with it every mirror that may have the blob.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::suspects::Suspects;
use crate::cache::{Mirror, Origin, Place};
use crate::oci::Digest;
use crate::storage::{Bucket, BucketStream, StorageError};
use crate::telemetry::metrics::FillSource;
use crate::upstream::{BlobStream, Replica, SourceId, Unavailability, UpstreamError};

/// A place that may have a blob.
#[derive(Clone)]
pub(super) enum Source {
    /// The bucket, for a blob that the repository may serve.
    Bucket(Bucket),
    /// Another replica, which owns the blob.
    Replica(Replica),
    /// The origin's upstream.
    Upstream,
    /// A mirror of it.
    Mirror(Mirror),
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
    /// Of upstream and mirrors, those that this round has yet to ask.
    round: VecDeque<Source>,
    /// Mirrors that are not asked: they do not have it, or sent what cannot be.
    barred: Vec<SourceId>,
    /// What upstream failed with in this round: it is told, and not what a mirror said.
    failure: Option<UpstreamError>,
}

/// What the failure of a source means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another source is asked from now on.
    Other,
    /// All have failed, upstream with this: they are asked again after a pause, if at all.
    Again(UpstreamError),
    /// It is the owner's word: nobody is asked again.
    Final(UpstreamError),
}

/// The bytes that a source sends.
pub(super) enum SourceStream {
    Bucket(BucketStream),
    Upstream(Box<BlobStream>),
}

impl Sources {
    /// The bucket, if it is one, then the replicas, then upstream and its mirrors, but for those that are suspects.
    pub(super) fn new(origin: Arc<Origin>, digest: Digest, bucket: Option<Bucket>, suspects: Suspects) -> Self {
        let mut sources = Self {
            origin,
            digest,
            current: Source::Upstream,
            number: 0,
            asked: Vec::new(),
            replicas: !suspects.others,
            round: VecDeque::new(),
            barred: suspects.mirrors,
            failure: None,
        };
        sources.current = bucket.map_or_else(|| sources.next(), Source::Bucket);
        sources
    }

    /// The one that is asked now, and its number.
    pub(super) fn current(&self) -> (usize, Source) {
        (self.number, self.current.clone())
    }

    /// Source `number` failed with `error`.
    pub(super) fn leave(&mut self, number: usize, error: UpstreamError) -> Next {
        if number != self.number {
            return Next::Other;
        }
        match (&self.current, &error) {
            // What upstream does not have, or refuses, no mirror is asked for.
            (Source::Upstream, UpstreamError::NotFound { .. } | UpstreamError::Denied { .. }) => return Next::Again(error),
            (Source::Upstream, _) => {
                self.failure = Some(error.clone());
                return self.end_turn(error);
            }
            (Source::Mirror(_), UpstreamError::Unavailable { .. } | UpstreamError::TooManyRequests { .. }) => return self.end_turn(error),
            (Source::Mirror(mirror), _) => {
                self.barred.push(mirror.id().clone());
                return self.end_turn(error);
            }
            (Source::Replica(_), UpstreamError::NotFound { .. } | UpstreamError::Denied { .. } | UpstreamError::TooManyRequests { .. }) => {
                return Next::Final(error);
            }
            // It is well, and cannot reach upstream: a third one is no better.
            (Source::Replica(_), UpstreamError::Unavailable { kind: Unavailability::Status(_), .. }) => self.replicas = false,
            (Source::Bucket(_) | Source::Replica(_), _) => {}
        }
        self.advance();
        Next::Other
    }

    /// Upstream or a mirror has failed: the next of the round, or a new round once all have.
    fn end_turn(&mut self, error: UpstreamError) -> Next {
        let is_over = self.round.is_empty();
        if !is_over || !self.origin.mirrors.is_empty() {
            self.current = self.next_of_round();
            self.number += 1;
        }
        if is_over { Next::Again(self.failure.take().unwrap_or(error)) } else { Next::Other }
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

    /// The first replica that has not been asked, as the members are now; else the next of the round.
    fn next(&mut self) -> Source {
        if !self.replicas {
            return self.next_of_round();
        }
        let next = self.origin.blob_route(&self.digest).into_iter().find(|replica| !self.asked.contains(&replica.address()));
        match next {
            Some(replica) => {
                self.asked.push(replica.address());
                Source::Replica(replica)
            }
            None => self.next_of_round(),
        }
    }

    /// Upstream or a mirror, in the order of their health as it is when a round begins.
    fn next_of_round(&mut self) -> Source {
        if self.round.is_empty() {
            let sources = self.origin.blob_places().into_iter().map(|place| match place {
                Place::Primary => Source::Upstream,
                Place::Mirror(mirror) => Source::Mirror(mirror),
            });
            let barred = &self.barred;
            self.round = sources.filter(|source| !matches!(source, Source::Mirror(mirror) if barred.contains(mirror.id()))).collect();
        }
        self.round.pop_front().unwrap_or(Source::Upstream)
    }
}

impl Source {
    /// What it is, as a metric's label.
    pub(super) const fn kind(&self) -> FillSource {
        match self {
            Self::Bucket(_) => FillSource::Bucket,
            Self::Replica(_) => FillSource::Replica,
            Self::Upstream => FillSource::Upstream,
            Self::Mirror(_) => FillSource::Mirror,
        }
    }

    /// Whether it is neither this store nor another replica's.
    pub(super) const fn is_beyond(&self) -> bool {
        matches!(self, Self::Upstream | Self::Mirror(_))
    }

    /// Whether it is another replica, asked for what no client waits for.
    pub(super) const fn is_for_nobody(&self) -> bool {
        matches!(self, Self::Replica(replica) if replica.is_for_nobody())
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
            Self::Mirror(mirror) => {
                mirror.get_blob(&origin.remote, digest, range).await.map(|stream| SourceStream::Upstream(Box::new(stream)))
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
