//! Where redirects lead, and what goes with them.

use headpond::upstream::{Purpose, UpstreamError};

use super::{client, client_with, credential, drain, lie, name, reference};
use crate::fake_upstream::{FakeUpstream, Fault, On, pseudo_random};

#[tokio::test]
async fn a_content_network_gets_the_range_and_no_credentials() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(pseudo_random(1, 1000));
    fake.require_bearer();
    fake.redirect_blobs_to_cdn();
    let client = client(&fake);
    let mut stream = client.get_blob(&name("x"), &digest, Some(100..200)).await.unwrap();
    assert_eq!(drain(&mut stream).await.0.len(), 100);
    let last = fake.journal().pop().unwrap();
    assert_eq!((last.at_cdn, last.range.as_deref(), last.authorization, last.status), (true, Some("bytes=100-199"), None, 206));
    assert_eq!(client.head_blob(&name("x"), &digest).await, Ok(Some(1000)));
}

#[tokio::test]
async fn basic_credentials_are_dropped_too() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob("content");
    fake.require_basic("user", "password");
    fake.redirect_blobs_to_cdn();
    let client = client_with(&fake, |settings| settings.credential = credential("user", "password"));
    assert_eq!(drain(&mut client.get_blob(&name("x"), &digest, None).await.unwrap()).await.0, b"content");
    assert!(fake.journal().iter().filter(|exchange| exchange.at_cdn).all(|exchange| exchange.authorization.is_none()));
}

#[tokio::test]
async fn manifests_are_redirected_too() {
    let (fake, other) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let image = other.put_image("x", "1", &[]);
    fake.require_bearer();
    fake.on(On::Manifests).always(Fault::RedirectTo(format!("{}/v2/x/manifests/1", other.url())));
    let client = client(&fake);
    assert_eq!(client.head_manifest(&name("x"), &reference("1"), Purpose::Revalidate).await.unwrap().digest, image.digest);
    assert_eq!(client.get_manifest(&name("x"), &reference("1"), Purpose::Fetch).await.unwrap().bytes, image.manifest);
    assert!(other.journal().iter().all(|exchange| exchange.authorization.is_none()));
}

#[tokio::test]
async fn a_redirect_target_that_asks_for_credentials_gets_none() {
    let (fake, other) = (FakeUpstream::start().await, FakeUpstream::start().await);
    other.require_basic("user", "password");
    fake.on(On::Manifests).always(Fault::RedirectTo(format!("{}/v2/x/manifests/1", other.url())));
    let client = client_with(&fake, |settings| settings.credential = credential("user", "password"));
    let outcome = client.get_manifest(&name("x"), &reference("1"), Purpose::Fetch).await;
    assert!(matches!(outcome, Err(UpstreamError::Denied { status: 401, .. })), "{outcome:?}");
    assert!(other.journal().iter().all(|exchange| exchange.authorization.is_none()));
}

#[tokio::test]
async fn a_redirect_to_the_same_place_is_a_lie() {
    let fake = FakeUpstream::start().await;
    fake.on(On::Any).always(Fault::RedirectLoop);
    let client = client(&fake);
    let message = lie(client.get_manifest(&name("x"), &reference("1"), Purpose::Fetch).await);
    assert!(message.contains("in a circle"), "{message}");
    assert_eq!(fake.journal().len(), 1);
}

#[tokio::test]
async fn redirects_without_end_are_a_lie() {
    let fake = FakeUpstream::start().await;
    for n in 1..10 {
        fake.on(On::Any).once(Fault::RedirectTo(format!("{}/{n}?signature=secret", fake.url())));
    }
    let message = lie(client(&fake).get_manifest(&name("x"), &reference("1"), Purpose::Fetch).await);
    assert!(message.contains("after 5 redirects") && !message.contains("secret"), "{message}");
    assert_eq!(fake.journal().len(), 6);
}

#[tokio::test]
async fn a_redirect_to_nowhere_is_a_lie() {
    let fake = FakeUpstream::start().await;
    fake.on(On::Any).always(Fault::Status(307));
    lie(client(&fake).get_manifest(&name("x"), &reference("1"), Purpose::Fetch).await);
}

#[tokio::test]
async fn errors_do_not_show_the_query_of_a_presigned_url() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(pseudo_random(1, 1000));
    fake.redirect_blobs_to_cdn();
    fake.on(On::BlobGet).once(Fault::Status(403));
    fake.on(On::BlobGet).once(Fault::HangUp);
    let client = client(&fake);
    for _ in 0..2 {
        let error = client.get_blob(&name("x"), &digest, None).await.err().unwrap().to_string();
        assert!(error.contains("/cdn/") && !error.contains("secret"), "{error}");
    }
}
