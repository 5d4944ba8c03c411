//! Room on file systems that do not tell what others do.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use headpond::clock::Clock;
use headpond::oci::Digest;
use headpond::storage::{Disk, LocalDisk, RoomLimits, Space, Store, StoreParts};
use tempfile::TempDir;

use crate::fake_upstream::pseudo_random;
use crate::small_disk::SmallDisk;

const MIB: u64 = 1024 * 1024;

/// One that knows the blocks of a file only later, as ZFS: what is written leaves holes here.
#[derive(Debug)]
struct Tardy(Arc<SmallDisk>);

/// One that cannot reserve, as NFS before 4.2.
#[derive(Debug)]
struct Unreserving(Arc<SmallDisk>);

macro_rules! as_small_disk {
    ($disk:ident, $($own:item)+) => {
        impl Disk for $disk {
            $($own)+

            fn create(&self, path: &Path) -> io::Result<File> {
                self.0.create(path)
            }

            fn sync_data(&self, file: &File) -> io::Result<()> {
                self.0.sync_data(file)
            }

            fn create_directory(&self, path: &Path) -> io::Result<bool> {
                self.0.create_directory(path)
            }

            fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
                self.0.rename(from, to)
            }

            fn sync_directory(&self, path: &Path) -> io::Result<()> {
                self.0.sync_directory(path)
            }

            fn remove(&self, path: &Path) -> io::Result<()> {
                self.0.remove(path)
            }

            fn space(&self, directory: &Path) -> io::Result<Space> {
                self.0.space(directory)
            }
        }
    };
}

as_small_disk! { Tardy,
    fn reserve(&self, _: &File, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.set_len(file.metadata()?.len().max(offset + bytes.len() as u64))
    }
}

as_small_disk! { Unreserving,
    fn reserve(&self, _: &File, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        LocalDisk.write_at(file, bytes, offset)
    }
}

fn store(directory: &TempDir, disk: Arc<dyn Disk>, room: RoomLimits, clock: &Clock) -> Store {
    let store = Store::open(StoreParts { disk, room, clock: clock.clone(), ..StoreParts::directory(directory.path()) }).unwrap();
    store.blobs.room().walk();
    store
}

#[test]
fn the_cap_holds_where_the_file_system_tells_the_blocks_of_a_file_too_late() {
    let directory = TempDir::new().unwrap();
    let disk = Arc::new(Tardy(SmallDisk::of(&directory, 1 << 40)));
    let room = RoomLimits { max_bytes: Some(8 * MIB), min_free_bytes: Some(0) };
    let store = store(&directory, disk, room, &Clock::system());
    for seed in 0..20_u64 {
        let staged = store.blobs.stage(Some(MIB)).unwrap();
        staged.write_at(&vec![0; MIB as usize], 0).unwrap();
        staged.commit(&Digest::of(&seed.to_le_bytes())).unwrap();
    }
    let numbers = store.blobs.room().numbers();
    assert!(numbers.used_bytes >= numbers.blobs * MIB && numbers.used_bytes <= 8 * MIB, "{numbers:?}");
    assert!(numbers.evicted_blobs >= 12, "{numbers:?}");
}

/// Of what is written the file system's free space tells by itself: it counts once.
#[test]
fn a_blob_that_cannot_be_reserved_for_takes_its_room_once() {
    for (is_reserved, can_reserve) in [(false, true), (true, false)] {
        let (directory, clock) = (TempDir::new().unwrap(), Clock::system());
        let small = SmallDisk::of(&directory, 20 * MIB);
        let disk: Arc<dyn Disk> = if can_reserve { small } else { Arc::new(Unreserving(small)) };
        let store = store(&directory, disk, RoomLimits { max_bytes: None, min_free_bytes: Some(2 * MIB) }, &clock);
        let staged = store.blobs.stage(is_reserved.then_some(14 * MIB)).unwrap();
        for piece in 0..14 {
            staged.write_at(&pseudo_random(piece, MIB as usize), piece * MIB).unwrap();
            // The file system is asked anew.
            clock.advance(Duration::from_secs(2));
            let _ = store.blobs.room().numbers();
        }
        staged.commit(&Digest::of(b"whatever")).unwrap();
        assert_eq!(store.blobs.room().numbers().refused, 0, "reserved: {is_reserved}");
    }
}

#[test]
fn a_blob_that_fits_is_no_refusal_where_more_would_not() {
    let directory = TempDir::new().unwrap();
    let room = RoomLimits { max_bytes: Some(4 * MIB), min_free_bytes: Some(0) };
    let store = store(&directory, SmallDisk::of(&directory, 1 << 40), room, &Clock::system());
    let staged = store.blobs.stage(None).unwrap();
    staged.write_at(&vec![1; MIB as usize], 0).unwrap();
    staged.commit(&Digest::of(b"one")).unwrap();
    assert_eq!(store.blobs.room().numbers().refused, 0);
    let staged = store.blobs.stage(None).unwrap();
    assert!(staged.write_at(&vec![1; 5 * MIB as usize], 0).is_err());
    assert_eq!(store.blobs.room().numbers().refused, 1);
}
