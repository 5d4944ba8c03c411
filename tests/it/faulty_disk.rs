//! A disk that fails, or is slow, as planned, in front of the real one.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use headpond::app::World;
use headpond::storage::{Disk, LocalDisk};

/// An operation of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Reserve,
    Write,
    SyncData,
    CreateDirectory,
    Rename,
    SyncDirectory,
    Remove,
}

/// Which calls fail; the first one is number 1.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failing {
    /// The Nth call of any kind, once.
    Nth(usize),
    /// Calls of this kind, from the Nth one on.
    From(Operation, usize),
    /// Writes, once so many bytes are written.
    AfterBytes(usize),
}

/// What such a call meets.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Error(io::ErrorKind),
    /// It takes so long, and is carried out.
    Pause(Duration),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct FaultyDisk {
    failing: Failing,
    fault: Fault,
    counted: AtomicUsize,
}

impl FaultyDisk {
    /// A disk that is full from the Nth call of an operation on.
    pub(crate) fn full_from(operation: Operation, nth: usize) -> Arc<Self> {
        Self::planned(Failing::From(operation, nth), Fault::Error(io::ErrorKind::StorageFull))
    }

    /// A disk with room for so many bytes.
    pub(crate) fn full_after(bytes: usize) -> Arc<Self> {
        Self::planned(Failing::AfterBytes(bytes), Fault::Error(io::ErrorKind::StorageFull))
    }

    /// A disk whose Nth call fails.
    pub(crate) fn failing_nth(nth: usize) -> Arc<Self> {
        Self::planned(Failing::Nth(nth), Fault::Error(io::ErrorKind::Other))
    }

    /// A disk whose Nth call takes so long.
    pub(crate) fn slow_nth(nth: usize, pause: Duration) -> Arc<Self> {
        Self::planned(Failing::Nth(nth), Fault::Pause(pause))
    }

    fn planned(failing: Failing, fault: Fault) -> Arc<Self> {
        Arc::new(Self { failing, fault, counted: AtomicUsize::new(0) })
    }

    /// Whether the call that was to meet the fault has been made.
    pub(crate) fn has_failed(&self) -> bool {
        let nth = match self.failing {
            Failing::Nth(nth) | Failing::From(_, nth) | Failing::AfterBytes(nth) => nth,
        };
        self.counted.load(Ordering::SeqCst) >= nth
    }

    /// A world with this disk.
    pub(crate) fn world(self: &Arc<Self>) -> World {
        World { disk: Arc::clone(self) as Arc<dyn Disk>, ..World::default() }
    }

    fn call(&self, operation: Operation, length: usize) -> io::Result<()> {
        let fails = match self.failing {
            Failing::Nth(nth) => self.counted.fetch_add(1, Ordering::SeqCst) + 1 == nth,
            Failing::From(failing, nth) => operation == failing && self.counted.fetch_add(1, Ordering::SeqCst) + 1 >= nth,
            Failing::AfterBytes(bytes) => {
                operation == Operation::Write && self.counted.fetch_add(length, Ordering::SeqCst) + length > bytes
            }
        };
        match self.fault {
            _ if !fails => Ok(()),
            Fault::Error(kind) => Err(io::Error::new(kind, format!("planned by the test: {operation:?}"))),
            Fault::Pause(pause) => {
                #[expect(clippy::disallowed_methods, reason = "who calls a disk waits for it, on a thread that may block")]
                std::thread::sleep(pause);
                Ok(())
            }
        }
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        self.call(Operation::Create, 0)?;
        LocalDisk.create(path)
    }

    fn reserve(&self, file: &File, length_bytes: u64) -> io::Result<()> {
        self.call(Operation::Reserve, 0)?;
        LocalDisk.reserve(file, length_bytes)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.call(Operation::Write, bytes.len()).inspect_err(|_| {
            // A full disk takes a part of it.
            let _ = LocalDisk.write_at(file, &bytes[..bytes.len() / 2], offset);
        })?;
        LocalDisk.write_at(file, bytes, offset)
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        self.call(Operation::SyncData, 0)?;
        LocalDisk.sync_data(file)
    }

    fn create_directory(&self, path: &Path) -> io::Result<bool> {
        self.call(Operation::CreateDirectory, 0)?;
        LocalDisk.create_directory(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(Operation::Rename, 0)?;
        LocalDisk.rename(from, to)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.call(Operation::SyncDirectory, 0)?;
        LocalDisk.sync_directory(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(Operation::Remove, 0)?;
        LocalDisk.remove(path)
    }
}
