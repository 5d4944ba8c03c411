//! How a replica proves itself, and its answers.
//!
//! Both ends have the key. A request carries a MAC over what it asks for, when, of whom, and through
//! which source; its answer one over the request's nonce, the status and the headers that are
//! believed. Nothing is kept from who can read the network: a network policy does that.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::digest::Key;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use uuid::Uuid;

use crate::clock::unix_seconds;

/// The scheme of `Authorization`.
pub const SCHEME: &str = "Headpond-Replica ";
/// The proof of an answer.
pub const PROOF_HEADER: HeaderName = HeaderName::from_static("headpond-replica-proof");
/// What the upstream of the replica that answers refused: a kind and, percent-encoded, its words.
pub const ERROR_HEADER: HeaderName = HeaderName::from_static("headpond-replica-error");
/// When upstream last confirmed a tag, in unix seconds.
pub const VALIDATED_HEADER: HeaderName = HeaderName::from_static("headpond-replica-validated");
/// Why an answer may be out of date.
pub const STALE_HEADER: HeaderName = HeaderName::from_static("headpond-replica-stale");

/// On a request: no client of the replica waits for the answer. Like `Range` and `Cache-Control` it is not signed. Who can change
/// these on the way can have an answer come later, or not, or with other bytes than were asked for, which are refused; and a tag
/// checked when nobody wants it, or answered as the rule's freshness allows where a client wants it checked now.
pub const UNATTENDED_HEADER: HeaderName = HeaderName::from_static("headpond-replica-unattended");

/// How far the clocks of two replicas may be apart, and how long a request may be under way.
const MAX_AGE: Duration = Duration::from_secs(60);
/// What the key for this purpose is derived with; others get others.
const PURPOSE: &str = "headpond requests between replicas 1";
/// What is signed, so that neither kind stands for the other.
const REQUEST: &str = "request";
const ANSWER: &str = "answer";

/// The headers of an answer that are believed, and so are under the proof.
const PROVEN_HEADERS: [HeaderName; 9] = [
    http::header::CONTENT_TYPE,
    http::header::CONTENT_LENGTH,
    http::header::CONTENT_RANGE,
    http::header::CONTENT_ENCODING,
    http::header::RETRY_AFTER,
    HeaderName::from_static("docker-content-digest"),
    ERROR_HEADER,
    VALIDATED_HEADER,
    STALE_HEADER,
];

/// A request line, and whom it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// E.g. `GET`.
    pub method: &'a str,
    /// Path and query, as sent.
    pub path_and_query: &'a str,
    /// The replica that is to answer.
    pub replica: SocketAddr,
}

/// A signature on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The value of `Authorization`.
    pub authorization: String,
    /// Which the proof of the answer has to be about.
    pub nonce: String,
}

/// A request that another replica has made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReplicaRequest {
    /// Which the answer's proof is about.
    pub nonce: String,
    /// The identifier of the upstream and credential that the content has to come through.
    pub source: String,
}

/// Why a request is not one of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// Not a time, a nonce, a source and a MAC.
    #[error("the signature of a replica is not of the form time,nonce,source,mac")]
    Malformed,
    /// Made with another key, for another request, or for another replica.
    #[error("the signature of a replica does not hold: do all have the same auth.token_key?")]
    Wrong,
    /// Made long ago, or in the future.
    #[error("the signature of a replica has expired: are the clocks right?")]
    Expired,
}

/// The key for requests between replicas; cheap to clone.
#[derive(Clone)]
pub struct ReplicaKey {
    keyed: Hmac<Sha256>,
}

impl std::fmt::Debug for ReplicaKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReplicaKey(…)")
    }
}

impl ReplicaKey {
    /// Derived from the key that all replicas share, so that what is signed for one purpose means
    /// nothing for another.
    #[must_use]
    pub fn derive(shared: &str) -> Self {
        let mut mac = keyed(&Sha256::digest(shared));
        mac.update(PURPOSE.as_bytes());
        Self { keyed: keyed(&mac.finalize().into_bytes()) }
    }

    /// Signs a request for content that comes through `source`.
    #[must_use]
    pub fn sign(&self, asked: &Asked<'_>, source: &str, now: SystemTime) -> Signed {
        let (time, nonce) = (unix_seconds(now).to_string(), Uuid::new_v4().simple().to_string());
        let mac = BASE64_URL_SAFE_NO_PAD.encode(self.request(asked, &time, &nonce, source).finalize().into_bytes());
        Signed { authorization: format!("{SCHEME}{time},{nonce},{source},{mac}"), nonce }
    }

    /// Checks the value of an `Authorization` header, without the scheme.
    ///
    /// # Errors
    /// When it does not hold, in constant time as far as the MAC is concerned.
    pub fn check(&self, credentials: &str, asked: &Asked<'_>, now: SystemTime) -> Result<ReplicaRequest, SignatureError> {
        let mut parts = credentials.trim().split(',');
        let (Some(time), Some(nonce), Some(source), Some(mac), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(SignatureError::Malformed);
        };
        let signed_at: u64 = time.parse().map_err(|_| SignatureError::Malformed)?;
        let mac = BASE64_URL_SAFE_NO_PAD.decode(mac).map_err(|_| SignatureError::Malformed)?;
        self.request(asked, time, nonce, source).verify_slice(&mac).map_err(|_| SignatureError::Wrong)?;
        if unix_seconds(now).abs_diff(signed_at) > MAX_AGE.as_secs() {
            return Err(SignatureError::Expired);
        }
        Ok(ReplicaRequest { nonce: nonce.to_owned(), source: source.to_owned() })
    }

