//! The rules, and the one way from a name to a target.

use std::sync::Arc;

use thiserror::Error;

use super::target::{PullThrough, Target};
use crate::config::{Prefix, Rule, UpstreamAddress};
use crate::oci::RepositoryName;

/// Docker Hub's registry, and the names under which clients know it.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
const DOCKER_HUB_ALIASES: [&str; 2] = ["docker.io", "index.docker.io"];
/// Where Docker Hub keeps its official images.
const OFFICIAL: &str = "library";
/// ECR's console calls the prefix of registry.k8s.io so; ours is `k8s`.
const KUBERNETES_ALIAS: (&str, &str) = ("kubernetes", "k8s");

/// How much of a host that no rule names is repeated, in characters: no host name is longer.
const MAX_SHOWN_HOST: usize = 255;

/// Why a name has no target.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ResolveError {
    /// `ns` names a host that no rule names. Never an open proxy.
    #[error("no rule names the registry {host}; add a rule with `upstream: {host}`, or the host to the `hosts` of one")]
    UnknownHost {
        /// The host, as it was asked for.
        host: String,
    },
    /// The rule maps only names below its `upstreamRepositoryPrefix`.
    #[error("the rule for {host} reaches only repositories below {upstream_prefix}/")]
    OutsideUpstreamPrefix {
        /// The host, as it was asked for.
        host: String,
        /// The rule's `upstream_prefix`.
        upstream_prefix: String,
    },
    /// Under its canonical name it would be taken for a repository of another rule.
    #[error("{name} is a name of the rule {prefix}, which has another upstream")]
    Shadowed {
        /// The canonical name.
        name: String,
        /// Prefix of the other rule.
        prefix: String,
    },
    /// With what the rule adds the name is longer than a name may be.
    #[error("with its prefix the name is longer than {max} characters", max = RepositoryName::MAX_BYTES)]
    TooLong,
}

/// All rules, longest prefix first.
#[derive(Clone, Debug, Default)]
pub struct RuleTable {
    rules: Vec<Arc<Rule>>,
}

impl RuleTable {
    /// A table of validated rules.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        let mut rules: Vec<_> = rules.into_iter().map(Arc::new).collect();
        rules.sort_by_key(|rule| std::cmp::Reverse(prefix_name(&rule.prefix).map(str::len)));
        Self { rules }
    }

    /// The rules, longest prefix first, `ROOT` last.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.iter()
    }

    /// The canonical target of `name`, asked for with or without `?ns=`.
    ///
    /// # Errors
    /// When `ns` is unknown or not reachable under that name, or the canonical name is too long.
    pub fn resolve(&self, name: &RepositoryName, ns: Option<&str>) -> Result<Target, ResolveError> {
        let Some(ns) = ns else {
            return match self.by_prefix(name) {
                Some((rule, rest)) => self.pull_through(rule, rest),
                None => Ok(Target::Hosted { repository: name.clone() }),
            };
        };
        let host = ns.to_ascii_lowercase();
        if let Some((rule, rest)) = self.by_prefix(name)
            && rule.prefix != Prefix::Root
            && answers_to(rule, &host)
        {
            return self.pull_through(rule, rest);
        }
        let unknown = || ResolveError::UnknownHost { host: ns.chars().take(MAX_SHOWN_HOST).collect() };
        let (rule, rest) = self.by_host(&host, name, ns).ok_or_else(unknown)??;
        self.pull_through(rule, rest)
    }

    /// The target of `rest`, the name without the rule's prefix. Its canonical name must lead back to
    /// the rule: two upstreams behind one name would overwrite each other's records.
    fn pull_through(&self, rule: &Arc<Rule>, rest: &str) -> Result<Target, ResolveError> {
        let target = canonical(rule, rest)?;
        match self.by_prefix(&target.repository) {
            Some((other, _)) if !Arc::ptr_eq(other, rule) => {
                Err(ResolveError::Shadowed { name: target.repository.to_string(), prefix: other.prefix.as_str().to_owned() })
            }
            Some(_) | None => Ok(Target::PullThrough(target)),
        }
    }

    /// The rule with the longest matching prefix, and the name behind it.
    fn by_prefix<'a>(&self, name: &'a RepositoryName) -> Option<(&Arc<Rule>, &'a str)> {
        let find = |prefix: &str, text: &'a str| text.strip_prefix(prefix)?.strip_prefix('/');
        let named = self.rules.iter().find_map(|rule| match prefix_name(&rule.prefix) {
            Some(prefix) => find(prefix, name.as_str()).map(|rest| (rule, rest)),
            None => None,
        });
        let aliased = || {
            let (alias, prefix) = KUBERNETES_ALIAS;
            let rest = find(alias, name.as_str())?;
            let rule = self.rules.iter().find(|rule| prefix_name(&rule.prefix) == Some(prefix))?;
            Some((rule, rest))
        };
        let root = || self.rules.iter().find(|rule| rule.prefix == Prefix::Root).map(|rule| (rule, name.as_str()));
        named.or_else(aliased).or_else(root)
    }

    /// The rule for a name of a registry's host, and what stands behind the rule's `upstream_prefix`.
    /// Among several that reach the name it is the one marked `mirror`, else the one with the longest
    /// prefix.
    fn by_host<'a>(&self, host: &str, name: &'a RepositoryName, ns: &str) -> Option<Result<(&Arc<Rule>, &'a str), ResolveError>> {
        let answering = || self.rules.iter().filter(|rule| answers_to(rule, host));
        let mut found = answering().map(|rule| below_upstream_prefix(rule, name, ns).map(|rest| (rule, rest)));
        let reaching = answering().filter_map(|rule| Some((rule, below_upstream_prefix(rule, name, ns).ok()?)));
        let best = reaching.min_by_key(|(rule, _)| !rule.mirror);
        best.map(Ok).or_else(|| found.next())
    }
}

