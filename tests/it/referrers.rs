//! What refers to a manifest: signatures, bills of materials, attestations.

use futures::future::join_all;
use headpond::app::World;
use headpond::oci::{Digest, MediaType, Referrer};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fake_upstream::{FakeUpstream, Fault, Image, On};
use crate::headpond::{Answer, Headpond, configuration};

const SIGNATURE: &str = "application/vnd.example.signature";
const SBOM: &str = "application/vnd.example.sbom";
const TAG: &str = "/v2/up/library/x/manifests/1";

async fn with(rule: &str, top: &str) -> (FakeUpstream, Headpond, Image) {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let server = Headpond::with(&fake, rule, top).await;
    (fake, server, image)
}

fn list(subject: &Digest) -> String {
    format!("/v2/up/library/x/referrers/{subject}")
}

fn listed(answer: &Answer) -> Vec<Value> {
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, MediaType::OCI_INDEX), "{answer:?}");
    let index: Value = serde_json::from_slice(answer.bytes()).unwrap();
    assert_eq!((&index["schemaVersion"], &index["mediaType"]), (&json!(2), &json!(MediaType::OCI_INDEX)));
    index["manifests"].as_array().unwrap().clone()
}

fn digests(answer: &Answer) -> Vec<String> {
    listed(answer).iter().map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect()
}

