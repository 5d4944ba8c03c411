//! File operations on blocking threads.

use std::io;
use std::path::Path;

use super::StorageError;

/// Runs file operations on a blocking thread.
///
/// # Errors
/// Those of `work`, and one of its own if the thread was lost: it panicked, or the runtime is going down.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, StorageError> + Send + 'static) -> Result<T, StorageError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(lost(io::Error::other(error))))
}

/// A blocking thread ended without a result.
fn lost(error: io::Error) -> StorageError {
    StorageError::file("wait for", Path::new("a blocking thread"), error)
}
