//! What is allowed but probably not meant.

use std::time::Duration;

use super::upstream_address::Scheme;
use super::{Config, Credentials, DeliveryMode, Listen, Problem, Rule, Storage};

/// It is believed for ten minutes that the bucket has a blob.
const LEAST_GRACE_OF_REDIRECTS: Duration = Duration::from_secs(10 * 60);
/// Parts of uploads that are in memory at one time.
const MANY_UPLOAD_BYTES: u64 = 1 << 30;

pub(super) fn warnings(config: &Config) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut warn = |path: String, what: &str, hint: &str| found.push(Problem { path, what: what.to_owned(), hint: Some(hint.to_owned()) });
    if config.auth.anonymous.is_none() && config.auth.users.is_none() {
        warn("auth".to_owned(), "nobody can pull: no anonymous pull and no users", "set auth.users, or remove `anonymous: none`");
    }
    warn_of_storage(&config.storage, &mut warn);
    warn_of_limits(config, &mut warn);
    for (index, listen) in config.listen.iter().enumerate() {
        warn_of_listener(config, index, listen, &mut warn);
    }
    for (index, rule) in config.rules.iter().enumerate() {
        warn_of_rule(config, index, rule, &mut warn);
    }
    found
}

fn warn_of_storage(storage: &Storage, warn: &mut impl FnMut(String, &str, &str)) {
    // The directory may have to be made yet.
    let there_is = storage.path.ancestors().find(|path| path.is_dir());
    let Some(file_system) = there_is.and_then(|path| rustix::fs::statvfs(path).ok()) else { return };
    let total_bytes = file_system.f_blocks.saturating_mul(file_system.f_frsize);
    if storage.max_size.is_some_and(|bytes| bytes > total_bytes) {
        let hint = "lower it: storage.min_free decides, as it is";
        warn("storage.max_size".to_owned(), "is more than the whole file system of storage.path has", hint);
    }
    if storage.min_free.is_some_and(|bytes| bytes >= total_bytes) {
        let hint = "lower it: as it is, no blob is kept";
        warn("storage.min_free".to_owned(), "is as much as the whole file system of storage.path has", hint);
    }
}

fn warn_of_limits(config: &Config, warn: &mut impl FnMut(String, &str, &str)) {
    let limits = &config.limits;
    if config.storage.delivery == DeliveryMode::Redirect && limits.gc_grace < LEAST_GRACE_OF_REDIRECTS {
        let what = "with storage.delivery: redirect, clients may be sent to blobs that were just deleted";
        warn("limits.gc_grace".to_owned(), what, "raise it to 1h or more");
    }
    let parts_bytes = limits.upload_part.saturating_mul(limits.max_upload_parts as u64);
    if config.storage.s3.is_some() && parts_bytes > MANY_UPLOAD_BYTES {
        let what = "times limits.max_upload_parts is more than 1GiB, and all of it may be in memory";
        warn("limits.upload_part".to_owned(), what, "lower one of them");
    }
}

fn warn_of_listener(config: &Config, index: usize, listen: &Listen, warn: &mut impl FnMut(String, &str, &str)) {
    if listen.address.ip().is_loopback() {
        return;
    }
    let path = format!("listen[{index}]");
    if listen.tls.is_none() && config.auth.users.is_some() {
        warn(path.clone(), "passwords cross the network unencrypted", "add `tls`, or let only a TLS-terminating proxy reach it");
    }
    let open_to_all = config.auth.anonymous.as_ref().is_some_and(|anonymous| anonymous.cidrs.is_empty());
    if open_to_all && listen.tls.as_ref().is_none_or(|tls| tls.client_ca.is_none()) {
        warn(path, "everybody who can reach it may pull", "narrow auth.anonymous.cidrs, or set auth.users");
    }
}

fn warn_of_rule(config: &Config, index: usize, rule: &Rule, warn: &mut impl FnMut(String, &str, &str)) {
    if let Some(credentials) = &rule.credentials {
        warn_of_credentials(credentials, &format!("rules[{index}].credentials"), warn);
    }
    if rule.asks_as_somebody() && !rule.anonymous {
        let (what, hint) = match config.auth.users {
            None => (
                "nobody can pull through it: its content is for users, and there are none",
                "set auth.users, or `anonymous: true` if everybody may have what these credentials can see",
            ),
            Some(_) => (
                "only users can pull through it, as its credentials may see private images",
                "set `anonymous: true` if everybody may have what these credentials can see",
            ),
        };
        warn(format!("rules[{index}]"), what, hint);
    }
    if rule.credentials.is_some() && rule.upstream.scheme == Scheme::Http {
        warn(format!("rules[{index}].upstream"), "the credentials are sent unencrypted", "use https");
    }
}

fn warn_of_credentials(credentials: &Credentials, path: &str, warn: &mut impl FnMut(String, &str, &str)) {
    match credentials {
        Credentials::SecretsManager(arn) if !arn.is_of_ecr() => {
            let hint = "rename it if ECR is to use it too; headpond takes any name";
            warn(path.to_owned(), "the secret's name does not start with ecr-pullthroughcache/, as ECR wants it", hint);
        }
        Credentials::Ecr(account) if !account.is_of_host => {
            let hint = "make sure that it is a private ECR registry, or a way to one: it gets tokens for all that the role may pull";
            warn(path.to_owned(), "ECR's tokens are sent to a host that is not one of ECR's own", hint);
        }
        Credentials::Password { .. } | Credentials::SecretsManager(_) | Credentials::Ecr(_) | Credentials::Process(_) => {}
    }
}
