//! From plain configuration to the parts that run.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use secrecy::SecretString;

use super::{Config, Limits};
use crate::access::{Authenticator, Authorizer, ReplicaCheck};
use crate::cache::{self, CacheLimits, FillLimits, Line, LineLimits, Prefetches, Redirects, RuleOrigin, UploadLimits};
use crate::clock::Clock;
use crate::config::{self, Credentials, DeliveryMode, EcrAccount, Rule, Storage, UpstreamAddress};
use crate::http::Gate;
use crate::registry::{Registry, RuleOrigins};
use crate::rules::RuleTable;
use crate::storage::RoomLimits;
use crate::telemetry::metrics::{Metrics, RuleMetrics};
use crate::upstream::{
    Allowances, ClientCertificate, Credential, CredentialSource, CredentialStores, EcrTokens, Endpoint, Proxies, Replicas, Upstream,
    UpstreamBuildError, UpstreamLimits, UpstreamSettings, Url,
};

/// What credential helpers know Docker Hub by.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// The endpoints in use. Rules with equal settings share one, and one that a reload leaves as it
/// is keeps its connections, tokens and circuit.
pub(super) struct Endpoints {
    clock: Clock,
    stores: CredentialStores,
    allowances: Allowances,
    proxies: Proxies,
    replicas: Option<Replicas>,
    in_use: Vec<Arc<Endpoint>>,
}

impl Endpoints {
    pub(super) fn new(clock: Clock, stores: CredentialStores, proxies: Proxies, replicas: Option<Replicas>) -> Self {
        Self { clock, stores, allowances: Allowances::default(), proxies, replicas, in_use: Vec::new() }
    }

    /// Where the repositories of every rule come from, and the endpoints that takes.
    pub(super) fn origins(&self, config: &Config, metrics: &Metrics) -> anyhow::Result<(RuleOrigins, Vec<Arc<Endpoint>>)> {
        let mut origins = HashMap::new();
        let mut in_use: Vec<Arc<Endpoint>> = Vec::new();
        for rule in &config.rules {
            let in_vain = || format!("the upstream of rule {} cannot be used", rule.prefix.as_str());
            let endpoint = self.endpoint(upstream_settings(rule, &self.proxies, &config.limits)?, &mut in_use).with_context(in_vain)?;
            let rule_metrics = metrics.for_rule(rule.prefix.as_str());
            let upstream = Upstream::new(Arc::clone(&endpoint), rule_metrics.clone()).with_quota_floor(rule.quota_floor);
            let origin = RuleOrigin {
                source: upstream.source().as_str().into(),
                upstream: Some(upstream),
                mirrors: self.mirrors(rule, &config.limits, &rule_metrics, &mut in_use)?,
                line: Arc::new(Line::new(line_limits(rule, &config.limits), &rule_metrics)),
                replicas: self.replicas.clone(),
                freshness: rule.freshness.clone(),
                prefetch: rule.prefetch.clone(),
                prefetches: Prefetches::new(config.limits.max_prefetches),
                // Not `anonymous: true`: what outlives its rule must not outlive what the rule said of it.
                needs_user: rule.asks_as_somebody(),
                metrics: rule_metrics,
            };
            origins.insert(rule.prefix.clone(), Arc::new(origin));
        }
        Ok((origins, in_use))
    }

    /// The endpoint with these settings: one that is in use, or a new one, which is from now on.
    fn endpoint(&self, settings: UpstreamSettings, in_use: &mut Vec<Arc<Endpoint>>) -> Result<Arc<Endpoint>, UpstreamBuildError> {
        let known = in_use.iter().chain(&self.in_use).find(|endpoint| *endpoint.settings() == settings).cloned();
        let endpoint = known.map_or_else(|| Endpoint::new(settings, &self.stores, &self.allowances, self.clock.clone()), Ok)?;
        in_use.push(Arc::clone(&endpoint));
        Ok(endpoint)
    }

