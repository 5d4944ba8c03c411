use super::{client, client_with, credential, nothing_went_to_the_cdn_but_requests, pull, registry_of};

#[tokio::test]
async fn registry_gitlab_com_has_its_realm_elsewhere_and_nested_names_unproven() {
    let repository = "group/subgroup/project/image/variant";
    let (fake, image) = registry_of(repository).await;
    fake.require_bearer_of("deploy", "token");
    let port = fake.host().rsplit_once(':').unwrap().1.to_owned();
    fake.realm(&format!("http://localhost:{port}/jwt/auth"));
    fake.challenges(&[r#"Bearer realm="{realm}",service="container_registry",scope="{scope}",error="invalid_token""#]);
    fake.redirect_blobs_to_cdn();
    // That gitlab.com is trusted for registry.gitlab.com is in the table of known realms.
    let client = client_with(&fake, |settings| {
        settings.credential = credential("deploy", "token");
        settings.realms = vec!["localhost".to_owned()];
    });
    pull(&client, repository, &image).await;
    nothing_went_to_the_cdn_but_requests(&fake);
}

#[tokio::test]
async fn nvcr_io_names_a_realm_with_a_query_and_wants_a_user_with_a_dollar_unproven() {
    let (fake, image) = registry_of("nvidia/cuda").await;
    fake.require_bearer_of("$oauthtoken", "ngc-key");
    fake.realm(&format!("{}/proxy_auth?scope=repository:nvidia/cuda:pull", fake.url()));
    fake.challenges(&[r#"Bearer realm="{realm}""#]);
    let client = client_with(&fake, |settings| settings.credential = credential("$oauthtoken", "ngc-key"));
    pull(&client, "nvidia/cuda", &image).await;
}

#[tokio::test]
async fn cgr_dev_gives_tokens_to_anybody_and_redirects_to_storage_unproven() {
    let (fake, image) = registry_of("chainguard/static").await;
    fake.require_bearer();
    fake.challenges(&[r#"Bearer realm="{realm}",service="cgr.dev",scope="{scope}""#]);
    fake.token_form("token", false);
    fake.redirect_blobs_to_cdn();
    pull(&client(&fake), "chainguard/static", &image).await;
    nothing_went_to_the_cdn_but_requests(&fake);
}

#[tokio::test]
async fn docker_elastic_co_wants_a_token_for_public_images_too_unproven() {
    let (fake, image) = registry_of("elasticsearch/elasticsearch").await;
    fake.require_bearer();
    let port = fake.host().rsplit_once(':').unwrap().1.to_owned();
    fake.realm(&format!("http://localhost:{port}/token"));
    let client = client_with(&fake, |settings| settings.realms = vec![format!("localhost:{port}")]);
    pull(&client, "elasticsearch/elasticsearch", &image).await;
    assert_eq!(fake.token_requests(), 1);
}
