//! The catalog: which repositories there are, and who sees them.

use std::path::Path;

use headpond::app::World;
use headpond::oci::RepositoryName;
use headpond::storage::{RecordKey, Records, RepositoryKind, RepositoryRecord};
use object_store::local::LocalFileSystem;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tempfile::TempDir;

use crate::auth::{CREDENTIALS, basic, write_secrets};
use crate::fake_upstream::FakeUpstream;
use crate::headpond::{Answer, Headpond, configuration};

const CATALOG: &str = "/v2/_catalog";

/// Writes what a repository is, as its first manifest does.
async fn put_repository(directory: &Path, name: &str, needs_user: bool) {
    let root = directory.join("headpond-data");
    std::fs::create_dir_all(&root).unwrap();
    let records = Records::new(std::sync::Arc::new(LocalFileSystem::new_with_prefix(root).unwrap()));
    let record = RepositoryRecord {
        kind: RepositoryKind::PullThrough,
        name: name.to_owned(),
        source: "0a1b".to_owned(),
        upstream_repository: name.to_owned(),
        needs_user,
        created_at: 0,
    };
    records.write(&RecordKey::repository(&RepositoryName::parse(name).unwrap()), &record).await.unwrap();
}

async fn with_repositories(names: &[&str], rule: &str, top: &str) -> (FakeUpstream, Headpond) {
    let directory = TempDir::new().unwrap();
    write_secrets(directory.path());
    for name in names {
        put_repository(directory.path(), name, false).await;
    }
    let fake = FakeUpstream::start().await;
    let server = Headpond::in_directory(&fake, rule, top, directory, World::default()).await;
    (fake, server)
}

fn names(answer: &Answer) -> Vec<String> {
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, "application/json"));
    let list: serde_json::Value = serde_json::from_slice(answer.bytes()).unwrap();
    serde_json::from_value(list["repositories"].clone()).unwrap()
}

/// The path that an answer says comes next.
fn next(answer: &Answer) -> Option<String> {
    let (path, relation) = answer.header("link").strip_prefix('<')?.split_once('>').unwrap();
    assert_eq!(relation, "; rel=\"next\"");
    Some(path.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_are_listed_once_something_of_them_is_cached() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let server = Headpond::before(&fake).await;
    let empty = server.get(CATALOG).await;
    assert_eq!(empty.bytes(), &json!({"repositories": []}).to_string());
    assert_eq!(server.get("/v2/library/x/manifests/1?ns=docker.io").await.digest(), image.digest);
    server.wait_for_repository("up/library/x").await;
    assert_eq!(names(&server.get(CATALOG).await), ["up/library/x"]);
    assert_eq!(server.head(CATALOG).await.bytes().len(), 0);
    assert_eq!(server.ask(Method::DELETE, CATALOG, &[]).await.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(fake.journal().len(), 1, "upstream is not asked for its catalog");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_the_catalog_follow_on_each_other_in_one_order() {
    let long = |last: &str| format!("up/{}{last}", "long/".repeat(45));
    let all = ["up/a", "up/a/b", "up/a/b/c", "up/a-b", "up/a.b", "up/a0", "up/b", &long("y"), &long("z"), "up/m_n", "up/zz"];
    let (_fake, server) = with_repositories(&all, "", "").await;
    let whole = server.get(CATALOG).await;
    assert!(whole.header("link").is_empty());
    let whole = names(&whole);
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    assert_eq!(sorted(whole.clone()), sorted(all.map(str::to_owned).to_vec()));
    assert_eq!(whole[..4], ["up/a", "up/a/b", "up/a/b/c", "up/a-b"], "'/' comes first");
    for n in 1..=whole.len() {
        let (mut path, mut paged, mut pages) = (format!("{CATALOG}?n={n}"), Vec::new(), 0);
        loop {
            let page = server.get(&path).await;
            paged.extend(names(&page));
            pages += 1;
            let Some(link) = next(&page) else { break };
            path = link;
        }
        assert_eq!((&paged, pages), (&whole, whole.len().div_ceil(n)), "n={n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn n_and_last_of_the_catalog_are_taken_as_those_of_tags() {
    let (_fake, server) = with_repositories(&["up/a", "up/b", "up/c"], "", "").await;
    for (query, expected) in [
        ("?n=2", &["up/a", "up/b"] as &[&str]),
        ("?n=0", &[]),
        ("?last=up%2Fa", &["up/b", "up/c"]),
        ("?n=1&last=up/aa", &["up/b"]),
        ("?last=", &["up/a", "up/b", "up/c"]),
        ("?last=%2e%2e%2Fx", &["up/a", "up/b", "up/c"]),
        ("?last=zz", &[]),
        ("?n=99999999999999999999", &["up/a", "up/b", "up/c"]),
    ] {
        assert_eq!(names(&server.get(&format!("{CATALOG}{query}")).await), expected, "{query}");
    }
    for query in ["?n=-1", "?n=abc", "?n="] {
        let refused = server.get(&format!("{CATALOG}{query}")).await;
        assert_eq!((refused.status, refused.code().as_str()), (StatusCode::BAD_REQUEST, "PAGINATION_NUMBER_INVALID"), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_that_the_client_may_not_pull_are_not_listed() {
    let top = "auth: {users: users, anonymous: {pull: true}}";
    let rule = format!("{CREDENTIALS}\ndeny: ['secret/*']");
    let (fake, mut server) = with_repositories(&["up/a", "up/secret/b", "gone/open"], &rule, top).await;
    put_repository(server.directory.path(), "gone/private", true).await;
    let alice = basic("alice", "client-secret");
    let seen_by = async |server: &Headpond, headers: &[(&str, &str)]| names(&server.ask(Method::GET, CATALOG, headers).await);
    assert_eq!(seen_by(&server, &[]).await, ["gone/open"]);
    assert_eq!(seen_by(&server, &[("authorization", &alice)]).await, ["gone/open", "gone/private", "up/a"]);
    assert!(server.get(&format!("{CATALOG}?n=1")).await.header("link").is_empty(), "what is hidden is not told by a link either");

    server.reload(&configuration(&fake.url(), &format!("{CREDENTIALS}\nanonymous: true"), top)).unwrap();
    assert_eq!(seen_by(&server, &[]).await, ["gone/open", "up/a", "up/secret/b"]);
    server.reload(&configuration(&fake.url(), "", "auth: {users: users}")).unwrap();
    let refused = server.get(CATALOG).await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn name_that_a_rule_leads_elsewhere_is_not_listed() {
    let (fake, server) = with_repositories(&["hub/x", "hub/library/x"], "", "").await;
    let directory = server.stop().await;
    let text = configuration(&fake.url(), "", "").replace("rules:\n", "rules:\n  - {prefix: hub, upstream: registry-1.docker.io}\n");
    let server = Headpond::of(&fake, &text, directory, World::default()).await;
    assert_eq!(names(&server.get(CATALOG).await), ["hub/library/x"]);
}