    /// The mirrors of a rule.
    fn mirrors(
        &self,
        rule: &Rule,
        limits: &Limits,
        metrics: &RuleMetrics,
        in_use: &mut Vec<Arc<Endpoint>>,
    ) -> anyhow::Result<Vec<cache::Mirror>> {
        let mut mirrors = Vec::new();
        for mirror in &rule.mirrors {
            let in_vain = || format!("the mirror {} of rule {} cannot be used", mirror.upstream, rule.prefix.as_str());
            let endpoint = self.endpoint(mirror_settings(mirror, rule, &self.proxies, limits)?, in_use).with_context(in_vain)?;
            let built = cache::Mirror::new(Upstream::mirror(endpoint, metrics.clone()));
            mirrors.push(match &mirror.upstream_prefix {
                None => built,
                Some(prefix) => built.renamed(rule.upstream_prefix.clone(), prefix.clone()),
            });
        }
        Ok(mirrors)
    }

    /// Takes note of the endpoints that are in use from now on.
    pub(super) fn keep(&mut self, in_use: Vec<Arc<Endpoint>>) {
        self.in_use = in_use;
    }
}

pub(super) fn upstream_settings(rule: &Rule, proxies: &Proxies, limits: &Limits) -> anyhow::Result<UpstreamSettings> {
    let text = rule.upstream.to_string();
    let base = Url::parse(&text).with_context(|| format!("the upstream of rule {}, {text}, is not a URL", rule.prefix.as_str()))?;
    let ca_pem = ca_pem(rule.ca.as_deref())?;
    let credential = rule.credentials.as_ref().map(|credentials| credential_source(credentials, &rule.upstream));
    let client_certificate = rule.client_certificate.as_ref().map(client_certificate).transpose()?;
    Ok(UpstreamSettings { credential, realms: rule.realms.clone(), client_certificate, ..settings_of(base, ca_pem, rule, proxies, limits) })
}

/// A mirror is asked without credentials, so no realm may be given any.
pub(super) fn mirror_settings(
    mirror: &config::Mirror,
    rule: &Rule,
    proxies: &Proxies,
    limits: &Limits,
) -> anyhow::Result<UpstreamSettings> {
    let text = mirror.upstream.to_string();
    let base = Url::parse(&text).with_context(|| format!("the mirror {text} is not a URL"))?;
    Ok(settings_of(base, ca_pem(mirror.ca.as_deref())?, rule, proxies, limits))
}

/// What a rule says of its upstream and its mirrors alike.
fn settings_of(base: Url, ca_pem: Option<Vec<u8>>, rule: &Rule, proxies: &Proxies, limits: &Limits) -> UpstreamSettings {
    UpstreamSettings {
        ca_pem,
        private_hosts: rule.private_hosts.hosts.clone(),
        private_networks: rule.private_hosts.networks.clone(),
        proxies: proxies.clone(),
        limits: upstream_limits(limits),
        ..UpstreamSettings::of(base)
    }
}

fn client_certificate(files: &config::ClientCertificate) -> anyhow::Result<ClientCertificate> {
    let read = |file: &Path| std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()));
    Ok(ClientCertificate { pem: SecretString::from(format!("{}\n{}", read(&files.certificate)?, read(&files.key)?)) })
}

fn ca_pem(file: Option<&Path>) -> anyhow::Result<Option<Vec<u8>>> {
    file.map(|file| std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))).transpose()
}

fn credential_source(credentials: &Credentials, upstream: &UpstreamAddress) -> CredentialSource {
    match credentials {
        Credentials::Password { username, password, file } => CredentialSource::Password {
            credential: Credential { username: username.clone(), password: SecretString::from(password.expose().to_owned()) },
            file: file.clone(),
        },
        Credentials::SecretsManager(arn) => {
            CredentialSource::SecretsManager { arn: arn.as_str().to_owned(), region: arn.region().to_owned() }
        }
        Credentials::Ecr(EcrAccount { account, region, role, .. }) => {
            CredentialSource::Ecr(EcrTokens { account: account.clone(), region: region.clone(), role: role.clone() })
        }
        Credentials::Process(command) => {
            // Docker's own name for its Hub.
            let server = if upstream.host == "registry-1.docker.io" { DOCKER_HUB.to_owned() } else { upstream.authority() };
            CredentialSource::Process { command: command.clone(), server }
        }
    }
}

