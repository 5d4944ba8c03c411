//! Credentials of upstreams that are read while headpond runs.

use prometheus::IntCounterVec;

use super::definitions::Definitions;

/// Kinds of sources.
const SOURCES: [&str; 4] = ["file", "secrets_manager", "ecr", "process"];
/// How a read ends.
const OUTCOMES: [&str; 3] = ["read", "refused", "unreachable"];

/// Reads of credentials.
#[derive(Clone)]
pub struct CredentialMetrics {
    reads: IntCounterVec,
}

impl CredentialMetrics {
    pub(super) fn define(d: &mut Definitions) -> Option<Self> {
        let reads = d.counters("headpond_credential_reads_total", "Reads of upstream credentials, by outcome.", &["source", "outcome"])?;
        for (source, outcome) in SOURCES.iter().flat_map(|source| OUTCOMES.map(|outcome| (source, outcome))) {
            reads.with_label_values(&[*source, outcome]);
        }
        Some(Self { reads })
    }

    /// Counts a read: `read`, `refused` or `unreachable`.
    pub fn read(&self, source: &'static str, outcome: &'static str) {
        self.reads.with_label_values(&[source, outcome]).inc();
    }
}
