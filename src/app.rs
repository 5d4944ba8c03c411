//! Being built.

use crate::config::{Config, ConfigSource};

/// Runs the server until it is told to stop; `source` is where to load from again on SIGHUP.
///
/// # Errors
/// When it cannot start.
#[allow(clippy::unused_async, clippy::needless_pass_by_value)]
pub async fn run(config: Config, source: ConfigSource) -> anyhow::Result<()> {
    let _ = (config, source);
    anyhow::bail!("serve is not built yet")
}
