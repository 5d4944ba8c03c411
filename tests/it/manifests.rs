//! Manifests as they are served: their bytes and types, conditions and ranges, and what is refused.

use bytes::Bytes;
use headpond::oci::{Digest, MediaType};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::fake_upstream::{FakeUpstream, Fault, On};
use crate::headpond::Headpond;

const TAG: &str = "/v2/up/library/x/manifests/1";

fn descriptor(media_type: &str, content: &[u8]) -> serde_json::Value {
    json!({"mediaType": media_type, "size": content.len(), "digest": Digest::of(content)})
}

/// Every kind of manifest, spelled as no serializer would: its bytes must come out as they went in.
fn kinds() -> Vec<(&'static str, String)> {
    let config = descriptor("application/vnd.docker.container.image.v1+json", b"config");
    let layer = descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", b"layer");
    let helm = descriptor("application/vnd.cncf.helm.config.v1+json", b"chart");
    let child = descriptor(MediaType::OCI_MANIFEST, b"child");
    let spelled = |value: serde_json::Value| format!(" {}\n", serde_json::to_string_pretty(&value).unwrap().replace("\": ", "\"  :"));
    vec![
        (
            MediaType::DOCKER_MANIFEST,
            spelled(json!({"schemaVersion": 2, "mediaType": MediaType::DOCKER_MANIFEST, "config": config, "layers": [layer]})),
        ),
        (MediaType::DOCKER_LIST, spelled(json!({"schemaVersion": 2, "mediaType": MediaType::DOCKER_LIST, "manifests": [child]}))),
        (
            MediaType::OCI_MANIFEST,
            spelled(json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "config": config, "layers": []})),
        ),
        (MediaType::OCI_INDEX, spelled(json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": [child]}))),
        (MediaType::OCI_MANIFEST, spelled(json!({"schemaVersion": 2, "config": config, "layers": [layer], "x": "no mediaType"}))),
        (MediaType::OCI_MANIFEST, spelled(json!({"schemaVersion": 2, "config": helm, "layers": [layer], "annotations": {"é": "ü"}}))),
        (
            MediaType::OCI_MANIFEST,
            spelled(
                json!({"schemaVersion": 2, "artifactType": "application/x.sbom", "config": layer, "layers": [layer], "subject": child}),
            ),
        ),
        (
            "application/vnd.oci.artifact.manifest.v1+json",
            spelled(json!({"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": [layer]})),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_manifest_keeps_its_bytes_and_media_type() {
    let fake = FakeUpstream::start().await;
    let server = Headpond::before(&fake).await;
    for (n, (media_type, bytes)) in kinds().into_iter().enumerate() {
        let digest = fake.put_manifest("library/x", &format!("t{n}"), bytes.clone(), media_type);
        for reference in [format!("t{n}"), digest.to_string()] {
            let path = format!("/v2/up/library/x/manifests/{reference}");
            for round in 0..2 {
                let head = server.head(&path).await;
                let got = server.get(&path).await;
                assert_eq!(got.bytes(), &Bytes::from(bytes.clone()));
                assert_eq!((got.header("content-type"), got.header("docker-content-digest")), (media_type, digest.to_string().as_str()));
                for name in ["content-type", "content-length", "docker-content-digest", "etag", "accept-ranges", "cache-control"] {
                    assert_eq!(head.header(name), got.header(name), "{name} of {path} in round {round}");
                }
                assert_eq!(got.header("content-length"), bytes.len().to_string());
                assert_eq!((got.header("etag"), got.header("accept-ranges")), (format!("\"{digest}\"").as_str(), "bytes"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_tells_as_much_as_get_where_upstream_tells_less() {
    for fault in [
        Fault::Status(405),
        Fault::WithoutHeader("content-type"),
        Fault::WithoutHeader("docker-content-digest"),
        Fault::WithoutHeader("content-length"),
        Fault::Header("content-type", "text/plain".to_owned()),
    ] {
        let fake = FakeUpstream::start().await;
        let image = fake.put_image("library/x", "1", &[]);
        fake.on(On::ManifestHead).always(fault.clone());
        let server = Headpond::before(&fake).await;
        let head = server.head(TAG).await;
        assert_eq!((head.status, head.header("content-type")), (StatusCode::OK, MediaType::OCI_MANIFEST), "{fault:?}");
        assert_eq!(
            (head.header("content-length"), head.header("docker-content-digest")),
            (image.manifest.len().to_string().as_str(), image.digest.to_string().as_str())
        );
        assert_eq!(server.get(TAG).await.digest(), image.digest);
        assert_eq!((fake.manifest_heads(), fake.manifest_gets()), (1, 1), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_manifests_are_answered() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let server = Headpond::before(&fake).await;
    let length = image.manifest.len();
    for (range, first, last) in
        [("bytes=0-", 0, length - 1), ("bytes=5-9", 5, 9), ("bytes=-7", length - 7, length - 1), ("bytes=0-99999", 0, length - 1)]
    {
        let part = server.get_range(TAG, range).await;
        assert_eq!((part.status, part.bytes()), (StatusCode::PARTIAL_CONTENT, &image.manifest.slice(first..=last)), "{range}");
        assert_eq!(part.header("content-range"), format!("bytes {first}-{last}/{length}"));
        assert_eq!(
            (part.header("content-length"), part.header("content-type")),
            ((last + 1 - first).to_string().as_str(), MediaType::OCI_MANIFEST)
        );
        assert_eq!(part.header("docker-content-digest"), image.digest.to_string());
    }
    let outside = server.get_range(TAG, "bytes=99999-").await;
    assert_eq!((outside.status, outside.code().as_str()), (StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID"));
    assert_eq!(outside.header("content-range"), format!("bytes */{length}"));
    for ignored in ["bytes=a-b", "bytes=9-5", "bytes=0-1,3-4", "lines=0-1", "bytes"] {
        let whole = server.get_range(TAG, ignored).await;
        assert_eq!((whole.status, whole.digest()), (StatusCode::OK, image.digest), "{ignored}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_are_kept() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &["layer".into()]);
    let server = Headpond::before(&fake).await;
    let layer = Headpond::blob(&image.layers[0]);
    for (path, digest) in [(TAG, image.digest), (layer.as_str(), image.layers[0])] {
        let etag = format!("\"{digest}\"");
        for method in [Method::GET, Method::HEAD] {
            for theirs in [etag.clone(), format!("\"x\", W/{etag}"), "*".to_owned()] {
                let known = server.ask(method.clone(), path, &[("if-none-match", &theirs)]).await;
                assert_eq!(
                    (known.status, known.bytes().len(), known.header("etag")),
                    (StatusCode::NOT_MODIFIED, 0, etag.as_str()),
                    "{method} {path} {theirs}"
                );
            }
            let other = server.ask(method, path, &[("if-none-match", "\"x\"")]).await;
            assert_eq!(other.status, StatusCode::OK);
        }
        let part = server.ask(Method::GET, path, &[("range", "bytes=0-1"), ("if-range", &etag)]).await;
        assert_eq!((part.status, part.bytes().len()), (StatusCode::PARTIAL_CONTENT, 2));
        for theirs in ["\"x\"", &format!("W/{etag}"), "Sun, 06 Nov 1994 08:49:37 GMT"] {
            let whole = server.ask(Method::GET, path, &[("range", "bytes=0-1"), ("if-range", theirs)]).await;
            assert_eq!((whole.status, whole.digest()), (StatusCode::OK, digest), "{theirs}");
        }
    }
}

/// What upstream lies about is told, with the reason, not kept, and no other image's trouble.
async fn is_refused(fake: &FakeUpstream, status: u16, words: &str) {
    is_refused_within("10s", fake, status, words).await;
}

async fn is_refused_within(limit: &str, fake: &FakeUpstream, status: u16, words: &str) {
    let good = fake.put_image("library/good", "1", &[]);
    let server = Headpond::with(fake, "", &format!("limits: {{manifest_timeout: {limit}}}")).await;
    let answer = server.get(TAG).await;
    assert_eq!(answer.status.as_u16(), status, "{}", answer.message());
    assert!(answer.message().contains(words), "{}", answer.message());
    assert_eq!(answer.code(), if status == 502 { "UNKNOWN" } else { "UNAVAILABLE" });
    fake.clear_faults();
    assert_eq!(server.get("/v2/up/library/good/manifests/1").await.digest(), good.digest);
    let directory = server.stop().await;
    let stored = |path: &str| std::fs::exists(directory.path().join("headpond-data").join(path)).unwrap();
    assert!(!stored("images/up/library/x"), "no record of it is kept");
    let hex = good.digest.hex();
    assert!(stored(&format!("blobs/sha256/{}/{hex}", hex.get(..2).unwrap())) && stored("images/up/library/good/_tags/1"));
    let blobs = walkdir(&directory.path().join("headpond-data/blobs"));
    assert_eq!(blobs, [hex], "no byte of it is kept");
}

fn walkdir(directory: &std::path::Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files.extend(walkdir(&entry.path()));
        } else {
            files.push(entry.file_name().into_string().unwrap());
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn schema_1_is_refused() {
    for (bytes, media_type) in
        [(r#"{"schemaVersion":1}"#, MediaType::DOCKER_SCHEMA1_SIGNED), (r#"{"schemaVersion":1,"fsLayers":[]}"#, "application/json")]
    {
        let fake = FakeUpstream::start().await;
        fake.put_manifest("library/x", "1", bytes, media_type);
        is_refused(&fake, 502, "schema 1").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_manifest_is_refused() {
    for fault in [None, Some(Fault::Chunked), Some(Fault::Endless)] {
        let fake = FakeUpstream::start().await;
        fake.put_manifest("library/x", "1", vec![b' '; 5 << 20], MediaType::OCI_MANIFEST);
        fault.into_iter().for_each(|fault| fake.on(On::ManifestGet).of(&"library/x").always(fault));
        is_refused(&fake, 502, "more than 4194304 bytes").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_refused() {
    for (garbage, words) in [
        ("<html>", "not valid JSON"),
        ("{}", "none of mediaType"),
        ("[1]", "not valid JSON"),
        (r#"{"config":{"digest":"x","size":-1}}"#, "not valid JSON"),
    ] {
        let fake = FakeUpstream::start().await;
        fake.on(On::ManifestGet).of(&"library/x").always(Fault::Instead(garbage.into()));
        is_refused(&fake, 502, words).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifest_with_another_digest_is_refused() {
    let other = Digest::of(b"other").to_string();
    for fault in [Fault::FlipByte, Fault::Header("docker-content-digest", other.clone())] {
        let fake = FakeUpstream::start().await;
        let image = fake.put_image("library/x", "1", &[]);
        fake.on(On::Manifests).of(&"library/x").always(fault.clone());
        let server = Headpond::before(&fake).await;
        let by_digest = server.get(&format!("/v2/up/library/x/manifests/{}", image.digest)).await;
        assert_eq!((by_digest.status, by_digest.code().as_str()), (StatusCode::BAD_GATEWAY, "UNKNOWN"), "{fault:?}");
        drop(server);
        is_refused(&fake, 502, "of digest").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifest_that_drips_or_breaks_off_is_given_up() {
    let drip = Fault::Drip(1, std::time::Duration::from_millis(20));
    for (fault, status, words) in
        [(drip, 503, "within 1s"), (Fault::CutBodyAt(20), 503, "broke off"), (Fault::RedirectLoop, 502, "redirect")]
    {
        let fake = FakeUpstream::start().await;
        fake.put_image("library/x", "1", &[]);
        fake.on(On::ManifestGet).of(&"library/x").always(fault);
        is_refused_within("1s", &fake, status, words).await;
    }
}
