//! Upstreams over TLS, with a certificate authority of their own.

use std::sync::Arc;

use headpond::telemetry::metrics::Metrics;
use headpond::upstream::{
    Allowances, Aws, ClientCertificate, CredentialStores, Endpoint, Proxies, Purpose, Unavailability, UpstreamBuildError, UpstreamError,
    UpstreamSettings, Url,
};

use super::{client, client_with, credential, drain, lie, name, reference, settings};
use crate::fake_upstream::{FakeUpstream, Fault, On};

fn certificate(pem: impl Into<secrecy::SecretString>) -> Option<ClientCertificate> {
    Some(ClientCertificate { pem: pem.into() })
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_the_upstream_alone() {
    let fake = FakeUpstream::start_for_known_clients().await;
    fake.put_image("x", "1", &[]);
    let digest = fake.put_blob("content");
    fake.require_bearer();
    fake.redirect_blobs_to_cdn();
    let client = client_with(&fake, |settings| {
        settings.ca_pem = Some(fake.ca_pem());
        settings.client_certificate = certificate(fake.client_pem());
    });
    client.get_manifest(&name("x"), &reference("1"), Purpose::Fetch).await.unwrap();
    assert_eq!(drain(&mut client.get_blob(&name("x"), &digest, None).await.unwrap()).await.0, b"content");
    let journal = fake.journal();
    assert!(journal.iter().any(|exchange| exchange.at_cdn) && journal.iter().any(|exchange| exchange.path == "/token"));
    for exchange in journal {
        assert_eq!(exchange.has_certificate, !exchange.at_cdn, "{}", exchange.path);
    }
}

#[tokio::test]
async fn an_upstream_that_needs_a_client_certificate_is_not_reached_without() {
    let fake = FakeUpstream::start_for_known_clients().await;
    let client = client_with(&fake, |settings| settings.ca_pem = Some(fake.ca_pem()));
    let error = client.head_manifest(&name("x"), &reference("1"), Purpose::Fetch).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Unavailable { .. }), "{error}");
    assert!(fake.journal().is_empty());
}

/// The endpoint of these settings, or why there is none.
fn endpoint(change: impl FnOnce(&mut UpstreamSettings)) -> Result<Arc<Endpoint>, UpstreamBuildError> {
    let mut settings = settings("https://registry.example");
    change(&mut settings);
    let clock = headpond::clock::Clock::system();
    let stores = CredentialStores::new(Aws::default(), clock.clone(), Metrics::new().unwrap().credentials.clone());
    Endpoint::new(settings, &stores, &Allowances::default(), clock)
}

#[tokio::test]
async fn a_client_certificate_is_not_shown_to_a_proxy_that_is_asked_over_tls() {
    let fake = FakeUpstream::start_for_known_clients().await;
    let through = |proxy: &str, no_proxy: Option<&str>| {
        endpoint(|settings| {
            settings.client_certificate = certificate(fake.client_pem());
            settings.proxies = Proxies { http: None, https: Some(proxy.to_owned()), no_proxy: no_proxy.map(str::to_owned) };
        })
        .err()
    };
    assert_eq!(through("https://proxy.corp:3128", None), Some(UpstreamBuildError::CertificateForProxy));
    assert_eq!(through("https://proxy.corp:3128", Some("other.example")), Some(UpstreamBuildError::CertificateForProxy));
    for (proxy, no_proxy) in
        [("https://proxy.corp:3128", Some(".example")), ("http://proxy.corp:3128", None), ("socks5h://proxy.corp", None)]
    {
        assert_eq!(through(proxy, no_proxy), None, "{proxy}");
    }
    assert!(endpoint(|settings| settings.proxies.https = Some("https://proxy.corp:3128".to_owned())).is_ok(), "there is none to show");
}

#[tokio::test]
async fn whom_a_client_certificate_names_is_part_of_the_source() {
    let (one, other) = (FakeUpstream::start_for_known_clients().await, FakeUpstream::start_for_known_clients().await);
    let source = |pem: Option<String>, username: Option<&str>| {
        let endpoint = endpoint(|settings| {
            settings.client_certificate = pem.and_then(certificate);
            settings.credential = username.and_then(|username| credential(username, "password"));
        });
        endpoint.unwrap().source().to_string()
    };
    let with_it = source(Some(one.client_pem()), None);
    assert_ne!(with_it, source(None, None), "what it was given with a certificate is not for those without");
    assert_eq!(with_it, source(Some(other.client_pem()), None), "another certificate of the same name, by another authority");
    assert_ne!(source(Some(one.client_pem()), Some("user")), source(None, Some("user")));
    assert_eq!(source(None, None), "fbf9b98fdc8cb0f5", "of what is cached by now");
}

