//! The walk over the disk: what is there, and when it was last used.
//!
//! Runs behind the started server, on a blocking thread. What is committed, used or evicted meanwhile
//! is in the index before the walk comes to it, or is found by it; either way it is there once.
//! Blobs come first, so that something can be evicted soon; then the records, which say which of the
//! blobs are manifests and stay. Which repositories are hosted is read before everything else: only where there are
//! none may a blob go before all has been seen.

use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::footprint::disk_bytes;
use super::hosted_blobs::HostedRepositories;
use super::index::{Taken, Waiting};
use super::room::{Room, Seen};
use crate::clock::unix_milliseconds;
use crate::oci::{Algorithm, Digest};

/// Blobs, and pins, that are noted at a time.
const BATCH: usize = 256;
/// Blobs whose place in the order is not known yet, in one piece of memory. One that grew with the store would be
/// copied each time, and leave as much behind again.
const PIECE: usize = 65_536;
/// Blobs that a later walk takes in; more are left to the next one.
const MAX_UNKNOWN: usize = 100_000;

impl Room {
    /// Walks the disk once: after that it is known what is used, and in which order. Blocks.
    pub fn walk(&self) {
        let hosted = self.hosted_repositories();
        if hosted.is_empty() {
            self.books().hosted_is_known();
        }
        let mut first = FirstWalk { room: self, seen: Vec::with_capacity(BATCH), waiting: Vec::new() };
        let other_bytes = walk_store(self, &mut first);
        self.keep_all(&hosted);
        let (mut newest_first, mut count) = (NewestFirst::of(first.waiting), 0);
        loop {
            let some: Vec<Waiting> = newest_first.by_ref().take(BATCH).collect();
            if some.is_empty() {
                break;
            }
            count += some.len();
            self.books().index.settle(&some);
        }
        let mut books = self.books();
        books.walk_is_over();
        drop(books);
        self.walk_went_on();
        tracing::debug!(blobs = count, other_bytes, "the store has been walked");
    }

    /// Counts again what is no blob: directories grow, and others may put something there. Takes in blobs
    /// that no walk could see. Blocks.
    pub fn recount(&self) {
        if self.books().is_walking() {
            // The first walk did not come to its end.
            return self.walk();
        }
        let before_bytes = self.books().other_bytes();
        let mut recount = Recount { room: self, seen: Vec::new(), unknown: HashMap::new(), manifests: HashSet::new() };
        let counted_bytes = walk_store(self, &mut recount);
        if self.is_stopping() {
            return;
        }
        self.books().recounted_other(counted_bytes, before_bytes);
        let Recount { unknown, manifests: mut staying, .. } = recount;
        if !unknown.is_empty() {
            self.hosted_repositories().each_blob(self.layout(), |digest| {
                if unknown.contains_key(digest) {
                    staying.insert(*digest);
                }
            });
            tracing::warn!(blobs = unknown.len(), "blobs are on disk that were not counted; they are from now on");
            let mut unknown: Vec<Taken> = unknown.into_values().collect();
            unknown.sort_unstable_by_key(|blob| std::cmp::Reverse(blob.used_ms));
            self.take_in(&unknown, &staying);
        }
    }

    /// Keeps the blobs of hosted repositories, all of which the walk has seen.
    fn keep_all(&self, hosted: &HostedRepositories) {
        hosted.each_blob(self.layout(), |digest| {
            self.books().index.pin(digest);
        });
        if !self.is_stopping() {
            self.books().hosted_is_known();
        }
    }

    /// Those whose blobs are nowhere else.
    fn hosted_repositories(&self) -> HostedRepositories {
        if self.is_all_there_is() { HostedRepositories::of(self.layout(), || self.is_stopping()) } else { HostedRepositories::default() }
    }
}

