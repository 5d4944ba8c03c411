//! Which blobs on disk were pushed. Nobody else has them, so where there is no bucket they are never evicted.
//!
//! The records tell: a repository's own says whether it is hosted; its links, its manifests and what these refer
//! to are its blobs. In doubt a repository counts as hosted. Everything here blocks.

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::{Layout, ManifestRecord, RepositoryKind, RepositoryRecord, layout};
use crate::oci::{Algorithm, Digest, RepositoryName};

/// The repositories of a store that were pushed to.
#[derive(Debug, Default)]
pub(super) struct HostedRepositories {
    names: Vec<RepositoryName>,
}

impl HostedRepositories {
    /// Reads the records of all repositories, until `is_stopping`.
    pub(super) fn of(layout: &Layout, is_stopping: impl Fn() -> bool) -> Self {
        let paths = files_in(&layout.repositories()).take_while(|_| !is_stopping());
        Self { names: paths.filter_map(|path| hosted_name(&path)).collect() }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Tells `each` their blobs, some more than once.
    pub(super) fn each_blob(&self, layout: &Layout, mut each: impl FnMut(&Digest)) {
        for (name, algorithm) in self.names.iter().flat_map(|name| [(name, Algorithm::Sha256), (name, Algorithm::Sha512)]) {
            for path in files_in(&layout.links(name, algorithm)) {
                digest_of(&path, algorithm).iter().for_each(&mut each);
            }
            for path in files_in(&layout.manifests(name, algorithm)) {
                digest_of(&path, algorithm).iter().for_each(&mut each);
                let record: Option<ManifestRecord> = read(&path);
                record.iter().flat_map(|record| &record.references).for_each(|(digest, _)| each(digest));
            }
        }
    }
}

/// The name of a repository, if it is hosted, or its record does not tell.
fn hosted_name(path: &Path) -> Option<RepositoryName> {
    let Some(record) = read::<RepositoryRecord>(path) else {
        let flat = path.file_name()?.to_str()?;
        return RepositoryName::parse(&layout::unflattened(flat)?).ok();
    };
    match record.kind {
        RepositoryKind::PullThrough => None,
        RepositoryKind::Hosted => RepositoryName::parse(&record.name).ok(),
    }
}

fn read<R: DeserializeOwned>(path: &Path) -> Option<R> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn digest_of(path: &Path, algorithm: Algorithm) -> Option<Digest> {
    Digest::from_hex(algorithm, path.file_name()?.to_str()?).ok()
}

/// The paths in a directory; none if it is not there.
fn files_in(directory: &Path) -> impl Iterator<Item = std::path::PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}
