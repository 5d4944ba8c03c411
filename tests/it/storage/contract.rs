//! What every kind of store must do. Records: over memory and over local disk.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use headpond::oci::Digest;
use headpond::storage::{
    BlobLinkRecord, ManifestRecord, RecordKey, Records, RepositoryKind, RepositoryRecord, SourceBlobRecord, StorageError, Store,
    StoreParts, TagRecord, ValidatedRecord,
};
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use tempfile::TempDir;

use super::{digest, name, tag};
use crate::faulty_disk::{FaultyDisk, Operation};

/// Runs one test of the contract over each kind of store.
macro_rules! contract {
    ($($test:ident),+ $(,)?) => {
        mod memory {
            use super::*;
            $(#[tokio::test] async fn $test() {
                super::$test(Arc::new(InMemory::new())).await;
            })+
        }

        mod disk {
            use super::*;
            $(#[tokio::test] async fn $test() {
                let directory = TempDir::new().unwrap();
                super::$test(Arc::new(object_store::local::LocalFileSystem::new_with_prefix(directory.path()).unwrap())).await;
            })+
        }
    };
}

contract! {
    every_kind_of_record_reads_as_it_was_written,
    a_record_that_is_not_there_is_none,
    a_record_is_written_over_whole,
    records_of_one_name_do_not_meet,
    a_record_that_is_not_of_its_form_is_none,
    tags_are_listed_sorted_and_of_one_repository,
    a_repository_inside_another_is_apart_from_it,
    concurrent_writes_leave_one_of_them,
}

async fn every_kind_of_record_reads_as_it_was_written(store: Arc<dyn ObjectStore>) {
    let records = Records::new(store);
    let (name, tag) = (name("docker-hub/library/nginx"), tag("1.27"));
    let repository = RepositoryRecord {
        kind: RepositoryKind::PullThrough,
        name: name.to_string(),
        source: "0a1b".to_owned(),
        upstream_repository: "library/nginx".to_owned(),
        needs_user: true,
        created_at: 5,
    };
    let manifest = ManifestRecord {
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        size_bytes: 7,
        source: "0a1b".to_owned(),
        cached_at: 8,
        subject: Some(digest(1)),
        artifact_type: None,
        references: vec![(digest(2), 100), (digest(3), 0)],
    };
    let tagged = TagRecord { digest: digest(4), source: "0a1b".to_owned(), updated_at: 9 };
    let validated = ValidatedRecord { digest: digest(4), validated_at: 10, upstream_gone_since: Some(11) };
    let link = BlobLinkRecord { source: "0a1b".to_owned(), size_bytes: None };
    let word = SourceBlobRecord { vouched_at: 12 };
    records.write(&RecordKey::repository(&name), &repository).await.unwrap();
    records.write(&RecordKey::manifest(&name, &digest(4)), &manifest).await.unwrap();
    records.write(&RecordKey::tag(&name, &tag), &tagged).await.unwrap();
    records.write(&RecordKey::validated(&name, &tag), &validated).await.unwrap();
    records.write(&RecordKey::blob_link(&name, &digest(4)), &link).await.unwrap();
    records.write(&RecordKey::source_blob("0a1b", &digest(4)), &word).await.unwrap();
    assert_eq!(records.read(&RecordKey::repository(&name)).await.unwrap(), Some(repository));
    assert_eq!(records.read(&RecordKey::manifest(&name, &digest(4))).await.unwrap(), Some(manifest));
    assert_eq!(records.read(&RecordKey::tag(&name, &tag)).await.unwrap(), Some(tagged));
    assert_eq!(records.read(&RecordKey::validated(&name, &tag)).await.unwrap(), Some(validated));
    assert_eq!(records.read(&RecordKey::blob_link(&name, &digest(4))).await.unwrap(), Some(link));
    assert_eq!(records.read(&RecordKey::source_blob("0a1b", &digest(4))).await.unwrap(), Some(word));
}

async fn a_record_that_is_not_there_is_none(store: Arc<dyn ObjectStore>) {
    let records = Records::new(store);
    assert_eq!(records.read(&RecordKey::tag(&name("a/b"), &tag("1"))).await.unwrap(), None);
    assert_eq!(records.list_tags(&name("a/b")).await.unwrap(), []);
}

