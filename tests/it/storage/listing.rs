//! Lists of records, and what they cost a bucket.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use headpond::oci::{Digest, RepositoryName, Tag};
use headpond::storage::{
    KnownPreconditions, ManifestRecord, PulledRecord, RecordKey, Records, RepositoryKind, RepositoryRecord, RepositoryView, StorageError,
    TagRecord,
};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

/// What a bucket sends for one request.
const PAGE: usize = 1000;

/// Memory that lists in pages, as a bucket does, and counts requests.
#[derive(Debug, Default)]
struct Paged {
    objects: InMemory,
    lists: Arc<AtomicUsize>,
    reads: AtomicUsize,
}

impl fmt::Display for Paged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("paged")
    }
}

impl Paged {
    fn paged(&self, list: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
        let lists = Arc::clone(&self.lists);
        let count = move |(number, object)| {
            lists.fetch_add(usize::from(number % PAGE == 0), Ordering::SeqCst);
            object
        };
        list.enumerate().map(count).boxed()
    }

    /// The requests since the last call: lists, and reads.
    fn counted(&self) -> (usize, usize) {
        (self.lists.swap(0, Ordering::SeqCst), self.reads.swap(0, Ordering::SeqCst))
    }
}

#[async_trait]
impl ObjectStore for Paged {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.objects.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.objects.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.objects.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.paged(self.objects.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.paged(self.objects.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn tag(text: &str) -> Tag {
    Tag::parse(text).unwrap()
}

fn digest(number: u64) -> Digest {
    Digest::of(&number.to_le_bytes())
}

fn bucket() -> (Arc<Paged>, Records) {
    let objects = Arc::new(Paged::default());
    (Arc::clone(&objects), Records::in_bucket(objects, KnownPreconditions::default()))
}

fn repository(name: &RepositoryName) -> RepositoryRecord {
    RepositoryRecord {
        kind: RepositoryKind::PullThrough,
        name: name.to_string(),
        source: "0a1b".to_owned(),
        upstream_repository: "x".to_owned(),
        needs_user: false,
        created_at: 0,
    }
}

fn manifest() -> ManifestRecord {
    ManifestRecord {
        media_type: "a/b".to_owned(),
        size_bytes: 1,
        source: "0a1b".to_owned(),
        cached_at: 1,
        subject: None,
        artifact_type: None,
        references: Vec::new(),
    }
}

fn pointing_to(number: u64) -> TagRecord {
    TagRecord { digest: digest(number), source: "0a1b".to_owned(), updated_at: 1 }
}

async fn view(records: &Records, of: &str, known: &RepositoryView) -> RepositoryView {
    records.view(&name(of), known).await.unwrap()
}

#[tokio::test]
async fn a_page_of_a_thousand_of_a_hundred_thousand_repositories_costs_two_lists() {
    let (objects, records) = bucket();
    for number in 0..100_000 {
        objects.objects.put(&Path::from(format!("repositories/hub!r{number:06}")), PutPayload::default()).await.unwrap();
    }
    let mut last: Option<String> = None;
    for page in [0, 1, 2] {
        let names: Vec<Result<RepositoryName, StorageError>> = records.repository_names(last.as_deref()).take(PAGE + 1).collect().await;
        let names: Vec<String> = names.into_iter().map(|name| name.unwrap().to_string()).collect();
        assert_eq!((names[0].clone(), names.len()), (format!("hub/r{:06}", page * PAGE), PAGE + 1));
        assert_eq!(objects.counted(), (2, 0));
        last = Some(names[PAGE - 1].clone());
    }
}

#[tokio::test]
async fn names_too_long_for_their_key_are_told_by_their_record() {
    let (objects, records) = bucket();
    let long = |last: &str| name(&format!("hub/{}{last}", "long/".repeat(40)));
    let all = [name("hub/a"), long("x"), long("y"), name("hub/z")];
    for name in &all {
        records.write(&RecordKey::repository(name), &repository(name)).await.unwrap();
    }
    let listed = async |last: Option<&RepositoryName>| -> Vec<RepositoryName> {
        records.repository_names(last.map(RepositoryName::as_str)).try_collect().await.unwrap()
    };
    let names = listed(None).await;
    assert_eq!((names.len(), &names[0], &names[3]), (4, &all[0], &all[3]));
    for (position, name) in names.iter().enumerate() {
        assert_eq!(listed(Some(name)).await, names[position + 1..], "behind {name}");
    }
    assert_eq!(objects.counted().1, 2 + 2 + 1, "only long names behind the last one are read");
}

#[tokio::test]
async fn a_view_is_one_list_and_a_read_of_what_has_changed() {
    let (objects, records) = bucket();
    let of = name("hub/x");
    for number in 0..20 {
        records.write(&RecordKey::manifest(&of, &digest(number)), &manifest()).await.unwrap();
        records.write(&RecordKey::tag(&of, &tag(&format!("t{number}"))), &pointing_to(number)).await.unwrap();
    }
    // Those inside it, in front of its own records and behind them.
    for inside in ["hub/x/0", "hub/x/a"] {
        records.write(&RecordKey::tag(&name(inside), &tag("1")), &pointing_to(1)).await.unwrap();
    }
    let first = view(&records, "hub/x", &RepositoryView::default()).await;
    assert_eq!((first.manifests().count(), first.tags().count(), objects.counted()), (20, 20, (1, 40)));
    assert_eq!(first.tag(&tag("t7")), Some(&pointing_to(7)));

    records.write(&RecordKey::tag(&of, &tag("t7")), &pointing_to(8)).await.unwrap();
    records.delete(&RecordKey::manifest(&of, &digest(3))).await.unwrap();
    let pulled = PulledRecord { last_pulled_at: 9 };
    for number in [3, 4] {
        records.write(&RecordKey::pulled(&of, &digest(number)), &pulled).await.unwrap();
    }
    objects.counted();
    let second = view(&records, "hub/x", &first).await;
    assert_eq!((second.manifests().count(), second.tags().count(), objects.counted()), (19, 20, (1, 3)));
    assert_eq!((second.tag(&tag("t7")), second.pulled_at(&digest(4))), (Some(&pointing_to(8)), Some(9)));
    assert_eq!((second.manifest(&digest(3)), second.pulled_at(&digest(3))), (None, Some(9)), "a pull brings no manifest back");
}

#[tokio::test]
async fn a_view_of_a_directory_sees_changes_of_the_same_moment() {
    let directory = tempfile::tempdir().unwrap();
    let records = Records::new(Arc::new(object_store::local::LocalFileSystem::new_with_prefix(directory.path()).unwrap()));
    let of = name("hub/x");
    let mut known = RepositoryView::default();
    for number in 0..50 {
        records.write(&RecordKey::tag(&of, &tag("1")), &pointing_to(number)).await.unwrap();
        known = view(&records, "hub/x", &known).await;
        assert_eq!(known.tag(&tag("1")), Some(&pointing_to(number)));
    }
    assert!(view(&records, "hub", &RepositoryView::default()).await.is_empty(), "what is inside it is not its own");
}
