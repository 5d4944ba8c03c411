//! Memory for the parts of uploads: for so many and no more.
//!
//! What a part was in is used again for as long as anything is uploaded. Given back to the allocator it would still be
//! counted as this process's for a second, and the next part would have to be somewhere else.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Memory for the parts of all uploads.
pub(super) struct PartMemory {
    permits: Arc<Semaphore>,
    known: Mutex<Weak<Buffers>>,
}

/// That memory, as one upload uses it.
pub(super) struct UploadMemory {
    permits: Arc<Semaphore>,
    buffers: Arc<Buffers>,
}

/// What parts are in, for as long as something is uploaded.
#[derive(Default)]
struct Buffers {
    counted: Mutex<Counted>,
}

#[derive(Default)]
struct Counted {
    spare: Vec<Vec<u8>>,
    in_use: usize,
}

/// A part in memory, until its last byte is dropped.
pub(super) struct Part {
    buffer: Vec<u8>,
    length: usize,
    buffers: Arc<Buffers>,
}

impl PartMemory {
    /// For `max_parts` at one time.
    pub(super) fn new(max_parts: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(max_parts.max(1))), known: Mutex::default() }
    }

    /// For one upload. What is spare is kept until the last of these, and of their parts, is dropped.
    pub(super) fn for_upload(&self) -> UploadMemory {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let buffers = known.upgrade().unwrap_or_default();
        *known = Arc::downgrade(&buffers);
        UploadMemory { permits: Arc::clone(&self.permits), buffers }
    }
}

impl UploadMemory {
    /// Waits until another part may be in memory. Held until the bucket has answered.
    pub(super) async fn permit(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        Arc::clone(&self.permits).acquire_owned().await
    }

    /// Where the next part is to be.
    pub(super) fn part(&self) -> Part {
        let mut counted = self.buffers.counted();
        counted.in_use += 1;
        Part { buffer: counted.spare.pop().unwrap_or_default(), length: 0, buffers: Arc::clone(&self.buffers) }
    }
}

impl Part {
    /// Its bytes, `length` of them, to be read into.
    pub(super) fn bytes_mut(&mut self, length: usize) -> &mut [u8] {
        if self.buffer.len() < length {
            // Nothing in it is worth copying.
            self.buffer = Vec::new();
            self.buffer = vec![0; length];
        }
        self.length = length;
        self.buffer.get_mut(..length).unwrap_or_default()
    }

    pub(super) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut counted = self.buffers.counted();
        counted.in_use -= 1;
        counted.spare.push(mem::take(&mut self.buffer));
        if counted.in_use == 0 {
            // An upload may wait for its next bytes for hours.
            counted.spare.truncate(1);
        }
    }
}

impl Buffers {
    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_where_another_was_whose_last_byte_is_dropped() {
        let memory = PartMemory::new(2);
        let (upload, other) = (memory.for_upload(), memory.for_upload());
        let mut first = upload.part();
        first.bytes_mut(100).fill(7);
        let bytes = first.into_bytes();
        let (place, sent) = (bytes.as_ptr(), bytes.slice(50..));
        assert_eq!(bytes, vec![7; 100]);
        drop(bytes);
        let mut second = other.part();
        assert_ne!(second.bytes_mut(100).as_ptr(), place, "half of the first is still to be sent");
        drop(sent);
        let mut third = other.part();
        third.bytes_mut(60);
        assert_eq!((third.as_ref().as_ptr(), third.as_ref().len()), (place, 60));
        assert_eq!(upload.part().bytes_mut(200).len(), 200);
    }

    #[test]
    fn one_is_kept_while_no_part_is_on_its_way_and_none_once_nothing_is_uploaded() {
        let memory = PartMemory::new(3);
        let upload = memory.for_upload();
        let parts = [upload.part(), upload.part(), upload.part()];
        let buffers = Arc::downgrade(&upload.buffers);
        drop(parts);
        assert_eq!(upload.buffers.counted().spare.len(), 1);
        let part = upload.part();
        drop(upload);
        drop(memory.for_upload());
        assert!(buffers.upgrade().is_some(), "a part is on its way");
        drop(part);
        assert!(buffers.upgrade().is_none());
    }
}
