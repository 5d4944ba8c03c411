//! What can go wrong in the store.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::path::Path as Key;
use thiserror::Error;

use super::bucket::Unavailable;

/// An operation of the store failed. Cheap to clone: one failure is told to every follower.
#[derive(Clone, Debug, Error)]
pub enum StorageError {
    /// Another process holds the store.
    #[error("the store {} is in use by another process{holder}; stop it, or give this one a `storage.path` of its own", path.display())]
    Locked {
        /// The store.
        path: PathBuf,
        /// Which, if it said so: ` (pid 123)`.
        holder: String,
    },
    /// No space, no inodes, or over quota.
    #[error("no space left in the store to {operation} {}", path.display())]
    NoSpace {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {operation} {}: {source}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// A record, or an object of the bucket, could not be read or written.
    #[error("{key}: {source}")]
    Object {
        /// Its key.
        key: String,
        /// The store's answer.
        source: Arc<object_store::Error>,
    },
    /// The bucket does not answer, and may not even have been asked.
    #[error("{key}: {detail}")]
    Unavailable {
        /// What was asked for.
        key: String,
        /// In which words.
        detail: String,
    },
    /// The settings of a bucket cannot be used.
    #[error("the bucket {bucket}: {detail}")]
    Bucket {
        /// Its name.
        bucket: String,
        /// What is wrong.
        detail: String,
    },
    /// What is there is not of its form.
    #[error("{key} is not as it should be: {detail}")]
    Corrupt {
        /// Its key.
        key: String,
        /// What is wrong.
        detail: String,
    },
}

impl StorageError {
    /// Wraps the failure of a file operation, telling "full" from the rest.
    pub(super) fn file(operation: &'static str, path: &Path, source: io::Error) -> Self {
        let is_full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge].contains(&source.kind());
        let path = path.to_owned();
        if is_full { Self::NoSpace { operation, path } } else { Self::File { operation, path, source: Arc::new(source) } }
    }

    /// Wraps the answer of the store of records, or of the bucket.
    pub(super) fn object(key: &Key, source: object_store::Error) -> Self {
        let key = key.to_string();
        match Unavailable::of(&source) {
            Some(unavailable) => Self::Unavailable { key, detail: unavailable.to_string() },
            None => Self::Object { key, source: Arc::new(source) },
        }
    }

    /// The settings of a bucket cannot be used.
    pub(super) fn bucket(bucket: &str, source: &object_store::Error) -> Self {
        Self::Bucket { bucket: bucket.to_owned(), detail: source.to_string() }
    }

    /// Whether the bucket does not answer, which the log has said already.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Whether it only says that what was asked for is as the caller knows it.
    pub(super) fn is_not_modified(&self) -> bool {
        matches!(self, Self::Object { source, .. } if matches!(**source, object_store::Error::NotModified { .. }))
    }

    /// The operation, as a metric's label.
    #[must_use]
    pub const fn operation(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "lock",
            Self::NoSpace { operation, .. } | Self::File { operation, .. } => operation,
            Self::Object { .. } | Self::Corrupt { .. } => "record",
            Self::Unavailable { .. } | Self::Bucket { .. } => "bucket",
        }
    }
}
