//! Mirrors of an upstream: asked when it fails, believed by digest, and never more than it.

mod blobs;
mod health;
mod parallel;
mod tags;

use bytes::Bytes;
use std::time::Duration;

use headpond::app::World;
use reqwest::StatusCode;

use crate::fake_upstream::{FakeUpstream, Fault, Image, On, pseudo_random};
use crate::headpond::{Headpond, configuration};

const TAG: &str = "/v2/up/library/x/manifests/1";
/// Longer than any pause after failures that the tests come to, and far from a window.
const PAUSE: Duration = Duration::from_secs(61);
const LAYER_BYTES: usize = 16 << 20;

/// An upstream, its mirrors with the same image, and a server that has nothing of it.
struct Scene {
    primary: FakeUpstream,
    mirrors: Vec<FakeUpstream>,
    server: Headpond,
    image: Image,
    layer: Bytes,
}

impl Scene {
    async fn with_mirrors(count: usize) -> Self {
        Self::with(count, "").await
    }

    /// With further lines in the rule.
    async fn with(count: usize, rule: &str) -> Self {
        let primary = FakeUpstream::start().await;
        let layer = pseudo_random(1, LAYER_BYTES);
        let image = primary.put_image("library/x", "1", std::slice::from_ref(&layer));
        let mut mirrors = Vec::new();
        for _ in 0..count {
            let mirror = FakeUpstream::start().await;
            mirror.put_image("library/x", "1", std::slice::from_ref(&layer));
            mirrors.push(mirror);
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("password"), "secret").unwrap();
        let rule = format!("{}\n{rule}", key(&mirrors));
        let server = Headpond::in_directory(&primary, &rule, "", directory, World::default()).await;
        Self { primary, mirrors, server, image, layer }
    }

    /// The server again, on the same store.
    async fn restarted(self) -> Self {
        let Self { primary, mirrors, server, image, layer } = self;
        let text = configuration(&primary.url(), &key(&mirrors), "");
        let directory = server.stop().await;
        let server = Headpond::of(&primary, &text, directory, World::default()).await;
        Self { primary, mirrors, server, image, layer }
    }

    fn by_digest(&self) -> String {
        format!("/v2/up/library/x/manifests/{}", self.image.digest)
    }
}

