//! The lock, and what a crash leaves behind.

use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use headpond::oci::Digest;
use headpond::storage::{StorageError, Store, StoreParts};
use tempfile::TempDir;

#[test]
fn a_second_process_is_refused_and_told_who_holds_the_store() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(StoreParts::directory(directory.path())).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_headpond"))
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--storage"])
        .arg(directory.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(words.contains(&format!("(pid {})", std::process::id())), "{words}");
    assert!(words.contains("storage.path"), "it says what to do: {words}");
    drop(store);
    Store::open(StoreParts::directory(directory.path())).expect("the lock is free again");
}

#[test]
fn a_refused_opener_removes_nothing() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(StoreParts::directory(directory.path())).unwrap();
    let staged = store.blobs.stage(None).unwrap();
    let error = Store::open(StoreParts::directory(directory.path())).expect_err("it is held");
    assert!(matches!(error, StorageError::Locked { .. }), "{error}");
    assert!(staged.path().exists());
    staged.write_at(b"abc", 0).unwrap();
    staged.commit(&Digest::of(b"abc")).unwrap();
}

#[test]
fn a_lock_file_of_a_dead_process_does_not_matter() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("headpond.lock"), "999999999 and some more text of an older version\n").unwrap();
    let _store = Store::open(StoreParts::directory(directory.path())).unwrap();
    let text = fs::read_to_string(directory.path().join("headpond.lock")).unwrap();
    assert_eq!(text, format!("{}\n", std::process::id()));
}

#[test]
fn staged_blobs_of_a_crash_are_gone_when_the_store_is_open() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(StoreParts::directory(directory.path())).unwrap();
    store.blobs.put(&Digest::of(b"abc"), b"abc").unwrap();
    // As a crash does: the file stays, the process is gone.
    let staged = store.blobs.stage(Some(1000)).unwrap();
    staged.write_at(b"half of it", 0).unwrap();
    std::mem::forget(staged);
    drop(store);
    let store = Store::open(StoreParts::directory(directory.path())).unwrap();
    assert_eq!(fs::read_dir(directory.path().join("staging")).unwrap().count(), 0);
    assert!(store.blobs.open(&Digest::of(b"abc")).unwrap().is_some());
}

fn write_aged(path: &Path, age: Duration) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "{").unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(SystemTime::now() - age)).unwrap();
}

#[test]
fn old_unfinished_records_are_removed_and_nothing_else() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(StoreParts::directory(directory.path())).unwrap();
    let tags = directory.path().join("images/up/library/x/_tags");
    let (old, day) = (Duration::from_secs(3600), Duration::from_secs(86_400));
    let unfinished = [tags.join("1#1"), directory.path().join("repositories/up!x#2"), directory.path().join("sources/s/sha256/ab/abcd#17")];
    unfinished.iter().for_each(|path| write_aged(path, old));
    let kept = [tags.join("1"), directory.path().join("repositories/up!x"), directory.path().join("blobs/sha256/ab/abcd#1")];
    kept.iter().for_each(|path| write_aged(path, day));
    let being_written = tags.join("2#1");
    write_aged(&being_written, Duration::ZERO);
    assert_eq!(store.leftovers()(), 3);
    assert!(unfinished.iter().all(|path| !path.exists()));
    assert!(kept.iter().all(|path| path.exists()));
    assert!(being_written.exists(), "a record that is being written is spared");
}
