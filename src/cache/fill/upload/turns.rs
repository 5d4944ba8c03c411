//! One upload of a blob at a time.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::oci::Digest;

/// The blobs whose turn it is; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Turns {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    taken: Mutex<HashSet<Digest>>,
    freed: Notify,
}

/// A blob's turn, until it is dropped.
pub(super) struct Turn {
    turns: Turns,
    digest: Digest,
}

impl Turns {
    /// Waits for a blob's turn.
    pub(super) async fn take(&self, digest: Digest) -> Turn {
        loop {
            let freed = self.shared.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(turn) = self.try_take(digest) {
                return turn;
            }
            freed.await;
        }
    }

    /// A blob's turn, unless it is somebody's.
    pub(super) fn try_take(&self, digest: Digest) -> Option<Turn> {
        self.shared.lock().insert(digest).then(|| Turn { turns: self.clone(), digest })
    }

    /// Whether it is somebody's turn.
    pub(super) fn is_taken(&self, digest: &Digest) -> bool {
        self.shared.lock().contains(digest)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.shared.lock().remove(&self.digest);
        self.turns.shared.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_ends_however_its_holder_does() {
        let (turns, digest) = (Turns::default(), Digest::of(b"x"));
        let holder = tokio::spawn({
            let turns = turns.clone();
            async move {
                let _turn = turns.take(digest).await;
                tokio::task::yield_now().await;
                panic!("planned");
            }
        });
        tokio::task::yield_now().await;
        assert!(turns.is_taken(&digest) && turns.try_take(digest).is_none());
        let turn = turns.take(digest).await;
        assert!(holder.await.is_err());
        drop(turn);
        assert!(!turns.is_taken(&digest));
    }
}