/// Who is told what a walk finds.
trait Finder {
    /// A file that is named like a blob, where blobs are.
    fn blob(&mut self, digest: Digest, metadata: &Metadata);
    /// A directory of blobs is at its end.
    fn end_of_directory(&mut self);
    /// Anything else.
    fn other(&mut self, disk_bytes: u64);
    /// By its record this blob is a manifest.
    fn manifest(&mut self, digest: &Digest);
}

/// The walk after the start.
struct FirstWalk<'a> {
    room: &'a Room,
    seen: Vec<Seen>,
    waiting: Vec<Vec<Waiting>>,
}

/// All that waits, the most recently used first.
struct NewestFirst {
    /// Each with its newest at the end.
    pieces: Vec<Vec<Waiting>>,
    /// The newest of each, and where it is from.
    ends: BinaryHeap<(Waiting, usize)>,
}

impl NewestFirst {
    fn of(mut pieces: Vec<Vec<Waiting>>) -> Self {
        pieces.iter_mut().for_each(|piece| piece.sort_unstable());
        let ends = pieces.iter_mut().enumerate().filter_map(|(number, piece)| Some((piece.pop()?, number))).collect();
        Self { pieces, ends }
    }
}

impl Iterator for NewestFirst {
    type Item = Waiting;

    fn next(&mut self) -> Option<Waiting> {
        let (newest, number) = self.ends.pop()?;
        if let Some(next) = self.pieces.get_mut(number).and_then(Vec::pop) {
            self.ends.push((next, number));
        }
        Some(newest)
    }
}

impl Finder for FirstWalk<'_> {
    fn blob(&mut self, digest: Digest, metadata: &Metadata) {
        let modified_ms = metadata.modified().map_or(0, unix_milliseconds);
        self.seen.push(Seen { digest, disk_bytes: metadata.blocks() * 512, length_bytes: metadata.len(), modified_ms });
        if self.seen.len() >= BATCH {
            self.end_of_directory();
        }
    }

    fn end_of_directory(&mut self) {
        if self.waiting.last().is_none_or(|piece| piece.len() + self.seen.len() > PIECE) {
            self.waiting.push(Vec::with_capacity(PIECE));
        }
        if let Some(piece) = self.waiting.last_mut() {
            self.room.books().saw(&self.seen, piece);
        }
        self.seen.clear();
    }

    fn other(&mut self, disk_bytes: u64) {
        self.room.books().saw_other(disk_bytes);
    }

    fn manifest(&mut self, digest: &Digest) {
        self.room.keep_manifest(digest);
    }
}

/// A later one: nearly all blobs are known.
struct Recount<'a> {
    room: &'a Room,
    seen: Vec<Taken>,
    unknown: HashMap<Digest, Taken>,
    /// Of the unknown ones.
    manifests: HashSet<Digest>,
}

impl Finder for Recount<'_> {
    fn blob(&mut self, digest: Digest, metadata: &Metadata) {
        let used_ms = metadata.modified().map_or(0, unix_milliseconds);
        self.seen.push(Taken { digest, disk_bytes: metadata.blocks() * 512, used_ms });
        if self.seen.len() >= BATCH {
            self.end_of_directory();
        }
    }

    fn end_of_directory(&mut self) {
        let books = self.room.books();
        let unknown = self.seen.drain(..).filter(|blob| !books.index.knows(&blob.digest));
        let room_left = MAX_UNKNOWN.saturating_sub(self.unknown.len());
        self.unknown.extend(unknown.take(room_left).map(|blob| (blob.digest, blob)));
    }

    fn other(&mut self, _: u64) {}

    fn manifest(&mut self, digest: &Digest) {
        if self.room.is_all_there_is() && self.unknown.contains_key(digest) {
            self.manifests.insert(*digest);
        }
    }
}

