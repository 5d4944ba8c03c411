//! One connection of a fill: it asks a source, and hands on what comes.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::line::{LineShare, Place};
use super::plan::{Assignment, ConnectionId};
use super::source::Source;
use crate::cache::Origin;
use crate::oci::Digest;
use crate::upstream::UpstreamError;

/// What a connection tells.
pub(super) enum Event {
    /// The head came. `ignored_range`: the whole blob comes although a part was asked for.
    Opened {
        id: ConnectionId,
        ignored_range: bool,
        total_bytes: Option<u64>,
    },
    Piece {
        id: ConnectionId,
        bytes: Bytes,
    },
    Ended {
        id: ConnectionId,
        result: Result<(), UpstreamError>,
    },
}

/// How a connection gets to its source.
pub(super) enum Way {
    /// Nothing is in its way.
    Free,
    /// Over the line to upstream, with a place on it.
    Line(Arc<LineShare>, Arc<Place>),
}

/// Asks, and hands on what comes.
pub(super) async fn fetch(
    source: Source,
    origin: Arc<Origin>,
    digest: Digest,
    assignment: Assignment,
    way: Way,
    events: mpsc::Sender<Event>,
) {
    let id = assignment.id;
    let (line, place) = match way {
        Way::Free => (None, None),
        Way::Line(line, place) => (Some(line), Some(place)),
    };
    let result = async {
        let mut stream = source.open(&origin, &digest, assignment.range.clone()).await?;
        let ignored_range = assignment.range.is_some_and(|range| stream.is_more_than(&range));
        let opened = Event::Opened { id, ignored_range, total_bytes: stream.total_bytes() };
        if events.send(opened).await.is_err() {
            return Ok(());
        }
        while let Some(bytes) = stream.next().await {
            let bytes = bytes?;
            if let Some(line) = &line {
                line.take(bytes.len()).await;
            }
            if events.send(Event::Piece { id, bytes }).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let result = result.await;
    // Before the end is told, so that the next connection may have it.
    drop(place);
    let _ = events.send(Event::Ended { id, result }).await;
}
