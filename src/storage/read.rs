//! Reading pieces of an open blob.
//!
//! A piece that is in the page cache is copied on the calling thread (`RWF_NOWAIT`); only one that
//! is not costs a hop to a blocking thread. Measured: nearly all that `mmap` gains, and neither its
//! page faults on an executor thread nor its SIGBUS.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// Reads one blob, piece by piece, into one buffer for as long as each piece is gone before the
/// next is read: fresh memory would have to be zeroed for every piece.
#[derive(Debug, Default)]
pub struct PieceReader {
    last: Bytes,
}

impl PieceReader {
    /// Reads up to `length` bytes at `offset`; at least one.
    ///
    /// # Errors
    /// Of the system; `UnexpectedEof` when the file ends before `offset`.
    pub async fn read(&mut self, file: &Arc<File>, offset: u64, length: usize) -> io::Result<Bytes> {
        let mut buffer = self.buffer(length);
        let read = match read_now(file, &mut buffer, offset) {
            Some(read) => read,
            None => {
                let file = Arc::clone(file);
                let blocking = tokio::task::spawn_blocking(move || (file.read_at(&mut buffer, offset), buffer));
                let (read, filled) = blocking.await.map_err(io::Error::other)?;
                buffer = filled;
                read?
            }
        };
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it was"));
        }
        buffer.truncate(read);
        let piece = buffer.freeze();
        self.last = piece.clone();
        Ok(piece)
    }

    /// A buffer of `length` bytes: the last one, if nobody holds it any more.
    fn buffer(&mut self, length: usize) -> BytesMut {
        match std::mem::take(&mut self.last).try_into_mut() {
            Ok(mut buffer) if buffer.capacity() >= length => {
                buffer.resize(length, 0);
                buffer
            }
            _ => BytesMut::zeroed(length),
        }
    }
}

/// Reads without waiting for a disk. `None` if that cannot be: not cached, not supported by the file
/// system, or an end that came too early, which the blocking read tells apart.
#[cfg(target_os = "linux")]
fn read_now(file: &File, buffer: &mut [u8], offset: u64) -> Option<usize> {
    use rustix::io::{ReadWriteFlags, preadv2};
    let read = preadv2(file, &mut [io::IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT).ok();
    read.filter(|read| *read > 0)
}

/// Elsewhere than on Linux every read is a blocking one.
#[cfg(not(target_os = "linux"))]
fn read_now(_file: &File, _buffer: &mut [u8], _offset: u64) -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_buffer_serves_pieces_that_are_gone_and_none_that_is_held() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, b"headpond").unwrap();
        let (file, mut reader) = (Arc::new(file), PieceReader::default());
        let first = reader.read(&file, 0, 4).await.unwrap();
        let place = first.as_ptr();
        drop(first);
        let second = reader.read(&file, 4, 4).await.unwrap();
        assert_eq!(second.as_ptr(), place);
        let third = reader.read(&file, 0, 8).await.unwrap();
        assert_eq!((&second[..], &third[..]), (&b"pond"[..], &b"headpond"[..]));
        assert_eq!(reader.read(&file, 8, 1).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
