//! How many requests an upstream takes of one asker: what its 429s and its pull limit said. No I/O.
//!
//! Registries say that of who asks, not of how they are connected to. So it is shared by all endpoints
//! of one source, whatever authorities, realms or private hosts their rules name, and an endpoint that
//! is built anew, since a password was rotated, goes on with it. Whether upstream answers at all is of
//! each endpoint: one rule's missing authority must not hold off another's requests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use super::admission::Circuit;
use super::quota::QuotaBook;
use super::throttle::Throttle;
use super::{SourceId, UpstreamLimits};

/// What was said, as far as it counts for a request.
#[derive(Debug)]
pub(super) struct Allowance {
    /// Whether it takes more requests of manifests and lists.
    pub(super) manifests: Throttle,
    /// Whether it takes more requests of blobs.
    pub(super) blobs: Throttle,
    pub(super) quota: QuotaBook,
}

impl Allowance {
    pub(super) fn new(limits: &UpstreamLimits) -> Self {
        Self { manifests: Throttle::new(limits), blobs: Throttle::new(limits), quota: QuotaBook::default() }
    }

    /// Whether it was said lately that no more requests of some kind are taken.
    pub(super) fn is_limited(&self) -> bool {
        self.manifests.holds() || self.blobs.holds()
    }

    /// Until when manifests and blobs are held off.
    pub(super) fn held_until(&self) -> [Option<SystemTime>; 2] {
        [self.manifests.held_until(), self.blobs.held_until()]
    }
}

/// The allowance of one source, and the endpoints that share it.
pub(super) struct SharedAllowance {
    source: SourceId,
    allowance: Mutex<Allowance>,
    shared_by: Mutex<Vec<Weak<Circuit>>>,
}

impl SharedAllowance {
    /// A circuit has its own lock before this one, never after it.
    pub(super) fn lock(&self) -> MutexGuard<'_, Allowance> {
        self.allowance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn share_with(&self, circuit: &Arc<Circuit>) {
        let mut shared_by = self.shared_by.lock().unwrap_or_else(PoisonError::into_inner);
        shared_by.retain(|circuit| circuit.strong_count() > 0);
        shared_by.push(Arc::downgrade(circuit));
    }

    /// All that share it, to be told of a change. Nothing is locked when this returns.
    pub(super) fn circuits(&self) -> Vec<Arc<Circuit>> {
        let shared_by = self.shared_by.lock().unwrap_or_else(PoisonError::into_inner);
        shared_by.iter().filter_map(Weak::upgrade).collect()
    }
}

/// All allowances of a process. One lives as long as an endpoint of its source: a reload builds the new
/// endpoints before it lets go of the old ones.
#[derive(Default)]
pub struct Allowances {
    in_use: Mutex<Vec<Weak<SharedAllowance>>>,
}

impl Allowances {
    /// The allowance of a source, with these limits where nobody has it yet.
    pub(super) fn of(&self, source: &SourceId, limits: &UpstreamLimits) -> Arc<SharedAllowance> {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.retain(|shared| shared.strong_count() > 0);
        if let Some(shared) = in_use.iter().filter_map(Weak::upgrade).find(|shared| shared.source == *source) {
            return shared;
        }
        let allowance = Mutex::new(Allowance::new(limits));
        let shared = Arc::new(SharedAllowance { source: source.clone(), allowance, shared_by: Mutex::default() });
        in_use.push(Arc::downgrade(&shared));
        shared
    }
}
