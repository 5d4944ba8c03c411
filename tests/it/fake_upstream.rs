//! A small real registry on a loopback port, with fault knobs and a journal.
//!
//! ```ignore
//! let fake = FakeUpstream::start().await;
//! let image = fake.put_image("library/x", "1", &[pseudo_random(1, 64 << 20)]);
//! fake.require_bearer();                                        // anonymous tokens from its own /token
//! fake.redirect_blobs_to_cdn();                                 // a second port that refuses Authorization
//! fake.on(On::BlobGet).once(Fault::CutBodyAt(45 << 20));        // times(n, …) and always(…) too
//! fake.hold_blobs_at(32 << 20);                                 // until fake.release()
//! fake.wait_until_blob_bytes_sent(&image.layers[0], 32 << 20).await;
//! assert_eq!(fake.requests_matching("GET", "/blobs/"), 1);
//! ```
//! Positions in bodies are positions in the whole blob, whatever range is asked for; nothing at or
//! past them is sent. Bytes count as sent when they are handed to the connection, whose buffers are
//! small: what is counted is within some 200 KiB of what was received.

#![allow(dead_code)] // each test uses some of it
#![allow(clippy::wildcard_enum_match_arm)] // each place looks at some faults

mod auth;
mod body;
mod content;
mod faults;
mod journal;
mod listener;
mod serve;
mod tls;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headpond::clock::Clock;
use headpond::oci::Digest;
use tokio::sync::watch;

pub(crate) use self::content::{Image, pseudo_random};
pub(crate) use self::faults::{Fault, On, Plan};
pub(crate) use self::journal::Exchange;

use self::auth::{Auth, TokenForm};
use self::content::Content;
use self::faults::Faults;
use self::journal::Journal;
use self::listener::Listener;
use self::tls::{Clients, Tls};

/// What both ports share.
struct State {
    content: Mutex<Content>,
    faults: Mutex<Faults>,
    auth: Mutex<Auth>,
    journal: Journal,
    /// Bodies are held where a [`Fault::HoldBodyAt`] says while this is false.
    released: watch::Sender<bool>,
    clock: Clock,
    tls: Option<Tls>,
    registry: SocketAddr,
    cdn: SocketAddr,
}

impl State {
    fn url(&self, address: SocketAddr) -> String {
        format!("{}://{address}", scheme(self.tls.as_ref()))
    }
}

fn scheme(tls: Option<&Tls>) -> &'static str {
    if tls.is_some() { "https" } else { "http" }
}

/// The fake. Dropping it closes its ports and connections.
pub(crate) struct FakeUpstream {
    state: Arc<State>,
    registry: Listener,
    cdn: Listener,
}

impl FakeUpstream {
    /// Starts an empty registry that asks for no credentials.
    pub(crate) async fn start() -> Self {
        Self::start_with(None)
    }

    /// The same over TLS, HTTP/2 where the client offers it, with a certificate of [`Self::ca_pem`].
    pub(crate) async fn start_tls() -> Self {
        Self::start_with(Some(Tls::new(Clients::Anybody)))
    }

    /// The same for clients with [`Self::client_pem`] alone; the second port only asks for it.
    pub(crate) async fn start_for_known_clients() -> Self {
        Self::start_with(Some(Tls::new(Clients::Known)))
    }

    fn start_with(tls: Option<Tls>) -> Self {
        let (registry_socket, cdn_socket) = (listener::bind(), listener::bind());
        let (registry, cdn) = (registry_socket.local_addr().unwrap(), cdn_socket.local_addr().unwrap());
        let state = Arc::new(State {
            content: Mutex::default(),
            faults: Mutex::default(),
            auth: Mutex::new(Auth::none(format!("{}://{registry}/token", scheme(tls.as_ref())))),
            journal: Journal::default(),
            released: watch::Sender::new(false),
            clock: Clock::system(),
            tls,
            registry,
            cdn,
        });
        let fake = Self { registry: Listener::new(serve::Role::Registry), cdn: Listener::new(serve::Role::Cdn), state };
        fake.registry.run(registry_socket, &fake.state);
        fake.cdn.run(cdn_socket, &fake.state);
        fake
    }

