//! The upstream of one rule, tried as a pull through it would go.

use anyhow::{Context, bail};

use super::Config;
use super::build::upstream_settings;
use super::proxies;
use crate::clock::Clock;
use crate::config::{Prefix, Rule};
use crate::oci::{Reference, RepositoryName};
use crate::rules::{RuleTable, Target};
use crate::telemetry::metrics::Metrics;
use crate::upstream::{Allowances, Aws, CredentialStores, Endpoint, Upstream};
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

/// Tries the upstream of the rule `prefix` with `image`, a name behind the prefix, or with one that the
/// registry is known to have.
///
/// # Errors
/// When there is no such rule, `image` is no name, or the rule's settings cannot be used.
pub async fn check_upstream(config: &Config, prefix: &str, image: Option<&str>) -> anyhow::Result<Checked> {
    let Some(rule) = config.rules.iter().find(|rule| rule.prefix.as_str() == prefix) else {
        let prefixes: Vec<&str> = config.rules.iter().map(|rule| rule.prefix.as_str()).collect();
        bail!("no rule has the prefix {prefix}\n    hint: the rules are {}", prefixes.join(", "));
    };
    let known = KNOWN_IMAGES.iter().find(|(host, _)| *host == rule.upstream.host && rule.upstream_prefix == Prefix::Root);
    let tried = image.or(known.map(|(_, image)| *image)).map(|image| sample(config, rule, image)).transpose()?;
    let metrics = Metrics::new()?;
    let stores = CredentialStores::new(Aws::default(), Clock::system(), metrics.credentials.clone());
    let endpoint = Endpoint::new(upstream_settings(rule, &proxies::from_environment(), &config.limits)?, &stores, &Allowances::default(), Clock::system())
        .with_context(|| format!("the upstream of rule {prefix} cannot be used"))?;
    let upstream = Upstream::new(endpoint, metrics.for_rule(prefix));
    let report = upstream.check(tried.as_ref().map(|(_, sample)| sample)).await;
    Ok(Checked { pulled: tried.map(|(name, _)| name), report })
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
    match RuleTable::new(config.rules.clone()).resolve(&full, None)? {
        Target::PullThrough(target) if target.rule.prefix == rule.prefix => {
            Ok((format!("{}{separator}{reference}", target.repository), Sample { repository: target.remote, reference }))
        }
        Target::PullThrough(target) => bail!("{full} is pulled through the rule {}\n    hint: check that one", target.rule.prefix.as_str()),
        Target::Hosted { .. } => bail!("{full} is pulled through no rule"),
    }
}
