//! The client of other registries, against a fake one.

mod authentication;
mod blobs;
mod circuit;
mod manifests;
mod private_addresses;
mod redirects;
mod referrers;
mod registries;
mod tags;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use headpond::oci::{Reference, RepositoryName};
use headpond::telemetry::metrics::Metrics;
use headpond::upstream::{
    Allowances, Aws, BlobStream, Credential, CredentialSource, CredentialStores, Endpoint, Upstream, UpstreamError, UpstreamLimits,
    UpstreamSettings, Url,
};

use crate::fake_upstream::FakeUpstream;

/// What the tests change of the settings.
pub(crate) fn settings(base: &str) -> UpstreamSettings {
    let limits = UpstreamLimits { manifest_timeout: Duration::from_secs(20), ..UpstreamLimits::default() };
    UpstreamSettings { limits, ..UpstreamSettings::of(Url::parse(base).unwrap()) }
}

fn credential(username: &str, password: &str) -> Option<CredentialSource> {
    let credential = Credential { username: username.to_owned(), password: password.into() };
    Some(CredentialSource::Password { credential, file: None })
}

/// A client of the fake, that shares its clock.
fn client(fake: &FakeUpstream) -> Upstream {
    client_with(fake, |_| {})
}

fn client_with(fake: &FakeUpstream, change: impl FnOnce(&mut UpstreamSettings)) -> Upstream {
    client_and_metrics(fake, change).0
}

fn client_and_metrics(fake: &FakeUpstream, change: impl FnOnce(&mut UpstreamSettings)) -> (Upstream, Metrics) {
    let mut settings = settings(&fake.url());
    change(&mut settings);
    let metrics = Metrics::new().unwrap();
    let endpoint = Endpoint::new(settings, &stores(fake, Aws::default(), &metrics), &Allowances::default(), fake.clock()).unwrap();
    (Upstream::new(endpoint, metrics.for_rule("fake")), metrics)
}

/// A second rule on the endpoint of the same settings.
fn endpoint(fake: &FakeUpstream) -> Arc<Endpoint> {
    Endpoint::new(settings(&fake.url()), &stores(fake, Aws::default(), &Metrics::new().unwrap()), &Allowances::default(), fake.clock())
        .unwrap()
}

/// No credentials yet; AWS is asked at `aws`.
pub(crate) fn stores(fake: &FakeUpstream, aws: Aws, metrics: &Metrics) -> CredentialStores {
    CredentialStores::new(aws, fake.clock(), metrics.credentials.clone())
}

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn reference(text: &(impl ToString + ?Sized)) -> Reference {
    Reference::parse(&text.to_string()).unwrap()
}

/// Everything that comes, and how it ended.
async fn drain(stream: &mut BlobStream) -> (Vec<u8>, Option<UpstreamError>) {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(error) => return (bytes, Some(error)),
        }
    }
    (bytes, None)
}

/// The message of a protocol violation.
fn lie<T: std::fmt::Debug>(outcome: Result<T, UpstreamError>) -> String {
    match outcome {
        Err(UpstreamError::Lied { detail }) => detail,
        other => panic!("not a lie: {other:?}"),
    }
}
