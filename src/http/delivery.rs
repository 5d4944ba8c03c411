//! Blobs on their way out.
//!
//! Pieces are large, and smaller when many clients read at once, so that what waits in their
//! connections stays within one budget. A body that cannot be completed is broken off: with a
//! `Content-Length`, or without the last chunk, the client sees that.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use bytes::Bytes;
use futures::stream;

use crate::cache::Follower;
use crate::storage::{OpenBlob, PieceReader};

/// What all bodies together may hold in memory.
const BUDGET_BYTES: usize = 16 * 1024 * 1024;
/// Largest piece: larger ones gain nothing that was measured.
const MAX_PIECE_BYTES: usize = 256 * 1024;
/// Smallest piece, however many clients there are.
const MIN_PIECE_BYTES: usize = 32 * 1024;

/// The deliveries under way; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Deliveries {
    active: Arc<AtomicUsize>,
}

/// One of them.
struct Delivery {
    deliveries: Deliveries,
}

impl Deliveries {
    fn begin(&self) -> Delivery {
        self.active.fetch_add(1, Ordering::Relaxed);
        Delivery { deliveries: self.clone() }
    }

    /// The interval `position..end` of a committed blob.
    pub(super) fn file(&self, blob: OpenBlob, position: u64, end: u64) -> Body {
        let reader = FileReader { blob, position, end, pieces: PieceReader::default(), delivery: self.begin() };
        Body::from_stream(stream::unfold(reader, async |mut reader| {
            let piece = reader.next().await?;
            Some((piece, reader))
        }))
    }

    /// What a follower reads.
    pub(super) fn follow(&self, follower: Box<Follower>) -> Body {
        let delivery = self.begin();
        Body::from_stream(stream::unfold((follower, delivery), async |(mut follower, delivery)| {
            let piece = follower.next(delivery.piece_bytes()).await?;
            Some((piece, (follower, delivery)))
        }))
    }
}

impl Delivery {
    fn piece_bytes(&self) -> usize {
        let active = self.deliveries.active.load(Ordering::Relaxed).max(1);
        (BUDGET_BYTES / active).clamp(MIN_PIECE_BYTES, MAX_PIECE_BYTES)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.deliveries.active.fetch_sub(1, Ordering::Relaxed);
    }
}

struct FileReader {
    blob: OpenBlob,
    position: u64,
    end: u64,
    pieces: PieceReader,
    delivery: Delivery,
}

impl FileReader {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let left = self.end.checked_sub(self.position).filter(|left| *left > 0)?;
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(self.delivery.piece_bytes());
        let piece = self.pieces.read(&self.blob.file, self.position, length).await;
        if let Ok(piece) = &piece {
            self.position += piece.len() as u64;
        }
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_shrink_as_clients_come() {
        let deliveries = Deliveries::default();
        let first = deliveries.begin();
        assert_eq!(first.piece_bytes(), MAX_PIECE_BYTES);
        let others: Vec<_> = (0..199).map(|_| deliveries.begin()).collect();
        assert_eq!(first.piece_bytes(), BUDGET_BYTES / 200);
        drop(others);
        assert_eq!(first.piece_bytes(), MAX_PIECE_BYTES);
    }
}
