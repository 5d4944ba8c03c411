//! How many files the process may have open: each client is one, each blob that is read another.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one, and warns where that does not do for so many clients. The soft one is low for the
/// sake of programs that use `select`, of which this is none.
pub(super) fn raise_limit(max_connections: usize) {
    let found = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: found.maximum, maximum: found.maximum };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files could not be raised");
            found.current
        }
    };
    // `None` is no limit.
    let Some(open_files) = limit else { return };
    if found.current.is_some_and(|before| before < open_files) {
        tracing::info!(open_files, "raised the limit of open files");
    }
    let needed = 2 * max_connections as u64;
    if open_files < needed {
        tracing::warn!(
            open_files,
            needed,
            "fewer files may be open than twice limits.max_connections. Raise the hard limit (LimitNOFILE of systemd, ulimits of \
             Compose), or lower limits.max_connections"
        );
    }
}
