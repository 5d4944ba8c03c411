//! Records that are written only over what their writer has seen.

use headpond::storage::{Conflict, Expected, IfChanged, RecordKey, Records, TagRecord, Version};
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutPayload};

use super::records::tag_record;
use super::{Subject, digest, name, tag};

fn key() -> RecordKey<TagRecord> {
    RecordKey::tag(&name("a/b"), &tag("1"))
}

async fn create(records: &Records, number: u64) -> Result<Version, Conflict> {
    records.write_if(&key(), &tag_record(number), Expected::Absent).await.unwrap()
}

async fn update(records: &Records, number: u64, seen: &Version) -> Result<Version, Conflict> {
    records.write_if(&key(), &tag_record(number), Expected::Version(seen.clone())).await.unwrap()
}

pub(crate) async fn a_record_is_created_once(subject: Subject) {
    create(&subject.records, 1).await.unwrap();
    assert_eq!(create(&subject.records, 2).await, Err(Conflict));
    assert_eq!(subject.records.read(&key()).await.unwrap(), Some(tag_record(1)));
}

pub(crate) async fn a_record_is_written_over_only_by_who_has_seen_it(subject: Subject) {
    let records = subject.records;
    let first = create(&records, 1).await.unwrap();
    update(&records, 2, &first).await.unwrap();
    assert_eq!(update(&records, 3, &first).await, Err(Conflict));
    assert_eq!(records.read(&key()).await.unwrap(), Some(tag_record(2)));
    records.delete(&key()).await.unwrap();
    assert_eq!(update(&records, 4, &first).await, Err(Conflict), "what is gone was seen by nobody");
    assert_eq!(records.read(&key()).await.unwrap(), None);
}

pub(crate) async fn a_write_tells_the_version_that_a_read_finds(subject: Subject) {
    let records = subject.records;
    assert_eq!(records.read_versioned(&key()).await.unwrap(), None);
    let mut written = create(&records, 0).await.unwrap();
    for number in 1..4 {
        let (record, read) = records.read_versioned(&key()).await.unwrap().expect("the record");
        assert_eq!((&record, &read), (&tag_record(number - 1), &written));
        written = update(&records, number, &written).await.unwrap();
        assert_ne!(read, written);
    }
}

pub(crate) async fn writing_what_is_there_already_is_no_conflict(subject: Subject) {
    let first = create(&subject.records, 1).await.unwrap();
    assert_eq!(create(&subject.records, 1).await, Ok(first.clone()), "the answer to the first may have been lost");
    let second = update(&subject.records, 2, &first).await.unwrap();
    assert_eq!(update(&subject.records, 2, &first).await, Ok(second));
}

pub(crate) async fn a_record_that_is_not_of_its_form_is_created_over(subject: Subject) {
    for torn in ["", "{", "\0\0\0"] {
        subject.objects.put(&Key::from("images/a/b/_tags/1"), PutPayload::from(torn)).await.unwrap();
        assert_eq!(subject.records.read_versioned(&key()).await.unwrap(), None);
        create(&subject.records, 1).await.unwrap();
        assert_eq!(subject.records.read(&key()).await.unwrap(), Some(tag_record(1)));
    }
}

pub(crate) async fn a_record_that_is_as_it_was_known_is_not_read_again(subject: Subject) {
    let records = subject.records;
    let first = create(&records, 1).await.unwrap();
    assert_eq!(records.read_if_changed(&key(), &first).await.unwrap(), IfChanged::Unchanged);
    let other = subject.replica.as_ref().unwrap_or(&records);
    let second = update(other, 2, &first).await.unwrap();
    assert_eq!(records.read_if_changed(&key(), &first).await.unwrap(), IfChanged::Changed(tag_record(2), second.clone()));
    assert_eq!(records.read_if_changed(&key(), &second).await.unwrap(), IfChanged::Unchanged);
    records.delete(&key()).await.unwrap();
    assert_eq!(records.read_if_changed(&key(), &second).await.unwrap(), IfChanged::Gone);
}

pub(crate) async fn a_deleted_record_is_gone(subject: Subject) {
    create(&subject.records, 1).await.unwrap();
    for _ in 0..2 {
        subject.records.delete(&key()).await.unwrap();
        assert_eq!(subject.records.read(&key()).await.unwrap(), None);
    }
    create(&subject.records, 2).await.unwrap();
}

pub(crate) async fn a_record_is_deleted_only_as_it_was_seen(subject: Subject) {
    let first = create(&subject.records, 1).await.unwrap();
    let second = update(&subject.records, 2, &first).await.unwrap();
    assert_eq!(subject.records.delete_if(&key(), &first).await.unwrap(), Err(Conflict));
    assert_eq!(subject.records.read(&key()).await.unwrap(), Some(tag_record(2)));
    for _ in 0..2 {
        assert_eq!(subject.records.delete_if(&key(), &second).await.unwrap(), Ok(()), "what is gone is as good as deleted");
    }
    assert_eq!(subject.records.read(&key()).await.unwrap(), None);
}

pub(crate) async fn of_many_creators_one_is_told_that_it_was_first(subject: Subject) {
    let writers: Vec<_> = std::iter::once(&subject.records).chain(&subject.replica).cycle().take(16).collect();
    let created = writers.into_iter().zip(0..).map(|(records, number)| create(records, number));
    let winners = futures::future::join_all(created).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(winners, 1);
}

/// Adds one to what is recorded, again and again. Says who did: equal content is no conflict.
async fn count(records: &Records, writer: u64, times: u64) {
    for _ in 0..times {
        loop {
            let (record, seen) = records.read_versioned(&key()).await.unwrap().expect("the record");
            let next = TagRecord { digest: digest(writer), updated_at: record.updated_at + 1, ..record };
            if records.write_if(&key(), &next, Expected::Version(seen)).await.unwrap().is_ok() {
                break;
            }
        }
    }
}

pub(crate) async fn concurrent_changes_in_one_process_lose_nothing(subject: Subject) {
    create(&subject.records, 0).await.unwrap();
    futures::future::join_all((0..6).map(|writer| count(&subject.records, writer, 4))).await;
    assert_eq!(subject.records.read(&key()).await.unwrap().expect("the record").updated_at, 24);
}

pub(crate) async fn concurrent_changes_of_two_processes_lose_nothing(subject: Subject) {
    let Some(replica) = &subject.replica else { return };
    create(&subject.records, 0).await.unwrap();
    futures::future::join(count(&subject.records, 1, 10), count(replica, 2, 10)).await;
    let counted = subject.records.read(&key()).await.unwrap().expect("the record").updated_at;
    assert_eq!(counted, 20);
}
