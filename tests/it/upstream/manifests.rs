//! HEAD and GET of manifests.

use std::time::Duration;

use headpond::oci::{Digest, ManifestSummary, MediaType};
use headpond::upstream::{Purpose, Unavailability, UpstreamError};

use super::{client, client_and_metrics, client_with, lie, name, reference};
use crate::fake_upstream::{FakeUpstream, Fault, On, pseudo_random};

const FETCH: Purpose = Purpose::Fetch;

#[tokio::test]
async fn head_tells_what_a_tag_names() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[pseudo_random(1, 100)]);
    let head = client(&fake).head_manifest(&name("library/x"), &reference("1"), Purpose::Revalidate).await.unwrap();
    assert_eq!(head.digest, image.digest);
    assert_eq!(head.content_type.as_deref(), Some(MediaType::OCI_MANIFEST));
    assert_eq!(head.length_bytes, Some(image.manifest.len() as u64));
    assert_eq!((head.body, fake.manifest_gets()), (None, 0));
}

#[tokio::test]
async fn get_returns_the_exact_bytes_by_tag_and_digest() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[pseudo_random(1, 100)]);
    for reference in [reference("1"), reference(&image.digest)] {
        let got = client(&fake).get_manifest(&name("library/x"), &reference, FETCH).await.unwrap();
        assert_eq!((got.bytes, got.digest), (image.manifest.clone(), image.digest));
        assert_eq!(got.content_type.as_deref(), Some(MediaType::OCI_MANIFEST));
    }
}

#[tokio::test]
async fn requests_say_who_asks_and_accept_every_manifest_but_no_encoding() {
    let fake = FakeUpstream::start().await;
    fake.put_image("library/x", "1", &[]);
    client(&fake).get_manifest(&name("library/x"), &reference("1"), FETCH).await.unwrap();
    let exchange = &fake.journal()[0];
    assert_eq!(exchange.accept.as_deref(), Some(MediaType::MANIFEST_ACCEPT));
    assert_eq!(exchange.user_agent.as_deref(), Some(concat!("headpond/", env!("CARGO_PKG_VERSION"))));
    assert_eq!((&exchange.accept_encoding, &exchange.authorization), (&None, &None));
}

#[tokio::test]
async fn base_paths_come_before_v2() {
    let fake = FakeUpstream::start().await;
    let client = client_with(&fake, |settings| settings.base.set_path("/a/base/"));
    let outcome = client.head_manifest(&name("x"), &reference("1"), FETCH).await;
    assert!(matches!(outcome, Err(UpstreamError::NotFound { .. })), "{outcome:?}");
    assert_eq!(fake.journal()[0].path, "/a/base/v2/x/manifests/1");
}

#[tokio::test]
async fn head_that_is_refused_or_tells_no_digest_becomes_a_get() {
    for fault in [Fault::Status(405), Fault::WithoutHeader("docker-content-digest")] {
        let fake = FakeUpstream::start().await;
        let image = fake.put_image("library/x", "1", &[]);
        fake.on(On::ManifestHead).always(fault);
        let head = client(&fake).head_manifest(&name("library/x"), &reference("1"), Purpose::Revalidate).await.unwrap();
        assert_eq!((head.digest, head.body), (image.digest, Some(image.manifest)));
        assert_eq!((fake.manifest_heads(), fake.manifest_gets()), (1, 1));
    }
}

#[tokio::test]
async fn head_of_a_digest_needs_no_word_of_the_upstream() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    fake.on(On::ManifestHead).always(Fault::WithoutHeader("docker-content-digest"));
    let head = client(&fake).head_manifest(&name("library/x"), &reference(&image.digest), FETCH).await.unwrap();
    assert_eq!((head.digest, fake.manifest_gets()), (image.digest, 0));
}

#[tokio::test]
async fn missing_manifests_are_not_found() {
    let fake = FakeUpstream::start().await;
    fake.put_image("library/x", "1", &[]);
    let client = client(&fake);
    for reference in [reference("2"), reference(&Digest::of(b"nothing"))] {
        let head = client.head_manifest(&name("library/x"), &reference, FETCH).await.unwrap_err();
        let get = client.get_manifest(&name("library/x"), &reference, FETCH).await.unwrap_err();
        assert!(matches!(head, UpstreamError::NotFound { .. }), "{head}");
        assert_eq!(
            get.to_string(),
            format!(
                "not found upstream: GET {}/v2/library/x/manifests/{reference} answered 404 (MANIFEST_UNKNOWN: manifest unknown)",
                fake.host()
            )
        );
    }
}

#[tokio::test]
async fn wrong_bytes_are_a_lie_by_tag_and_digest() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    fake.on(On::ManifestGet).always(Fault::FlipByte);
    for reference in [reference("1"), reference(&image.digest)] {
        let message = lie(client(&fake).get_manifest(&name("library/x"), &reference, FETCH).await);
        assert!(message.contains(&image.digest.to_string()) && message.contains(&fake.host()), "{message}");
    }
}

#[tokio::test]
async fn another_manifest_than_the_digest_is_a_lie() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let other = Digest::of(b"other").to_string();
    fake.on(On::Manifests).always(Fault::Header("docker-content-digest", other));
    lie(client(&fake).head_manifest(&name("library/x"), &reference(&image.digest), FETCH).await);
    lie(client(&fake).get_manifest(&name("library/x"), &reference(&image.digest), FETCH).await);
}

