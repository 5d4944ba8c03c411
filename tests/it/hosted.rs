//! Hosted content, written through the storage interface as a push will write it.

use bytes::Bytes;
use headpond::oci::{Digest, MediaType, RepositoryName, Tag};
use headpond::storage::{BlobLinkRecord, ManifestRecord, RecordKey, RepositoryKind, RepositoryRecord, Store, TagRecord};

/// A repository that is pushed to.
pub(crate) struct HostedRepository<'a> {
    pub(crate) store: &'a Store,
    pub(crate) name: RepositoryName,
    /// Empty, but for one that is made a cache.
    source: String,
}

/// What was pushed.
#[derive(Clone, Debug)]
pub(crate) struct Pushed {
    pub(crate) manifest: Digest,
    pub(crate) layers: Vec<Digest>,
}

impl<'a> HostedRepository<'a> {
    /// Makes it: before anything is pushed there, it is recorded that it is hosted.
    pub(crate) async fn create(store: &'a Store, name: &str) -> Self {
        let name = RepositoryName::parse(name).unwrap();
        let record = RepositoryRecord {
            kind: RepositoryKind::Hosted,
            name: name.to_string(),
            source: String::new(),
            upstream_repository: String::new(),
            needs_user: false,
            created_at: 1,
        };
        store.records.write(&RecordKey::repository(&name), &record).await.unwrap();
        Self { store, name, source: String::new() }
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

    /// Pushes an image of these layers.
    pub(crate) async fn push(&self, tag: &str, layers: &[Bytes]) -> Pushed {
        let digests: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
        for (digest, layer) in digests.iter().zip(layers) {
            self.put_blob(digest, layer).await;
            let link = BlobLinkRecord { source: self.source.clone(), size_bytes: Some(layer.len() as u64) };
            self.store.records.write(&RecordKey::blob_link(&self.name, digest), &link).await.unwrap();
        }
        let sizes: Vec<(Digest, usize)> = digests.iter().copied().zip(layers.iter().map(Bytes::len)).collect();
        let bytes = Self::manifest(&sizes);
        let manifest = Digest::of(&bytes);
        self.put_blob(&manifest, &bytes).await;
        let record = ManifestRecord {
            media_type: MediaType::OCI_MANIFEST.to_owned(),
            size_bytes: bytes.len() as u64,
            source: self.source.clone(),
            cached_at: 1,
            subject: None,
            artifact_type: None,
            references: sizes.iter().map(|(digest, size)| (*digest, *size as u64)).collect(),
        };
        self.store.records.write(&RecordKey::manifest(&self.name, &manifest), &record).await.unwrap();
        let tagged = TagRecord { digest: manifest, source: self.source.clone(), updated_at: 1 };
        self.store.records.write(&RecordKey::tag(&self.name, &Tag::parse(tag).unwrap()), &tagged).await.unwrap();
        Pushed { manifest, layers: digests }
    }

    async fn put_blob(&self, digest: &Digest, bytes: &Bytes) {
        match &self.store.bucket {
            Some(bucket) => bucket.put(digest, bytes.clone()).await.unwrap(),
            None => self.store.blobs.put(digest, bytes).unwrap(),
        }
    }
}
