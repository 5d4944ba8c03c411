//! The upstream of one rule, tried as a pull through it would go.

use anyhow::{Context, bail};

use super::Config;
use super::build::{mirror_settings, upstream_settings};
use super::proxies;
use crate::clock::Clock;
use crate::config::{Mirror, Prefix, Rule};
use crate::oci::{Reference, RepositoryName};
use crate::rules::{RuleTable, Target};
use crate::telemetry::metrics::{Metrics, RuleMetrics};
use crate::upstream::{Allowances, Aws, CredentialStores, Endpoint, Upstream, UpstreamBuildError, UpstreamSettings};
pub use crate::upstream::{CheckReport, Outcome, Sample, Step, StepName};

/// Images that registries are known to have, and to show everybody.
const KNOWN_IMAGES: [(&str, &str); 10] = [
    ("registry-1.docker.io", "library/alpine:latest"),
    ("quay.io", "prometheus/busybox:latest"),
    ("ghcr.io", "actions/actions-runner:latest"),
    ("registry.k8s.io", "pause:3.10"),
    ("public.ecr.aws", "docker/library/alpine:latest"),
    ("gcr.io", "distroless/static:latest"),
    ("mcr.microsoft.com", "hello-world:latest"),
    ("registry.gitlab.com", "gitlab-org/gitlab-runner:latest"),
    ("cgr.dev", "chainguard/static:latest"),
    ("mirror.gcr.io", "library/alpine:latest"),
];

/// What was tried, and how it went.
pub struct Checked {
    /// The name that clients would pull, without the host; `None` where no image was tried.
    pub pulled: Option<String>,
    /// The steps.
    pub report: CheckReport,
}

/// Tries the upstream of the rule `prefix`, and each of its mirrors, with `image`, a name behind the prefix, or
/// with one that the upstream is known to have.
///
/// # Errors
/// When there is no such rule, `image` is no name, or the rule's settings cannot be used.
pub async fn check_upstream(config: &Config, prefix: &str, image: Option<&str>) -> anyhow::Result<Checked> {
    let Some(rule) = config.rules.iter().find(|rule| rule.prefix.as_str() == prefix) else {
        let prefixes: Vec<&str> = config.rules.iter().map(|rule| rule.prefix.as_str()).collect();
        bail!("no rule has the prefix {prefix}\n    hint: the rules are {}", prefixes.join(", "));
    };
    let known = KNOWN_IMAGES.iter().find(|(host, _)| *host == rule.upstream.host && rule.upstream_prefix == Prefix::Root);
    let image = image.or(known.map(|(_, image)| *image));
    let tried = image.map(|image| sample(config, rule, image)).transpose()?;
    let metrics = Metrics::new()?;
    let parts = Parts {
        stores: CredentialStores::new(Aws::default(), Clock::system(), metrics.credentials.clone()),
        allowances: Allowances::default(),
        metrics: metrics.for_rule(prefix),
    };
    let proxies = proxies::from_environment();
    let in_vain = || format!("the upstream of rule {prefix} cannot be used");
    let upstream = parts.upstream(upstream_settings(rule, &proxies, &config.limits)?).with_context(in_vain)?;
    let mut report = upstream.check(tried.as_ref().map(|(_, sample)| sample)).await;
    for mirror in &rule.mirrors {
        let in_vain = || format!("the mirror {} of rule {prefix} cannot be used", mirror.upstream);
        let upstream = parts.upstream(mirror_settings(mirror, rule, &proxies, &config.limits)?).with_context(in_vain)?;
        let tried = image.map(|image| sample(config, &named_as_at(mirror, rule), image)).transpose()?;
        report.mirrors.push(upstream.check(tried.as_ref().map(|(_, sample)| sample)).await);
    }
    Ok(Checked { pulled: tried.map(|(name, _)| name), report })
}

/// What the upstream and its mirrors are built with.
struct Parts {
    stores: CredentialStores,
    allowances: Allowances,
    metrics: RuleMetrics,
}

impl Parts {
    fn upstream(&self, settings: UpstreamSettings) -> Result<Upstream, UpstreamBuildError> {
        let endpoint = Endpoint::new(settings, &self.stores, &self.allowances, Clock::system())?;
        Ok(Upstream::new(endpoint, self.metrics.clone()))
    }
}

/// The rule as if the mirror were its upstream: what that calls the images.
fn named_as_at(mirror: &Mirror, rule: &Rule) -> Rule {
    let upstream_prefix = mirror.upstream_prefix.as_ref().unwrap_or(&rule.upstream_prefix).clone();
    Rule { upstream_prefix, ..rule.clone() }
}

/// The name that clients would pull, and the image that it is upstream.
fn sample(config: &Config, rule: &Rule, image: &str) -> anyhow::Result<(String, Sample)> {
    const HINT: &str = "IMAGE[:TAG] or IMAGE@DIGEST, without the rule's prefix, such as library/alpine:3";
    let (name, separator, reference) = match image.split_once('@') {
        Some((name, digest)) => (name, '@', digest),
        None => image.rsplit_once(':').map_or((image, ':', "latest"), |(name, tag)| (name, ':', tag)),
    };
    let full = match &rule.prefix {
        Prefix::Root => name.to_owned(),
        Prefix::Name(prefix) => format!("{prefix}/{name}"),
    };
    let hint = || format!("{image} is no image\n    hint: {HINT}");
    let reference = Reference::parse(reference).with_context(hint)?;
    let full = RepositoryName::parse(&full).with_context(hint)?;
    let others = config.rules.iter().filter(|other| other.prefix != rule.prefix);
    let rules = others.chain([rule]).cloned().collect();
    match RuleTable::new(rules).resolve(&full, None)? {
        Target::PullThrough(target) if target.rule.prefix == rule.prefix => {
            Ok((format!("{}{separator}{reference}", target.repository), Sample { repository: target.remote, reference }))
        }
        Target::PullThrough(target) => bail!("{full} is pulled through the rule {}\n    hint: check that one", target.rule.prefix.as_str()),
        Target::Hosted { .. } => bail!("{full} is pulled through no rule"),
    }
}
