//! Blobs on their way in, over real sockets: followers, ranges, breaks, lies, a store that fails.

mod broken;
mod followers;
mod full;
mod leaving;
mod lies;
mod nth_fault;
mod parallel;
mod places;
mod ranges;
mod registries;
mod turns;
mod vouching;

use std::time::Duration;

use bytes::Bytes;
use headpond::oci::Digest;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Method, Response, StatusCode};

use crate::fake_upstream::{FakeUpstream, pseudo_random};
use crate::headpond::Headpond;

const MIB: usize = 1 << 20;

/// A wait that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// A client in mid-body, which compares what it gets with what it should get.
pub(crate) struct Reader {
    response: Response,
    content: Bytes,
    position: usize,
}

impl Reader {
    /// Asks for a blob of `library/x`; `range` is the value of the header, or empty.
    pub(crate) async fn open(server: &Headpond, digest: &Digest, range: &str, content: &Bytes) -> Self {
        let headers = [("range", range)];
        let headers = if range.is_empty() { &[] } else { &headers[..] };
        let path = Headpond::blob(digest);
        let answer = tokio::time::timeout(LIMIT, server.send(Method::GET, &path, headers));
        Self::of(answer.await.expect("no answer in time"), content)
    }

    /// Reads an answer, 200 or 206, to a request for `content`.
    pub(crate) fn of(response: Response, content: &Bytes) -> Self {
        let position = match response.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => {
                let text = response.headers()[CONTENT_RANGE].to_str().unwrap();
                text.strip_prefix("bytes ").unwrap().split('-').next().unwrap().parse().unwrap()
            }
            status => panic!("answered {status}"),
        };
        Self { response, content: content.clone(), position }
    }

    /// One piece; `Ok(false)` at the end, `Err` when the body broke off.
    pub(crate) async fn piece(&mut self) -> Result<bool, ()> {
        let piece = tokio::time::timeout(LIMIT, self.response.chunk()).await.expect("no byte in time");
        let Some(piece) = piece.map_err(|_| ())? else { return Ok(false) };
        let expected = self.content.get(self.position..self.position + piece.len()).expect("more bytes than there are");
        assert!(piece == expected, "wrong bytes at {}", self.position);
        self.position += piece.len();
        Ok(true)
    }

    /// Reads until `position`, or further.
    pub(crate) async fn read_to(&mut self, position: usize) {
        while self.position < position {
            assert_eq!(self.piece().await, Ok(true), "the body ended at {}", self.position);
        }
    }

    /// Reads to the end. Where it stood then; `Err` if the body broke off there.
    pub(crate) async fn rest(&mut self) -> Result<usize, usize> {
        loop {
            match self.piece().await {
                Ok(true) => {}
                Ok(false) => return Ok(self.position),
                Err(()) => return Err(self.position),
            }
        }
    }
}

/// Asserts that a number of bytes is at most so many percent of a length.
#[track_caller]
#[allow(clippy::print_stderr)] // shown with --no-capture
pub(crate) fn assert_at_most(bytes: u64, percent: u64, length: usize) {
    eprintln!("{bytes} of {length} bytes: {:.3}", bytes as f64 / length as f64);
    assert!(bytes <= length as u64 * percent / 100, "{bytes} bytes are more than {percent} % of {length}");
}

/// An upstream with one blob.
pub(crate) async fn fake_with_blob(seed: u64, length: usize) -> (FakeUpstream, Digest, Bytes) {
    let fake = FakeUpstream::start().await;
    let content = pseudo_random(seed, length);
    let digest = fake.put_blob(content.clone());
    (fake, digest, content)
}

/// An upstream with an image of one layer, and a server that has pulled its manifest: so it knows
/// the layer's length.
pub(crate) async fn server_with_manifest(seed: u64, length: usize, top: &str) -> (FakeUpstream, Headpond, Digest, Bytes) {
    let fake = FakeUpstream::start().await;
    let content = pseudo_random(seed, length);
    let image = fake.put_image("library/x", "1", std::slice::from_ref(&content));
    let server = Headpond::with(&fake, "", top).await;
    assert_eq!(server.get("/v2/up/library/x/manifests/1").await.status, StatusCode::OK);
    // It is stored behind the answer.
    while server.stored_blobs().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    (fake, server, image.layers[0], content)
}

/// Asserts that every committed file is what its name says.
#[track_caller]
pub(crate) fn assert_store_is_right(server: &Headpond) {
    for name in server.stored_blobs() {
        let path = server.directory.path().join("headpond-data/blobs/sha256").join(name.get(..2).unwrap()).join(&name);
        assert_eq!(Digest::of(&std::fs::read(path).unwrap()).hex(), name);
    }
}
