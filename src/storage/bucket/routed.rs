//! Two clients of one bucket as one: what sends much takes the one that waits longer.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};

/// An object up to this is sent by the client that does not wait long.
const SMALL_BYTES: usize = 256 * 1024;

/// An object store over two clients of the same objects: a client has one timeout for an attempt,
/// and sending a part may take long where waiting for a record may not.
#[derive(Debug)]
pub(super) struct Routed {
    quick: Arc<dyn ObjectStore>,
    sending: Arc<dyn ObjectStore>,
}

impl Routed {
    pub(super) fn new(quick: Arc<dyn ObjectStore>, sending: Arc<dyn ObjectStore>) -> Self {
        Self { quick, sending }
    }
}

impl fmt::Display for Routed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.quick.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Routed {
    async fn put_opts(&self, location: &Key, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let client = if payload.content_length() <= SMALL_BYTES { &self.quick } else { &self.sending };
        client.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, location: &Key, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.sending.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Key, options: GetOptions) -> Result<GetResult> {
        self.quick.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Key>>) -> BoxStream<'static, Result<Key>> {
        self.quick.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.quick.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Key>, offset: &Key) -> BoxStream<'static, Result<ObjectMeta>> {
        self.quick.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        self.quick.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Result<()> {
        // A copy within the bucket may take the server long.
        self.sending.copy_opts(from, to, options).await
    }
}
