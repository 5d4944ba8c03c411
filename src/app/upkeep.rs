//! The upkeep of a store: in the running server, where commands reach it through the control
//! socket, and without one, under the store's lock.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::{Config, Limits, World, open_store};
use crate::cache::Cache;
use crate::clock::Clock;
use crate::http::serve_control;
use crate::storage::{Store, connect_control};
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;
use crate::upkeep::{Upkeep, UpkeepLimits, UpkeepParts};

/// For a bucket to show what its conditional writes are worth.
const PROBE_WAIT: Duration = Duration::from_secs(30);

fn limits(limits: &Limits) -> UpkeepLimits {
    UpkeepLimits {
        scrub_rate_bytes: limits.scrub_rate,
        scrub_looks: limits.scrub_looks,
        scrub_interval: limits.scrub_interval,
        quarantine_bytes: limits.quarantine_size,
        gc_grace: limits.gc_grace,
        gc_interval: limits.gc_interval,
        gc_settle: limits.gc_settle,
    }
}

/// The upkeep of the store that this server holds, and its work in the background.
pub(super) fn begin(config: &Config, store: &Arc<Store>, cache: &Cache, clock: &Clock, tasks: &Tasks, metrics: &Metrics) {
    let (rotten, deleted, lost) = (cache.clone(), cache.clone(), cache.clone());
    let upkeep = Upkeep::new(UpkeepParts {
        store: Arc::clone(store),
        clock: clock.clone(),
        tasks: tasks.clone(),
        metrics: metrics.upkeep.clone(),
        limits: limits(&config.limits),
        forget: Box::new(move |digest| rotten.forget(digest)),
        forget_place: Box::new(move |digest| deleted.forget_place(digest)),
        send_again: Box::new(move |digest| lost.send_again(digest)),
    });
    upkeep.scrub_in_the_background();
    upkeep.gc_in_the_background();
    // Serving does not depend on it: some file systems have no sockets.
    let socket = store.control_socket().map_err(anyhow::Error::from).and_then(|socket| Ok((socket.listener()?, socket)));
    match socket {
        Ok((listener, socket)) => tasks.spawn("control", async move {
            let _file = socket;
            if let Err(error) = serve_control(listener, upkeep).await {
                tracing::warn!(%error, "no commands are taken: the control socket cannot be used");
            }
        }),
        Err(error) => tracing::warn!("no commands are taken, use --offline for them: {error:#}"),
    }
}

/// Connects to the server that holds the store of `config`.
///
/// # Errors
/// When there is none, or it is somebody else's; with what to type next. `command` is the one that was typed.
pub fn connect(config: &Config, command: &str) -> anyhow::Result<UnixStream> {
    let path = &config.storage.path;
    connect_control(path).map_err(|error| {
        let kind = error.kind();
        let store = path.display();
        if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&kind) {
            anyhow!(
                "no server runs on the store {store}\n    hint: if that is the right store, run `headpond {command} --offline` with the same \
                 flags; else name the server's file with --config, or its store with --storage"
            )
        } else if kind == io::ErrorKind::PermissionDenied {
            anyhow!("the store {store} is another user's\n    hint: run `headpond {command}` as the user that runs the server, or as root")
        } else {
            anyhow!(error).context(format!("cannot reach the server of the store {store}"))
        }
    })
}

/// The upkeep of the store of `config`, which no server holds. The lock is held for as long as it lives.
///
/// # Errors
/// When a server holds the store, or it cannot be opened.
pub async fn offline(config: &Config) -> anyhow::Result<Upkeep> {
    // A typing mistake must not make an empty store, and find it sound.
    std::fs::metadata(&config.storage.path).with_context(|| format!("there is no store at {}", config.storage.path.display()))?;
    let metrics = Metrics::new()?;
    let store = open_store(config, &World::default(), &metrics).await.context("run the command without --offline to ask the server")?;
    if let Some(bucket) = &store.bucket {
        // A collection needs to know; that one does not answer is told by the run.
        let _ = tokio::time::timeout(PROBE_WAIT, bucket.clone().find_out_preconditions()).await;
    }
    let pending = store.pending_uploads();
    Ok(Upkeep::new(UpkeepParts {
        store,
        clock: Clock::system(),
        tasks: Tasks::default(),
        metrics: metrics.upkeep.clone(),
        limits: limits(&config.limits),
        forget: Box::new(|_| {}),
        forget_place: Box::new(|_| {}),
        // The next server over the store sends it.
        send_again: Box::new(move |digest| !pending.has(digest) && pending.add_lost(digest).is_ok()),
    }))
}