/// Returns how much is there that is no blob.
fn walk_store(room: &Room, finder: &mut impl Finder) -> u64 {
    let layout = room.layout();
    let mut walk = Walk { room, finder, other_bytes: 0 };
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        walk.blobs(&layout.blobs(algorithm), algorithm);
    }
    walk.other(disk_bytes(&layout.staging()).unwrap_or(0));
    walk.others(layout.root(), &|path| layout.is_counted_otherwise(path));
    walk.other_bytes
}

struct Walk<'a, F> {
    room: &'a Room,
    finder: &'a mut F,
    other_bytes: u64,
}

impl<F: Finder> Walk<'_, F> {
    /// The blobs of one algorithm, two levels down.
    fn blobs(&mut self, directory: &Path, algorithm: Algorithm) {
        for fan in self.entries(directory) {
            for entry in self.entries(&fan.path()) {
                // One that has been evicted since is not there.
                let Ok(metadata) = entry.metadata() else { continue };
                let digest = entry.file_name().to_str().and_then(|name| Digest::from_hex(algorithm, name).ok());
                match digest.filter(|_| metadata.is_file()) {
                    Some(digest) => self.finder.blob(digest, &metadata),
                    None => self.other(metadata.blocks() * 512),
                }
            }
            self.finder.end_of_directory();
            self.room.walk_went_on();
        }
    }

    /// Everything below a directory but what `is_counted` says is counted already.
    fn others(&mut self, directory: &Path, is_counted: &impl Fn(&Path) -> bool) {
        let algorithm = manifests_of(directory);
        for entry in self.entries(directory) {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                let path = entry.path();
                if !is_counted(&path) {
                    self.others(&path, is_counted);
                }
                continue;
            }
            self.other(entry.metadata().map_or(0, |metadata| metadata.blocks() * 512));
            if let Some(algorithm) = algorithm
                && let Some(digest) = entry.file_name().to_str().and_then(|name| Digest::from_hex(algorithm, name).ok())
            {
                self.finder.manifest(&digest);
            }
        }
    }

    /// The entries of a directory, itself counted; none once the walk is to stop.
    fn entries(&mut self, directory: &Path) -> impl Iterator<Item = DirEntry> + use<F> {
        let entries = if self.room.is_stopping() { None } else { readable(fs::read_dir(directory), directory) };
        if entries.is_some() {
            self.other(disk_bytes(directory).unwrap_or(0));
        }
        entries.into_iter().flatten().flatten()
    }

    fn other(&mut self, disk_bytes: u64) {
        self.other_bytes += disk_bytes;
        self.finder.other(disk_bytes);
    }
}

/// What could be read; what could not is told, unless it is not there.
fn readable<T>(read: io::Result<T>, directory: &Path) -> Option<T> {
    let told = read.inspect_err(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!(path = %directory.display(), %error, "a directory could not be read: what is in it is not counted");
        }
    });
    told.ok()
}

/// If a directory holds records of manifests: those of which algorithm.
fn manifests_of(directory: &Path) -> Option<Algorithm> {
    let mut last = directory.components().rev().map(|component| component.as_os_str());
    let (algorithm, kind) = (last.next()?, last.next()?);
    let algorithm = [Algorithm::Sha256, Algorithm::Sha512].into_iter().find(|it| algorithm == it.as_str())?;
    (kind == super::layout::MANIFESTS).then_some(algorithm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::index::Index;

    #[test]
    fn pieces_are_gone_through_from_the_newest_to_the_oldest() {
        let mut index = Index::default();
        let mut seen = |used_ms: u64| index.seen(&Digest::of(&used_ms.to_le_bytes()), 4096, used_ms, 1).unwrap();
        let all: Vec<_> = (0..9).map(&mut seen).collect();
        let pieces = [vec![4, 0, 7], vec![], vec![8], vec![2, 6, 1, 5, 3]];
        let pieces = pieces.map(|piece| piece.into_iter().map(|number: usize| all[number]).collect()).to_vec();
        assert!(NewestFirst::of(pieces).eq(all.iter().rev().copied()));
    }
}
