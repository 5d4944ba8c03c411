//! An object store behind the guard: every call of it, and every page and body that comes of one.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use tokio::time::{Instant, timeout_at};

use super::MAX_COPIED_BYTES;
use super::failure::Unavailable;
use super::guard::{Call, Guard};
use super::sending::SendingPace;
use crate::telemetry::metrics::BucketOperation;

/// A body up to this is part of the call that asked for it; a longer one may take as long as bytes
/// come, which the client sees to.
const SMALL_BODY_BYTES: u64 = 1024 * 1024;
/// Sending up to this is a short call.
const SHORT_BODY_BYTES: usize = 128 * 1024;
/// Slower than this no server copies within itself. A copy is not told how long the object is.
const MIN_COPIED_BYTES_PER_SECOND: u64 = 16 * 1024 * 1024;
/// Of calls that go on in pages which are not seen one by one.
const PAGES: u32 = 6;
/// What is looked for where nothing but the answer matters. It is never there.
const LOOKED_FOR: &str = "probe/answers";
/// Objects removed at one time.
const DELETES: usize = 10;

/// An object store behind a guard.
#[derive(Clone)]
pub(super) struct Guarded {
    objects: Arc<dyn ObjectStore>,
    guard: Guard,
    /// For a small call, with its retries.
    timeout: Duration,
    /// For what is sent.
    sending: Arc<SendingPace>,
}

impl Guarded {
    pub(super) fn new(objects: Arc<dyn ObjectStore>, guard: Guard, timeout: Duration) -> Self {
        Self { objects, guard, timeout, sending: Arc::new(SendingPace::new()) }
    }

    const fn short(&self, operation: BucketOperation) -> Call {
        Call { operation, within: self.timeout, is_short: true }
    }

    /// Makes a call that sends `length_bytes`.
    async fn send<T>(&self, operation: BucketOperation, length_bytes: usize, future: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let (time, began) = (self.sending.time_for(length_bytes), Instant::now());
        let call = Call { operation, within: self.timeout + time.within, is_short: length_bytes <= SHORT_BODY_BYTES };
        let sent = self.run_long(call, future).await;
        match &sent {
            _ if call.is_short => {}
            Ok(_) => self.sending.sent(time, began.elapsed()),
            Err(error) if matches!(Unavailable::of(error), Some(Unavailable::TimedOut { .. })) => self.sending.ran_out(time),
            Err(_) => {}
        }
        sent
    }

    /// Makes a call that may take long. It does not look whether a bucket is back: a short one does,
    /// before it.
    async fn run_long<T>(&self, call: Call, future: impl Future<Output = Result<T>> + Send) -> Result<T> {
        if !call.is_short && self.guard.wants_probe() {
            let nothing = Key::from(LOOKED_FOR);
            let looked = self.objects.get_opts(&nothing, GetOptions { head: true, ..GetOptions::default() });
            // Whatever it is told, the guard has heard.
            let _ = self.guard.run(self.short(BucketOperation::Get), looked).await;
        }
        self.guard.run(call, future).await
    }

    /// The pages of a listing, each a call; what came with a page is handed on as it is.
    fn pages(
        &self,
        objects: impl FnOnce(&dyn ObjectStore) -> BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let state = (self.guard.clone(), self.short(BucketOperation::List), objects(&*self.objects), false, false);
        let pages = stream::unfold(state, |(guard, call, mut objects, has_begun, has_ended)| async move {
            if has_ended {
                return None;
            }
            let at_hand = if has_begun { objects.next().now_or_never() } else { None };
            let next = match at_hand {
                Some(next) => next.transpose(),
                None => guard.run(call, async { objects.next().await.transpose() }).await,
            };
            let has_ended = next.is_err();
            Some((next.transpose()?, (guard, call, objects, true, has_ended)))
        });
        pages.fuse().boxed()
    }
}

/// A body that has to come by `deadline`.
fn bounded(body: BoxStream<'static, Result<Bytes>>, deadline: Instant, within: Duration) -> BoxStream<'static, Result<Bytes>> {
    let pieces = stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        match timeout_at(deadline, body.next()).await {
            Ok(piece) => Some((piece?, Some(body))),
            Err(_) => Some((Err(Unavailable::TimedOut { within }.into_error()), None)),
        }
    });
    // A collector asks once more after the end.
    pieces.fuse().boxed()
}

#[async_trait]
impl ObjectStore for Guarded {
    async fn put_opts(&self, location: &Key, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let length_bytes = payload.content_length();
        self.send(BucketOperation::Put, length_bytes, self.objects.put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(&self, location: &Key, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let begun = self.objects.put_multipart_opts(location, options);
        let upload = self.guard.run(self.short(BucketOperation::BeginUpload), begun).await?;
        Ok(Box::new(GuardedUpload { upload, store: self.clone() }))
    }

    async fn get_opts(&self, location: &Key, options: GetOptions) -> Result<GetResult> {
        let call = self.short(BucketOperation::Get);
        let deadline = Instant::now() + call.within;
        let mut found = self.guard.run(call, self.objects.get_opts(location, options)).await?;
        if found.range.end.saturating_sub(found.range.start) <= SMALL_BODY_BYTES {
            found.payload = match found.payload {
                GetResultPayload::Stream(body) => GetResultPayload::Stream(bounded(body, deadline, call.within)),
                file @ GetResultPayload::File(..) => file,
            };
        }
        Ok(found)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Key>>) -> BoxStream<'static, Result<Key>> {
        let store = self.clone();
        let deleted = locations.map(move |location| {
            let store = store.clone();
            async move {
                let one = stream::once(async { location }).boxed();
                let deleted = store.objects.delete_stream(one).try_collect::<Vec<_>>();
                let deleted = store.guard.run(store.short(BucketOperation::Delete), deleted).await?;
                Ok::<_, object_store::Error>(stream::iter(deleted).map(Ok))
            }
        });
        deleted.buffered(DELETES).try_flatten().boxed()
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(|objects| objects.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Key>, offset: &Key) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(|objects| objects.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        let call = Call { within: self.timeout * PAGES, is_short: false, ..self.short(BucketOperation::List) };
        self.run_long(call, self.objects.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Result<()> {
        let within = self.timeout + Duration::from_secs(MAX_COPIED_BYTES / MIN_COPIED_BYTES_PER_SECOND);
        let call = Call { operation: BucketOperation::Copy, within, is_short: false };
        self.run_long(call, self.objects.copy_opts(from, to, options)).await
    }
}

/// An upload in parts behind the guard.
struct GuardedUpload {
    upload: Box<dyn MultipartUpload>,
    store: Guarded,
}

#[async_trait]
impl MultipartUpload for GuardedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let length_bytes = data.content_length();
        let (store, part) = (self.store.clone(), self.upload.put_part(data));
        async move { store.send(BucketOperation::PutPart, length_bytes, part).await }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        // Completing 10,000 parts may take the server a while.
        let call = Call { within: self.store.timeout * PAGES, is_short: false, ..self.store.short(BucketOperation::CompleteUpload) };
        self.store.run_long(call, self.upload.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        let call = self.store.short(BucketOperation::AbortUpload);
        self.store.guard.run(call, self.upload.abort()).await
    }
}

impl fmt::Debug for GuardedUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedUpload").field("upload", &self.upload).finish_non_exhaustive()
    }
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("objects", &self.objects.to_string()).finish_non_exhaustive()
    }
}

impl fmt::Display for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.objects.fmt(f)
    }
}