    /// `http://127.0.0.1:PORT`, or `https`.
    pub(crate) fn url(&self) -> String {
        self.state.url(self.state.registry)
    }

    /// The certificate authority of its certificate.
    pub(crate) fn ca_pem(&self) -> Vec<u8> {
        self.state.tls.as_ref().unwrap().ca_pem.clone().into_bytes()
    }

    /// A client's certificate and key.
    pub(crate) fn client_pem(&self) -> String {
        self.state.tls.as_ref().unwrap().client_pem.clone()
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn host(&self) -> String {
        self.state.registry.to_string()
    }

    /// The base URL of the second port, to which blobs may be redirected.
    pub(crate) fn cdn_url(&self) -> String {
        self.state.url(self.state.cdn)
    }

    /// The clock by which tokens expire. Give it to what is under test, and move both at once.
    pub(crate) fn clock(&self) -> Clock {
        self.state.clock.clone()
    }

    /// Closes both ports and every connection: connections are refused until [`Self::restart`].
    pub(crate) async fn stop(&self) {
        self.registry.stop(self.state.registry).await;
        self.cdn.stop(self.state.cdn).await;
    }

    /// Listens on the same ports again, with the same content.
    pub(crate) fn restart(&self) {
        self.registry.restart(&self.state);
        self.cdn.restart(&self.state);
    }

    // Content

    /// Adds a blob. Blobs are served through every repository.
    pub(crate) fn put_blob(&self, bytes: impl Into<bytes::Bytes>) -> Digest {
        self.state.content.lock().unwrap().put_blob(bytes.into())
    }

    /// Adds a manifest and points the tag at it.
    pub(crate) fn put_manifest(&self, repository: &str, tag: &str, bytes: impl Into<bytes::Bytes>, media_type: &str) -> Digest {
        self.state.content.lock().unwrap().put_manifest(repository, tag, bytes.into(), media_type)
    }

    /// Adds an image of these layers: blobs, a config, an OCI manifest, the tag.
    pub(crate) fn put_image(&self, repository: &str, tag: &str, layers: &[bytes::Bytes]) -> Image {
        self.state.content.lock().unwrap().put_image(repository, tag, layers)
    }

    /// Points a tag at a manifest that is there, or will be.
    pub(crate) fn move_tag(&self, repository: &str, tag: &str, digest: &Digest) {
        self.state.content.lock().unwrap().move_tag(repository, tag, *digest);
    }

    /// Removes a tag, or a manifest, or a blob: whatever the reference names.
    pub(crate) fn remove(&self, repository: &str, reference: &str) {
        self.state.content.lock().unwrap().remove(repository, reference);
    }

    /// Lists at most so many tags on a page.
    pub(crate) fn tags_per_page(&self, count: usize) {
        self.state.content.lock().unwrap().tags_per_page = count;
    }

    /// Adds an artifact of this type about `subject`, with the annotation `note`.
    pub(crate) fn put_referrer(&self, repository: &str, subject: &Digest, artifact_type: &str, note: &str) -> Digest {
        self.state.content.lock().unwrap().put_referrer(repository, subject, artifact_type, note)
    }

    /// Lists at most so many referrers on a page; `None`: does not know the path.
    pub(crate) fn referrers_per_page(&self, count: Option<usize>) {
        self.state.content.lock().unwrap().referrers_per_page = count;
    }

    // Credentials

    /// Asks for this name and password on every request.
    pub(crate) fn require_basic(&self, username: &str, password: &str) {
        self.state.auth.lock().unwrap().require_basic(username, password);
    }

    /// Asks for a token, which anybody gets.
    pub(crate) fn require_bearer(&self) {
        self.state.auth.lock().unwrap().require_bearer(None);
    }

    /// Asks for a token, which this name and password get.
    pub(crate) fn require_bearer_of(&self, username: &str, password: &str) {
        self.state.auth.lock().unwrap().require_bearer(Some((username, password)));
    }

    /// Asks for nothing.
    pub(crate) fn require_nothing(&self) {
        self.state.auth.lock().unwrap().require_nothing();
    }

    /// How long tokens live from now on, by [`Self::clock`]; 300 s at first.
    pub(crate) fn token_lifetime(&self, lifetime: Duration) {
        self.state.auth.lock().unwrap().lifetime = lifetime;
    }

    /// Forgets every token issued.
    pub(crate) fn revoke_tokens(&self) {
        self.state.auth.lock().unwrap().revoke();
    }

    /// Answers tokens in this field, and says how long they live or not.
    pub(crate) fn token_form(&self, field: &'static str, tells_life: bool) {
        self.state.auth.lock().unwrap().form = TokenForm { field, tells_life };
    }

    /// Asks for this scope, whatever the repository.
    pub(crate) fn scope(&self, scope: &str) {
        self.state.auth.lock().unwrap().scope = Some(scope.to_owned());
    }

    /// Names another realm than its own in the challenge.
    pub(crate) fn realm(&self, url: &str) {
        self.state.auth.lock().unwrap().realm = url.to_owned();
    }

    /// Sends these `WWW-Authenticate` lines instead of the usual one; `{realm}` and `{scope}` are filled in.
    pub(crate) fn challenges(&self, lines: &[&str]) {
        self.state.auth.lock().unwrap().lines = Some(lines.iter().map(|line| (*line).to_owned()).collect());
    }

    // Faults

    /// Plans a fault for requests of a kind.
    pub(crate) fn on(&self, on: On) -> Plan<'_> {
        Plan::new(&self.state.faults, on)
    }

