//! Every path and key of the store. Nothing else builds one.
//!
//! ```text
//! blobs/sha256/ab/abcdef…                    bytes
//! staging/<uuid>                             a blob on its way in; removed at start
//! pending/<algorithm>-<hex>                  a blob that the bucket has not taken yet
//! repositories/<name, flat>                  what a repository is
//! images/<name>/_manifests/sha256/<hex>      what is known of a manifest
//! images/<name>/_tags/<tag>                  digest
//! images/<name>/_validated/<tag>             when upstream last confirmed it
//! images/<name>/_pulled/sha256/<hex>         when a manifest was last pulled
//! images/<name>/_blobs/sha256/<hex>          this repository refers to this blob
//! sources/<source>/sha256/ab/<hex>           this upstream, with this credential, has this blob
//! gc/<algorithm>/<hex>                       a blob that nothing refers to, marked or condemned
//! quarantine/<algorithm>/<hex>               a blob that rotted
//! probe/<uuid>                               in a bucket only, for a moment: what can it do?
//! headpond.lock                              held by the one process that uses the store
//! headpond.sock                              where that process takes commands
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use object_store::path::Path as Key;
use uuid::Uuid;

use super::StorageError;
use crate::oci::{Algorithm, Digest, RepositoryName, Tag};

/// Where the records of a repository's manifests are, by algorithm.
pub(super) const MANIFESTS: &str = "_manifests";
/// Where a repository's links to blobs are, by algorithm.
const LINKS: &str = "_blobs";
/// Longest flat repository name that is kept as it is; longer ones end in their hash, because a
/// file name holds 255 bytes and `object_store` appends to it while it writes.
const MAX_FLAT_NAME_BYTES: usize = 200;
/// How much of a longer name is kept in front of its hash.
const KEPT_NAME_BYTES: usize = 120;

/// The paths of one store.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout under `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The store's directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Creates the directories that must exist before anything is stored.
    pub(super) fn create(&self) -> Result<(), StorageError> {
        for directory in [self.staging(), self.pending(), self.root.join("blobs"), self.images(), self.repositories()] {
            fs::create_dir_all(&directory).map_err(|error| StorageError::file("create", &directory, error))?;
        }
        Ok(())
    }

    /// The file whose lock means "in use".
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        self.root.join("headpond.lock")
    }

    /// The socket on which the holder of the lock takes commands.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.root.join("headpond.sock")
    }

    /// Where that socket is made, until nobody but its owner can open it.
    #[must_use]
    pub fn control_nursery(&self) -> PathBuf {
        self.root.join("headpond.sock.new")
    }

    /// Where blobs are while they fill.
    #[must_use]
    pub fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// Where it is noted which blobs are still to be sent to the bucket.
    #[must_use]
    pub fn pending(&self) -> PathBuf {
        self.root.join("pending")
    }

    /// The trees that hold records.
    #[must_use]
    pub fn record_trees(&self) -> [PathBuf; 4] {
        [self.images(), self.repositories(), self.root.join("sources"), self.root.join("gc")]
    }

    fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Where the repositories' own records are.
    pub(super) fn repositories(&self) -> PathBuf {
        self.root.join("repositories")
    }

    /// Where a repository's links to blobs of an algorithm are.
    pub(super) fn links(&self, name: &RepositoryName, algorithm: Algorithm) -> PathBuf {
        self.images().join(name.as_str()).join(LINKS).join(algorithm.as_str())
    }

    /// Where the records of a repository's manifests are.
    pub(super) fn manifests(&self, name: &RepositoryName, algorithm: Algorithm) -> PathBuf {
        self.images().join(name.as_str()).join(MANIFESTS).join(algorithm.as_str())
    }

    /// A new staged file.
    #[must_use]
    pub fn staged_file(&self) -> PathBuf {
        self.staging().join(Uuid::new_v4().simple().to_string())
    }

    /// The trees of blobs, by algorithm.
    #[must_use]
    pub fn blob_trees(&self) -> [(Algorithm, PathBuf); 2] {
        [Algorithm::Sha256, Algorithm::Sha512].map(|algorithm| (algorithm, self.root.join("blobs").join(algorithm.as_str())))
    }

    /// Where rotten blobs lie.
    #[must_use]
    pub fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// The file of a rotten blob.
    #[must_use]
    pub fn quarantined_file(&self, digest: &Digest) -> PathBuf {
        self.quarantine().join(digest.algorithm().as_str()).join(digest.hex())
    }

    /// The directory of all blobs of an algorithm.
    pub(super) fn blobs(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("blobs").join(algorithm.as_str())
    }

    /// Whether what is below a directory is counted as blobs or reserved room.
    pub(super) fn is_counted_otherwise(&self, directory: &Path) -> bool {
        directory == self.staging() || [Algorithm::Sha256, Algorithm::Sha512].iter().any(|algorithm| directory == self.blobs(*algorithm))
    }

    /// The file of a committed blob.
    #[must_use]
    pub fn blob_file(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let fan = hex.get(..2).unwrap_or_default();
        self.blobs(digest.algorithm()).join(fan).join(&hex)
    }
}

