//! The composition root: the one file that names everything.
//!
//! [`start`] builds the long-lived parts and serves; [`run`] is the process around it: logging,
//! signals, the words on the terminal. Tests use [`start`] alone.

mod banner;
mod bucket;
mod build;
pub mod check_upstream;
mod cluster;
mod open_files;
mod proxies;
mod signals;
pub mod upkeep;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use object_store::ObjectStore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::access::ReplicaCheck;
use crate::cache::{Cache, Retired};
use crate::clock::{Clock, unix_seconds};
use crate::cluster::{Names, SystemNames};
use crate::config::{Config, ConfigSource, Limits, Listen, Tls};
use crate::http::{self, BoundListener, Drained, Edge, Readiness, TlsContext, admin_router};
use crate::registry::Registry;
use crate::storage::{Bucket, Disk, LocalDisk, Store, StoreParts};
use crate::tasks::Tasks;
use crate::telemetry::logging;
use crate::telemetry::metrics::Metrics;
use crate::upstream::{Aws, CredentialStores, Proxies};
use build::Endpoints;

/// How long tasks that write may take after the last connection has ended.
const TASKS_DEADLINE: Duration = Duration::from_secs(10);

/// What a test puts in place of the real thing.
pub struct World {
    /// Wall time.
    pub clock: Clock,
    /// The file operations of the store.
    pub disk: Arc<dyn Disk>,
    /// Wrapped around the store of records.
    pub around_records: fn(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>,
    /// The names of other replicas.
    pub names: Arc<dyn Names>,
    /// The services of AWS that give credentials for upstreams.
    pub aws: Aws,
    /// Through which upstreams are reached.
    pub proxies: Proxies,
}

impl Default for World {
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            disk: Arc::new(LocalDisk),
            around_records: |records| records,
            names: Arc::new(SystemNames),
            aws: Aws::default(),
            proxies: Proxies::default(),
        }
    }
}

/// A server that serves.
pub struct Running {
    /// Where clients connect, in the order of the configuration.
    pub addresses: Vec<SocketAddr>,
    /// Where operators connect.
    pub admin_address: SocketAddr,
    /// Its metrics.
    pub metrics: Metrics,
    config: Config,
    clock: Clock,
    edge: Edge,
    cache: Cache,
    bucket: Option<Bucket>,
    endpoints: Endpoints,
    replicas: Option<ReplicaCheck>,
    tls: Vec<(Listen, Option<Arc<TlsContext>>)>,
    readiness: Readiness,
    tasks: Tasks,
    stop_clients: CancellationToken,
    stop_admin: CancellationToken,
    clients: JoinHandle<Drained>,
    admin: JoinHandle<Drained>,
}

/// Builds all parts and begins to serve. Nothing is announced before every address is bound.
///
/// # Errors
/// What keeps it from serving, with a hint.
pub async fn start(config: Config, world: World) -> anyhow::Result<Running> {
    let metrics = Metrics::new()?;
    let tasks = Tasks::default();
    let listeners = BoundListener::bind_all(&config.listen).await?;
    let admin_listener = BoundListener::bind(&Listen { address: config.admin.address, tls: None, proxy_protocol: false }).await?;
    let store = open_store(&config, &world, &metrics).await?;
    let limits = build::cache_limits(&config);
    let cache = Cache::new(Arc::clone(&store), world.clock.clone(), tasks.clone(), limits, &metrics);
    let addresses: Vec<_> = listeners.iter().map(BoundListener::local_address).collect();
    let replicas = cluster::join(&config, addresses.clone(), Arc::clone(&world.names), &world.clock, &metrics, &tasks).await?;
    let stores = CredentialStores::new(world.aws.clone(), world.clock.clone(), metrics.credentials.clone());
    let replica_parts = replicas.as_ref().map(|parts| parts.replicas.clone());
    let mut endpoints = Endpoints::new(world.clock.clone(), stores, world.proxies.clone(), replica_parts);
    let replicas = replicas.map(|parts| parts.check);
    let (origins, in_use) = endpoints.origins(&config, &metrics)?;
    endpoints.keep(in_use);
    let edge = Edge::new(build::gate(&config, Registry::new(cache.clone(), origins, &metrics), replicas.clone())?, metrics.clone());
    clean_up_behind(&store, &tasks);
    upkeep::begin(&config, &store, &cache, &world.clock, &tasks, &metrics);
    cache.keep_room(&metrics.eviction);
    cache.retire_behind();
    if let Some(bucket) = &store.bucket {
        bucket::tend_behind(bucket, &tasks);
    }

    let readiness = Readiness::default();
    let (stop_clients, stop_admin) = (CancellationToken::new(), CancellationToken::new());
    let tls = config.listen.iter().cloned().zip(listeners.iter().map(|listener| listener.tls().cloned())).collect();
    let admin_address = admin_listener.local_address();
    let clients = spawn_server(listeners, edge.clone(), config.limits.clone(), stop_clients.clone());
    let router = admin_router(readiness.clone(), metrics.clone());
    let admin = spawn_server(vec![admin_listener], router, config.limits.clone(), stop_admin.clone());
    readiness.set(true);
    metrics.config_loaded(unix_seconds(world.clock.now()).cast_signed(), true);
    Ok(Running {
        addresses,
        admin_address,
        metrics,
        config,
        clock: world.clock,
        edge,
        cache,
        bucket: store.bucket.clone(),
        endpoints,
        replicas,
        tls,
        readiness,
        tasks,
        stop_clients,
        stop_admin,
        clients,
        admin,
    })
}

