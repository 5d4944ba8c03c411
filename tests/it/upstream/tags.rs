//! Lists of tags.

use headpond::upstream::{Purpose, UpstreamError};

use super::{client, client_with, lie, name};
use crate::fake_upstream::{FakeUpstream, Fault, On};

async fn with_tags(count: usize) -> FakeUpstream {
    let fake = FakeUpstream::start().await;
    for n in 0..count {
        fake.put_manifest("library/x", &format!("t{n:04}"), "{}", "application/json");
    }
    fake
}

#[tokio::test]
async fn all_pages_are_one_sorted_list() {
    let fake = with_tags(25).await;
    fake.tags_per_page(10);
    let tags = client(&fake).list_tags(&name("library/x"), Purpose::Fetch).await.unwrap();
    assert_eq!(tags.len(), 25);
    assert!(tags.is_sorted());
    assert_eq!(fake.requests_matching("GET", "/tags/list"), 3);
    assert_eq!(fake.journal()[0].query, "n=1000");
}

#[tokio::test]
async fn repeated_and_impossible_tags_are_left_out() {
    let fake = with_tags(1).await;
    let body = br#"{"name":"x","tags":["b","a","b","-no","","a/b"],"manifest":{}}"#;
    fake.on(On::Tags).once(Fault::Instead(body.to_vec()));
    let tags = client(&fake).list_tags(&name("library/x"), Purpose::Fetch).await.unwrap();
    assert_eq!(tags.iter().map(headpond::oci::Tag::as_str).collect::<Vec<_>>(), ["a", "b"]);
    fake.on(On::Tags).once(Fault::Instead(br#"{"tags":null}"#.to_vec()));
    assert_eq!(client(&fake).list_tags(&name("library/x"), Purpose::Fetch).await, Ok(Vec::new()));
}

#[tokio::test]
async fn an_unknown_repository_is_not_found() {
    let fake = with_tags(1).await;
    let outcome = client(&fake).list_tags(&name("library/y"), Purpose::Fetch).await;
    assert!(matches!(outcome, Err(UpstreamError::NotFound { .. })), "{outcome:?}");
}

#[tokio::test]
async fn a_next_page_elsewhere_is_a_lie_and_not_asked() {
    let (fake, other) = (with_tags(3).await, FakeUpstream::start().await);
    fake.on(On::Tags).always(Fault::Header("link", format!("<{}/v2/x/tags/list?n=1>; rel=\"next\"", other.url())));
    let message = lie(client(&fake).list_tags(&name("library/x"), Purpose::Fetch).await);
    assert!(message.contains("on another host"), "{message}");
    assert!(other.journal().is_empty());
}

#[tokio::test]
async fn pages_in_a_circle_end() {
    let fake = with_tags(3).await;
    fake.on(On::Tags).always(Fault::Header("link", "</v2/library/x/tags/list?n=1000>; rel=next".to_owned()));
    let message = lie(client(&fake).list_tags(&name("library/x"), Purpose::Fetch).await);
    assert!(message.contains("this one"), "{message}");
}

#[tokio::test]
async fn too_many_pages_and_tags_are_refused_and_not_cut_short() {
    let fake = with_tags(10).await;
    fake.tags_per_page(1);
    let few_pages = client_with(&fake, |settings| settings.limits.max_tag_pages = 5);
    assert!(lie(few_pages.list_tags(&name("library/x"), Purpose::Fetch).await).contains("more than 5 pages"));
    let few_tags = client_with(&fake, |settings| settings.limits.max_tags = 5);
    assert!(lie(few_tags.list_tags(&name("library/x"), Purpose::Fetch).await).contains("more than 5 tags"));
    let small_pages = client_with(&fake, |settings| settings.limits.max_tag_page_bytes = 10);
    assert!(lie(small_pages.list_tags(&name("library/x"), Purpose::Fetch).await).contains("more than 10 bytes"));
}

#[tokio::test]
async fn garbage_is_a_lie() {
    let fake = with_tags(1).await;
    for garbage in ["<html>", "[]", r#"{"tags":{}}"#, r#"{"tags":[1]}"#, ""] {
        fake.on(On::Tags).once(Fault::Instead(garbage.as_bytes().to_vec()));
        let message = lie(client(&fake).list_tags(&name("library/x"), Purpose::Fetch).await);
        assert!(message.contains("no list of tags"), "{message}");
    }
}