/// A new object with which it is tried what the bucket can do.
pub(super) fn probe() -> Key {
    Key::from_iter(["probe", Uuid::new_v4().simple().to_string().as_str()])
}

/// Prefix of all blobs.
pub(super) fn blobs() -> Key {
    Key::from("blobs")
}

/// Key of a blob in a bucket; on disk its file is [`Layout::blob_file`].
pub(super) fn blob(digest: &Digest) -> Key {
    let hex = digest.hex();
    Key::from_iter(["blobs", digest.algorithm().as_str(), hex.get(..2).unwrap_or_default(), hex.as_str()])
}

/// The digest that the key of a blob, or of a source's word, names; `None` for a key that is none.
pub(super) fn digest_of(key: &Key) -> Option<Digest> {
    let parts: Vec<_> = key.parts().collect();
    let [.., algorithm, _, hex] = parts.as_slice() else { return None };
    Digest::parse(&format!("{}:{}", algorithm.as_ref(), hex.as_ref())).ok()
}

/// Prefix of the rotten blobs of a bucket.
pub(super) fn quarantine() -> Key {
    Key::from("quarantine")
}

/// Key of a rotten blob of a bucket.
pub(super) fn quarantined(digest: &Digest) -> Key {
    Key::from_iter(["quarantine", digest.algorithm().as_str(), &digest.hex()])
}

/// Prefix of the marks of blobs that nothing refers to.
pub(super) fn gc_marks() -> Key {
    Key::from("gc")
}

/// Key of such a mark.
pub(super) fn gc_mark(digest: &Digest) -> Key {
    Key::from_iter(["gc", digest.algorithm().as_str(), &digest.hex()])
}

/// The digest that the key of a mark names; `None` for a key that is none.
pub(super) fn marked(key: &Key) -> Option<Digest> {
    let parts: Vec<_> = key.parts().collect();
    let [_, algorithm, hex] = parts.as_slice() else { return None };
    Digest::parse(&format!("{}:{}", algorithm.as_ref(), hex.as_ref())).ok()
}

/// Prefix of the records of all repositories.
pub(super) fn all_images() -> Key {
    Key::from("images")
}

/// Prefix of the words of all sources.
pub(super) fn sources() -> Key {
    Key::from("sources")
}

/// The source that the key of a word names.
pub(super) fn source_of(key: &Key) -> Option<String> {
    key.parts().nth(1).map(|source| source.as_ref().to_owned())
}

/// The repository that a key below [`all_images`] belongs to, and what the key is about.
pub(super) fn parse_any_image_key(key: &Key) -> Option<(RepositoryName, Option<ImageKey>)> {
    // No part of a name starts with `_`.
    let (name, _) = key.as_ref().strip_prefix("images/")?.split_once("/_")?;
    let name = RepositoryName::parse(name).ok()?;
    let about = parse_image_key(&name, key);
    Some((name, about))
}

/// What stands between the start of a long name and its hash. No flat name holds it, as no name
/// holds `//`.
const BEFORE_HASH: &str = "!!";

/// A repository's name in one flat level: `/` becomes `!`, which no name holds.
fn flat(name: &str) -> String {
    let flat = name.replace('/', "!");
    match flat.get(..KEPT_NAME_BYTES) {
        Some(kept) if flat.len() > MAX_FLAT_NAME_BYTES => format!("{kept}{BEFORE_HASH}{}", Digest::of(flat.as_bytes()).hex()),
        _ => flat,
    }
}

/// The name that a flat one stands for; `None` for one that ends in a hash.
pub(super) fn unflattened(flat: &str) -> Option<String> {
    (!flat.contains(BEFORE_HASH)).then(|| flat.replace('!', "/"))
}

/// Prefix of all repositories' records.
pub(super) fn repositories() -> Key {
    Key::from("repositories")
}

/// Key of a repository's record.
pub(super) fn repository(name: &RepositoryName) -> Key {
    repository_of_text(name.as_str())
}

/// The key that a repository would have whose name is `text`: where a list of them goes on. The
/// order of these keys is that of the names, with `/` in front of every other character; a name that
/// ends in its hash stands among those with the same start.
pub(super) fn repository_of_text(text: &str) -> Key {
    Key::from_iter(["repositories", flat(text).as_str()])
}