    /// The proof of an answer.
    #[must_use]
    pub fn prove(&self, nonce: &str, status: u16, headers: &HeaderMap) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.answer(nonce, status, headers).finalize().into_bytes())
    }

    /// Whether the proof of an answer holds; in constant time.
    #[must_use]
    pub fn is_proven(&self, nonce: &str, status: u16, headers: &HeaderMap) -> bool {
        let proof = headers.get(PROOF_HEADER).and_then(|proof| BASE64_URL_SAFE_NO_PAD.decode(proof).ok());
        proof.is_some_and(|proof| self.answer(nonce, status, headers).verify_slice(&proof).is_ok())
    }

    fn request(&self, asked: &Asked<'_>, time: &str, nonce: &str, source: &str) -> Hmac<Sha256> {
        let replica = asked.replica.to_string();
        self.over(&[REQUEST, asked.method, asked.path_and_query, &replica, time, nonce, source].map(str::as_bytes))
    }

    fn answer(&self, nonce: &str, status: u16, headers: &HeaderMap) -> Hmac<Sha256> {
        let mut mac = self.over(&[ANSWER, nonce, &status.to_string()].map(str::as_bytes));
        for name in PROVEN_HEADERS {
            // A header that came twice is taken by its first value, here as elsewhere.
            match headers.get(name) {
                Some(value) => add(&mut mac, value.as_bytes()),
                None => mac.update(&u64::MAX.to_be_bytes()),
            }
        }
        mac
    }

    fn over(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        parts.iter().for_each(|part| add(&mut mac, part));
        mac
    }
}

/// Each part with its length before it, so that no two lists of parts are signed alike.
fn add(mac: &mut Hmac<Sha256>, part: &[u8]) {
    mac.update(&(part.len() as u64).to_be_bytes());
    mac.update(part);
}

fn keyed(secret: &[u8]) -> Hmac<Sha256> {
    // A key shorter than a block is filled up with zeros (RFC 2104 §2).
    let mut key = Key::<Hmac<Sha256>>::default();
    key.iter_mut().zip(secret).for_each(|(to, from)| *to = *from);
    Hmac::new(&key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SOURCE: &str = "0123456789abcdef";

    fn key() -> ReplicaKey {
        ReplicaKey::derive("a key that all replicas of the test share")
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn asked() -> Asked<'static> {
        Asked { method: "GET", path_and_query: "/v2/a/manifests/1?x=y", replica: SocketAddr::from(([10, 0, 0, 1], 5000)) }
    }

    fn checked(by: &ReplicaKey, asked: &Asked<'_>, now: SystemTime, authorization: &str) -> Result<ReplicaRequest, SignatureError> {
        by.check(authorization.strip_prefix(SCHEME).unwrap(), asked, now)
    }

    #[test]
    fn signature_holds_for_its_request_alone() {
        let Signed { authorization, nonce } = key().sign(&asked(), SOURCE, now());
        let request = checked(&key(), &asked(), now(), &authorization).unwrap();
        assert_eq!(request, ReplicaRequest { nonce, source: SOURCE.to_owned() });
        for other in [
            Asked { method: "HEAD", ..asked() },
            Asked { path_and_query: "/v2/a/manifests/1", ..asked() },
            Asked { replica: SocketAddr::from(([10, 0, 0, 2], 5000)), ..asked() },
            Asked { replica: SocketAddr::from(([10, 0, 0, 1], 5001)), ..asked() },
        ] {
            assert_eq!(checked(&key(), &other, now(), &authorization), Err(SignatureError::Wrong), "{other:?}");
        }
        let forged = authorization.replace(SOURCE, "fedcba9876543210");
        assert_eq!(checked(&key(), &asked(), now(), &forged), Err(SignatureError::Wrong));
        assert_eq!(checked(&ReplicaKey::derive("another"), &asked(), now(), &authorization), Err(SignatureError::Wrong));
    }

    #[test]
    fn signature_holds_for_a_minute_in_both_directions() {
        let Signed { authorization, .. } = key().sign(&asked(), SOURCE, now());
        for (seconds, holds) in [(60, true), (61, false)] {
            let apart = Duration::from_secs(seconds);
            assert_eq!(checked(&key(), &asked(), now() + apart, &authorization).is_ok(), holds);
            assert_eq!(checked(&key(), &asked(), now() - apart, &authorization).is_ok(), holds);
        }
    }

    #[test]
    fn proof_holds_for_its_answer_alone() {
        let mut headers = HeaderMap::new();
        headers.insert("content-length", "5".parse().unwrap());
        let proof = key().prove("nonce", 200, &headers);
        headers.insert(PROOF_HEADER, proof.parse().unwrap());
        assert!(key().is_proven("nonce", 200, &headers));
        assert!(!key().is_proven("other", 200, &headers));
        assert!(!key().is_proven("nonce", 404, &headers));
        assert!(!ReplicaKey::derive("another").is_proven("nonce", 200, &headers));
        headers.insert("date", "now".parse().unwrap());
        assert!(key().is_proven("nonce", 200, &headers), "what is not believed may change on the way");
        headers.insert(STALE_HEADER, "".parse().unwrap());
        assert!(!key().is_proven("nonce", 200, &headers));
        headers.remove(STALE_HEADER);
        headers.insert("content-length", "6".parse().unwrap());
        assert!(!key().is_proven("nonce", 200, &headers));
    }

    #[test]
    fn key_does_not_show_itself() {
        assert_eq!(format!("{:?}", key()), "ReplicaKey(…)");
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in "\\PC*|[0-9a-zA-Z,_-]{0,200}") {
            prop_assert!(key().check(&text, &asked(), now()).is_err());
        }
    }
}
