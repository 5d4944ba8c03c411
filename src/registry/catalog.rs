//! The catalog: which repositories there are.

use futures::{StreamExt, TryStreamExt};

use super::{Page, Registry, RegistryError};
use crate::access::Sight;
use crate::cache::CacheError;
use crate::oci::RepositoryName;
use crate::rules::Target;

/// Repositories looked at ahead of the one that is next: those without a rule need their record.
const LOOKED_AT_AHEAD: usize = 32;
/// Repositories in a row that the client may not see before the search ends. Each thousand of them
/// is one more request to a bucket.
const MAX_HIDDEN_IN_A_ROW: usize = 100_000;

/// A part of the catalog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogPage {
    /// In the order of the store's keys: as the names sort with '/' before every other character.
    pub names: Vec<RepositoryName>,
    /// Whether more follow.
    pub more: bool,
}

impl Registry {
    /// A page of the names of all repositories that may be pulled.
    ///
    /// # Errors
    /// When the store does not list them.
    pub async fn catalog(&self, sight: &Sight<'_>, page: &Page) -> Result<CatalogPage, RegistryError> {
        let n = page.n.unwrap_or(usize::MAX);
        let names = self.cache.repository_names(page.last.as_deref());
        let seen = names.map(async |name| self.seen(sight, name?).await).buffered(LOOKED_AT_AHEAD);
        let mut seen = std::pin::pin!(seen);
        let (mut found, mut hidden_in_a_row) = (CatalogPage::default(), 0);
        while let Some(name) = seen.try_next().await? {
            match name {
                Some(_) if found.names.len() >= n => return Ok(CatalogPage { more: true, ..found }),
                Some(name) => (hidden_in_a_row, _) = (0, found.names.push(name)),
                None => hidden_in_a_row += 1,
            }
            if hidden_in_a_row > MAX_HIDDEN_IN_A_ROW {
                let detail = format!("more than {MAX_HIDDEN_IN_A_ROW} repositories in a row need a user; log in to list them");
                return Err(RegistryError::Unavailable { detail });
            }
        }
        Ok(found)
    }

    /// The name, if its repository may be pulled. What no rule names is what its record says.
    async fn seen(&self, sight: &Sight<'_>, name: RepositoryName) -> Result<Option<RepositoryName>, CacheError> {
        let Some(authorized) = sight.of(&name) else { return Ok(None) };
        let needs_record = matches!(authorized.target(), Target::Hosted { .. }) && !authorized.is_user();
        if !needs_record {
            return Ok(Some(name));
        }
        let record = self.cache.repository(&name).await?;
        Ok(record.is_some_and(|record| !record.needs_user).then_some(name))
    }
}
