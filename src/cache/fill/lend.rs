//! Lends the writer of a fill to a blocking thread.

use std::sync::Arc;

use super::writer::Writer;
use crate::storage::StorageError;
pub(super) use crate::storage::blocking;

/// Runs `work` with the writer on a blocking thread.
pub(super) async fn with_writer<T: Send + 'static>(
    slot: &mut Option<Writer>,
    work: impl FnOnce(&mut Writer) -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    let Some(mut writer) = slot.take() else { return Err(lost_thread()) };
    let (writer, result) = tokio::task::spawn_blocking(move || {
        let result = work(&mut writer);
        (writer, result)
    })
    .await
    .map_err(|_| lost_thread())?;
    *slot = Some(writer);
    result
}

/// A blocking thread panicked or the runtime is going down.
fn lost_thread() -> StorageError {
    let source = Arc::new(std::io::Error::other("the thread that wrote it is gone"));
    StorageError::File { operation: "write", path: std::path::PathBuf::new(), source }
}