#[tokio::test]
async fn manifests_too_large_are_a_lie_whether_announced_or_not() {
    for fault in [None, Some(Fault::Chunked), Some(Fault::Endless)] {
        let fake = FakeUpstream::start().await;
        let large = pseudo_random(1, ManifestSummary::MAX_BYTES + (1 << 20));
        let digest = fake.put_manifest("library/x", "1", large, MediaType::OCI_MANIFEST);
        fault.into_iter().for_each(|fault| fake.on(On::ManifestGet).always(fault));
        let message = lie(client(&fake).get_manifest(&name("library/x"), &reference("1"), FETCH).await);
        assert!(message.contains("more than 4194304 bytes"), "{message}");
        assert!(fake.blob_bytes_sent(&digest) < 6 << 20);
    }
}

#[tokio::test]
async fn manifests_of_schema_1_are_refused_in_words() {
    let fake = FakeUpstream::start().await;
    fake.put_manifest("library/x", "1", "{}", MediaType::DOCKER_SCHEMA1_SIGNED);
    let message = lie(client(&fake).get_manifest(&name("library/x"), &reference("1"), FETCH).await);
    assert!(message.contains("schema 1"), "{message}");
}

#[tokio::test]
async fn compressed_answers_are_a_lie() {
    let fake = FakeUpstream::start().await;
    fake.put_image("library/x", "1", &[]);
    fake.on(On::ManifestGet).always(Fault::Header("content-encoding", "gzip".to_owned()));
    let message = lie(client(&fake).get_manifest(&name("library/x"), &reference("1"), FETCH).await);
    assert!(message.contains("Content-Encoding"), "{message}");
}

#[tokio::test]
async fn a_manifest_that_breaks_off_is_unavailable() {
    let fake = FakeUpstream::start().await;
    fake.put_image("library/x", "1", &[]);
    fake.on(On::ManifestGet).once(Fault::CutBodyAt(20));
    fake.on(On::ManifestGet).once(Fault::HangUp);
    let client = client(&fake);
    for _ in 0..2 {
        let outcome = client.get_manifest(&name("library/x"), &reference("1"), FETCH).await;
        assert!(matches!(outcome, Err(UpstreamError::Unavailable { kind: Unavailability::Broken, .. })), "{outcome:?}");
    }
    assert!(client.get_manifest(&name("library/x"), &reference("1"), FETCH).await.is_ok());
}

#[tokio::test]
async fn slow_drips_hanging_heads_and_hanging_bodies_end_in_time() {
    for fault in [Fault::Drip(1, Duration::from_millis(50)), Fault::HangHead, Fault::HoldBodyAt(20)] {
        let fake = FakeUpstream::start().await;
        fake.put_image("library/x", "1", &[]);
        fake.on(On::ManifestGet).always(fault.clone());
        let client = client_with(&fake, |settings| {
            settings.limits.head_timeout = Duration::from_millis(200);
            settings.limits.stall_timeout = Duration::from_millis(300);
            settings.limits.manifest_timeout = Duration::from_millis(400);
        });
        let outcome = client.get_manifest(&name("library/x"), &reference("1"), FETCH).await;
        assert!(matches!(outcome, Err(UpstreamError::Unavailable { kind: Unavailability::Timeout, .. })), "{fault:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn statuses_have_their_meanings() {
    let fake = FakeUpstream::start().await;
    fake.put_image("library/x", "1", &[]);
    for (status, meaning) in [
        (404, "not found"),
        (410, "not found"),
        (401, "refuses"),
        (403, "refuses"),
        (451, "refuses"),
        (429, "takes no more requests"),
        (408, "unavailable"),
        (500, "unavailable"),
        (503, "unavailable"),
        (400, "breaks the protocol"),
        (204, "breaks the protocol"),
        (206, "breaks the protocol"),
        (304, "breaks the protocol"),
    ] {
        fake.on(On::ManifestGet).once(Fault::Status(status));
        let error = client(&fake).get_manifest(&name("library/x"), &reference("1"), FETCH).await.unwrap_err().to_string();
        assert!(error.contains(meaning) && error.contains(&status.to_string()), "{error}");
    }
}

#[tokio::test]
async fn every_request_is_counted_with_its_status() {
    let fake = FakeUpstream::start().await;
    fake.put_image("library/x", "1", &[]);
    let (client, metrics) = client_and_metrics(&fake, |_| {});
    client.head_manifest(&name("library/x"), &reference("1"), FETCH).await.unwrap();
    client.get_manifest(&name("library/x"), &reference("2"), FETCH).await.unwrap_err();
    fake.stop().await;
    client.get_manifest(&name("library/x"), &reference("1"), FETCH).await.unwrap_err();
    let text = String::from_utf8(metrics.expose().unwrap()).unwrap();
    for (method, code) in [("HEAD", 200), ("GET", 404), ("GET", 0)] {
        let line = format!(r#"headpond_upstream_requests_total{{code="{code}",method="{method}",rule="fake"}} 1"#);
        assert!(text.contains(&line), "{line} in {text}");
    }
    assert!(text.contains(r#"headpond_upstream_circuit_state{rule="fake"} 2"#), "{text}");
}
