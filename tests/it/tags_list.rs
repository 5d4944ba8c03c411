//! Lists of tags.

use futures::future::join_all;
use headpond::app::World;
use reqwest::StatusCode;
use serde_json::json;

use crate::fake_upstream::{FakeUpstream, Fault, On};
use crate::headpond::{Answer, Headpond};

const LIST: &str = "/v2/up/library/x/tags/list";

async fn with_tags(count: usize) -> (FakeUpstream, Vec<String>) {
    let fake = FakeUpstream::start().await;
    let tags: Vec<String> = (0..count).map(|n| format!("t{n:03}")).collect();
    for tag in &tags {
        fake.put_image("library/x", tag, &[]);
    }
    (fake, tags)
}

fn tags(answer: &Answer) -> Vec<String> {
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, "application/json"));
    let list: serde_json::Value = serde_json::from_slice(answer.bytes()).unwrap();
    assert_eq!(list["name"], json!("up/library/x"));
    serde_json::from_value(list["tags"].clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_upstream_are_one_list_and_pages_of_ours_cost_nothing_more() {
    let (fake, all) = with_tags(25).await;
    fake.tags_per_page(10);
    let server = Headpond::before(&fake).await;
    let whole = join_all((0..50).map(|_| server.get(LIST))).await;
    assert!(whole.iter().all(|answer| tags(answer) == all && answer.header("link").is_empty()));
    assert_eq!((fake.requests_matching("GET", "/tags/list"), fake.journal().len()), (3, 3));

    let (mut path, mut paged, mut pages) = (format!("{LIST}?n=7"), Vec::new(), 0);
    loop {
        let page = server.get(&path).await;
        paged.extend(tags(&page));
        pages += 1;
        let Some(link) = page.header("link").strip_prefix('<') else { break };
        let (next, relation) = link.split_once('>').unwrap();
        assert_eq!(relation, "; rel=\"next\"");
        path = next.to_owned();
    }
    assert_eq!((paged, pages), (all, 4));
    assert_eq!(fake.journal().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn next_page_of_a_mirrored_registry_stays_with_it() {
    let (fake, all) = with_tags(3).await;
    let server = Headpond::before(&fake).await;
    let page = server.get("/v2/library/x/tags/list?n=2&ns=docker.io").await;
    let link = page.header("link").strip_prefix('<').unwrap().split('>').next().unwrap().to_owned();
    let rest: serde_json::Value = serde_json::from_slice(server.get(&link).await.bytes()).unwrap();
    assert_eq!(rest, json!({"name": "library/x", "tags": [all[2]]}));
}

#[tokio::test(flavor = "multi_thread")]
async fn n_and_last_cut_the_list() {
    let (fake, all) = with_tags(5).await;
    let server = Headpond::before(&fake).await;
    for (query, expected) in
        [("?n=2", &all[..2]), ("?n=0", &[]), ("?last=t002", &all[3..]), ("?n=1&last=t002x", &all[3..4]), ("?n=99999999999999999999", &all)]
    {
        assert_eq!(tags(&server.get(&format!("{LIST}{query}")).await), expected, "{query}");
    }
    for query in ["?n=-1", "?n=abc", "?n=", "?n=1.5", "?n=+1"] {
        let refused = server.get(&format!("{LIST}{query}")).await;
        assert_eq!((refused.status, refused.code().as_str()), (StatusCode::BAD_REQUEST, "PAGINATION_NUMBER_INVALID"), "{query}");
    }
    assert_eq!(server.head(LIST).await.bytes().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn last_list_is_told_while_upstream_is_down() {
    let (fake, all) = with_tags(3).await;
    let server = Headpond::with(&fake, "", "limits: {tags_list_ttl: 0s, revalidate_wait: 1h}").await;
    assert_eq!(tags(&server.get(LIST).await), all);
    fake.on(On::Tags).always(Fault::Status(403));
    for _ in 0..5 {
        let answer = server.get(LIST).await;
        assert_eq!(tags(&answer), all);
        assert!(answer.header("warning").contains("(denied)"), "{answer:?}");
    }
    assert_eq!(fake.journal().len(), 2, "the refusal is remembered");
    fake.stop().await;
    assert_eq!(tags(&server.get(LIST).await), all);
    assert_eq!(server.metric(r#"headpond_stale_served_total{reason="denied",rule="up"}"#), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_upstream_is_waited_for_only_so_long_where_there_is_a_list() {
    let (fake, all) = with_tags(3).await;
    let server =
        Headpond::with(&fake, "", "limits: {tags_list_ttl: 0s, revalidate_wait: 50ms, head_timeout: 1h, manifest_timeout: 1h}").await;
    server.get(LIST).await;
    fake.on(On::Tags).always(Fault::HangHead);
    let answer = server.get(LIST).await;
    assert_eq!(tags(&answer), all);
    assert!(answer.header("warning").contains("(slow)"), "{answer:?}");
    fake.clear_faults();
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_that_were_pulled_are_told_where_there_is_no_other_list() {
    let (fake, _) = with_tags(3).await;
    let server = Headpond::before(&fake).await;
    server.get("/v2/up/library/x/manifests/t001").await;
    let directory = server.stop().await;
    fake.stop().await;
    let server = Headpond::in_directory(&fake, "", "", directory, World::default()).await;
    let answer = server.get(LIST).await;
    assert_eq!(tags(&answer), ["t001"]);
    assert!(answer.header("warning").starts_with("110 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_that_were_pulled_through_another_upstream_are_not_told() {
    let ((private, _), (fake, _)) = (with_tags(3).await, with_tags(3).await);
    let server = Headpond::before(&private).await;
    for tag in ["t000", "t001"] {
        server.get(&format!("/v2/up/library/x/manifests/{tag}")).await;
    }
    let directory = server.stop().await;
    let server = Headpond::in_directory(&fake, "", "", directory, World::default()).await;
    server.get("/v2/up/library/x/manifests/t002").await;
    let directory = server.stop().await;
    fake.stop().await;
    let server = Headpond::in_directory(&fake, "", "", directory, World::default()).await;
    assert_eq!(tags(&server.get(LIST).await), ["t002"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_repository_has_no_list_and_costs_one_request() {
    let fake = FakeUpstream::start().await;
    let server = Headpond::before(&fake).await;
    for _ in 0..5 {
        let answer = server.get("/v2/up/no/where/tags/list").await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "NAME_UNKNOWN"));
        assert!(answer.message().contains("repository name not known to registry"), "{}", answer.message());
    }
    assert_eq!(fake.journal().len(), 1);
    let no_rule = server.get("/v2/no/where/tags/list").await;
    assert_eq!((no_rule.status, no_rule.code().as_str()), (StatusCode::NOT_FOUND, "NAME_UNKNOWN"));
    fake.stop().await;
    assert_eq!(server.get("/v2/up/else/where/tags/list").await.status, StatusCode::SERVICE_UNAVAILABLE);
}
