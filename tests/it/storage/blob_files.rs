//! Blobs on disk: staged, committed, opened.

use std::io;
use std::os::unix::fs::FileExt;

use headpond::oci::Digest;
use headpond::storage::{StorageError, Store, StoreParts};
use tempfile::TempDir;

use crate::faulty_disk::{FaultyDisk, Operation};

fn store() -> (TempDir, Store) {
    let directory = TempDir::new().unwrap();
    let store = Store::open(StoreParts::directory(directory.path())).unwrap();
    (directory, store)
}

#[test]
fn a_committed_blob_is_open_and_a_staged_one_is_not_there() {
    let (directory, store) = store();
    let bytes = b"some bytes";
    let wanted = Digest::of(bytes);
    let staged = store.blobs.stage(Some(10)).unwrap();
    staged.write_at(&bytes[5..], 5).unwrap();
    staged.write_at(&bytes[..5], 0).unwrap();
    assert!(store.blobs.open(&wanted).unwrap().is_none());
    staged.commit(&wanted).unwrap();
    let blob = store.blobs.open(&wanted).unwrap().expect("the blob");
    let mut read = vec![0; 10];
    blob.file.read_exact_at(&mut read, 0).unwrap();
    assert_eq!((blob.length_bytes, read.as_slice()), (10, bytes.as_slice()));
    assert_eq!(std::fs::read_dir(directory.path().join("staging")).unwrap().count(), 0);
}

#[test]
fn reserved_room_is_not_length() {
    let (_directory, store) = store();
    let staged = store.blobs.stage(Some(1 << 20)).unwrap();
    staged.write_at(b"abc", 0).unwrap();
    staged.commit(&Digest::of(b"abc")).unwrap();
    assert_eq!(store.blobs.open(&Digest::of(b"abc")).unwrap().expect("the blob").length_bytes, 3);
}

#[test]
fn a_staged_blob_that_is_dropped_leaves_nothing_and_stays_readable() {
    let (directory, store) = store();
    let staged = store.blobs.stage(None).unwrap();
    staged.write_at(b"abc", 0).unwrap();
    let file = staged.file();
    drop(staged);
    assert_eq!(std::fs::read_dir(directory.path().join("staging")).unwrap().count(), 0);
    let mut read = [0; 3];
    file.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(&read, b"abc");
}

#[test]
fn a_blob_of_no_bytes_and_both_algorithms_are_blobs() {
    let (_directory, store) = store();
    for wanted in [Digest::of(b""), Digest::parse(&format!("sha512:{}", "ab".repeat(64))).unwrap()] {
        store.blobs.put(&wanted, b"").unwrap();
        assert_eq!(store.blobs.open(&wanted).unwrap().expect("the blob").length_bytes, 0);
    }
}

#[test]
fn a_blob_that_comes_twice_is_there_once() {
    let (_directory, store) = store();
    for _ in 0..2 {
        store.blobs.put(&Digest::of(b"abc"), b"abc").unwrap();
    }
    assert_eq!(store.blobs.open(&Digest::of(b"abc")).unwrap().expect("the blob").length_bytes, 3);
}

#[test]
fn more_than_the_file_system_has_is_no_space() {
    let (directory, store) = store();
    let error = store.blobs.stage(Some(1 << 60)).expect_err("an exbibyte");
    assert!(matches!(error, StorageError::NoSpace { .. }), "{error}");
    assert!(error.to_string().contains(&directory.path().display().to_string()), "{error}");
    assert_eq!(std::fs::read_dir(directory.path().join("staging")).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_opened_is_an_error_and_not_a_miss() {
    let (directory, store) = store();
    let wanted = Digest::of(b"abc");
    std::fs::remove_dir_all(directory.path().join("blobs")).unwrap();
    std::fs::write(directory.path().join("blobs"), "a file in its place").unwrap();
    let error = store.blobs.open(&wanted).expect_err("not a directory");
    let StorageError::File { operation: "open", source, .. } = error else { panic!("{error}") };
    assert_eq!(source.kind(), io::ErrorKind::NotADirectory);
}

#[test]
fn a_commit_that_fails_leaves_nothing_to_see() {
    for operation in [Operation::SyncData, Operation::CreateDirectory, Operation::Rename, Operation::SyncDirectory] {
        let directory = TempDir::new().unwrap();
        let store =
            Store::open(StoreParts { disk: FaultyDisk::full_from(operation, 1), ..StoreParts::directory(directory.path()) }).unwrap();
        let error = store.blobs.put(&Digest::of(b"abc"), b"abc").expect_err("the disk fails");
        assert!(matches!(error, StorageError::NoSpace { .. }), "{operation:?}: {error}");
        assert!(store.blobs.open(&Digest::of(b"abc")).unwrap().is_none(), "{operation:?}");
        assert_eq!(std::fs::read_dir(directory.path().join("staging")).unwrap().count(), 0, "{operation:?}");
    }
    // The directories are there now, so that the last call of a commit is the one that fails.
    let directory = TempDir::new().unwrap();
    Store::open(StoreParts::directory(directory.path())).unwrap().blobs.put(&Digest::of(b"abc"), b"abc").unwrap();
    std::fs::remove_file(directory.path().join("blobs/sha256/ba").join(Digest::of(b"abc").hex())).unwrap();
    let store =
        Store::open(StoreParts { disk: FaultyDisk::full_from(Operation::SyncDirectory, 1), ..StoreParts::directory(directory.path()) })
            .unwrap();
    store.blobs.put(&Digest::of(b"abc"), b"abc").expect_err("the disk fails");
    assert!(store.blobs.open(&Digest::of(b"abc")).unwrap().is_none());
}