async fn with_image() -> FakeUpstream {
    let fake = FakeUpstream::start_tls().await;
    fake.put_image("x", "1", &[]);
    fake
}

#[tokio::test]
async fn a_rules_own_certificate_authority_is_trusted() {
    let fake = with_image().await;
    let digest = fake.put_blob("content");
    fake.require_bearer();
    fake.redirect_blobs_to_cdn();
    let client = client_with(&fake, |settings| settings.ca_pem = Some(fake.ca_pem()));
    client.get_manifest(&name("x"), &reference("1"), Purpose::Fetch).await.unwrap();
    assert_eq!(drain(&mut client.get_blob(&name("x"), &digest, None).await.unwrap()).await.0, b"content");
}

#[tokio::test]
async fn small_answers_come_over_http_2_and_blobs_over_http_1() {
    let fake = with_image().await;
    let digest = fake.put_blob("content");
    fake.require_bearer();
    let client = client_with(&fake, |settings| settings.ca_pem = Some(fake.ca_pem()));
    client.get_manifest(&name("x"), &reference("1"), Purpose::Fetch).await.unwrap();
    client.get_blob(&name("x"), &digest, None).await.unwrap();
    for exchange in fake.journal() {
        assert_eq!(exchange.is_http2, !exchange.path.contains("/blobs/"), "{}", exchange.path);
    }
}

#[tokio::test]
async fn an_unknown_certificate_authority_is_no_connection() {
    let fake = with_image().await;
    let error = client(&fake).head_manifest(&name("x"), &reference("1"), Purpose::Fetch).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Unavailable { kind: Unavailability::Connect, .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn https_is_never_left_for_http() {
    let (fake, plain) = (with_image().await, FakeUpstream::start().await);
    plain.put_image("x", "1", &[]);
    let client = client_with(&fake, |settings| {
        settings.ca_pem = Some(fake.ca_pem());
        settings.credential = credential("user", "password");
    });
    fake.on(On::Manifests).once(Fault::RedirectTo(format!("{}/v2/x/manifests/1", plain.url())));
    let message = lie(client.get_manifest(&name("x"), &reference("1"), Purpose::Fetch).await);
    assert!(message.contains("which is not https"), "{message}");
    fake.require_bearer_of("user", "password");
    fake.realm(&format!("{}/token", plain.url()));
    lie(client.get_manifest(&name("x"), &reference("1"), Purpose::Fetch).await);
    assert!(plain.journal().is_empty());
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused() {
    let refused = |change: &dyn Fn(&mut UpstreamSettings)| endpoint(|settings| change(settings)).err().unwrap();
    for base in ["ftp://a", "https://user@a", "https://a?x=y", "https://a#x"] {
        let error = refused(&|settings| settings.base = Url::parse(base).unwrap());
        assert!(matches!(error, UpstreamBuildError::Base(_)), "{base}: {error}");
    }
    for pem in [&b"nonsense"[..], b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let error = refused(&|settings| settings.ca_pem = Some(pem.to_vec()));
        assert!(matches!(error, UpstreamBuildError::Certificate(_) | UpstreamBuildError::Client(_)), "{error}");
    }
    let (unusable, proxy) = ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "http://somebody:secret@:x");
    for pem in ["nonsense", unusable] {
        let error = refused(&|settings| settings.client_certificate = certificate(pem));
        assert!(matches!(error, UpstreamBuildError::ClientCertificate(_)), "{error}");
    }
    let error = refused(&|settings| settings.proxies.https = Some(proxy.to_owned()));
    assert_eq!(error, UpstreamBuildError::Proxy("HTTPS_PROXY"));
    assert_eq!(refused(&|settings| settings.credential = credential("a:b", "c")), UpstreamBuildError::Username);
}

#[tokio::test]
async fn the_password_is_not_in_the_debug_form_of_the_settings() {
    let mut settings = settings("https://registry.example");
    settings.credential = credential("user", "secret-password");
    assert!(!format!("{settings:?}").contains("secret-password"));
}
