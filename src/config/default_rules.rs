//! The rules of a configuration that names none.

use super::prefix::Prefix;
use super::rule::Rule;
use super::upstream_address::{Scheme, UpstreamAddress};

/// Prefix and host; the prefixes are those that ECR's console proposes, but `k8s`.
const DEFAULT_RULES: [(&str, &str); 8] = [
    ("docker-hub", "registry-1.docker.io"),
    ("quay", "quay.io"),
    ("github", "ghcr.io"),
    ("k8s", "registry.k8s.io"),
    ("ecr-public", "public.ecr.aws"),
    ("gcr", "gcr.io"),
    ("mcr", "mcr.microsoft.com"),
    ("gitlab", "registry.gitlab.com"),
];

pub(super) fn default_rules() -> Vec<Rule> {
    let rule = |(prefix, host): (&str, &str)| {
        let upstream = UpstreamAddress { scheme: Scheme::Https, host: host.to_owned(), port: None, base_path: String::new() };
        Rule::new(Prefix::Name(prefix.to_owned()), upstream)
    };
    DEFAULT_RULES.map(rule).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_rules_are_what_the_file_would_give() {
        for rule in default_rules() {
            assert_eq!(Prefix::parse(rule.prefix.as_str()), Some(rule.prefix));
            assert_eq!(UpstreamAddress::parse(&rule.upstream.host), Ok(rule.upstream));
        }
    }
}
