//! What every kind of store must do, whatever it is made of.
//!
//! One list of facts, and one test of each for every kind of store: memory, local disk, S3 over
//! HTTP in this process, and (in a test target of its own) a real server. Where kinds differ, what
//! is expected of each is said in its [`Expected`].

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use headpond::oci::{Digest, RepositoryName, Tag};
use headpond::storage::{Bucket, BucketClient, BucketLimits, Preconditions, Records, Support};
use headpond::telemetry::metrics::{BucketMetrics, Metrics};
use object_store::ObjectStore;

#[path = "contract/blobs.rs"]
pub(crate) mod blobs;
#[path = "contract/records.rs"]
pub(crate) mod records;
#[path = "contract/versions.rs"]
pub(crate) mod versions;

/// One store to be tested.
pub(crate) struct Subject {
    /// Its objects, as they are.
    pub(crate) objects: Arc<dyn ObjectStore>,
    /// The blobs in it.
    pub(crate) bucket: Bucket,
    /// The records in it.
    pub(crate) records: Records,
    /// Records of another process over the same objects, if there can be one.
    pub(crate) replica: Option<Records>,
    /// What is known of this kind.
    pub(crate) expected: Expected,
    /// How many uploads were begun and neither completed nor given up, where that can be seen.
    pub(crate) unfinished_uploads: Box<dyn Fn() -> usize + Send + Sync>,
    /// Goes when the test has ended.
    pub(crate) _keep: Box<dyn Any + Send>,
}

/// In what kinds of stores differ.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    /// What its conditional writes are worth.
    pub(crate) preconditions: Preconditions,
    /// Whether it is a server: it signs URLs, and an answer is told from a failure by its status.
    pub(crate) is_server: bool,
}

/// All conditional writes are kept to.
pub(crate) const ALL_HONOURED: Preconditions = Preconditions { create: Support::Honoured, update: Support::Honoured, bare_e_tags: false };

pub(crate) fn limits() -> BucketLimits {
    BucketLimits { timeout: Duration::from_secs(10), attempts: 3 }
}

pub(crate) fn metrics() -> BucketMetrics {
    Metrics::new().unwrap().bucket.clone()
}

impl Subject {
    /// A bucket that two processes share, by a client of each. It is tried first what it can do.
    pub(crate) async fn shared(clients: [BucketClient; 2], expected: Expected) -> Self {
        let objects = Arc::clone(&clients[0].objects);
        let [bucket, other] = clients.map(Bucket::new);
        for bucket in [&bucket, &other] {
            bucket.clone().find_out_preconditions().await;
        }
        let (records, replica) = (bucket.records(), Some(other.records()));
        Self { objects, bucket, records, replica, expected, unfinished_uploads: Box::new(|| 0), _keep: Box::new(()) }
    }
}

/// The tests of one kind of store.
macro_rules! facts {
    ($kind:ident) => {
        mod $kind {
            use $crate::storage::contract::facts;

            facts! { @each $kind
                records:
                    every_kind_of_record_reads_as_it_was_written,
                    a_record_that_is_not_there_is_none,
                    a_record_is_written_over_whole,
                    what_another_process_wrote_is_read_at_once,
                    records_of_one_name_do_not_meet,
                    a_record_that_is_not_of_its_form_is_none,
                    a_view_has_the_tags_of_one_repository,
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
                blobs:
                    a_blob_that_is_not_there_is_none,
                    a_small_blob_reads_as_it_was_put,
                    a_blob_in_parts_is_there_once_it_is_complete,
                    a_blob_that_comes_twice_in_parts_is_there,
                    an_upload_that_is_given_up_leaves_no_blob,
                    an_interval_of_a_blob_is_that_interval,
                    an_interval_outside_a_blob_is_an_error_and_the_bucket_is_there,
                    blobs_are_listed_with_length_and_time,
                    a_deleted_blob_is_gone,
                    blobs_and_records_do_not_meet,
                    a_signed_url_serves_a_blob_and_its_ranges_to_anybody,
                    what_conditional_writes_are_worth_is_found_out,
                    an_error_names_its_key;
            }
        }
    };
    (@each $kind:ident $($group:ident: $($fact:ident),+;)+) => {
        $($(#[tokio::test(flavor = "multi_thread")]
        async fn $fact() {
            let subject = super::$kind().await;
            crate::storage::contract::$group::$fact(subject).await;
        })+)+
    };
}

pub(crate) use facts;

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn tag(text: &str) -> Tag {
    Tag::parse(text).unwrap()
}

fn digest(number: u64) -> Digest {
    Digest::of(&number.to_le_bytes())
}
