//! How much of the line to its upstream a rule may use.

use super::limits;
use super::problems::Problems;
use super::raw::RawRule;

/// Least `max_bandwidth`: below it, upstreams would take their connections for dead.
const MIN_BANDWIDTH_BYTES: u64 = 64 * 1024;

/// The line to an upstream, as far as blobs go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineRule {
    /// Connections of one blob. Default: `limits.fill_connections`.
    pub connections: Option<usize>,
    /// Connections of all blobs of the rule. Default: no limit.
    pub max_connections: Option<usize>,
    /// Bytes a second. Default: no limit.
    pub max_bandwidth: Option<u64>,
}

pub(super) fn validate(raw: &mut RawRule, path: &str, problems: &mut Problems) -> LineRule {
    let connections = limits::count(raw.connections.take(), &format!("{path}.connections"), problems);
    let max_connections = limits::count(raw.max_connections.take(), &format!("{path}.max_connections"), problems);
    let max_bandwidth = limits::size(raw.max_bandwidth.take(), &format!("{path}.max_bandwidth"), problems);
    if max_bandwidth.is_some_and(|bytes| bytes < MIN_BANDWIDTH_BYTES) {
        problems.add(format!("{path}.max_bandwidth"), "must be 64KiB or more", "it counts bytes a second, such as 100MiB");
    }
    LineRule { connections, max_connections, max_bandwidth }
}