fn prefix_name(prefix: &Prefix) -> Option<&str> {
    match prefix {
        Prefix::Root => None,
        Prefix::Name(name) => Some(name),
    }
}

/// Whether `host` is a name of the rule's upstream.
fn answers_to(rule: &Rule, host: &str) -> bool {
    let is_docker_hub_alias = is_docker_hub(&rule.upstream) && DOCKER_HUB_ALIASES.contains(&host);
    is_docker_hub_alias || rule.upstream.authority() == host || rule.hosts.iter().any(|known| known == host)
}

fn is_docker_hub(upstream: &UpstreamAddress) -> bool {
    upstream.host == DOCKER_HUB_HOST || DOCKER_HUB_ALIASES.contains(&upstream.host.as_str())
}

/// With `ns` the name is upstream's own; what the rule would add in front of it is taken off.
fn below_upstream_prefix<'a>(rule: &Rule, name: &'a RepositoryName, ns: &str) -> Result<&'a str, ResolveError> {
    let Some(prefix) = prefix_name(&rule.upstream_prefix) else { return Ok(name.as_str()) };
    let rest = name.as_str().strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/'));
    rest.ok_or_else(|| ResolveError::OutsideUpstreamPrefix { host: ns.to_owned(), upstream_prefix: prefix.to_owned() })
}

