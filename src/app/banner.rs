//! What the terminal says when the server serves: where, and what to type next.

use std::io::{self, Write};

use super::Running;
use crate::config::{Config, Prefix, Rule, reachable};

/// Prints it to stdout; the log goes to stderr.
pub(super) fn print(config: &Config, running: &Running) {
    // Nothing can be done where stdout is closed.
    let _ = io::stdout().write_all(text(config, running).as_bytes());
}

fn text(config: &Config, running: &Running) -> String {
    let mut lines = vec![format!("headpond {} is ready", env!("CARGO_PKG_VERSION"))];
    for (listen, address) in config.listen.iter().zip(&running.addresses) {
        let scheme = if listen.tls.is_some() { "https" } else { "http" };
        lines.push(format!("  registry   {scheme}://{address}/v2/"));
    }
    lines.push(format!("  admin      http://{}/metrics, /healthz, /readyz", running.admin_address));
    lines.push(format!("  store      {}", config.storage.path.display()));
    for rule in config.rules.iter().take(MAX_RULES) {
        lines.push(format!("  rule       {}/ <- {}", rule.prefix.as_str(), rule.upstream));
    }
    if config.rules.len() > MAX_RULES {
        lines.push(format!("  rule       … and {} more (headpond check-config)", config.rules.len() - MAX_RULES));
    }
    lines.extend(pull_command(config, running));
    lines.push(String::new());
    lines.join("\n")
}

/// Rules that are listed.
const MAX_RULES: usize = 12;

/// The pull command to try.
fn pull_command(config: &Config, running: &Running) -> Vec<String> {
    let (Some(rule), Some(address), Some(listen)) = (config.rules.first(), running.addresses.first(), config.listen.first()) else {
        return vec!["  no rules: nothing can be pulled; add some under `rules`".to_owned()];
    };
    // Docker takes plain HTTP from loopback alone.
    let address = reachable(*address);
    let insecure = if listen.tls.is_some() { "" } else { " --src-tls-verify=false" };
    let image = example(rule);
    vec![
        "try:".to_owned(),
        format!("  docker pull {address}/{image}"),
        format!("  skopeo copy{insecure} docker://{address}/{image} dir:/tmp/image"),
    ]
}

fn example(rule: &Rule) -> String {
    let image = if rule.upstream.host == "registry-1.docker.io" { "library/alpine:latest" } else { "<repository>:<tag>" };
    match &rule.prefix {
        Prefix::Root => image.to_owned(),
        Prefix::Name(prefix) => format!("{prefix}/{image}"),
    }
}
