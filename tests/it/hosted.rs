//! Hosted content, written through the storage interface as a push will write it.

use bytes::Bytes;
use headpond::clock::{Clock, unix_seconds};
use headpond::oci::{Digest, MediaType, RepositoryName, Tag};
use headpond::storage::{GcMarks, Inventory, ManifestRecord, Presence, RecordKey, RepositoryKind, RepositoryRecord, Store, TagRecord};

/// A repository that is pushed to.
pub(crate) struct HostedRepository<'a> {
    store: &'a Store,
    name: RepositoryName,
    marks: GcMarks,
    clock: Clock,
    /// Empty, but for one that is made a cache.
    source: String,
}

fn hosted(name: &RepositoryName) -> RepositoryRecord {
    RepositoryRecord {
        kind: RepositoryKind::Hosted,
        name: name.to_string(),
        source: String::new(),
        upstream_repository: String::new(),
        needs_user: false,
        created_at: 1,
    }
}

/// The record of a repository that is pushed to, as it is in a store.
pub(crate) fn hosted_record(name: &str) -> Vec<u8> {
    serde_json::to_vec(&hosted(&RepositoryName::parse(name).unwrap())).unwrap()
}

/// What was pushed.
#[derive(Clone, Debug)]
pub(crate) struct Pushed {
    pub(crate) manifest: Digest,
    pub(crate) layers: Vec<Digest>,
}

/// A push was told that a blob is not there (any more): the client begins again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlobUnknown;

impl<'a> HostedRepository<'a> {
    /// Makes it: before anything is pushed there, it is recorded that it is hosted.
    pub(crate) async fn create(store: &'a Store, name: &str) -> Self {
        Self::create_at(store, name, &Clock::system()).await
    }

    /// The same, by another clock.
    pub(crate) async fn create_at(store: &'a Store, name: &str, clock: &Clock) -> Self {
        let name = RepositoryName::parse(name).unwrap();
        store.records.write(&RecordKey::repository(&name), &hosted(&name)).await.unwrap();
        Self { store, name, marks: store.gc_marks(clock), clock: clock.clone(), source: String::new() }
    }

    /// Has everything recorded as a cache of this source would.
    pub(crate) async fn into_cache(self, source: &str) -> Self {
        let key = RecordKey::repository(&self.name);
        let record = self.store.records.read(&key).await.unwrap().unwrap();
        let record = RepositoryRecord { kind: RepositoryKind::PullThrough, source: source.to_owned(), ..record };
        self.store.records.write(&key, &record).await.unwrap();
        Self { source: source.to_owned(), ..self }
    }

    /// An image's manifest with these layers and no config.
    pub(crate) fn manifest(layers: &[(Digest, usize)]) -> Bytes {
        let layers: Vec<_> = layers
            .iter()
            .map(
                |(digest, size)| serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size}),
            )
            .collect();
        Bytes::from(serde_json::json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "layers": layers}).to_string())
    }

    /// HEAD of a blob: whether it is here, and then it stays for a grace.
    pub(crate) async fn has(&self, digest: &Digest, size: usize) -> bool {
        let presence = self.marks.refresh(&self.name, digest, size as u64).await.unwrap();
        presence == Presence::Kept && self.is_stored(digest).await
    }

    /// The commit of an upload: the reference first, then the bytes, then a look whether they stay.
    pub(crate) async fn commit(&self, bytes: &Bytes) -> Digest {
        let digest = Digest::of(bytes);
        loop {
            if self.has(&digest, bytes.len()).await {
                return digest;
            }
            assert!(self.marks.until_deleted(&digest).await.unwrap(), "{digest} is never deleted");
            self.put_blob(&digest, bytes).await;
        }
    }

    /// PUT of a manifest: every reference is verified before it is recorded, and again after it.
    pub(crate) async fn put_manifest(&self, tag: &str, layers: &[(Digest, usize)]) -> Result<Digest, BlobUnknown> {
        for (digest, size) in layers {
            if !self.has(digest, *size).await {
                return Err(BlobUnknown);
            }
        }
        let bytes = Self::manifest(layers);
        let manifest = Digest::of(&bytes);
        let record = ManifestRecord {
            media_type: MediaType::OCI_MANIFEST.to_owned(),
            size_bytes: bytes.len() as u64,
            source: self.source.clone(),
            cached_at: unix_seconds(self.clock.now()),
            subject: None,
            artifact_type: None,
            references: layers.iter().map(|(digest, size)| (*digest, *size as u64)).collect(),
        };
        // The manifest is a blob, too; its record is the reference to it.
        assert!(self.marks.until_deleted(&manifest).await.unwrap());
        self.put_blob(&manifest, &bytes).await;
        let key = RecordKey::manifest(&self.name, &manifest);
        self.store.records.write(&key, &record).await.unwrap();
        for digest in layers.iter().map(|(digest, _)| digest).chain([&manifest]) {
            if self.marks.keep(digest).await.unwrap() == Presence::Condemned || !self.is_stored(digest).await {
                self.store.records.delete(&key).await.unwrap();
                return Err(BlobUnknown);
            }
        }
        let tagged = TagRecord { digest: manifest, source: self.source.clone(), updated_at: unix_seconds(self.clock.now()) };
        self.store.records.write(&RecordKey::tag(&self.name, &Tag::parse(tag).unwrap()), &tagged).await.unwrap();
        Ok(manifest)
    }

    /// Pushes an image of these layers, as a client does: what is here is not sent. How often it had
    /// to begin again is added to `refusals`.
    pub(crate) async fn push_counting(&self, tag: &str, layers: &[Bytes], refusals: &mut usize) -> Pushed {
        for _ in 0..1000 {
            let mut digests = Vec::new();
            for layer in layers {
                digests.push((self.commit(layer).await, layer.len()));
            }
            if let Ok(manifest) = self.put_manifest(tag, &digests).await {
                return Pushed { manifest, layers: digests.into_iter().map(|(digest, _)| digest).collect() };
            }
            *refusals += 1;
        }
        panic!("{tag} could not be pushed");
    }

    /// Pushes an image of these layers, with nothing in the way.
    pub(crate) async fn push(&self, tag: &str, layers: &[Bytes]) -> Pushed {
        let mut refusals = 0;
        let pushed = self.push_counting(tag, layers, &mut refusals).await;
        assert_eq!(refusals, 0, "{tag} was refused");
        pushed
    }

    /// Deletes an image: its tag, then its manifest's record.
    pub(crate) async fn delete(&self, tag: &str, pushed: &Pushed) {
        self.store.records.delete(&RecordKey::tag(&self.name, &Tag::parse(tag).unwrap())).await.unwrap();
        self.store.records.delete(&RecordKey::manifest(&self.name, &pushed.manifest)).await.unwrap();
    }

    fn place(&self) -> Inventory {
        self.store.bucket.clone().map_or_else(|| Inventory::Disk(self.store.blobs.clone()), Inventory::Bucket)
    }

    /// Whether a blob's bytes are there.
    pub(crate) async fn is_stored(&self, digest: &Digest) -> bool {
        self.place().has(digest).await.unwrap()
    }

    async fn put_blob(&self, digest: &Digest, bytes: &Bytes) {
        match &self.store.bucket {
            Some(bucket) => bucket.put(digest, bytes.clone()).await.unwrap(),
            None => {
                let staged = self.store.blobs.stage(Some(bytes.len() as u64)).unwrap();
                staged.write_at(bytes, 0).unwrap();
                staged.commit(digest).unwrap();
            }
        }
    }
}