/// The names, here and there, of `rest`, the name without the rule's prefix.
fn canonical(rule: &Arc<Rule>, rest: &str) -> Result<PullThrough, ResolveError> {
    let joined = |prefix: &Prefix, rest: &str| {
        let text = prefix_name(prefix).map_or_else(|| rest.to_owned(), |prefix| format!("{prefix}/{rest}"));
        RepositoryName::parse(&text).map_err(|_| ResolveError::TooLong)
    };
    let remote = joined(&rule.upstream_prefix, rest)?;
    let is_official = is_docker_hub(&rule.upstream) && !remote.as_str().contains('/');
    if is_official {
        let rest = format!("{OFFICIAL}/{rest}");
        let (repository, remote) = (joined(&rule.prefix, &rest)?, joined(&rule.upstream_prefix, &rest)?);
        return Ok(PullThrough { rule: Arc::clone(rule), repository, remote });
    }
    let repository = joined(&rule.prefix, rest)?;
    Ok(PullThrough { rule: Arc::clone(rule), repository, remote })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(prefix: &str, upstream: &str) -> Rule {
        Rule::new(Prefix::parse(prefix).unwrap(), UpstreamAddress::parse(upstream).unwrap())
    }

    fn table() -> RuleTable {
        let mut quay_team = rule("quay-team", "quay.io");
        quay_team.upstream_prefix = Prefix::parse("team").unwrap();
        let mut mirror = rule("gh2", "ghcr.io");
        mirror.mirror = true;
        let mut local = rule("local", "http://127.0.0.1:5100");
        local.hosts = vec!["registry.corp".to_owned()];
        RuleTable::new(vec![
            rule("docker-hub", "registry-1.docker.io"),
            rule("quay", "quay.io"),
            quay_team,
            rule("quay/special", "special.io"),
            rule("k8s", "registry.k8s.io"),
            rule("github", "ghcr.io"),
            mirror,
            local,
        ])
    }

    /// `repository <- remote` of what a name resolves to.
    fn resolved(table: &RuleTable, name: &str, ns: Option<&str>) -> String {
        match table.resolve(&RepositoryName::parse(name).unwrap(), ns) {
            Ok(Target::PullThrough(target)) => format!("{} <- {}", target.repository, target.remote),
            Ok(Target::Hosted { repository }) => format!("hosted {repository}"),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn names_of_one_image_are_one_target() {
        for (name, ns) in [
            ("docker-hub/nginx", None),
            ("docker-hub/library/nginx", None),
            ("library/nginx", Some("docker.io")),
            ("nginx", Some("docker.io")),
            ("library/nginx", Some("Registry-1.Docker.IO")),
            ("docker-hub/library/nginx", Some("docker.io")),
            ("docker-hub/nginx", Some("index.docker.io")),
        ] {
            assert_eq!(resolved(&table(), name, ns), "docker-hub/library/nginx <- library/nginx", "{name} {ns:?}");
        }
    }

    #[test]
    fn longest_prefix_wins() {
        assert_eq!(resolved(&table(), "quay/a/b", None), "quay/a/b <- a/b");
        assert_eq!(resolved(&table(), "quay/special/b", None), "quay/special/b <- b");
        assert_eq!(resolved(&table(), "quay-team/b", None), "quay-team/b <- team/b");
        assert_eq!(resolved(&table(), "kubernetes/pause", None), "k8s/pause <- pause");
        assert_eq!(resolved(&table(), "quay", None), "hosted quay");
        assert_eq!(resolved(&table(), "quayx/a", None), "hosted quayx/a");
    }

    #[test]
    fn root_comes_last() {
        let mut rules = vec![rule("ROOT", "root.io")];
        rules.extend(table().rules.iter().map(|rule| Rule::clone(rule)));
        let table = RuleTable::new(rules);
        assert_eq!(resolved(&table, "some/thing", None), "some/thing <- some/thing");
        assert_eq!(resolved(&table, "quay/a", None), "quay/a <- a");
    }

    #[test]
    fn name_that_would_be_taken_for_one_of_another_rule_is_refused() {
        let mut rules = vec![rule("ROOT", "root.io"), rule("docker-hub/library", "official.io")];
        rules.extend(table().rules.iter().map(|rule| Rule::clone(rule)));
        let table = RuleTable::new(rules);
        for (name, ns, prefix) in [
            ("quay/a", Some("root.io"), "quay"),
            ("special/b", Some("quay.io"), "quay/special"),
            ("docker-hub/nginx", None, "docker-hub/library"),
            ("nginx", Some("docker.io"), "docker-hub/library"),
        ] {
            let refused = resolved(&table, name, ns);
            assert!(refused.contains(&format!("is a name of the rule {prefix}, which has another upstream")), "{refused}");
        }
    }

    #[test]
    fn ns_finds_the_rule_by_host_and_the_marked_one_among_several() {
        assert_eq!(resolved(&table(), "org/app", Some("ghcr.io")), "gh2/org/app <- org/app");
        assert_eq!(resolved(&table(), "github/org/app", Some("ghcr.io")), "github/org/app <- org/app");
        assert_eq!(resolved(&table(), "x/y", Some("127.0.0.1:5100")), "local/x/y <- x/y");
        assert_eq!(resolved(&table(), "x/y", Some("registry.corp")), "local/x/y <- x/y");
        assert!(resolved(&table(), "x/y", Some("evil.example")).starts_with("error: no rule names the registry evil.example"));
    }

    #[test]
    fn ns_with_a_prefix_of_another_host_is_a_name_of_that_host() {
        assert_eq!(resolved(&table(), "quay/org/app", Some("ghcr.io")), "gh2/quay/org/app <- quay/org/app");
    }

    #[test]
    fn ns_passes_over_rules_that_do_not_reach_the_name() {
        assert_eq!(resolved(&table(), "org/app", Some("quay.io")), "quay/org/app <- org/app");
        assert_eq!(resolved(&table(), "team/app", Some("quay.io")), "quay-team/app <- team/app");
    }

    #[test]
    fn upstream_prefix_is_taken_off_where_ns_gives_the_full_name() {
        let mut only = rule("team", "quay.io");
        only.upstream_prefix = Prefix::parse("org").unwrap();
        let table = RuleTable::new(vec![only]);
        assert_eq!(resolved(&table, "org/app", Some("quay.io")), "team/app <- org/app");
        assert!(resolved(&table, "other/app", Some("quay.io")).contains("only repositories below org/"));
    }

    #[test]
    fn a_name_that_grows_too_long_is_refused() {
        let name = "a".repeat(255);
        assert!(resolved(&table(), &name, Some("quay.io")).contains("longer than"));
    }

    proptest! {
        #[test]
        fn a_canonical_name_is_its_own_canonical_name(
            name in "(docker-hub|quay|k8s|github|local|quay/special)/[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,3}"
        ) {
            let table = table();
            let name = RepositoryName::parse(&name).unwrap();
            let target = table.resolve(&name, None).unwrap();
            let again = table.resolve(target.repository(), None).unwrap();
            prop_assert_eq!(target, again);
        }
    }
}
