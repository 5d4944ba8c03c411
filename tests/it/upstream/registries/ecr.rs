//! Amazon's two registries.

use headpond::upstream::Purpose;

use super::{client, client_with, credential, name, nothing_went_to_the_cdn_but_requests, pull, reference, registry_of};
use crate::fake_upstream::{Fault, On};

#[tokio::test]
async fn public_ecr_aws_refuses_heads_of_blobs_and_redirects_gets() {
    let (fake, image) = registry_of("nginx/nginx").await;
    fake.require_bearer();
    fake.scope("aws");
    fake.challenges(&[r#"Bearer realm="{realm}",service="public.ecr.aws",scope="aws""#]);
    fake.realm(&format!("{}/token/", fake.url()));
    fake.on(On::BlobHead).of(&"/v2/").always(Fault::Status(401));
    fake.on(On::BlobGet).of(&"/v2/").always(Fault::RedirectTo(format!("{}/cdn/{}?signature=secret", fake.cdn_url(), image.layers[0])));
    let client = client(&fake);
    for _ in 0..3 {
        assert_eq!(client.head_blob(&name("nginx/nginx"), &image.layers[0]).await, Ok(Some(100_000)));
    }
    assert!(fake.requests_matching("HEAD", "/blobs/") <= 2, "it is known then that they are refused");
    pull(&client, "nginx/nginx", &image).await;
    nothing_went_to_the_cdn_but_requests(&fake);
}

#[tokio::test]
async fn public_ecr_aws_gives_one_token_for_all_repositories() {
    let (fake, image) = registry_of("nginx/nginx").await;
    let other = fake.put_image("docker/library/redis", "1", &["layer".into()]);
    fake.require_bearer();
    fake.scope("aws");
    fake.challenges(&[r#"Bearer realm="{realm}",service="public.ecr.aws",scope="aws""#]);
    let client = client(&fake);
    pull(&client, "nginx/nginx", &image).await;
    pull(&client, "docker/library/redis", &other).await;
    let queries: Vec<String> = fake.journal().into_iter().filter(|asked| asked.path == "/token").map(|asked| asked.query).collect();
    assert_eq!(queries, ["service=public.ecr.aws&scope=aws"]);
}

#[tokio::test]
async fn ecr_private_asks_for_basic_and_its_bucket_gets_none_unproven() {
    let (fake, image) = registry_of("team/app").await;
    fake.require_basic("AWS", "token-of-twelve-hours");
    fake.redirect_blobs_to_cdn();
    let client = client_with(&fake, |settings| settings.credential = credential("AWS", "token-of-twelve-hours"));
    pull(&client, "team/app", &image).await;
    nothing_went_to_the_cdn_but_requests(&fake);
    assert_eq!(fake.token_requests(), 0);
    let told = client.head_manifest(&name("team/app"), &reference("none"), Purpose::Fetch).await;
    assert!(matches!(told, Err(headpond::upstream::UpstreamError::NotFound { .. })), "{told:?}");
}
