//! From an `Authorization` header and an address to a principal.
//!
//! Whoever sends credentials is judged by them: a wrong password is refused even where no password
//! would have done, else a client with a typing mistake would silently pull as somebody else.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use secrecy::{ExposeSecret, SecretSlice};
use thiserror::Error;

use super::cidr::Networks;
use super::principal::Principal;
use super::replica::{self, ReplicaCheck, RequestLine};
use super::users::{Users, UsersError};
use super::verdicts::{Busy, Verdict, Verdicts};
use crate::cluster::{ReplicaKey, SignatureError};
use crate::config::{Auth, Limits};

/// Clients disagree on whether to pad.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// Tells who asks.
pub struct Authenticator {
    /// Networks that may pull without credentials; `None` is nobody.
    anonymous: Option<Networks>,
    users: Option<Users>,
    verdicts: Verdicts,
    /// Where there are other replicas.
    replicas: Option<ReplicaCheck>,
}

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AuthenticateError {
    /// No credentials came, and this address may not pull without.
    #[error("credentials are required")]
    Required,
    /// The header is not `Basic` with a name and a password.
    #[error("the Authorization header is not of the form Basic base64(name:password)")]
    Malformed,
    /// No such user, or another password; which of them is not told.
    #[error("unknown user or wrong password")]
    Wrong,
    /// Too many passwords are being checked; the client should try again in some seconds.
    #[error("too many passwords are being checked")]
    Busy,
    /// The check itself failed; the operator's problem.
    #[error("the password could not be checked")]
    Failed,
    /// It says that it is another replica, and is not.
    #[error(transparent)]
    Replica(SignatureError),
    /// It says that it is another replica, and there are none.
    #[error("this server has no replicas: cluster.peers is not set")]
    NoReplicas,
}

impl Authenticator {
    /// Reads the users' file, if there is one. `replicas` checks requests of other replicas.
    ///
    /// # Errors
    /// When that file cannot be used.
    pub fn new(auth: &Auth, limits: &Limits, replicas: Option<ReplicaCheck>) -> Result<Self, UsersError> {
        Ok(Self {
            anonymous: auth.anonymous.as_ref().map(|anonymous| Networks::new(&anonymous.cidrs)),
            users: auth.users.as_deref().map(Users::load).transpose()?,
            verdicts: Verdicts::new(limits.users_verdict_ttl, limits.max_password_checks),
            replicas,
        })
    }

    /// Tells who asks, from the value of their `Authorization` header, their address, and what they ask.
    ///
    /// # Errors
    /// When they may not be let in.
    pub async fn authenticate(
        &self,
        authorization: Option<&[u8]>,
        client: IpAddr,
        line: RequestLine<'_>,
    ) -> Result<Principal, AuthenticateError> {
        let Some(authorization) = authorization else { return self.anonymous(client) };
        let Some(signature) = replica::credentials(authorization) else { return self.basic(authorization).await };
        let replicas = self.replicas.as_ref().ok_or(AuthenticateError::NoReplicas)?;
        replicas.check(signature, line).map(Principal::Replica).map_err(AuthenticateError::Replica)
    }

    /// The key that answers to other replicas are proven with.
    #[must_use]
    pub fn replica_key(&self) -> Option<&ReplicaKey> {
        self.replicas.as_ref().map(ReplicaCheck::key)
    }

    /// How often a password was checked by bcrypt; the rest was known.
    #[must_use]
    pub fn password_checks(&self) -> u64 {
        self.verdicts.checks()
    }

    /// The way of most requests: nothing here allocates or locks.
    fn anonymous(&self, client: IpAddr) -> Result<Principal, AuthenticateError> {
        let address = client.to_canonical();
        let allowed = self.anonymous.as_ref().is_some_and(|networks| networks.contain(address));
        if allowed { Ok(Principal::Anonymous { address }) } else { Err(AuthenticateError::Required) }
    }