fn key(mirrors: &[FakeUpstream]) -> String {
    let urls: Vec<String> = mirrors.iter().map(|mirror| format!("{:?}", mirror.url())).collect();
    format!("mirrors: [{}]", urls.join(", "))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_not_asked_while_the_upstream_answers() {
    let Scene { primary, mirrors, server, image, .. } = Scene::with_mirrors(1).await;
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    assert_eq!(server.get(&Headpond::blob(&image.layers[0])).await.digest(), image.layers[0]);
    assert!(mirrors[0].journal().is_empty());
    assert_eq!(primary.requests_matching("GET", "/blobs/"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_a_digest_comes_from_a_mirror_while_the_upstream_is_down() {
    let scene = Scene::with_mirrors(1).await;
    scene.primary.stop().await;
    let (server, image) = (&scene.server, &scene.image);
    assert_eq!(server.head(&scene.by_digest()).await.header("docker-content-digest"), image.digest.to_string());
    assert_eq!(server.get(&scene.by_digest()).await.digest(), image.digest);
    assert_eq!(server.get(&Headpond::blob(&image.layers[0])).await.digest(), image.layers[0]);
    server.wait_for_fills().await;
    assert_eq!(server.metric(r#"headpond_fill_bytes_total{source="mirror"}"#), LAYER_BYTES as u64);
    assert_eq!(server.metric(r#"headpond_mirror_requests_total{result="answered",rule="up"}"#), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_throttles_is_relieved_by_a_mirror() {
    let scene = Scene::with_mirrors(1).await;
    scene.primary.on(On::Any).always(Fault::StatusRetryAfter(429, "30".to_owned()));
    assert_eq!(scene.server.get(TAG).await.digest(), scene.image.digest);
    assert_eq!(scene.server.get(&Headpond::blob(&scene.image.layers[0])).await.digest(), scene.image.layers[0]);
    assert_eq!(scene.primary.journal().len(), 1, "it said when to come again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_upstream_does_not_have_no_mirror_is_asked_for() {
    let Scene { primary, mirrors, server, image, .. } = Scene::with_mirrors(1).await;
    for reference in ["1", &image.digest.to_string(), &image.layers[0].to_string()] {
        primary.remove("library/x", reference);
    }
    for path in [TAG, &format!("/v2/up/library/x/manifests/{}", image.digest), &Headpond::blob(&image.layers[0])] {
        assert_eq!(server.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(server.head(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert!(mirrors[0].journal().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_has_nothing_is_never_quoted() {
    let scene = Scene::with_mirrors(1).await;
    let (server, image) = (&scene.server, &scene.image);
    for reference in ["1", &image.digest.to_string(), &image.layers[0].to_string()] {
        scene.mirrors[0].remove("library/x", reference);
    }
    scene.primary.stop().await;
    for path in [TAG, &scene.by_digest(), &Headpond::blob(&image.layers[0])] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(!answer.message().contains(&scene.mirrors[0].host()), "{}", answer.message());
    }
    assert_eq!(server.metric(r#"headpond_mirror_requests_total{result="absent",rule="up"}"#), 3);
    scene.primary.restart();
    server.clock.advance(PAUSE);
    for path in [TAG, &scene.by_digest(), &Headpond::blob(&image.layers[0])] {
        assert_eq!(server.get(path).await.status, StatusCode::OK, "{path}: the absence at the mirror was remembered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_that_are_well_are_asked_before_those_that_failed() {
    let Scene { primary, mirrors, server, image, .. } = Scene::with_mirrors(2).await;
    primary.stop().await;
    mirrors[0].on(On::Any).always(Fault::Status(503));
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    for blob in [image.config, image.layers[0]] {
        assert_eq!(server.get(&Headpond::blob(&blob)).await.digest(), blob);
    }
    assert_eq!(mirrors[0].journal().len(), 1);
    server.clock.advance(PAUSE);
    mirrors[0].clear_faults();
    let other = mirrors[0].put_blob("another");
    mirrors[1].put_blob("another");
    assert_eq!(server.get(&Headpond::blob(&other)).await.digest(), other);
    assert_eq!(mirrors[0].blob_bytes_sent(&other), 7, "once well, it comes first");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_for_the_upstream_alone() {
    let scene = Scene::with(1, "credentials: {username: somebody, password: \"file:password\"}\nanonymous: true").await;
    let Scene { primary, mirrors, server, image, .. } = scene;
    primary.require_bearer_of("somebody", "secret");
    mirrors[0].require_bearer();
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    assert!(primary.journal().iter().any(|exchange| exchange.authorization.as_ref().is_some_and(|sent| sent.starts_with("Basic "))));
    primary.stop().await;
    assert_eq!(server.get(&Headpond::blob(&image.layers[0])).await.digest(), image.layers[0]);
    mirrors[0].require_basic("somebody", "secret");
    assert_eq!(server.get(&Headpond::blob(&image.config)).await.status, StatusCode::SERVICE_UNAVAILABLE);
    let journal = mirrors[0].journal();
    assert!(journal.iter().any(|exchange| exchange.path == "/token"));
    let sent: Vec<_> = journal.iter().filter_map(|exchange| exchange.authorization.as_deref()).collect();
    assert!(sent.iter().all(|sent| sent.starts_with("Bearer token-")), "{sent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_may_have_another_prefix_and_authority() {
    let primary = FakeUpstream::start().await;
    let mirror = FakeUpstream::start_tls().await;
    let image = mirror.put_image("hub/library/x", "1", &["layer".into()]);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("ca.pem"), mirror.ca_pem()).unwrap();
    let rule = format!("upstream_prefix: corp\nmirrors: {{upstream: \"{}\", upstream_prefix: hub, ca: ca.pem}}", mirror.url());
    let server = Headpond::in_directory(&primary, &rule, "", directory, World::default()).await;
    primary.stop().await;
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    assert_eq!(server.get(&Headpond::blob(&image.layers[0])).await.digest(), image.layers[0]);
}
