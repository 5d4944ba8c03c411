//! Where an upstream may not lead: what is around this machine, unless the rule names it.

use headpond::upstream::Purpose;

use super::{client, client_with, credential, drain, lie, name, reference};
use crate::fake_upstream::{FakeUpstream, Fault, On};

#[tokio::test]
async fn a_redirect_to_a_private_address_is_refused_with_what_to_do() {
    let fake = FakeUpstream::start().await;
    let client = client_with(&fake, |settings| settings.credential = credential("user", "password"));
    for (host, address) in [("169.254.169.254", "169.254.169.254"), ("[::ffff:10.0.0.1]", "10.0.0.1"), ("[fd00:ec2::254]", "fd00:ec2::254")]
    {
        fake.on(On::Manifests).once(Fault::RedirectTo(format!("http://{host}/latest/meta-data?signature=secret")));
        let message = lie(client.get_manifest(&name("x"), &reference("1"), Purpose::Fetch).await);
        assert!(message.contains(&format!("if that is right, add {address} to its `private_hosts`")), "{message}");
        assert!(!message.contains("secret"), "{message}");
    }
}

/// The upstream is named by its name, and what it redirects to by the address that both have.
#[tokio::test]
async fn an_address_of_this_machine_is_not_reached_by_redirect_unless_it_is_named() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob("content");
    fake.redirect_blobs_to_cdn();
    let by_name = fake.url().replace("127.0.0.1", "localhost").parse().unwrap();
    let stranger = client_with(&fake, |settings| settings.base = by_name);
    let message = lie(stranger.get_blob(&name("x"), &digest, None).await.map(drop));
    assert!(message.contains("127.0.0.1"), "{message}");
    assert!(fake.journal().iter().all(|exchange| !exchange.at_cdn), "it was asked");
    let by_name = fake.url().replace("127.0.0.1", "localhost").parse().unwrap();
    let named = client_with(&fake, |settings| {
        settings.base = by_name;
        settings.private_networks = vec!["127.0.0.0/8".parse().unwrap()];
    });
    assert_eq!(drain(&mut named.get_blob(&name("x"), &digest, None).await.unwrap()).await.0, b"content");
}

#[tokio::test]
async fn a_redirect_to_this_machine_by_name_is_refused() {
    let (fake, other) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let by_name = other.url().replace("127.0.0.1", "localhost");
    fake.on(On::Manifests).always(Fault::RedirectTo(format!("{by_name}/v2/x/manifests/1")));
    let message = lie(client(&fake).get_manifest(&name("x"), &reference("1"), Purpose::Fetch).await);
    assert!(message.contains("localhost is at the private address 127.0.0.1"), "{message}");
    assert!(other.journal().is_empty());
}

#[tokio::test]
async fn a_realm_at_a_private_address_does_not_get_the_credential() {
    let (fake, other) = (FakeUpstream::start().await, FakeUpstream::start().await);
    fake.require_bearer_of("user", "password");
    let client = client_with(&fake, |settings| settings.credential = credential("user", "password"));
    for realm in [other.url().replace("127.0.0.1", "127.0.0.2"), other.url().replace("127.0.0.1", "[::ffff:127.0.0.1]")] {
        fake.realm(&format!("{realm}/token"));
        let message = lie(client.head_manifest(&name("x"), &reference("1"), Purpose::Fetch).await);
        assert!(message.contains("which is another host"), "{message}");
    }
    assert!(other.journal().is_empty());
}
