//! Every repository and the keys of its records, one repository at a time.
//!
//! A bucket lists in the order of its keys, so one listing of all shows the records of a repository
//! side by side: `_` sorts before letters and after digits, and no part of a name starts with it.
//! Local disk lists in no order; there each repository is listed by itself, which costs no request.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use object_store::{ObjectMeta, ObjectStore};

use super::layout::{self, ImageKey};
use super::whole_list::whole_list;
use super::{Records, StorageError};
use crate::oci::{Digest, RepositoryName, Tag};

/// A record's name, and when it was last written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<T> {
    /// What the record is about.
    pub item: T,
    /// When it was last written.
    pub modified: SystemTime,
}

/// The records of one repository, by their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryContents {
    /// Its name.
    pub name: RepositoryName,
    /// Its manifests.
    pub manifests: Vec<Listed<Digest>>,
    /// Its links to blobs.
    pub links: Vec<Listed<Digest>>,
    /// Its tags.
    pub tags: Vec<Listed<Tag>>,
    /// When its manifests were pulled.
    pub pulled: Vec<Listed<Digest>>,
}

/// See the module.
pub struct RepositoryWalk {
    records: Records,
    listing: Listing,
}

enum Listing {
    /// One listing of everything, in order.
    Sorted { objects: BoxStream<'static, object_store::Result<ObjectMeta>>, last: Option<Key>, under_way: Option<RepositoryContents> },
    /// Directories still to be looked into.
    Tree(VecDeque<Key>),
}

impl Records {
    /// All repositories that have records, in no particular order.
    #[must_use]
    pub fn walk(&self) -> RepositoryWalk {
        let listing = if self.is_bucket {
            Listing::Sorted { objects: whole_list(Arc::clone(&self.store), layout::all_images()), last: None, under_way: None }
        } else {
            Listing::Tree(VecDeque::from([layout::all_images()]))
        };
        RepositoryWalk { records: self.clone(), listing }
    }
}

impl RepositoryContents {
    fn new(name: RepositoryName) -> Self {
        Self { name, manifests: Vec::new(), links: Vec::new(), tags: Vec::new(), pulled: Vec::new() }
    }

    fn add(&mut self, about: Option<ImageKey>, modified: SystemTime) {
        match about {
            Some(ImageKey::Manifest(item)) => self.manifests.push(Listed { item, modified }),
            Some(ImageKey::Link(item)) => self.links.push(Listed { item, modified }),
            Some(ImageKey::Tag(item)) => self.tags.push(Listed { item, modified }),
            Some(ImageKey::Pulled(item)) => self.pulled.push(Listed { item, modified }),
            // A hint, and what is not ours.
            Some(ImageKey::Validated(_)) | None => {}
        }
    }
}

impl RepositoryWalk {
    /// The next repository; `None` after the last one.
    ///
    /// # Errors
    /// When the store cannot list, in a bucket although the list was taken up several times; the walk is over then, and says nothing of what it has not shown.
    pub async fn next(&mut self) -> Result<Option<RepositoryContents>, StorageError> {
        match &mut self.listing {
            Listing::Tree(directories) => next_of_tree(&*self.records.store, directories).await,
            Listing::Sorted { objects, last, under_way } => next_of_sorted(objects, last, under_way).await,
        }
    }
}

async fn next_of_sorted(
    objects: &mut BoxStream<'static, object_store::Result<ObjectMeta>>,
    last: &mut Option<Key>,
    under_way: &mut Option<RepositoryContents>,
) -> Result<Option<RepositoryContents>, StorageError> {
    while let Some(object) = objects.try_next().await.map_err(|error| StorageError::object(&layout::all_images(), error))? {
        if last.as_ref().is_some_and(|last| *last >= object.location) {
            let detail = "the store does not list its keys in order".to_owned();
            return Err(StorageError::Corrupt { key: object.location.to_string(), detail });
        }
        let (record, modified) = (layout::parse_any_image_key(&object.location), object.last_modified.into());
        *last = Some(object.location);
        let Some((name, record)) = record else { continue };
        match under_way {
            Some(contents) if contents.name == name => contents.add(record, modified),
            _ => {
                let mut contents = RepositoryContents::new(name);
                contents.add(record, modified);
                if let Some(complete) = under_way.replace(contents) {
                    return Ok(Some(complete));
                }
            }
        }
    }
    Ok(under_way.take())
}

async fn next_of_tree(store: &dyn ObjectStore, directories: &mut VecDeque<Key>) -> Result<Option<RepositoryContents>, StorageError> {
    while let Some(directory) = directories.pop_front() {
        let wrap = |error| StorageError::object(&directory, error);
        let listed = store.list_with_delimiter(Some(&directory)).await.map_err(wrap)?;
        let is_own = |key: &Key| key.filename().is_some_and(|name| name.starts_with('_'));
        let (own, inner): (Vec<Key>, Vec<Key>) = listed.common_prefixes.into_iter().partition(is_own);
        directories.extend(inner);
        let mut contents: Option<RepositoryContents> = None;
        for prefix in own {
            let objects: Vec<ObjectMeta> = store.list(Some(&prefix)).try_collect().await.map_err(wrap)?;
            for object in objects {
                let Some((name, record)) = layout::parse_any_image_key(&object.location) else { continue };
                contents.get_or_insert_with(|| RepositoryContents::new(name)).add(record, object.last_modified.into());
            }
        }
        if contents.is_some() {
            return Ok(contents);
        }
    }
    Ok(None)
}

impl Records {
    /// The identifiers of all sources that have given their word for a blob.
    ///
    /// # Errors
    /// When the store cannot list.
    pub async fn sources(&self) -> Result<Vec<String>, StorageError> {
        let prefix = layout::sources();
        let listed = self.store.list_with_delimiter(Some(&prefix)).await.map_err(|error| StorageError::object(&prefix, error))?;
        Ok(listed.common_prefixes.iter().filter_map(Key::filename).map(str::to_owned).collect())
    }

    /// The blobs that have a mark of the garbage collection.
    pub fn marked_blobs(&self) -> BoxStream<'static, Result<Digest, StorageError>> {
        let prefix = layout::gc_marks();
        let objects = if self.is_bucket { whole_list(Arc::clone(&self.store), prefix.clone()) } else { self.store.list(Some(&prefix)) };
        let listed = objects.map_err(move |error| StorageError::object(&prefix, error));
        listed.try_filter_map(async |object| Ok(layout::marked(&object.location))).boxed()
    }
}
