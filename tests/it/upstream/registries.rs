//! What each public registry does in its own way, and that images come through all the same.
//!
//! A test is named for its registry. `unproven` in a name: that the registry does so is told by others and
//! not by its own documents, nor seen in recorded answers; the test proves what Headpond does if it does.

mod cloud;
mod docker_hub;
mod ecr;
mod ghcr_io;
mod others;
mod quay_io;
mod realms;
mod registry_k8s_io;

use headpond::oci::Digest;
use headpond::upstream::{Purpose, Upstream};

use super::{client, client_with, credential, drain, name, reference};
use crate::fake_upstream::{FakeUpstream, Image, pseudo_random};

/// A registry that has one image, with a layer, under this name.
async fn registry_of(repository: &str) -> (FakeUpstream, Image) {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image(repository, "1", &[pseudo_random(1, 100_000)]);
    (fake, image)
}

/// Pulls an image as a node does: what the tag names, the manifest, the layer.
async fn pull(client: &Upstream, repository: &str, image: &Image) {
    let repository = name(repository);
    let head = client.head_manifest(&repository, &reference("1"), Purpose::Fetch).await.unwrap();
    assert_eq!(head.digest, image.digest);
    let manifest = client.get_manifest(&repository, &reference(&image.digest), Purpose::Fetch).await.unwrap();
    assert_eq!(manifest.bytes, image.manifest);
    let mut layer = client.get_blob(&repository, &image.layers[0], None).await.unwrap();
    assert_eq!(Digest::of(&drain(&mut layer).await.0), image.layers[0]);
}

/// Credentials went to the registry's own port only, and none that are secret to another host.
fn nothing_went_to_the_cdn_but_requests(fake: &FakeUpstream) {
    let journal = fake.journal();
    assert!(journal.iter().any(|exchange| exchange.at_cdn));
    assert!(journal.iter().all(|exchange| !exchange.at_cdn || exchange.authorization.is_none()), "{journal:#?}");
}
