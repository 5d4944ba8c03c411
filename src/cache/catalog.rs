//! Which repositories are cached.

use futures::{Stream, TryStreamExt};

use super::{Cache, CacheError};
use crate::oci::RepositoryName;

impl Cache {
    /// The names of all repositories, behind `last` if there is one, in the order of their keys. Read
    /// as far as it is asked for.
    pub fn repository_names(&self, last: Option<&str>) -> impl Stream<Item = Result<RepositoryName, CacheError>> + use<> {
        self.store.records.repository_names(last).map_err(CacheError::from)
    }
}
