//! Whatever a client sends is answered with the right error, and never harms the next one.

use std::sync::LazyLock;

use proptest::prelude::*;
use reqwest::{Method, StatusCode};

use crate::fake_upstream::FakeUpstream;
use crate::headpond::Headpond;

const TAG: &str = "/v2/up/library/x/manifests/1";
const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
static LONG: LazyLock<String> = LazyLock::new(|| "a".repeat(300));

async fn serving() -> (FakeUpstream, Headpond) {
    let fake = FakeUpstream::start().await;
    fake.put_image("library/x", "1", &["layer".into()]);
    let server = Headpond::before(&fake).await;
    (fake, server)
}

/// Sends one request as it stands, and returns the status and the code of the answer.
async fn raw(server: &Headpond, request_line: &str, headers: &str) -> (u16, String) {
    let answer = server.exchange(format!("{request_line}\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").as_bytes()).await;
    parsed(&answer)
}

fn parsed(answer: &str) -> (u16, String) {
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let is_enveloped = head.contains("docker-distribution-api-version: registry/2.0") && status >= 400 && !body.is_empty();
    let envelope: serde_json::Value = if is_enveloped { serde_json::from_str(body).unwrap() } else { serde_json::Value::Null };
    (status, envelope["errors"][0]["code"].as_str().unwrap_or_default().to_owned())
}