    async fn basic(&self, authorization: &[u8]) -> Result<Principal, AuthenticateError> {
        let credentials = parse_basic(authorization).ok_or(AuthenticateError::Malformed)?;
        let mut parts = credentials.expose_secret().splitn(2, |b| *b == b':');
        let (Some(name), Some(password)) = (parts.next(), parts.next()) else { return Err(AuthenticateError::Malformed) };
        let name = std::str::from_utf8(name).map_err(|_| AuthenticateError::Wrong)?;
        let Some(users) = &self.users else { return Err(AuthenticateError::Wrong) };
        let (user, hash): (Option<Arc<str>>, _) = users.find(name);
        let verdict = self.verdicts.verdict(name, password, &hash).await.map_err(|Busy| AuthenticateError::Busy)?;
        match (verdict, user) {
            (Verdict::Right, Some(name)) => Ok(Principal::User { name }),
            (Verdict::Right, None) | (Verdict::Wrong, _) => Err(AuthenticateError::Wrong),
            (Verdict::Failed, _) => Err(AuthenticateError::Failed),
        }
    }
}

/// The decoded `name:password` of a `Basic` header; the scheme in any case (RFC 9110, 11.1).
fn parse_basic(authorization: &[u8]) -> Option<SecretSlice<u8>> {
    let (scheme, rest) = authorization.split_at_checked(b"Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    BASE64.decode(rest.trim_ascii()).ok().map(SecretSlice::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AnonymousPull;

    const LINE: RequestLine<'_> = RequestLine { method: "GET", path_and_query: "/v2/", host: "localhost" };
    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    /// `someone`, with the password `right:one`.
    fn authenticator(anonymous: Option<&[&str]>) -> Authenticator {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("users");
        std::fs::write(&file, format!("someone:{}\n", bcrypt::hash("right:one", 4).unwrap())).unwrap();
        let anonymous = anonymous.map(|cidrs| AnonymousPull { cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect() });
        Authenticator::new(&Auth { anonymous, users: Some(file), token_key: None }, &Limits::default(), None).unwrap()
    }

    async fn basic(authenticator: &Authenticator, credentials: &str) -> Result<Principal, AuthenticateError> {
        let header = format!("Basic {}", BASE64.encode(credentials));
        authenticator.authenticate(Some(header.as_bytes()), PEER, LINE).await
    }

    #[tokio::test]
    async fn user_is_known_by_the_password() {
        let authenticator = authenticator(None);
        let someone = Principal::User { name: "someone".into() };
        assert_eq!(basic(&authenticator, "someone:right:one").await, Ok(someone.clone()));
        let padded = BASE64.encode("someone:right:one");
        for header in [format!("basic {padded}"), format!("BASIC  {}", padded.trim_end_matches('='))] {
            assert_eq!(authenticator.authenticate(Some(header.as_bytes()), PEER, LINE).await, Ok(someone.clone()), "{header}");
        }
        assert_eq!(authenticator.password_checks(), 1);
    }

    #[tokio::test]
    async fn wrong_credentials_are_refused_even_where_none_are_needed() {
        let authenticator = authenticator(Some(&[]));
        for credentials in ["someone:wrong", "nobody:right:one", "someone:", ":"] {
            assert_eq!(basic(&authenticator, credentials).await, Err(AuthenticateError::Wrong), "{credentials}");
        }
        for header in ["", "Basic", "Basic !", "Basic c29tZW9uZQ==", "Bearer x", "Basicx"] {
            assert_eq!(
                authenticator.authenticate(Some(header.as_bytes()), PEER, LINE).await,
                Err(AuthenticateError::Malformed),
                "{header}"
            );
        }
    }

    #[tokio::test]
    async fn unknown_user_takes_a_check_like_a_known_one() {
        let authenticator = authenticator(None);
        basic(&authenticator, "nobody:x").await.unwrap_err();
        assert_eq!(authenticator.password_checks(), 1);
    }

    #[tokio::test]
    async fn anonymous_pull_is_by_network() {
        let ask =
            async |authenticator: &Authenticator, address: &str| authenticator.authenticate(None, address.parse().unwrap(), LINE).await;
        let inside = authenticator(Some(&["192.0.2.0/24"]));
        assert_eq!(ask(&inside, "192.0.2.7").await, Ok(Principal::Anonymous { address: "192.0.2.7".parse().unwrap() }));
        assert_eq!(ask(&inside, "::ffff:192.0.2.7").await, Ok(Principal::Anonymous { address: "192.0.2.7".parse().unwrap() }));
        assert_eq!(ask(&inside, "192.0.3.7").await, Err(AuthenticateError::Required));
        assert!(ask(&authenticator(Some(&[])), "2001:db8::1").await.is_ok());
        assert_eq!(ask(&authenticator(None), "192.0.2.7").await, Err(AuthenticateError::Required));
    }
}