fn tag_record(number: u64) -> TagRecord {
    TagRecord { digest: digest(number), source: "s".repeat(1 + usize::try_from(number).unwrap() % 100), updated_at: number }
}

async fn a_record_is_written_over_whole(store: Arc<dyn ObjectStore>) {
    let records = Records::new(store);
    let key = RecordKey::tag(&name("a/b"), &tag("1"));
    for number in [99, 1] {
        records.write(&key, &tag_record(number)).await.unwrap();
        assert_eq!(records.read(&key).await.unwrap(), Some(tag_record(number)));
    }
}

async fn records_of_one_name_do_not_meet(store: Arc<dyn ObjectStore>) {
    let records = Records::new(store);
    // A tag and its validation, a tag with the name of a directory, names that differ in `/` and case.
    let keys = [("a/b", "_tags"), ("a/b", "sha256"), ("a/b", "1"), ("a/b", "1.json"), ("a/b/c", "1"), ("a-b/c", "1"), ("a_b/c", "1")];
    for (number, (repository, text)) in keys.iter().enumerate() {
        records.write(&RecordKey::tag(&name(repository), &tag(text)), &tag_record(number as u64)).await.unwrap();
        let validated = ValidatedRecord { digest: digest(number as u64), validated_at: 1, upstream_gone_since: None };
        records.write(&RecordKey::validated(&name(repository), &tag(text)), &validated).await.unwrap();
    }
    for (number, (repository, text)) in keys.iter().enumerate() {
        let read = records.read(&RecordKey::tag(&name(repository), &tag(text))).await.unwrap();
        assert_eq!(read, Some(tag_record(number as u64)), "{repository}:{text}");
    }
}

async fn a_record_that_is_not_of_its_form_is_none(store: Arc<dyn ObjectStore>) {
    let records = Records::new(Arc::clone(&store));
    let key = RecordKey::tag(&name("a/b"), &tag("1"));
    for torn in ["", "{", "{}", "null", "\0\0\0\0"] {
        store.put(&Key::from("images/a/b/_tags/1"), PutPayload::from(torn)).await.unwrap();
        assert_eq!(records.read(&key).await.unwrap(), None, "{torn:?}");
    }
    records.write(&key, &tag_record(1)).await.unwrap();
    assert_eq!(records.read(&key).await.unwrap(), Some(tag_record(1)));
}

async fn tags_are_listed_sorted_and_of_one_repository(store: Arc<dyn ObjectStore>) {
    let records = Records::new(store);
    for (repository, text) in [("a/b", "2"), ("a/b", "10"), ("a/b", "latest"), ("a/b", "V1"), ("a/b/c", "x"), ("a/bc", "y"), ("a", "z")] {
        records.write(&RecordKey::tag(&name(repository), &tag(text)), &tag_record(1)).await.unwrap();
    }
    assert_eq!(records.list_tags(&name("a/b")).await.unwrap(), ["10", "2", "V1", "latest"].map(tag));
}

async fn a_repository_inside_another_is_apart_from_it(store: Arc<dyn ObjectStore>) {
    let records = Records::new(store);
    let (outer, inner) = (name("a/b"), name("a/b/manifests/blobs"));
    records.write(&RecordKey::blob_link(&inner, &digest(1)), &BlobLinkRecord { source: "s".into(), size_bytes: Some(1) }).await.unwrap();
    assert_eq!(records.read(&RecordKey::blob_link(&outer, &digest(1))).await.unwrap(), None);
    assert!(records.read(&RecordKey::blob_link(&inner, &digest(1))).await.unwrap().is_some());
}

async fn concurrent_writes_leave_one_of_them(store: Arc<dyn ObjectStore>) {
    let records = Records::new(store);
    let key = RecordKey::tag(&name("a/b"), &tag("1"));
    let written: Vec<_> = (0..20).map(tag_record).collect();
    let writes = written.iter().map(|record| records.write(&key, record));
    futures::future::try_join_all(writes).await.unwrap();
    let read = records.read(&key).await.unwrap().expect("one of them");
    assert!(written.contains(&read));
}

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
