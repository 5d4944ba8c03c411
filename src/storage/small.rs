//! Blobs that are read and written whole: manifests.

use std::os::unix::fs::FileExt;

use bytes::{Bytes, BytesMut};

use super::{BlobFiles, BucketStream, OpenBlob, StorageError};
use crate::oci::Digest;

/// The content of an open blob; `None` if it is longer than `max_bytes`, or cannot be read.
pub(super) async fn read_file(blob: OpenBlob, max_bytes: usize) -> Result<Option<Bytes>, StorageError> {
    let Some(length) = usize::try_from(blob.length_bytes).ok().filter(|length| *length <= max_bytes) else { return Ok(None) };
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; length];
        blob.file.read_exact_at(&mut bytes, 0).ok().map(|()| Bytes::from(bytes))
    });
    Ok(read.await.ok().flatten())
}

/// The content of a blob that the bucket sends; `None` if it is longer than `max_bytes`.
pub(super) async fn read_stream(mut stream: BucketStream, max_bytes: usize) -> Result<Option<Bytes>, StorageError> {
    let Some(length) = usize::try_from(stream.total_bytes).ok().filter(|length| *length <= max_bytes) else { return Ok(None) };
    let mut content = BytesMut::with_capacity(length);
    while let Some(bytes) = stream.next().await {
        content.extend_from_slice(&bytes?);
        if content.len() > length {
            return Ok(None);
        }
    }
    Ok(Some(content.freeze()))
}

/// Writes a blob, unless it is there with these bytes.
pub(super) async fn put_file(blobs: BlobFiles, digest: Digest, bytes: Bytes) -> Result<(), StorageError> {
    let put = tokio::task::spawn_blocking(move || {
        let is_here = blobs.open(&digest)?.is_some_and(|blob| holds(&blob, &bytes));
        if !is_here {
            return blobs.put(&digest, &bytes);
        }
        blobs.room().keep_manifest(&digest);
        Ok(())
    });
    put.await.unwrap_or(Ok(()))
}

/// Whether a stored blob is `bytes`: one that has rotted is written anew.
fn holds(blob: &OpenBlob, bytes: &[u8]) -> bool {
    let mut stored = vec![0; bytes.len()];
    blob.length_bytes == bytes.len() as u64 && blob.file.read_exact_at(&mut stored, 0).is_ok() && stored == bytes
}
