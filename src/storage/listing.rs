//! Lists of records.
//!
//! A bucket lists its keys in order, and as far as it is asked: a page of a thousand for each
//! request. A directory lists them in no order, so there all of a list is read and sorted.

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectMeta;
use object_store::path::Path as Key;

use super::records::{RecordKey, Records, RepositoryRecord};
use super::{StorageError, layout};
use crate::oci::RepositoryName;

/// Records read at a time for names that their keys do not hold.
const NAMES_READ_AHEAD: usize = 8;

impl Records {
    /// The names of all repositories behind `last` (a name, or any text that sorts among them), in the
    /// order of their keys.
    pub fn repository_names(&self, last: Option<&str>) -> BoxStream<'static, Result<RepositoryName, StorageError>> {
        let after = last.filter(|last| !last.is_empty()).map(layout::repository_of_text);
        let records = self.clone();
        let names = self.listed(layout::repositories(), after.as_ref()).map(move |object| {
            let records = records.clone();
            async move { records.name_of(object?.location).await }
        });
        names.buffered(NAMES_READ_AHEAD).try_filter_map(async |name| Ok(name)).boxed()
    }

    /// The objects below `prefix` whose keys sort behind `after`, in the order of their keys.
    pub(super) fn listed(&self, prefix: Key, after: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        let objects = match after {
            Some(after) => self.store.list_with_offset(Some(&prefix), after),
            None => self.store.list(Some(&prefix)),
        };
        let objects = objects.map_err(move |error| StorageError::object(&prefix, error));
        if self.is_bucket {
            return objects.boxed();
        }
        let sorted = async move {
            let mut objects: Vec<ObjectMeta> = objects.try_collect().await?;
            objects.sort_unstable_by(|one, other| one.location.cmp(&other.location));
            Ok(stream::iter(objects.into_iter().map(Ok)))
        };
        stream::once(sorted).try_flatten().boxed()
    }

    /// The repository of a key: its key tells the name, or, where that was too long, its record.
    async fn name_of(&self, key: Key) -> Result<Option<RepositoryName>, StorageError> {
        let Some(flat) = key.filename() else { return Ok(None) };
        if let Some(name) = layout::unflattened(flat) {
            return Ok(RepositoryName::parse(&name).ok());
        }
        let record = self.read(&RecordKey::<RepositoryRecord>::at(key)).await?;
        Ok(record.and_then(|record| RepositoryName::parse(&record.name).ok()))
    }
}
