//! Reading pieces of an open blob.
//!
//! A piece that is in the page cache is copied on the calling thread (`RWF_NOWAIT`); only one that
//! is not costs a hop to a blocking thread. Measured: nearly all that `mmap` gains, and neither its
//! page faults on an executor thread nor its SIGBUS.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// Outcome of an attempt to read without waiting.
#[derive(Debug)]
pub enum ReadNow {
    /// Bytes, at least one; maybe fewer than asked for.
    Ready(Bytes),
    /// They are not in memory: read them on a blocking thread ([`read_at`]).
    WouldBlock,
}

/// Reads up to `length` bytes at `offset`, if no disk has to be waited for.
#[cfg(target_os = "linux")]
#[must_use]
pub fn read_now(file: &File, offset: u64, length: usize) -> ReadNow {
    use rustix::io::{ReadWriteFlags, preadv2};
    let mut buffer = BytesMut::zeroed(length);
    match preadv2(file, &mut [IoSliceMut::new(&mut buffer)], offset, ReadWriteFlags::NOWAIT) {
        Ok(read) if read > 0 => {
            buffer.truncate(read);
            ReadNow::Ready(buffer.freeze())
        }
        // Not cached, not supported by the file system, or an end that came too early: the
        // blocking read tells which.
        _ => ReadNow::WouldBlock,
    }
}

/// Elsewhere than on Linux every read is a blocking one.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn read_now(_file: &File, _offset: u64, _length: usize) -> ReadNow {
    ReadNow::WouldBlock
}

/// Reads up to `length` bytes at `offset`, on a blocking thread.
///
/// # Errors
/// Of the system; `UnexpectedEof` when the file ends before `offset`.
pub async fn read_at(file: Arc<File>, offset: u64, length: usize) -> io::Result<Bytes> {
    let read = tokio::task::spawn_blocking(move || {
        let mut buffer = BytesMut::zeroed(length);
        let read = file.read_at(&mut buffer, offset)?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it was"));
        }
        buffer.truncate(read);
        Ok(buffer.freeze())
    });
    read.await.map_err(io::Error::other)?
}
