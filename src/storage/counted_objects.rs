//! Records on the disk, counted: each takes a block of its own, and the first ones of a repository
//! make directories.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};

use super::Room;
use super::footprint::{Footprint, disk_bytes};

/// The object store of a directory, whose every write is counted.
#[derive(Debug)]
pub(super) struct CountedObjects {
    objects: LocalFileSystem,
    room: Room,
}

impl CountedObjects {
    pub(super) const fn new(objects: LocalFileSystem, room: Room) -> Self {
        Self { objects, room }
    }

    fn path(&self, location: &Key) -> PathBuf {
        // No key of ours has a character that the file system is given in another form.
        self.room.layout().root().join(location.as_ref())
    }

    fn footprint(&self, path: &Path) -> Footprint {
        Footprint::of(path, self.room.layout().root())
    }
}

impl fmt::Display for CountedObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.objects.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for CountedObjects {
    async fn put_opts(&self, location: &Key, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let path = self.path(location);
        let before = self.footprint(&path);
        // While it is written, the old one is still there.
        let claimed_bytes = self.room.in_blocks(payload.content_length() as u64, before.missing_directories + 1);
        if !self.room.claim_for_record(claimed_bytes) {
            let full = io::Error::new(io::ErrorKind::StorageFull, "storage.max_size is used up by what is not evicted");
            return Err(object_store::Error::Generic { store: "records", source: full.into() });
        }
        let claim = RecordClaim { room: &self.room, claimed_bytes };
        let put = self.objects.put_opts(location, payload, options).await;
        let after = self.footprint(&path);
        claim.settle(after.file_bytes + after.directories_since(&before), before.file_bytes);
        put
    }

    async fn put_multipart_opts(&self, location: &Key, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Key, options: GetOptions) -> Result<GetResult> {
        self.objects.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Key>>) -> BoxStream<'static, Result<Key>> {
        let room = self.room.clone();
        let counted = locations.inspect(move |location| {
            if let Ok(location) = location {
                room.other_removed(disk_bytes(&room.layout().root().join(location.as_ref())).unwrap_or(0));
            }
        });
        self.objects.delete_stream(counted.boxed())
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Key>, offset: &Key) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}

/// Room for a record that is being written; given back whole if the write is given up.
struct RecordClaim<'a> {
    room: &'a Room,
    claimed_bytes: u64,
}

impl RecordClaim<'_> {
    fn settle(mut self, more_bytes: u64, less_bytes: u64) {
        self.room.settle_record(std::mem::take(&mut self.claimed_bytes), more_bytes, less_bytes);
    }
}

impl Drop for RecordClaim<'_> {
    fn drop(&mut self) {
        self.room.settle_record(self.claimed_bytes, 0, 0);
    }
}
