//! What was asked and sent, and waiting for it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use headpond::oci::Digest;
use hyper::body::Incoming;
use hyper::{Request, StatusCode, Version, header};
use tokio::sync::watch;

/// A wait that takes longer has failed.
const WAIT_LIMIT: Duration = Duration::from_secs(20);

/// One request and the status it got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exchange {
    /// At the second port.
    pub(crate) at_cdn: bool,
    /// Over HTTP/2.
    pub(crate) is_http2: bool,
    /// E.g. `GET`.
    pub(crate) method: String,
    /// Without the query.
    pub(crate) path: String,
    /// Without the '?'.
    pub(crate) query: String,
    /// `Range`.
    pub(crate) range: Option<String>,
    /// `Authorization`.
    pub(crate) authorization: Option<String>,
    /// `Accept`.
    pub(crate) accept: Option<String>,
    /// `Accept-Encoding`.
    pub(crate) accept_encoding: Option<String>,
    /// `User-Agent`.
    pub(crate) user_agent: Option<String>,
    /// The client showed a certificate.
    pub(crate) has_certificate: bool,
    /// 0 until it is answered.
    pub(crate) status: u16,
}

/// What the connection of a request tells of its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HasCertificate(pub(super) bool);

pub(super) struct Journal {
    exchanges: Mutex<Vec<Exchange>>,
    sent: Mutex<HashMap<Digest, u64>>,
    /// Changes with every entry and every piece sent.
    changed: watch::Sender<()>,
}

impl Default for Journal {
    fn default() -> Self {
        Self { exchanges: Mutex::default(), sent: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl Journal {
    /// Enters a request; the number is for [`Self::answered`].
    pub(super) fn asked(&self, request: &Request<Incoming>, at_cdn: bool) -> usize {
        let header =
            |name: header::HeaderName| request.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let mut exchanges = self.exchanges.lock().unwrap();
        exchanges.push(Exchange {
            at_cdn,
            is_http2: request.version() == Version::HTTP_2,
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            range: header(header::RANGE),
            authorization: header(header::AUTHORIZATION),
            accept: header(header::ACCEPT),
            accept_encoding: header(header::ACCEPT_ENCODING),
            user_agent: header(header::USER_AGENT),
            has_certificate: request.extensions().get() == Some(&HasCertificate(true)),
            status: 0,
        });
        self.changed.send_replace(());
        exchanges.len() - 1
    }

    pub(super) fn answered(&self, number: usize, status: StatusCode) {
        if let Some(exchange) = self.exchanges.lock().unwrap().get_mut(number) {
            exchange.status = status.as_u16();
        }
        self.changed.send_replace(());
    }

    pub(super) fn sent(&self, digest: &Digest, bytes: usize) {
        *self.sent.lock().unwrap().entry(*digest).or_default() += bytes as u64;
        self.changed.send_replace(());
    }

    pub(super) fn exchanges(&self) -> Vec<Exchange> {
        self.exchanges.lock().unwrap().clone()
    }

    pub(super) fn bytes_sent(&self, digest: &Digest) -> u64 {
        self.sent.lock().unwrap().get(digest).copied().unwrap_or(0)
    }

    pub(super) fn clear(&self) {
        self.exchanges.lock().unwrap().clear();
        self.sent.lock().unwrap().clear();
    }

    pub(super) async fn wait_until(&self, what: &str, holds: impl Fn() -> bool) {
        let mut changed = self.changed.subscribe();
        let wait = async {
            while !holds() {
                changed.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(WAIT_LIMIT, wait).await.is_err() {
            panic!("waited in vain for {what}; the journal: {:#?}", self.exchanges());
        }
    }
}
