//! Keeping a store sound: a *scrub* finds what has rotted, and a *garbage collection* removes what
//! nothing refers to.
//!
//! Both go through the whole store at their own pace while clients are served. One of each kind runs
//! at a time; whoever began it sees its [`Event`]s and ends it by looking away. Neither knows of
//! requests, and neither holds a lock while it waits: what changes under it is compared before it
//! is written.

mod background;
mod gc;
mod lost;
mod mend;
mod pace;
mod patience;
pub mod report;
mod run;
mod scrub;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::oci::Digest;
use crate::storage::{Inventory, StorageError, Store};
use crate::tasks::Tasks;
use crate::telemetry::metrics::UpkeepMetrics;
use gc::Gc;
pub use gc::GcOptions;
use report::{GcReport, ScrubReport};
pub use run::{Busy, Run};
use run::{Place, Slot, Teller};
use scrub::Scrub;
pub use scrub::ScrubOptions;

/// Limits of the upkeep; the configuration's `limits` name and default them.
#[derive(Clone, Debug)]
pub struct UpkeepLimits {
    /// Bytes a second that a scrub reads.
    pub scrub_rate_bytes: u64,
    /// Blobs of the disk a second that a scrub looks for in the bucket; zero is none.
    pub scrub_looks: usize,
    /// Between two scrubs in the background; zero is never.
    pub scrub_interval: Duration,
    /// Rotten blobs that are kept, in bytes.
    pub quarantine_bytes: u64,
    /// How long what nothing refers to is kept.
    pub gc_grace: Duration,
    /// Between two garbage collections in the background; zero is never.
    pub gc_interval: Duration,
    /// Between the moment from which a blob counts as absent, and its deletion.
    pub gc_settle: Duration,
}

/// What the upkeep works on.
pub struct UpkeepParts {
    /// The store.
    pub store: Arc<Store>,
    /// Wall time: how old something is.
    pub clock: Clock,
    /// Owner of the runs.
    pub tasks: Tasks,
    /// Counters.
    pub metrics: UpkeepMetrics,
    /// Limits.
    pub limits: UpkeepLimits,
    /// Has whoever keeps content in memory forget a blob that was put aside.
    pub forget: Box<dyn Fn(&Digest) + Send + Sync>,
    /// The same for one that was deleted, as nothing refers to it: they are many, and little is known of them.
    pub forget_place: Box<dyn Fn(&Digest) + Send + Sync>,
    /// Has a blob of the disk sent to the bucket, which has lost it. False if it is on its way already. Blocks.
    pub send_again: Box<dyn Fn(&Digest) -> bool + Send + Sync>,
}

/// The upkeep of one store; cheap to clone.
#[derive(Clone)]
pub struct Upkeep {
    parts: Arc<UpkeepParts>,
    scrubs: Slot,
    collections: Slot,
}

impl Upkeep {
    /// The upkeep of a store.
    #[must_use]
    pub fn new(parts: UpkeepParts) -> Self {
        Self { parts: Arc::new(parts), scrubs: Slot::default(), collections: Slot::default() }
    }

    /// Begins a scrub.
    ///
    /// # Errors
    /// When somebody else's is running.
    pub async fn scrub(&self, options: ScrubOptions) -> Result<Run<ScrubReport>, Busy> {
        let place = self.scrubs.take("scrub").await?;
        let parts = Arc::clone(&self.parts);
        Ok(self.begin("scrub", place, |teller| Scrub::new(parts, options, teller).run()))
    }

    /// Begins a garbage collection.
    ///
    /// # Errors
    /// When somebody else's is running in this process.
    pub async fn gc(&self, options: GcOptions) -> Result<Run<GcReport>, Busy> {
        let place = self.collections.take("garbage collection").await?;
        let parts = Arc::clone(&self.parts);
        Ok(self.begin("gc", place, |teller| Gc::new(parts, options, teller).run()))
    }

    /// Runs `work` in a task of its own, for as long as somebody looks.
    fn begin<R, W, F>(&self, kind: &'static str, place: Place, work: W) -> Run<R>
    where
        R: Clone + Send + 'static,
        W: FnOnce(Teller<R>) -> F,
        F: Future<Output = (Teller<R>, Result<R, StorageError>)> + Send + 'static,
    {
        let (run, teller, ended) = run::run();
        let work = work(teller);
        self.parts.tasks.spawn(kind, async move {
            if let Some((teller, outcome)) = ended.run_until_cancelled(work).await {
                drop(place);
                teller.end(outcome.map_err(|error| error.to_string())).await;
            } else {
                tracing::info!("a {kind} was ended before it was through: nobody waits for it any more");
            }
        });
        run
    }
}

impl UpkeepParts {
    /// Where the truth is: the bucket, if there is one.
    fn truth(&self) -> Inventory {
        self.store.truth()
    }

    fn disk(&self) -> Inventory {
        Inventory::Disk(self.store.blobs.clone())
    }
}

/// Waits, unless the run is ended.
async fn unless_ended(ended: &CancellationToken, work: impl Future<Output = ()>) {
    ended.run_until_cancelled(work).await;
}
