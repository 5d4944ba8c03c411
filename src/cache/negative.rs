//! What upstream does not have, remembered for a while.

use super::{Cache, CacheError, Origin};
use crate::upstream::UpstreamError;

impl Cache {
    /// Remembers that upstream does not have a manifest, tag or list, or does not show it: many
    /// registries say 401 or 403 of what is not there.
    pub(super) fn remember_refusal(&self, origin: &Origin, reference: &impl ToString, error: &UpstreamError) {
        let again = |detail: &str| format!("{detail}, a moment ago; it is asked again after limits.negative_ttl");
        let refusal = match error {
            UpstreamError::NotFound { detail } => UpstreamError::NotFound { detail: again(detail) },
            UpstreamError::Denied { status, detail } => UpstreamError::Denied { status: *status, detail: again(detail) },
            UpstreamError::TooManyRequests { .. } | UpstreamError::Unavailable { .. } | UpstreamError::Lied { .. } => return,
        };
        self.memory.absent.insert((origin.key(), reference.to_string()), refusal);
    }

    /// Remembers that upstream does not have a blob. That it is not shown is not remembered: a content
    /// network says 403 to a URL that has expired.
    pub(super) fn remember_absence(&self, origin: &Origin, reference: &impl ToString, error: &UpstreamError) {
        if matches!(error, UpstreamError::NotFound { .. }) {
            self.remember_refusal(origin, reference, error);
        }
    }

    /// Forgets it: upstream has just named or sent what `reference` stands for.
    pub(super) fn forget_refusal(&self, origin: &Origin, reference: &impl ToString) {
        self.memory.absent.invalidate(&(origin.key(), reference.to_string()));
    }

    /// Refuses what upstream refused a moment ago.
    pub(super) fn refuse_again(&self, origin: &Origin, reference: &impl ToString) -> Result<(), CacheError> {
        let refused = self.memory.absent.get(&(origin.key(), reference.to_string()));
        refused.map_or(Ok(()), |error| Err(CacheError::Negative(error)))
    }
}
