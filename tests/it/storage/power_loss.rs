//! What a loss of power leaves, at any moment.
//!
//! The disk below notes, after every operation, what is on the medium: the data of a file as it was
//! when it was last synced, the entries of a directory as they were when it was last synced. What
//! was never synced may be there or not; both must be right.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use headpond::oci::Digest;
use headpond::storage::{BlobFiles, Disk, LocalDisk, Store, StoreParts};
use tempfile::TempDir;

use crate::fake_upstream::pseudo_random;

/// What one entry of a directory is.
#[derive(Clone, Debug)]
enum Entry {
    Directory,
    /// By its inode.
    File(u64),
}

type Entries = HashMap<String, Entry>;

/// A moment: what a loss of power may leave.
#[derive(Clone, Debug, Default)]
struct Moment {
    /// Data of files that was synced.
    data: HashMap<u64, Vec<u8>>,
    /// Entries of directories that were synced.
    directories: HashMap<PathBuf, Entries>,
    /// Blobs' names, synced or not.
    names: HashMap<String, u64>,
}

#[derive(Debug)]
struct PowerDisk {
    root: PathBuf,
    now: Mutex<Moment>,
    moments: Mutex<Vec<Moment>>,
    calls: Mutex<Vec<String>>,
}

impl PowerDisk {
    fn note(&self, call: String, change: impl FnOnce(&mut Moment)) {
        let mut now = self.now.lock().unwrap();
        change(&mut now);
        now.names = names_below(&self.root.join("blobs"));
        self.moments.lock().unwrap().push(now.clone());
        self.calls.lock().unwrap().push(call);
    }

    fn shown(&self, path: &Path) -> String {
        let path = path.strip_prefix(&self.root).unwrap();
        path.components().take(3).map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
    }
}

fn entries(directory: &Path) -> Entries {
    let entry = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        let kind = if metadata.is_dir() { Entry::Directory } else { Entry::File(metadata.ino()) };
        (entry.file_name().into_string().unwrap(), kind)
    };
    fs::read_dir(directory).unwrap().map(entry).collect()
}

fn names_below(directory: &Path) -> HashMap<String, u64> {
    let mut names = HashMap::new();
    for (name, entry) in entries(directory) {
        match entry {
            Entry::Directory => names.extend(names_below(&directory.join(name))),
            Entry::File(inode) => {
                names.insert(name, inode);
            }
        }
    }
    names
}

impl Disk for PowerDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        let file = LocalDisk.create(path)?;
        self.note("create staged".to_owned(), |_| {});
        Ok(file)
    }

    fn reserve(&self, file: &File, length_bytes: u64) -> io::Result<()> {
        LocalDisk.reserve(file, length_bytes)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        LocalDisk.write_at(file, bytes, offset)?;
        self.note("write".to_owned(), |_| {});
        Ok(())
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        LocalDisk.sync_data(file)?;
        let metadata = file.metadata()?;
        let mut data = vec![0; usize::try_from(metadata.len()).unwrap()];
        file.read_exact_at(&mut data, 0)?;
        self.note("sync data".to_owned(), |now| drop(now.data.insert(metadata.ino(), data)));
        Ok(())
    }

    fn create_directory(&self, path: &Path) -> io::Result<bool> {
        let is_new = LocalDisk.create_directory(path)?;
        self.note(format!("create {}", self.shown(path)), |_| {});
        Ok(is_new)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        LocalDisk.rename(from, to)?;
        self.note(format!("rename into {}", self.shown(to.parent().unwrap())), |_| {});
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        LocalDisk.sync_directory(path)?;
        let entries = entries(path);
        let name = self.shown(path);
        self.note(format!("sync {}", if name.is_empty() { "." } else { &name }), |now| {
            drop(now.directories.insert(path.to_owned(), entries))
        });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        LocalDisk.remove(path)
    }
}

