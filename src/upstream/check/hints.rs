//! What to do about what a check found.

use crate::upstream::{Unavailability, UpstreamError};

pub(super) const NAME: &str =
    "look at the rule's `upstream` for a typing mistake, and at this machine's resolver (/etc/resolv.conf); behind a proxy set HTTPS_PROXY";
pub(super) const CREDENTIALS: &str = "give the rule `credentials` (docs/configuration.md)";
pub(super) const NO_REGISTRY: &str =
    "there is something else than a registry: is the host right, and does the rule need a base path, as in https://host/base?";
pub(super) const REALM: &str = "if that host is the registry's own, add it to the rule's `realms`; the credentials are sent there";
pub(super) const TOO_MANY_REQUESTS: &str =
    "wait until pulls are free again, or give the rule credentials of an account with a larger limit; cached images are served meanwhile";
pub(super) const NAME_AN_IMAGE: &str = "name one that the registry has, after the rule: IMAGE[:TAG]";

const UNKNOWN_AUTHORITY: &str = "its certificate is signed by an authority that this machine does not trust: name a file with it in the rule's `ca`, or look who is in between";
const OTHER_NAME: &str = "its certificate is for another name: use the name that the certificate has";
const EXPIRED: &str = "its certificate is not valid now: look at this machine's clock; else the registry's operator has to renew it";
const NO_TLS: &str = "it speaks no TLS there: if that is meant, write http:// before the host in the rule's `upstream`";
const REFUSED: &str = "nothing listens there, or a firewall refuses: look at host and port; behind a proxy set HTTPS_PROXY";
const SILENT: &str = "look at firewalls and routes on the way; behind a proxy set HTTPS_PROXY (HTTP_PROXY for http) and NO_PROXY";

/// By the words of the TLS library and the system, since there is nothing else to go by.
pub(super) fn connect(reason: &str) -> &'static str {
    let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    if says(&["NotValidForName", "not valid for name"]) {
        OTHER_NAME
    } else if says(&["Expired", "expired", "NotValidYet", "not valid yet"]) {
        EXPIRED
    } else if says(&["certificate", "UnknownIssuer", "issuer"]) {
        UNKNOWN_AUTHORITY
    } else if says(&["InvalidContentType", "corrupt message", "InvalidMessage"]) {
        NO_TLS
    } else if says(&["refused"]) {
        REFUSED
    } else {
        SILENT
    }
}

/// Of an answer that is no success.
pub(super) const fn refused(error: &UpstreamError, has_credential: bool) -> &'static str {
    match error {
        UpstreamError::NotFound { .. } => "the registry does not have that image: name another one after the rule, IMAGE[:TAG]",
        UpstreamError::Denied { .. } if has_credential => {
            "the registry refuses the rule's credentials: are they current, and may they pull this image?"
        }
        UpstreamError::Denied { .. } => {
            "the image is private, or not there: name another one after the rule, or give the rule `credentials`"
        }
        UpstreamError::TooManyRequests { .. } => TOO_MANY_REQUESTS,
        UpstreamError::Unavailable { kind: Unavailability::Status(_), .. } => {
            "the registry fails: look at its status page, and try again later"
        }
        UpstreamError::Unavailable { kind: Unavailability::Credentials, .. } => {
            "the rule's credentials cannot be had: see what their source said, and docs/configuration.md, \"Credentials\""
        }
        UpstreamError::Unavailable { .. } => SILENT,
        UpstreamError::Lied { .. } => "the answer makes no sense: a proxy or a firewall in between may have changed it",
    }
}

/// Of a blob, which often comes from another host.
pub(super) const fn blob(error: &UpstreamError, has_credential: bool) -> &'static str {
    match error {
        UpstreamError::Unavailable { kind: Unavailability::Connect | Unavailability::Timeout, .. } => {
            "the registry sends clients to that host for its blobs: let this machine reach it too, through firewalls and proxies"
        }
        UpstreamError::NotFound { .. }
        | UpstreamError::Denied { .. }
        | UpstreamError::TooManyRequests { .. }
        | UpstreamError::Unavailable { .. }
        | UpstreamError::Lied { .. } => refused(error, has_credential),
    }
}
