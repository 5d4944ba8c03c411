//! Records: written whole, read as they were written.

use std::collections::BTreeSet;

use headpond::oci::Tag;
use headpond::storage::{
    BlobLinkRecord, ManifestRecord, RecordKey, Records, RepositoryKind, RepositoryRecord, RepositoryView, SourceBlobRecord, TagRecord,
    ValidatedRecord,
};
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutPayload};

use super::{Subject, digest, name, tag};

pub(crate) async fn every_kind_of_record_reads_as_it_was_written(subject: Subject) {
    every_kind_of_record_reads_as_it_was_written_in(&subject.records).await;
}

pub(crate) async fn every_kind_of_record_reads_as_it_was_written_in(records: &Records) {
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
    let link = BlobLinkRecord { source: "0a1b".to_owned(), size_bytes: None, linked_at: 13 };
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

pub(crate) async fn a_record_that_is_not_there_is_none(subject: Subject) {
    let records = subject.records;
    assert_eq!(records.read(&RecordKey::tag(&name("a/b"), &tag("1"))).await.unwrap(), None);
    assert!(records.view(&name("a/b"), &RepositoryView::default()).await.unwrap().is_empty());
}

pub(crate) fn tag_record(number: u64) -> TagRecord {
    TagRecord { digest: digest(number), source: "s".repeat(1 + usize::try_from(number).unwrap() % 100), updated_at: number }
}

pub(crate) async fn a_record_is_written_over_whole(subject: Subject) {
    let records = subject.records;
    let key = RecordKey::tag(&name("a/b"), &tag("1"));
    for number in [99, 1] {
        records.write(&key, &tag_record(number)).await.unwrap();
        assert_eq!(records.read(&key).await.unwrap(), Some(tag_record(number)));
    }
}

/// A tag that was pushed through one replica is there for a client of another one.
pub(crate) async fn what_another_process_wrote_is_read_at_once(subject: Subject) {
    let Some(replica) = &subject.replica else { return };
    let key = RecordKey::tag(&name("team/app"), &tag("1"));
    assert_eq!(subject.records.read(&key).await.unwrap(), None);
    for number in 1..4 {
        replica.write(&key, &tag_record(number)).await.unwrap();
        assert_eq!(subject.records.read(&key).await.unwrap(), Some(tag_record(number)));
        let view = subject.records.view(&name("team/app"), &RepositoryView::default()).await.unwrap();
        assert!(view.tags().map(|(name, _)| name).eq([&tag("1")]));
    }
    replica.delete(&key).await.unwrap();
    assert_eq!(subject.records.read(&key).await.unwrap(), None);
}

pub(crate) async fn records_of_one_name_do_not_meet(subject: Subject) {
    let records = subject.records;
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

pub(crate) async fn a_record_that_is_not_of_its_form_is_none(subject: Subject) {
    let (records, store) = (subject.records, subject.objects);
    let key = RecordKey::tag(&name("a/b"), &tag("1"));
    for torn in ["", "{", "{}", "null", "\0\0\0\0"] {
        store.put(&Key::from("images/a/b/_tags/1"), PutPayload::from(torn)).await.unwrap();
        assert_eq!(records.read(&key).await.unwrap(), None, "{torn:?}");
    }
    records.write(&key, &tag_record(1)).await.unwrap();
    assert_eq!(records.read(&key).await.unwrap(), Some(tag_record(1)));
}

pub(crate) async fn a_view_has_the_tags_of_one_repository(subject: Subject) {
    let records = subject.records;
    for (repository, text) in [("a/b", "2"), ("a/b", "10"), ("a/b", "latest"), ("a/b", "V1"), ("a/b/c", "x"), ("a/bc", "y"), ("a", "z")] {
        records.write(&RecordKey::tag(&name(repository), &tag(text)), &tag_record(1)).await.unwrap();
    }
    let view = records.view(&name("a/b"), &RepositoryView::default()).await.unwrap();
    let tags: BTreeSet<Tag> = view.tags().map(|(tag, _)| tag.clone()).collect();
    assert_eq!(tags, ["10", "2", "V1", "latest"].map(tag).into());
}

pub(crate) async fn a_repository_inside_another_is_apart_from_it(subject: Subject) {
    let records = subject.records;
    let (outer, inner) = (name("a/b"), name("a/b/manifests/blobs"));
    records
        .write(&RecordKey::blob_link(&inner, &digest(1)), &BlobLinkRecord { source: "s".into(), size_bytes: Some(1), linked_at: 1 })
        .await
        .unwrap();
    assert_eq!(records.read(&RecordKey::blob_link(&outer, &digest(1))).await.unwrap(), None);
    assert!(records.read(&RecordKey::blob_link(&inner, &digest(1))).await.unwrap().is_some());
}

pub(crate) async fn concurrent_writes_leave_one_of_them(subject: Subject) {
    let records = subject.records;
    let key = RecordKey::tag(&name("a/b"), &tag("1"));
    let written: Vec<_> = (0..20).map(tag_record).collect();
    let writes = written.iter().map(|record| records.write(&key, record));
    futures::future::try_join_all(writes).await.unwrap();
    let read = records.read(&key).await.unwrap().expect("one of them");
    assert!(written.contains(&read));
}
