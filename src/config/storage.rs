//! Where content is kept.

use std::path::{Path, PathBuf};

use super::raw::RawStorage;

/// The store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// The directory; made if missing. Default: `./headpond-data` in the working directory.
    pub path: PathBuf,
}

impl Default for Storage {
    fn default() -> Self {
        Self { path: PathBuf::from("./headpond-data") }
    }
}

pub(super) fn validate(raw: Option<RawStorage>, directory: &Path) -> Storage {
    match raw.unwrap_or_default().path {
        Some(path) => Storage { path: directory.join(path.0) },
        None => Storage::default(),
    }
}
