//! One process per store.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::StorageError;

/// The lock on a store; released when dropped, and by the system when the process dies.
#[derive(Debug)]
pub(super) struct StoreLock {
    _file: File,
}

impl StoreLock {
    /// Takes the lock, or says who holds it.
    pub(super) fn take(path: &Path) -> Result<Self, StorageError> {
        let wrap = |error| StorageError::file("lock", path, error);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(wrap)?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error == rustix::io::Errno::WOULDBLOCK {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                let holder = if pid.trim().is_empty() { String::new() } else { format!(" (pid {})", pid.trim()) };
                return Err(StorageError::Locked { path: path.parent().unwrap_or(path).to_owned(), holder });
            }
            return Err(wrap(error.into()));
        }
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(wrap)?;
        Ok(Self { _file: file })
    }
}