fn open() -> (TempDir, Store, Arc<PowerDisk>) {
    let directory = TempDir::new().unwrap();
    let disk = PowerDisk { root: directory.path().to_owned(), now: Mutex::default(), moments: Mutex::default(), calls: Mutex::default() };
    let disk = Arc::new(disk);
    let store = Store::open(StoreParts { disk: Arc::clone(&disk) as Arc<dyn Disk>, ..StoreParts::directory(directory.path()) }).unwrap();
    // What opening makes is made again by the next opening.
    disk.now.lock().unwrap().directories.insert(directory.path().to_owned(), entries(directory.path()));
    (directory, store, disk)
}

/// Stores a blob as a fill does: in pieces, out of order.
fn fill(blobs: &BlobFiles, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let staged = blobs.stage(Some(bytes.len() as u64)).unwrap();
    for start in (0..bytes.len()).step_by(1000).rev() {
        staged.write_at(&bytes[start..bytes.len().min(start + 1000)], start as u64).unwrap();
    }
    staged.commit(&digest).unwrap();
    digest
}

/// The store as a loss of power at this moment leaves it, when everything that was not synced is gone.
fn survivors(moment: &Moment, root: &Path) -> TempDir {
    let after = TempDir::new().unwrap();
    restore(moment, root, root, after.path());
    after
}

fn restore(moment: &Moment, root: &Path, directory: &Path, after: &Path) {
    for (name, entry) in moment.directories.get(directory).into_iter().flatten() {
        let path = directory.join(name);
        let to = after.join(path.strip_prefix(root).unwrap());
        match entry {
            Entry::Directory => {
                fs::create_dir(&to).unwrap();
                restore(moment, root, &path, after);
            }
            Entry::File(inode) => fs::write(&to, moment.data.get(inode).map_or(&[][..], Vec::as_slice)).unwrap(),
        }
    }
}

#[test]
fn data_is_synced_before_its_name_and_the_directories_after_it() {
    let (_directory, store, disk) = open();
    let bytes = pseudo_random(1, 2500);
    let digest = fill(&store.blobs, &bytes);
    let fan = format!("blobs/sha256/{}", digest.hex().get(..2).unwrap());
    let expected = [
        "create staged".to_owned(),
        "write".to_owned(),
        "write".to_owned(),
        "write".to_owned(),
        "sync data".to_owned(),
        format!("create {fan}"),
        "sync blobs/sha256".to_owned(),
        "sync blobs".to_owned(),
        "sync .".to_owned(),
        format!("rename into {fan}"),
        format!("sync {fan}"),
    ];
    assert_eq!(*disk.calls.lock().unwrap(), expected);
}

#[test]
fn whenever_the_power_goes_only_right_blobs_are_there_and_committed_ones_are() {
    let (directory, store, disk) = open();
    let mut committed = Vec::new();
    for seed in 0..20 {
        let digest = fill(&store.blobs, &pseudo_random(seed, 100 + 700 * usize::try_from(seed).unwrap()));
        committed.push((disk.moments.lock().unwrap().len(), digest));
    }
    drop(store);
    for (number, moment) in disk.moments.lock().unwrap().iter().enumerate() {
        // Everything unsynced is gone.
        let after = survivors(moment, directory.path());
        let reopened = Store::open(StoreParts::directory(after.path())).unwrap();
        for name in names_below(&after.path().join("blobs")).into_keys() {
            let blob = reopened.blobs.open(&Digest::parse(&format!("sha256:{name}")).unwrap()).unwrap().expect("a surviving blob");
            let mut data = Vec::new();
            (&*blob.file).read_to_end(&mut data).unwrap();
            assert_eq!(Digest::of(&data).hex(), name, "after operation {number}");
        }
        for (since, digest) in &committed {
            if number + 1 >= *since {
                assert!(reopened.blobs.open(digest).unwrap().is_some(), "a blob committed before operation {number} is lost");
            }
        }
        // The names are there, and of the data only what was synced.
        for (name, inode) in &moment.names {
            let data = moment.data.get(inode).unwrap_or_else(|| panic!("a name without data after operation {number}"));
            assert_eq!(Digest::of(data).hex(), *name, "after operation {number}");
        }
    }
}