fn line_limits(rule: &Rule, limits: &Limits) -> LineLimits {
    LineLimits {
        connections: rule.line.connections.unwrap_or(limits.fill_connections),
        max_connections: rule.line.max_connections,
        connection_wait: limits.connection_wait,
        max_bytes_per_second: rule.line.max_bandwidth,
    }
}

pub(super) fn upstream_limits(limits: &Limits) -> UpstreamLimits {
    UpstreamLimits {
        connect_timeout: limits.connect_timeout,
        head_timeout: limits.head_timeout,
        manifest_timeout: limits.manifest_timeout,
        stall_timeout: limits.stall_timeout,
        max_redirects: limits.max_redirects,
        circuit_cooldown: limits.circuit_cooldown,
        circuit_max_cooldown: limits.circuit_max_cooldown,
        max_blob_bytes: limits.max_blob_size,
        ..UpstreamLimits::default()
    }
}

pub(super) fn cache_limits(config: &Config) -> CacheLimits {
    let limits = &config.limits;
    CacheLimits {
        revalidate_wait: limits.revalidate_wait,
        revalidate_backoff: limits.revalidate_backoff,
        negative_ttl: limits.negative_ttl,
        tags_list_ttl: limits.tags_list_ttl,
        view_ttl: limits.view_ttl,
        pulled_interval: limits.pulled_interval,
        retire_after: limits.retire_after,
        memory_bytes: limits.memory_cache,
        fills: FillLimits {
            max_fills: limits.max_fills,
            max_unfollowed: limits.max_unfollowed_fills,
            max_bypasses: limits.max_bypasses,
            parallel_above_bytes: limits.parallel_above,
            attempts: u32::try_from(limits.fill_attempts).unwrap_or(u32::MAX),
            max_blob_bytes: limits.max_blob_size,
        },
        uploads: UploadLimits {
            part_bytes: limits.upload_part,
            max_parts: limits.max_upload_parts,
            max_uploads: limits.max_uploads,
            max_blob_bytes: limits.max_blob_size,
            quarantine_bytes: limits.quarantine_size,
        },
        redirects: (config.storage.delivery == DeliveryMode::Redirect)
            .then_some(Redirects { min_bytes: limits.redirect_min_size, expires_in: limits.redirect_expiry }),
    }
}

/// How much may be on disk. No limit where no blob is kept there: what passes through has room.
pub(super) fn room_limits(storage: &Storage) -> RoomLimits {
    RoomLimits { max_bytes: storage.max_size.filter(|bytes| *bytes > 0), min_free_bytes: storage.min_free }
}

/// The registry, and what stands before it.
pub(super) fn gate(config: &Config, registry: Registry, replicas: Option<ReplicaCheck>) -> anyhow::Result<Gate> {
    let authenticator = Authenticator::new(&config.auth, &config.limits, replicas).context("the users cannot be read")?;
    let authorizer = Authorizer { has_users: config.auth.users.is_some() };
    Ok(Gate { rules: RuleTable::new(config.rules.clone()), authenticator, authorizer, registry })
}

/// The keys that differ and are only read at start.
pub(super) fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let listens = |config: &Config| {
        config.listen.iter().map(|listen| (listen.address, listen.proxy_protocol, listen.tls.is_some())).collect::<Vec<_>>()
    };
    let checks = [
        ("listen", listens(old) != listens(new)),
        ("admin", old.admin != new.admin),
        ("storage", old.storage != new.storage),
        ("cluster", old.cluster != new.cluster),
        ("auth.token_key", old.auth.token_key != new.auth.token_key),
        ("log.format", old.log.format != new.log.format),
        ("limits", old.limits != new.limits),
    ];
    checks.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}