async fn still_serves(server: &Headpond) {
    assert_eq!(server.get(TAG).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_name_nothing_are_told_what_is_wrong() {
    let (fake, server) = serving().await;
    let name = |name: &str| (format!("/v2/{name}/manifests/1"), 400, "NAME_INVALID");
    let tag = |tag: &str| (format!("/v2/up/library/x/manifests/{tag}"), 404, "MANIFEST_UNKNOWN");
    let digest = |digest: &str| (format!("/v2/up/library/x/blobs/{digest}"), 400, "DIGEST_INVALID");
    let nothing = |path: &str| (path.to_owned(), 404, "UNSUPPORTED");
    let table = [
        name("up/UPPER"),
        name("up/a..b"),
        name("up/-a"),
        name("up/a-"),
        name("up/a___b"),
        name("up//a"),
        name(""),
        name("up/"),
        name("up/a/../b"),
        name("up/.."),
        name("up/%2e%2e"),
        name("up/a%2Fb"),
        name("up%2fa"),
        name("up/%00"),
        name("up/%ff"),
        name("up/%zz"),
        name("up/%"),
        name("up/a%20b"),
        name("up/é"),
        name("up/%F0%9F%90%B3"),
        name("up/a\\b"),
        name("up/a:b"),
        name(&LONG),
        name(&format!("up/{}", &LONG[..253])),
        tag(".INVALID_MANIFEST_NAME"),
        tag("-x"),
        tag("a%20b"),
        tag(&LONG[..129]),
        tag("a+b"),
        tag(".."),
        tag("%2e%2e"),
        tag("a@b"),
        ("/v2/up/library/x/manifests/a%2Fb".to_owned(), 400, "NAME_INVALID"),
        ("/v2/up/library/x/manifests/%ff".to_owned(), 400, "NAME_INVALID"),
        ("/v2/up/library/x/manifests/sha256:abc".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/up/library/x/manifests/md5:d41d8cd98f00b204e9800998ecf8427e".to_owned(), 400, "DIGEST_INVALID"),
        digest("sha256:abc"),
        digest("sha256"),
        digest("latest"),
        digest(""),
        digest(&DIGEST.to_uppercase()),
        digest(&DIGEST.replace('b', "B")),
        digest(&format!("{DIGEST}0")),
        digest(&DIGEST.replace("256", "512")),
        digest("sha256:..%2e"),
        digest("sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        (format!("/v2/up/library/x/blobs/{DIGEST}"), 404, "BLOB_UNKNOWN"),
        (format!("/v2/up/library/x/blobs/{}", DIGEST.replace(':', "%3A")), 404, "BLOB_UNKNOWN"),
        nothing("/"),
        nothing("/v2x/"),
        nothing("/v2//"),
        nothing("//v2/"),
        nothing("/V2/"),
        nothing("/v1/_ping"),
        nothing("/v2/_catalog/"),
        nothing("/v2/up"),
        nothing("/v2/up/library/x/manifests/1/"),
        nothing("/v2/up/library/x/tags"),
        nothing("/v2/../../etc/passwd"),
        nothing("/../../etc/passwd"),
        nothing("/metrics"),
        ("/v2/UP/tags/list".to_owned(), 400, "NAME_INVALID"),
        ("/v2/tags/list".to_owned(), 400, "NAME_INVALID"),
        ("/v2/_catalog?last=%ff%00..&n=5&&&=".to_owned(), 200, ""),
        ("/v2/_catalog?n=%ff".to_owned(), 400, "PAGINATION_NUMBER_INVALID"),
        ("/v2/up/library/x/referrers/..".to_owned(), 400, "DIGEST_INVALID"),
        (format!("/v2/up/library/x/referrers/{DIGEST}?last=x"), 400, "DIGEST_INVALID"),
        (format!("/v2/up/library/x/referrers/{DIGEST}?artifactType=%ff%00&artifactType=x&&="), 200, ""),
        ("/v2/up/library/x/tags/list?n=-1".to_owned(), 400, "PAGINATION_NUMBER_INVALID"),
        ("/v2/up/library/x/tags/list?n=%ff&last=%00".to_owned(), 400, "PAGINATION_NUMBER_INVALID"),
        ("/v2/up/library/x/tags/list?last=%ff%00..&last=&n=5&n=x&&&=".to_owned(), 200, ""),
    ];
    for (path, status, code) in &table {
        assert_eq!(raw(&server, &format!("GET {path} HTTP/1.1"), "").await, (*status, (*code).to_owned()), "{path}");
        assert_eq!(raw(&server, &format!("HEAD {path} HTTP/1.1"), "").await, (*status, String::new()), "{path}");
    }
    still_serves(&server).await;
    let asked: Vec<String> = fake.journal().into_iter().map(|exchange| exchange.path).collect();
    assert!(asked.iter().all(|path| path.starts_with("/v2/library/x/") && !path.contains("..") && !path.contains('%')), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_that_a_path_does_not_have_are_refused() {
    let (fake, server) = serving().await;
    let blob = format!("/v2/up/library/x/blobs/{DIGEST}");
    for (method, path, status) in [
        ("PUT", TAG, 405),
        ("DELETE", TAG, 405),
        ("POST", TAG, 405),
        ("PATCH", TAG, 405),
        ("BREW", TAG, 405),
        ("get", TAG, 405),
        ("OPTIONS", TAG, 405),
        ("TRACE", TAG, 405),
        ("PUT", "/v2/UP/manifests/1", 400),
        ("DELETE", blob.as_str(), 405),
        ("POST", "/v2/", 405),
        ("POST", "/v2/up/library/x/tags/list", 405),
        ("POST", "/v2/up/library/x/blobs/uploads/", 405),
        ("GET", "/v2/up/library/x/blobs/uploads/5", 405),
        ("OPTIONS", "*", 404),
        ("CONNECT", "evil.example:443", 404),
        ("POST", "/", 404),
    ] {
        let (found, code) = raw(&server, &format!("{method} {path} HTTP/1.1"), "").await;
        assert_eq!(found, status, "{method} {path}");
        assert!(code == "UNSUPPORTED" || (status == 400 && code == "NAME_INVALID"), "{method} {path}: {code}");
    }
    let refused = server.ask(Method::from_bytes(b"BREW").unwrap(), TAG, &[]).await;
    assert_eq!(refused.header("allow"), "GET, HEAD");
    assert_eq!(fake.journal(), []);
    still_serves(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_odd_form_are_answered() {
    let (_fake, server) = serving().await;
    let huge = "h".repeat(40 * 1024);
    for (request, starts) in [
        ("GET /v2/ HTTP/1.0\r\n\r\n".to_owned(), "HTTP/1.0 200"),
        (format!("GET {TAG} HTTP/1.0\r\n\r\n"), "HTTP/1.0 200"),
        (format!("GET http://evil.example{TAG} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"), "HTTP/1.1 200"),
        (format!("GET {TAG} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"), "HTTP/1.1 200"),
        (format!("GET {TAG} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), "HTTP/1.1 200"),
        (format!("GET {TAG} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n"), "HTTP/1.1 200"),
        (format!("GET {TAG} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: */*\r\nAccept: a/b, c/d;q=x\r\nAccept: \x7f\u{e9},,;;\r\nAccept:\r\n\r\n").replace('\x7f', "~"), "HTTP/1.1 200"),
        (format!("GET {TAG} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nRange: bytes=0-1\r\nRange: bytes=2-3\r\n\r\n"), "HTTP/1.1 206"),
        (format!("GET {TAG} HTTP/1.1\r\nHost: x\r\nX-Huge: {huge}\r\n\r\n"), "HTTP/1.1 431"),
        (format!("GET /v2/{huge}/manifests/1 HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 431"),
        (format!("GET {TAG} HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(200)), "HTTP/1.1 431"),
        ("GET /v2/ HTTP/9.9\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("GET /v2/\u{e9} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_owned(), "HTTP/1.1 404"),
        ("GET  /v2/ HTTP/1.1\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("GET /v2/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("GET /v2/ HTTP/1.1\r\nno colon\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("\x16\x03\x01 TLS?\r\n\r\n".to_owned(), "HTTP/1.1 400"),
    ] {
        let answer = server.exchange(request.as_bytes()).await;
        assert!(answer.starts_with(starts), "{}: {answer}", &request[..request.len().min(200)]);
    }
    still_serves(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_blobs_that_mean_nothing_are_ignored_and_those_outside_refused() {
    let (_fake, server) = serving().await;
    let layer = headpond::oci::Digest::of(b"layer");
    server.get(TAG).await;
    for warm in [false, true] {
        for (range, status) in [
            ("bytes=5-", 416),
            ("bytes=-0", 416),
            ("bytes=99999999999999999999-", 416),
            ("bytes=a-b", 200),
            ("bytes=3-1", 200),
            ("bytes=0-0,2-3", 200),
            ("octets=0-1", 200),
            ("", 200),
            ("bytes=-99", 206),
            ("bytes=4-99999999999999999999", 206),
        ] {
            let answer = server.get_range(&Headpond::blob(&layer), range).await;
            assert_eq!(answer.status.as_u16(), status, "{range}, warm: {warm}");
            if status == 416 {
                assert_eq!((answer.code().as_str(), answer.header("content-range")), ("RANGE_INVALID", "bytes */5"), "{range}");
            } else {
                answer.body.unwrap();
            }
        }
        server.wait_for_fills().await;
    }
}

fn header() -> impl Strategy<Value = String> {
    let name =
        "Range|Accept|If-None-Match|If-Range|Cache-Control|Authorization|X-[a-z]{1,9}|Content-Length|Transfer-Encoding|OCI-Namespace";
    let value = "[ -~]{0,40}|(bytes=|Basic |no-cache|\"sha256:|,|-|[0-9]{1,25}){0,6}";
    (name, value).prop_map(|(name, value)| format!("{name}: {value}\r\n"))
}

fn path() -> impl Strategy<Value = String> {
    "(/|/v2/|/v2/up/library/x/|/v2/up/)((manifests|blobs|tags|list|uploads|1|latest|sha256:[a-f0-9]{60,66}|[!-~]{1,12}|%[0-9a-fA-F]{2}|\\.\\.)/?){0,6}(\\?[!-~]{0,30})?"
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Some hundreds of requests in all: each case sends many to one server.
    #[test]
    fn whatever_is_sent_no_server_error_comes_back(
        requests in prop::collection::vec(("GET|HEAD|PUT|[A-Z]{1,8}", path(), prop::collection::vec(header(), 0..4)), 1..25)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_fake, server) = serving().await;
            for (method, path, headers) in requests {
                let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}\r\n", headers.concat());
                let (status, _) = parsed(&server.exchange(request.as_bytes()).await);
                assert!((200..500).contains(&status), "{status} to {request:?}");
            }
            still_serves(&server).await;
        });
    }
}