    /// Drops every planned fault, and releases what is held.
    pub(crate) fn clear_faults(&self) {
        self.state.faults.lock().unwrap().clear();
        self.release();
    }

    /// Redirects blobs to the second port, which answers 400 to any Authorization.
    pub(crate) fn redirect_blobs_to_cdn(&self) {
        self.state.faults.lock().unwrap().redirect_blobs = true;
    }

    /// Holds every blob body at this position until [`Self::release`].
    pub(crate) fn hold_blobs_at(&self, position: u64) {
        self.state.released.send_replace(false);
        self.on(On::BlobGet).always(Fault::HoldBodyAt(position));
    }

    /// Lets held heads and bodies go on, for ever.
    pub(crate) fn release(&self) {
        self.state.released.send_replace(true);
    }

    // Journal

    /// Every request so far, in order of arrival.
    pub(crate) fn journal(&self) -> Vec<Exchange> {
        self.state.journal.exchanges()
    }

    /// Forgets the requests and byte counts so far.
    pub(crate) fn clear_journal(&self) {
        self.state.journal.clear();
    }

    /// How many requests had this method, and this text in their path.
    pub(crate) fn requests_matching(&self, method: &str, path_part: &str) -> usize {
        self.journal().iter().filter(|exchange| exchange.method == method && exchange.path.contains(path_part)).count()
    }

    /// How many tokens were asked for.
    pub(crate) fn token_requests(&self) -> usize {
        self.requests_matching("GET", "/token")
    }

    /// How many HEADs of manifests there were.
    pub(crate) fn manifest_heads(&self) -> usize {
        self.requests_matching("HEAD", "/manifests/")
    }

    /// How many GETs of manifests there were.
    pub(crate) fn manifest_gets(&self) -> usize {
        self.requests_matching("GET", "/manifests/")
    }

    /// Bytes of this blob (or manifest) sent in bodies, from both ports.
    pub(crate) fn blob_bytes_sent(&self, digest: &Digest) -> u64 {
        self.state.journal.bytes_sent(digest)
    }

    /// Waits until there were at least `count` requests with this method and text in the path.
    pub(crate) async fn wait_until_requests(&self, method: &str, path_part: &str, count: usize) {
        let what = format!("{count} {method} requests of {path_part}");
        self.state.journal.wait_until(&what, || self.requests_matching(method, path_part) >= count).await;
    }

    /// Waits until at least `bytes` of this blob were sent.
    pub(crate) async fn wait_until_blob_bytes_sent(&self, digest: &Digest, bytes: u64) {
        let what = format!("{bytes} bytes of {digest}");
        self.state.journal.wait_until(&what, || self.blob_bytes_sent(digest) >= bytes).await;
    }
}
