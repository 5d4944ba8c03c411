//! Whether a principal may do what it asks: the only place that makes an [`Authorized`].

use thiserror::Error;

use super::{Action, Principal};
use crate::config::Rule;
use crate::rules::{PullThrough, Target};

/// A target that its principal may use. Use cases take it by value, and nothing but
/// [`Authorizer::authorize`] makes one: forgetting the check does not compile.
#[derive(Clone, Debug)]
pub struct Authorized<T> {
    target: T,
    is_user: bool,
    forwarded: Option<String>,
    is_unattended: bool,
}

impl<T> Authorized<T> {
    /// The target.
    #[must_use]
    pub const fn target(&self) -> &T {
        &self.target
    }

    /// Whether somebody has logged in.
    #[must_use]
    pub const fn is_user(&self) -> bool {
        self.is_user
    }

    /// The source through which another replica wants the content, if one asks: nobody else is asked
    /// for it but upstream.
    #[must_use]
    pub fn forwarded(&self) -> Option<&str> {
        self.forwarded.as_deref()
    }

    /// Whether another replica asks of which no client waits.
    #[must_use]
    pub const fn is_unattended(&self) -> bool {
        self.is_unattended
    }

    /// The request says whether a client waits. Only another replica is believed that none does.
    #[must_use]
    pub fn unattended(self, is_unattended: bool) -> Self {
        Self { is_unattended: is_unattended && self.forwarded.is_some(), ..self }
    }

    /// The target, for the use case that spends the permission.
    #[must_use]
    pub fn into_target(self) -> T {
        self.target
    }
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Forbidden {
    /// The rule's credentials unlock private content, and nobody has logged in.
    #[error("the rule {rule} pulls with credentials, so it needs a user; log in, or set `anonymous: true` on the rule")]
    NeedsUser {
        /// Its prefix.
        rule: String,
    },
    /// The rule's `allow` or `deny` excludes the name.
    #[error("the rule {rule} does not allow {name}")]
    Excluded {
        /// Its prefix.
        rule: String,
        /// The name without the prefix.
        name: String,
    },
    /// Only users may have upstream asked at will.
    #[error("only a user may have upstream asked now (Cache-Control: no-cache); log in, or leave the header out")]
    RefreshNeedsUser,
}

/// The policy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Authorizer {
    /// Whether there are users at all. Where there are none, anybody may do what users may.
    pub has_users: bool,
}

impl Authorizer {
    /// Lets `principal` do `action` on `target`, or says why not. Another replica has asked this for its
    /// client, by rules that may be newer or older than these for a moment.
    ///
    /// # Errors
    /// See [`Forbidden`].
    pub fn authorize(&self, principal: &Principal, action: Action, target: Target) -> Result<Authorized<Target>, Forbidden> {
        if let Principal::Replica(request) = principal {
            return Ok(Authorized { target, is_user: true, forwarded: Some(request.source.clone()), is_unattended: false });
        }
        let is_anonymous = principal.is_anonymous();
        if action == Action::Refresh && is_anonymous && self.has_users {
            return Err(Forbidden::RefreshNeedsUser);
        }
        match &target {
            Target::PullThrough(pull_through) => check_rule(pull_through, is_anonymous)?,
            Target::Hosted { .. } => {}
        }
        Ok(Authorized { target, is_user: !is_anonymous, forwarded: None, is_unattended: false })
    }
}

fn check_rule(target: &PullThrough, is_anonymous: bool) -> Result<(), Forbidden> {
    let (rule, name) = (&target.rule, target.name());
    let is_allowed = rule.allow.is_empty() || rule.allow.iter().any(|pattern| pattern.matches(name));
    if !is_allowed || rule.deny.iter().any(|pattern| pattern.matches(name)) {
        return Err(Forbidden::Excluded { rule: rule.prefix.as_str().to_owned(), name: name.to_owned() });
    }
    if needs_user(rule) && is_anonymous {
        return Err(Forbidden::NeedsUser { rule: rule.prefix.as_str().to_owned() });
    }
    Ok(())
}

/// Whether what a rule fetches is only for users: else one credential, or one certificate, would publish
/// every private image that it can see.
const fn needs_user(rule: &Rule) -> bool {
    rule.asks_as_somebody() && !rule.anonymous
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ReplicaRequest;
    use crate::config::{ClientCertificate, Credentials, Pattern, Prefix, Rule, Secret, UpstreamAddress};
    use crate::oci::RepositoryName;
    use crate::rules::RuleTable;

    const ANONYMOUS: Principal = Principal::Anonymous { address: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST) };

    fn verdict(change: impl FnOnce(&mut Rule), principal: &Principal, action: Action) -> Result<(), Forbidden> {
        let mut rule = Rule::new(Prefix::parse("hub").unwrap(), UpstreamAddress::parse("registry-1.docker.io").unwrap());
        change(&mut rule);
        let target = RuleTable::new(vec![rule]).resolve(&RepositoryName::parse("hub/nginx").unwrap(), None).unwrap();
        Authorizer { has_users: true }.authorize(principal, action, target).map(|_| ())
    }

    fn with_credentials(rule: &mut Rule) {
        rule.credentials = Some(Credentials::Password { username: "u".to_owned(), password: Secret::new("p".to_owned()), file: None });
    }

    #[test]
    fn allow_and_deny_are_about_the_canonical_name() {
        let pattern = |text| vec![Pattern::parse(text).unwrap()];
        assert_eq!(verdict(|rule| rule.allow = pattern("library/*"), &ANONYMOUS, Action::Pull), Ok(()));
        assert!(verdict(|rule| rule.allow = pattern("nginx"), &ANONYMOUS, Action::Pull).is_err());
        assert!(verdict(|rule| rule.deny = pattern("library/nginx"), &ANONYMOUS, Action::Pull).is_err());
    }

    #[test]
    fn a_rule_with_credentials_needs_a_user_unless_it_says_otherwise() {
        let user = Principal::User { name: "u".into() };
        assert!(matches!(verdict(with_credentials, &ANONYMOUS, Action::Pull), Err(Forbidden::NeedsUser { .. })));
        assert_eq!(verdict(with_credentials, &user, Action::Pull), Ok(()));
        let with_certificate =
            |rule: &mut Rule| rule.client_certificate = Some(ClientCertificate { certificate: "c".into(), key: "k".into() });
        assert!(matches!(verdict(with_certificate, &ANONYMOUS, Action::Pull), Err(Forbidden::NeedsUser { .. })));
        let opened = |rule: &mut Rule| {
            with_credentials(rule);
            rule.anonymous = true;
        };
        assert_eq!(verdict(opened, &ANONYMOUS, Action::Pull), Ok(()));
    }

    #[test]
    fn only_another_replica_is_believed_that_nobody_waits() {
        let rule = Rule::new(Prefix::parse("hub").unwrap(), UpstreamAddress::parse("registry-1.docker.io").unwrap());
        let table = RuleTable::new(vec![rule]);
        let replica = Principal::Replica(ReplicaRequest { nonce: String::new(), source: String::new() });
        for (principal, expected) in [(ANONYMOUS, false), (replica, true)] {
            let target = table.resolve(&RepositoryName::parse("hub/nginx").unwrap(), None).unwrap();
            let authorized = Authorizer { has_users: false }.authorize(&principal, Action::Pull, target).unwrap();
            assert_eq!(authorized.unattended(true).is_unattended(), expected);
        }
    }

    #[test]
    fn only_users_refresh_where_there_are_users() {
        assert_eq!(verdict(|_| {}, &ANONYMOUS, Action::Refresh), Err(Forbidden::RefreshNeedsUser));
    }
}
