//! Google's and Microsoft's registries.

use headpond::oci::Tag;
use headpond::upstream::Purpose;

use super::{client, client_with, credential, name, nothing_went_to_the_cdn_but_requests, pull, registry_of};
use crate::fake_upstream::{FakeUpstream, Fault, On};

#[tokio::test]
async fn gcr_io_lists_tags_with_fields_of_its_own_unproven() {
    let fake = FakeUpstream::start().await;
    let list = r#"{"child":["sub"],"manifest":{"sha256:00":{"imageSizeBytes":"7","tag":["b"]}},"name":"p/x","tags":["b","a"]}"#;
    fake.on(On::Tags).always(Fault::Instead(list.as_bytes().to_vec()));
    let tags = client(&fake).list_tags(&name("p/x"), Purpose::Fetch).await.unwrap();
    assert_eq!(tags.iter().map(Tag::as_str).collect::<Vec<_>>(), ["a", "b"]);
}

#[tokio::test]
async fn pkg_dev_gives_tokens_below_v2_to_json_keys_unproven() {
    let (fake, image) = registry_of("project/repository/app").await;
    for (username, password) in [("_json_key", "{\"type\": \"service_account\"}\n"), ("oauth2accesstoken", "ya29.token")] {
        fake.require_bearer_of(username, password);
        fake.realm(&format!("{}/v2/token", fake.url()));
        let client = client_with(&fake, |settings| settings.credential = credential(username, password));
        pull(&client, "project/repository/app", &image).await;
    }
}

#[tokio::test]
async fn azurecr_io_names_its_token_access_token_and_its_storage_gets_none_unproven() {
    let (fake, image) = registry_of("team/app").await;
    fake.require_bearer_of("puller", "password");
    fake.realm(&format!("{}/oauth2/token", fake.url()));
    fake.token_form("access_token", false);
    fake.redirect_blobs_to_cdn();
    let client = client_with(&fake, |settings| settings.credential = credential("puller", "password"));
    pull(&client, "team/app", &image).await;
    nothing_went_to_the_cdn_but_requests(&fake);
    assert_eq!(fake.requests_matching("GET", "/oauth2/token"), 1, "one that tells no life lives a minute");
}

#[tokio::test]
async fn mcr_microsoft_com_asks_for_nothing_and_redirects_to_its_region_unproven() {
    let (fake, image) = registry_of("dotnet/runtime").await;
    fake.redirect_blobs_to_cdn();
    pull(&client(&fake), "dotnet/runtime", &image).await;
    nothing_went_to_the_cdn_but_requests(&fake);
    assert!(fake.journal().iter().all(|exchange| exchange.authorization.is_none()));
}