fn sorted(digests: &[Digest]) -> Vec<String> {
    let mut digests = digests.to_vec();
    digests.sort();
    digests.iter().map(Digest::to_string).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_are_upstreams_with_types_and_annotations_and_cost_one_request() {
    let (fake, server, image) = with("", "").await;
    let signature = fake.put_referrer("library/x", &image.digest, SIGNATURE, "a");
    let path = list(&image.digest);
    let answers = join_all((0..50).map(|_| server.get(&path))).await;
    for answer in &answers {
        let entries = listed(answer);
        assert_eq!((entries.len(), &entries[0]["digest"]), (1, &json!(signature)));
        assert_eq!((&entries[0]["artifactType"], &entries[0]["annotations"]), (&json!(SIGNATURE), &json!({"note": "a"})));
        assert_eq!((&entries[0]["mediaType"], answer.header("oci-filters-applied")), (&json!(MediaType::OCI_MANIFEST), ""));
    }
    assert_eq!(fake.journal().len(), 1);
    let head = server.head(&list(&image.digest)).await;
    assert_eq!((head.status, head.bytes().len(), head.header("content-type")), (StatusCode::OK, 0, MediaType::OCI_INDEX));
    assert_eq!(server.metric(r#"headpond_cache_requests_total{kind="referrers",result="miss",rule="up"}"#), 1);
    assert_eq!(server.ask(Method::PUT, &list(&image.digest), &[]).await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(flavor = "multi_thread")]
async fn list_is_filtered_by_type_here_and_says_so() {
    let (fake, server, image) = with("", "").await;
    let signature = fake.put_referrer("library/x", &image.digest, SIGNATURE, "a");
    let sbom = fake.put_referrer("library/x", &image.digest, SBOM, "b");
    for (wanted, expected) in [(SIGNATURE, sorted(&[signature])), (SBOM, sorted(&[sbom])), ("no/such", Vec::new())] {
        let encoded: String = form_urlencoded::byte_serialize(wanted.as_bytes()).collect();
        let answer = server.get(&format!("{}?artifactType={encoded}", list(&image.digest))).await;
        assert_eq!((digests(&answer), answer.header("oci-filters-applied")), (expected, "artifactType"));
    }
    assert_eq!(digests(&server.get(&list(&image.digest)).await), sorted(&[signature, sbom]));
    assert_eq!(fake.journal().len(), 1, "upstream is asked for all of them once");
}

#[tokio::test(flavor = "multi_thread")]
async fn manifest_without_referrers_has_an_empty_list_and_a_name_of_no_rule_none() {
    let (fake, server, image) = with("", "").await;
    assert_eq!(listed(&server.get(&list(&image.digest)).await), [] as [Value; 0]);
    fake.referrers_per_page(None);
    let unknown = Digest::of(b"nobody has this");
    assert_eq!(listed(&server.get(&list(&unknown)).await), [] as [Value; 0]);
    let no_rule = server.get(&format!("/v2/no/where/referrers/{unknown}")).await;
    assert_eq!((no_rule.status, no_rule.code().as_str()), (StatusCode::NOT_FOUND, "NAME_UNKNOWN"));
    let no_digest = server.get("/v2/up/library/x/referrers/latest").await;
    assert_eq!((no_digest.status, no_digest.code().as_str()), (StatusCode::BAD_REQUEST, "DIGEST_INVALID"));
}

/// As `oras discover` does it: HEAD of the tag, the list of referrers, then each of them; where there
/// is no API it would go on with the tag itself.
#[tokio::test(flavor = "multi_thread")]
async fn client_that_discovers_finds_and_pulls_what_an_upstream_without_the_api_has() {
    let (fake, server, image) = with("", "").await;
    let signature = fake.put_referrer("library/x", &image.digest, SIGNATURE, "a");
    fake.referrers_per_page(None);
    let entry = Referrer {
        media_type: MediaType::OCI_MANIFEST.to_owned(),
        digest: signature,
        size_bytes: 1,
        artifact_type: Some(SIGNATURE.to_owned()),
        annotations: None,
    };
    let tag = Referrer::fallback_tag(&image.digest).unwrap();
    let index = fake.put_manifest("library/x", tag.as_str(), Referrer::index(&[&entry]), MediaType::OCI_INDEX);
    let subject = Digest::parse(server.head(TAG).await.header("docker-content-digest")).unwrap();
    let found = digests(&server.get(&list(&subject)).await);
    assert_eq!(found, [signature.to_string()]);
    assert_eq!(server.get(&format!("/v2/up/library/x/manifests/{}", found[0])).await.digest(), signature);
    assert_eq!(server.get(&format!("/v2/up/library/x/manifests/{tag}")).await.digest(), index, "and the tag is one like others");
}

#[tokio::test(flavor = "multi_thread")]
async fn last_list_is_told_while_upstream_is_down() {
    let (fake, server, image) = with("", "limits: {tags_list_ttl: 0s, revalidate_wait: 1h}").await;
    let signature = fake.put_referrer("library/x", &image.digest, SIGNATURE, "a");
    assert_eq!(digests(&server.get(&list(&image.digest)).await), sorted(&[signature]));
    fake.stop().await;
    let answer = server.get(&list(&image.digest)).await;
    assert_eq!(digests(&answer), sorted(&[signature]));
    assert!(answer.header("warning").starts_with("110 "), "{answer:?}");
    let other = server.get(&list(&Digest::of(b"other"))).await;
    assert_eq!(other.status, StatusCode::SERVICE_UNAVAILABLE, "that there are none is not known");
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_that_were_pulled_are_told_where_there_is_no_other_list_and_beside_it() {
    let (fake, server, image) = with("", "limits: {tags_list_ttl: 0s}").await;
    let signature = fake.put_referrer("library/x", &image.digest, SIGNATURE, "a");
    let path = format!("/v2/up/library/x/manifests/{signature}");
    assert_eq!(server.get(&path).await.digest(), signature);
    let directory = server.stop().await;
    fake.stop().await;
    let server = Headpond::in_directory(&fake, "", "limits: {tags_list_ttl: 0s}", directory, World::default()).await;
    let answer = server.get(&list(&image.digest)).await;
    let entries = listed(&answer);
    assert_eq!((entries.len(), &entries[0]["digest"]), (1, &json!(signature)));
    assert_eq!((&entries[0]["artifactType"], &entries[0]["annotations"]), (&json!(SIGNATURE), &json!({"note": "a"})));
    assert!(answer.header("warning").starts_with("110 "), "{answer:?}");
    fake.restart();
    fake.remove("library/x", &signature.to_string());
    let sbom = fake.put_referrer("library/x", &image.digest, SBOM, "b");
    server.clock.advance(std::time::Duration::from_secs(60 * 60));
    let directory = server.stop().await;
    let server = Headpond::in_directory(&fake, "", "", directory, World::default()).await;
    assert_eq!(digests(&server.get(&list(&image.digest)).await), sorted(&[signature, sbom]), "what upstream removed is cached still");
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_outlive_their_rule() {
    let (fake, server, image) = with("", "").await;
    let signature = fake.put_referrer("library/x", &image.digest, SIGNATURE, "a");
    server.get(&format!("/v2/up/library/x/manifests/{signature}")).await;
    let directory = server.stop().await;
    let text = configuration(&fake.url(), "", "").replace("prefix: up", "prefix: other");
    let server = Headpond::of(&fake, &text, directory, World::default()).await;
    assert_eq!(digests(&server.get(&list(&image.digest)).await), sorted(&[signature]));
    assert_eq!(listed(&server.get(&list(&Digest::of(b"other"))).await), [] as [Value; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_are_for_those_who_may_pull() {
    let (fake, server, image) = with("deny: ['library/x']", "").await;
    let refused = server.get(&list(&image.digest)).await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::FORBIDDEN, "DENIED"));
    assert_eq!(fake.journal(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_of_an_upstream_is_remembered() {
    let (fake, server, image) = with("", "limits: {negative_ttl: 1h}").await;
    fake.on(On::Any).always(Fault::Status(403));
    for _ in 0..3 {
        let refused = server.get(&list(&image.digest)).await;
        assert_eq!((refused.status, refused.code().as_str()), (StatusCode::NOT_FOUND, "NAME_UNKNOWN"));
    }
    assert_eq!(fake.journal().len(), 2, "the list, and the tag that stands in for it");
}
