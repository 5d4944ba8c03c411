//! What every kind of store must do, whatever it is made of.
//!
//! One list of facts, and one test of each for every kind of store: memory, local disk, S3 over
//! HTTP in this process, and (in a test target of its own) a real server. Where kinds differ, what
//! is expected of each is said in its [`Expected`].

use std::any::Any;
use std::sync::Arc;

use headpond::oci::{Digest, RepositoryName, Tag};
use headpond::storage::{Bucket, BucketClient, Records};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tempfile::TempDir;

#[path = "contract/records.rs"]
mod records;
#[path = "contract/versions.rs"]
mod versions;

/// One store to be tested.
pub(crate) struct Subject {
    /// Its objects, as they are.
    pub(crate) objects: Arc<dyn ObjectStore>,
    /// The records in it.
    pub(crate) records: Records,
    /// Records of another process over the same objects, if there can be one.
    pub(crate) replica: Option<Records>,
    /// What is known of this kind.
    pub(crate) expected: Expected,
    /// Goes when the test has ended.
    pub(crate) _keep: Box<dyn Any + Send>,
}

/// In what kinds of stores differ.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    /// Whether, of many processes that write one record at once, exactly one is told that it did.
    pub(crate) decides_races: bool,
}

impl Subject {
    /// A bucket over `objects`, which two processes share.
    pub(crate) fn shared(objects: Arc<dyn ObjectStore>, expected: Expected, keep: impl Any + Send) -> Self {
        let bucket = |objects| Bucket::new(BucketClient { objects, signer: None, prefix: "".into() });
        let (bucket, other) = (bucket(Arc::clone(&objects)), bucket(Arc::clone(&objects)));
        Self { objects, records: bucket.records(), replica: Some(other.records()), expected, _keep: Box::new(keep) }
    }
}

/// The tests of one kind of store.
macro_rules! facts {
    ($kind:ident) => {
        mod $kind {
            facts! { @each $kind
                records:
                    every_kind_of_record_reads_as_it_was_written,
                    a_record_that_is_not_there_is_none,
                    a_record_is_written_over_whole,
                    records_of_one_name_do_not_meet,
                    a_record_that_is_not_of_its_form_is_none,
                    tags_are_listed_sorted_and_of_one_repository,
                    a_repository_inside_another_is_apart_from_it,
                    concurrent_writes_leave_one_of_them;
                versions:
                    a_record_is_created_once,
                    a_record_is_written_over_only_by_who_has_seen_it,
                    a_write_tells_the_version_that_a_read_finds,
                    writing_what_is_there_already_is_no_conflict,
                    a_record_that_is_not_of_its_form_is_created_over,
                    a_record_that_is_as_it_was_known_is_not_read_again,
                    a_deleted_record_is_gone,
                    a_record_is_deleted_only_as_it_was_seen,
                    of_many_creators_one_is_told_that_it_was_first,
                    concurrent_changes_in_one_process_lose_nothing,
                    concurrent_changes_of_two_processes_lose_nothing;
            }
        }
    };
    (@each $kind:ident $($group:ident: $($fact:ident),+;)+) => {
        $($(#[tokio::test(flavor = "multi_thread")]
        async fn $fact() {
            let subject = super::$kind().await;
            super::$group::$fact(subject).await;
        })+)+
    };
}

facts!(memory);
facts!(disk);

async fn memory() -> Subject {
    Subject::shared(Arc::new(InMemory::new()), Expected { decides_races: true }, ())
}

/// Local disk has no preconditions: one process holds the store.
async fn disk() -> Subject {
    let directory = TempDir::new().unwrap();
    let objects: Arc<dyn ObjectStore> = Arc::new(object_store::local::LocalFileSystem::new_with_prefix(directory.path()).unwrap());
    let records = Records::new(Arc::clone(&objects));
    Subject { objects, records, replica: None, expected: Expected { decides_races: true }, _keep: Box::new(directory) }
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