/// Key of a manifest's record.
pub(super) fn manifest(name: &RepositoryName, digest: &Digest) -> Key {
    image(name, &[MANIFESTS, digest.algorithm().as_str(), &digest.hex()])
}

/// Key of a tag.
pub(super) fn tag(name: &RepositoryName, tag: &Tag) -> Key {
    image(name, &["_tags", tag.as_str()])
}

/// Key of a tag's last validation.
pub(super) fn validated(name: &RepositoryName, tag: &Tag) -> Key {
    image(name, &["_validated", tag.as_str()])
}

/// Key of a manifest's last pull.
pub(super) fn pulled(name: &RepositoryName, digest: &Digest) -> Key {
    image(name, &["_pulled", digest.algorithm().as_str(), &digest.hex()])
}

/// Key of a repository's link to a blob.
pub(super) fn blob_link(name: &RepositoryName, digest: &Digest) -> Key {
    image(name, &[LINKS, digest.algorithm().as_str(), &digest.hex()])
}

/// Key of a source's word that it has a blob. `source` is a file-name-safe identifier.
pub(super) fn source_blob(source: &str, digest: &Digest) -> Key {
    let hex = digest.hex();
    Key::from_iter(["sources", source, digest.algorithm().as_str(), hex.get(..2).unwrap_or_default(), hex.as_str()])
}

/// The kinds of record below a repository.
pub(super) const IMAGE_KINDS: [&str; 5] = [LINKS, MANIFESTS, "_pulled", "_tags", "_validated"];

/// Prefix of a repository's records of one kind.
pub(super) fn image_kind(name: &RepositoryName, kind: &str) -> Key {
    image(name, &[kind])
}

/// Prefix of a repository's records, and of those of the repositories inside it.
pub(super) fn images_of(name: &RepositoryName) -> Key {
    image(name, &[])
}

/// Between the repositories inside a repository whose names begin with a digit and all of its own
/// records, which stand in front of the other repositories inside it.
pub(super) fn before_own_images(name: &RepositoryName) -> Key {
    image(name, &["_"])
}

/// What a key of a repository's records is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ImageKey {
    Link(Digest),
    Manifest(Digest),
    Pulled(Digest),
    Tag(Tag),
    Validated(Tag),
}

/// Reads a key below [`images`]; `None` if it is no record of this repository.
pub(super) fn parse_image_key(name: &RepositoryName, key: &Key) -> Option<ImageKey> {
    let parts: Vec<_> = key.prefix_match(&images_of(name))?.collect();
    let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
    let digest = |algorithm: &str, hex: &str| Digest::parse(&format!("{algorithm}:{hex}")).ok();
    match parts.as_slice() {
        ["_blobs", algorithm, hex] => digest(algorithm, hex).map(ImageKey::Link),
        ["_manifests", algorithm, hex] => digest(algorithm, hex).map(ImageKey::Manifest),
        ["_pulled", algorithm, hex] => digest(algorithm, hex).map(ImageKey::Pulled),
        ["_tags", tag] => Tag::parse(tag).ok().map(ImageKey::Tag),
        ["_validated", tag] => Tag::parse(tag).ok().map(ImageKey::Validated),
        _ => None,
    }
}

fn image(name: &RepositoryName, rest: &[&str]) -> Key {
    Key::from_iter(["images"].into_iter().chain(name.as_str().split('/')).chain(rest.iter().copied()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_documented_layout() {
        let name = RepositoryName::parse("docker-hub/library/nginx").unwrap();
        let digest = Digest::of(b"");
        let hex = digest.hex();
        assert_eq!(repository(&name).as_ref(), "repositories/docker-hub!library!nginx");
        assert_eq!(manifest(&name, &digest).as_ref(), format!("images/docker-hub/library/nginx/_manifests/sha256/{hex}"));
        assert_eq!(tag(&name, &Tag::parse("1.2").unwrap()).as_ref(), "images/docker-hub/library/nginx/_tags/1.2");
        assert_eq!(source_blob("0a1b", &digest).as_ref(), format!("sources/0a1b/sha256/e3/{hex}"));
        assert_eq!(digest_of(&blob(&digest)), Some(digest));
        assert_eq!(digest_of(&Key::from("blobs/sha256/e3")), None);
        assert_eq!(Layout::new(Path::new("/s")).blob_file(&digest), PathBuf::from(format!("/s/blobs/sha256/e3/{hex}")));
    }

    #[test]
    fn long_names_fit_a_file_name_and_stay_apart() {
        let long = |last: &str| RepositoryName::parse(&format!("{}{last}", "a/".repeat(125))).unwrap();
        let (one, other) = (repository(&long("bcd")), repository(&long("bce")));
        assert_ne!(one, other);
        assert!(one.filename().unwrap().len() < 240);
    }
}
