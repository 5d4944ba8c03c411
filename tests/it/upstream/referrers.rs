//! Lists of referrers.

use headpond::oci::{Digest, MediaType, Referrer};
use headpond::upstream::{Purpose, UpstreamError};

use super::{client, client_with, lie, name};
use crate::fake_upstream::{FakeUpstream, Fault, On};

const KIND: &str = "application/vnd.example.signature";

async fn with_referrers(count: usize) -> (FakeUpstream, Digest, Vec<Digest>) {
    let fake = FakeUpstream::start().await;
    let subject = fake.put_image("library/x", "1", &[]).digest;
    let mut all: Vec<Digest> = (0..count).map(|n| fake.put_referrer("library/x", &subject, KIND, &n.to_string())).collect();
    all.sort();
    (fake, subject, all)
}

fn digests(listed: Result<Vec<Referrer>, UpstreamError>) -> Vec<Digest> {
    listed.unwrap().iter().map(|referrer| referrer.digest).collect()
}

#[tokio::test]
async fn all_pages_are_one_list_by_digest() {
    let (fake, subject, all) = with_referrers(25).await;
    fake.referrers_per_page(Some(10));
    let listed = client(&fake).list_referrers(&name("library/x"), &subject, Purpose::Fetch).await.unwrap();
    assert!(listed.iter().all(|referrer| referrer.artifact_type.as_deref() == Some(KIND) && referrer.annotations.is_some()));
    assert_eq!(digests(Ok(listed)), all);
    assert_eq!((fake.requests_matching("GET", "/referrers/"), fake.journal().len()), (3, 3));
    assert_eq!(fake.journal()[0].accept.as_deref(), Some(MediaType::OCI_INDEX));
}

#[tokio::test]
async fn registry_without_the_api_is_asked_for_the_tag_that_stands_in_for_it() {
    let (fake, subject, all) = with_referrers(3).await;
    let tag = Referrer::fallback_tag(&subject).unwrap();
    let index = Referrer::index(
        &client(&fake).list_referrers(&name("library/x"), &subject, Purpose::Fetch).await.unwrap().iter().collect::<Vec<_>>(),
    );
    for fault in [
        Fault::Status(404),
        Fault::Status(400),
        Fault::Status(405),
        Fault::Status(501),
        Fault::Status(403),
        Fault::Header("content-type", "text/html".to_owned()),
    ] {
        fake.clear_faults();
        fake.on(On::Referrers).always(fault.clone());
        fake.remove("library/x", tag.as_str());
        let none = client(&fake).list_referrers(&name("library/x"), &subject, Purpose::Fetch).await;
        assert_eq!(digests(none), [], "{fault:?}");
        fake.put_manifest("library/x", tag.as_str(), index.clone(), MediaType::OCI_INDEX);
        let listed = client(&fake).list_referrers(&name("library/x"), &subject, Purpose::Fetch).await;
        assert_eq!(digests(listed), all, "{fault:?}");
    }
}

#[tokio::test]
async fn what_is_no_answer_is_not_an_empty_list() {
    let (fake, subject, _) = with_referrers(1).await;
    let asked = client(&fake);
    let of = name("library/x");
    let ask = || asked.list_referrers(&of, &subject, Purpose::Fetch);
    fake.on(On::Referrers).once(Fault::Status(503));
    assert!(matches!(ask().await, Err(UpstreamError::Unavailable { .. })));
    assert_eq!(fake.manifest_gets(), 0);
    fake.on(On::Any).times(2, Fault::Status(401));
    assert!(matches!(client(&fake).list_referrers(&name("library/x"), &subject, Purpose::Fetch).await, Err(UpstreamError::Denied { .. })));
    fake.on(On::Any).times(1, Fault::StatusRetryAfter(429, "1".to_owned()));
    let throttled = client(&fake).list_referrers(&name("library/x"), &subject, Purpose::Fetch).await;
    assert!(matches!(throttled, Err(UpstreamError::TooManyRequests { .. })), "{throttled:?}");
}

#[tokio::test]
async fn too_many_pages_and_referrers_are_refused_and_not_cut_short() {
    let (fake, subject, _) = with_referrers(10).await;
    fake.referrers_per_page(Some(1));
    let few_pages = client_with(&fake, |settings| settings.limits.max_referrer_pages = 5);
    assert!(lie(few_pages.list_referrers(&name("library/x"), &subject, Purpose::Fetch).await).contains("more than 5 pages"));
    let few = client_with(&fake, |settings| settings.limits.max_referrers = 5);
    assert!(lie(few.list_referrers(&name("library/x"), &subject, Purpose::Fetch).await).contains("more referrers than"));
    let small = client_with(&fake, |settings| settings.limits.max_referrers_bytes = 1000);
    assert!(lie(small.list_referrers(&name("library/x"), &subject, Purpose::Fetch).await).contains("more referrers than"));
    fake.on(On::Referrers).times(1, Fault::Header("link", "<https://elsewhere.example/v2/x?n=1>; rel=next".to_owned()));
    assert!(lie(client(&fake).list_referrers(&name("library/x"), &subject, Purpose::Fetch).await).contains("on another host"));
    fake.on(On::Referrers).times(1, Fault::Instead(b"{}".to_vec()));
    assert_eq!(digests(client(&fake).list_referrers(&name("library/x"), &subject, Purpose::Fetch).await), []);
}