async fn open_store(config: &Config, world: &World, metrics: &Metrics) -> anyhow::Result<Arc<Store>> {
    let bucket = match &config.storage.s3 {
        Some(s3) => Some(bucket::client(s3, &config.limits, metrics).await.context("cannot use the bucket of storage.s3")?),
        None => None,
    };
    let (path, disk, around) = (config.storage.path.clone(), Arc::clone(&world.disk), world.around_records);
    let keeps_on_disk = config.storage.max_size != Some(0);
    let room = build::room_limits(&config.storage);
    let parts = StoreParts { path, disk, bucket, keeps_on_disk, around, room, clock: world.clock.clone() };
    let store = tokio::task::spawn_blocking(move || Store::open(parts)).await?;
    store.map(Arc::new).with_context(|| format!("cannot use the store {}", config.storage.path.display()))
}

/// Removes what a crash left among the records, without delaying the start.
fn clean_up_behind(store: &Store, tasks: &Tasks) {
    let remove = store.leftovers();
    tasks.spawn("leftovers", async move {
        match tokio::task::spawn_blocking(remove).await {
            Ok(0) | Err(_) => {}
            Ok(removed) => tracing::info!(removed, "removed unfinished records of an earlier run"),
        }
    });
}

fn spawn_server<S, B>(listeners: Vec<BoundListener>, service: S, limits: Limits, stop: CancellationToken) -> JoinHandle<Drained>
where
    S: tower::Service<hyper::Request<hyper::body::Incoming>, Response = hyper::Response<B>, Error = std::convert::Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: hyper::body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    tokio::spawn(async move { http::serve(listeners, service, &limits, stop).await })
}

impl Running {
    /// Takes over what a new configuration changes: rules, upstreams, users, certificates. Returns
    /// the keys that need a restart.
    ///
    /// # Errors
    /// When the new configuration cannot be used; then nothing of it is.
    pub fn reload(&mut self, config: Config) -> anyhow::Result<Vec<&'static str>> {
        let outcome = self.take_over(&config);
        self.metrics.config_loaded(unix_seconds(self.clock.now()).cast_signed(), outcome.is_ok());
        let needs_restart = outcome?;
        self.config = config;
        Ok(needs_restart)
    }

    fn take_over(&mut self, config: &Config) -> anyhow::Result<Vec<&'static str>> {
        let (origins, in_use) = self.endpoints.origins(config, &self.metrics)?;
        let gate = build::gate(config, Registry::new(self.cache.clone(), origins, &self.metrics), self.replicas.clone())?;
        // All are read once before any is taken over: what cannot be used changes nothing.
        for (_, files) in self.certificates(config) {
            TlsContext::load(files)?;
        }
        for (context, files) in self.certificates(config) {
            context.reload(files)?;
        }
        self.endpoints.keep(in_use);
        self.edge.reload(gate);
        Ok(build::needs_restart(&self.config, config))
    }

    /// The certificates in use, and where `config` has them.
    fn certificates<'a>(&'a self, config: &'a Config) -> impl Iterator<Item = (&'a TlsContext, &'a Tls)> {
        self.tls.iter().filter_map(|(listen, context)| {
            let changed = config.listen.iter().find(|changed| changed.address == listen.address)?;
            Some((context.as_deref()?, changed.tls.as_ref()?))
        })
    }

    /// Retires what nobody pulls, as is done in the background now and then.
    ///
    /// # Errors
    /// When the store does not list its repositories.
    pub async fn retire(&self) -> anyhow::Result<Retired> {
        Ok(self.cache.retire().await?)
    }

    /// Not ready → (pause) → stop accepting → drain, with a deadline → end the tasks.
    ///
    /// # Errors
    /// When a part of the server panicked.
    pub async fn shut_down(self) -> anyhow::Result<Drained> {
        self.readiness.set(false);
        tokio::time::sleep(self.config.limits.shutdown_delay).await;
        self.stop_clients.cancel();
        let drained = self.clients.await?;
        if !self.tasks.shut_down(TASKS_DEADLINE).await {
            tracing::warn!("some tasks did not end in time; what they wrote is incomplete and will be fetched again");
        }
        if let Some(bucket) = &self.bucket {
            bucket.settle(bucket::SETTLE_DEADLINE).await;
        }
        self.stop_admin.cancel();
        self.admin.await?;
        Ok(drained)
    }
}

/// The process: serves until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from serving, with a hint.
pub async fn run(config: Config, source: ConfigSource) -> anyhow::Result<()> {
    let mut signals = signals::Signals::listen().context("cannot listen for signals")?;
    let log = logging::init(&config.log)?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    open_files::raise_limit(config.limits.max_connections);
    let announced = config.clone();
    let world = World { proxies: proxies::from_environment(), ..World::default() };
    let mut running = start(config, world).await?;
    banner::print(&announced, &running);
    while signals.next().await == signals::Signal::Reload {
        reload(&mut running, &source, &log);
    }
    tracing::info!("shutting down: requests under way may end");
    let drained = running.shut_down().await?;
    tracing::info!(cut_connections = drained.cut_connections, "stopped");
    Ok(())
}

fn reload(running: &mut Running, source: &ConfigSource, log: &logging::LogHandle) {
    let reloaded = source.load().map_err(anyhow::Error::from).and_then(|config| {
        let level = config.log.level.clone();
        let needs_restart = running.reload(config)?;
        log.set_level(&level)?;
        Ok(needs_restart)
    });
    match reloaded {
        Ok(needs_restart) if needs_restart.is_empty() => tracing::info!("configuration reloaded"),
        Ok(needs_restart) => {
            tracing::warn!(keys = needs_restart.join(", "), "configuration reloaded; these changes need a restart");
        }
        Err(error) => {
            running.metrics.config_loaded(0, false);
            tracing::error!("configuration not reloaded, the old one stays in force: {error:#}");
        }
    }
}
