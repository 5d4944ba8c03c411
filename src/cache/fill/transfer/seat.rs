//! The place on the line that a transfer waits for once, and then keeps.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::cache::fill::FillError;
use crate::cache::fill::line::{LineShare, Place};

/// The first place of a transfer. Its connections take it in turn, so that a transfer which has begun does not wait in
/// line again between two of them.
#[derive(Default)]
pub(super) enum Seat {
    /// Not needed yet, or no longer.
    #[default]
    None,
    /// In line for it.
    Waiting(BoxFuture<'static, Result<Place, FillError>>),
    /// Got; a connection that uses it holds another reference.
    Held(Arc<Place>),
}

impl Seat {
    /// A place for one more connection: its own if no connection has it, or else one that nobody waits for. `None` if
    /// there is neither; with no place at all it waits in line from now on.
    pub(super) fn place(&mut self, line: &Arc<LineShare>) -> Option<Arc<Place>> {
        match self {
            Self::Held(place) if Arc::strong_count(place) == 1 => Some(Arc::clone(place)),
            Self::Held(_) => line.try_place().map(Arc::new),
            Self::Waiting(_) => None,
            Self::None => {
                if let Some(place) = line.try_place().map(Arc::new) {
                    *self = Self::Held(Arc::clone(&place));
                    return Some(place);
                }
                let line = Arc::clone(line);
                *self = Self::Waiting(Box::pin(async move { line.place().await }));
                None
            }
        }
    }

    /// Waits until the place that it waits for is got; for ever, if it waits for none.
    pub(super) async fn got(&mut self) -> Result<(), FillError> {
        let Self::Waiting(place) = self else { return std::future::pending().await };
        let place = place.await?;
        *self = Self::Held(Arc::new(place));
        Ok(())
    }

    pub(super) const fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }

    pub(super) const fn is_held(&self) -> bool {
        matches!(self, Self::Held(_))
    }
}
