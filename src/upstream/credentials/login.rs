//! Credentials as they are sent, and for how long.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

use super::ReadError;

/// How long what has no end is believed before its source is read again (as long as ECR keeps the
/// secrets of its pull-through cache).
const BELIEVED_FOR: Duration = Duration::from_secs(5 * 60);
/// Of a life with an end, as much is used before the next is asked for.
const USED_PART: f64 = 0.8;

/// What ends sooner is used for so long all the same: a clock that goes wrong must not have the source
/// asked at every request.
const SHORTEST_LIFE: Duration = Duration::from_secs(60);

/// A name and password as a header.
pub(in super::super) struct Login {
    /// `Basic …`.
    pub(in super::super) header: HeaderValue,
    /// When the source is read again.
    pub(super) renew_at: SystemTime,
    ends_at: Option<SystemTime>,
}

impl Login {
    /// One that holds until it is changed.
    ///
    /// # Errors
    /// When HTTP cannot send the name (RFC 7617 §2).
    pub(super) fn lasting(username: &str, password: &SecretString, now: SystemTime) -> Result<Self, ReadError> {
        Ok(Self { header: basic(username, password)?, renew_at: now + BELIEVED_FOR, ends_at: None })
    }

    /// One that ends. `now` is when it was asked for.
    ///
    /// # Errors
    /// When HTTP cannot send the name.
    pub(super) fn ending(username: &str, password: &SecretString, now: SystemTime, ends_at: SystemTime) -> Result<Self, ReadError> {
        let life = ends_at.duration_since(now).unwrap_or_default().max(SHORTEST_LIFE);
        Ok(Self { header: basic(username, password)?, renew_at: now + life.mul_f64(USED_PART), ends_at: Some(now + life) })
    }

    pub(super) fn holds(&self, now: SystemTime) -> bool {
        self.ends_at.is_none_or(|end| now < end)
    }
}

fn basic(username: &str, password: &SecretString) -> Result<HeaderValue, ReadError> {
    if username.is_empty() || username.contains(':') {
        return Err(ReadError::refused("the user name is empty or holds a ':', and HTTP cannot send such a name"));
    }
    let pair = SecretString::from(format!("{username}:{}", password.expose_secret()));
    let value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(pair.expose_secret())));
    let mut value = value.map_err(|_| ReadError::refused("the user name or password cannot be sent"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_of_a_life_is_used() {
        let now = SystemTime::UNIX_EPOCH;
        let at = |seconds| now + Duration::from_secs(seconds);
        let ending = Login::ending("AWS", &"token".into(), now, at(100)).unwrap();
        assert_eq!(ending.renew_at, at(80));
        assert!(ending.holds(at(99)) && !ending.holds(at(100)));
        let over = Login::ending("AWS", &"token".into(), at(500), at(100)).unwrap();
        assert!(over.holds(at(559)) && !over.holds(at(560)));
        let lasting = Login::lasting("user", &"password".into(), now).unwrap();
        assert_eq!(lasting.renew_at, at(300));
        assert!(lasting.holds(at(1_000_000)));
    }
}
