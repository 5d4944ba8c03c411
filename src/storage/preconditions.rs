//! What the conditional writes of a store are worth.

use std::sync::Arc;

use tokio::sync::watch;

/// What a store does with one kind of precondition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Support {
    /// It has not been tried yet.
    #[default]
    Unknown,
    /// It holds, for every process that writes.
    Honoured,
    /// It does nothing, or is refused: only this process's own lock holds.
    Ignored,
}

impl Support {
    /// The value of the metric: 0 ignored, 1 honoured, -1 unknown.
    #[must_use]
    pub const fn gauge(self) -> i64 {
        match self {
            Self::Unknown => -1,
            Self::Ignored => 0,
            Self::Honoured => 1,
        }
    }
}

/// What a store does with each kind of precondition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// `If-None-Match: *` on PUT: of many who create a record, one does.
    pub create: Support,
    /// `If-Match` on PUT: a record is written over only by who has seen it.
    pub update: Support,
    /// `If-Match` is compared as it stands with an ETag without quotes, as some servers do (Ceph RGW 16).
    pub bare_e_tags: bool,
}

impl Preconditions {
    /// Of a store that has none, such as local disk: one process holds it, and its locks do.
    pub const NONE: Self = Self { create: Support::Ignored, update: Support::Ignored, bare_e_tags: false };

    /// An ETag as `If-Match` has to say it.
    pub(super) fn if_match(self, e_tag: &str) -> String {
        if self.bare_e_tags { e_tag.trim_matches('"').to_owned() } else { e_tag.to_owned() }
    }
}

/// What is known of it by now; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct KnownPreconditions(Arc<watch::Sender<Preconditions>>);

impl KnownPreconditions {
    /// Known from the start.
    #[must_use]
    pub fn of(preconditions: Preconditions) -> Self {
        Self(Arc::new(watch::Sender::new(preconditions)))
    }

    /// What is known now.
    #[must_use]
    pub fn get(&self) -> Preconditions {
        *self.0.borrow()
    }

    /// Waits until it has been tried.
    pub(super) async fn tried(&self) {
        // It cannot be closed while this is borrowed.
        let _ = self.0.subscribe().wait_for(|known| known.create != Support::Unknown).await;
    }

    /// Notes what was found out.
    pub(super) fn set(&self, preconditions: Preconditions) {
        self.0.send_replace(preconditions);
    }
}
