//! `headpond check-upstream`: each step, what it says, and where it ends.

use std::process::{Command, Output};

use headpond::app::check_upstream::{CheckReport, Outcome, StepName, check_upstream};
use headpond::config::Config;
use headpond::telemetry::metrics::Metrics;
use headpond::upstream::{Allowances, Aws, Endpoint, Proxies, Upstream};

use crate::fake_upstream::{FakeUpstream, Fault, On, pseudo_random};
use crate::upstream::{settings, stores};

const IMAGE: Option<&str> = Some("library/x:1");

/// A registry with an image, of which tokens are asked and which has its blobs elsewhere.
async fn registry() -> FakeUpstream {
    let fake = FakeUpstream::start().await;
    fake.put_image("library/x", "1", &[pseudo_random(1, 1000)]);
    fake.require_bearer();
    fake.redirect_blobs_to_cdn();
    fake
}

fn configuration(base: &str, rule: &str) -> String {
    format!("rules:\n  - prefix: up\n    upstream: {base}\n    {rule}\n")
}

async fn check(base: &str, rule: &str, image: Option<&str>) -> CheckReport {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("password"), "hunter2").unwrap();
    let config = Config::parse(&configuration(base, rule), directory.path()).unwrap();
    check_upstream(&config, "up", image).await.unwrap().report
}

/// The steps before the last were well, and this one failed, with these words and this hint.
fn fails_at(report: &CheckReport, step: StepName, seen: &str, hint: &str) {
    let (last, before) = report.steps.split_last().unwrap();
    assert!(before.iter().all(|step| step.outcome == Outcome::Ok), "{report:#?}");
    assert_eq!((last.step, last.outcome), (step, Outcome::Failed), "{report:#?}");
    assert!(last.seen.contains(seen) && last.hint.unwrap().contains(hint), "{report:#?}");
    assert!(!report.is_ok());
}

#[tokio::test]
async fn upstream_that_is_well_passes_every_step() {
    let fake = registry().await;
    fake.on(On::Manifests).always(Fault::Header("ratelimit-limit", "100;w=21600".to_owned()));
    fake.on(On::Manifests).always(Fault::Header("ratelimit-remaining", "76;w=21600".to_owned()));
    let report = check(&fake.url(), "", IMAGE).await;
    assert!(report.is_ok(), "{report:#?}");
    let seen: Vec<(StepName, &str)> = report.steps.iter().map(|step| (step.step, step.seen.as_str())).collect();
    let cdn = fake.cdn_url().replace("http://", "");
    let expected = [
        (StepName::Name, "127.0.0.1 is 127.0.0.1"),
        (StepName::Connect, "without TLS, GET 127.0.0.1"),
        (StepName::Challenge, "a token of 127.0.0.1"),
        (StepName::Token, "given anonymously, for repository:library/x:pull"),
        (StepName::Manifest, "library/x:1 is sha256:"),
        (StepName::Blob, &format!("redirected to {cdn}, ranges are answered")),
        (StepName::Quota, "76 of 100 pulls left in 6 h"),
    ];
    assert_eq!(seen.len(), expected.len(), "{seen:#?}");
    for ((step, seen), (expected_step, words)) in seen.into_iter().zip(expected) {
        assert_eq!(step, expected_step);
        assert!(seen.starts_with(words), "{seen}");
    }
    assert_eq!(fake.manifest_gets(), 1, "one pull of the quota for an image without an index");
}

#[tokio::test]
async fn wrong_password_is_said_at_the_token_and_not_shown() {
    let fake = registry().await;
    fake.require_bearer_of("user", "another");
    let report = check(&fake.url(), "credentials: {username: user, password: 'file:password'}", IMAGE).await;
    fails_at(&report, StepName::Token, "/token answered 401", "refuses the rule's credentials");
    assert!(!format!("{report:?}").contains("hunter2"));
}

#[tokio::test]
async fn password_that_is_asked_for_and_not_there_is_said_at_the_challenge() {
    let fake = registry().await;
    fake.require_basic("user", "another");
    fails_at(&check(&fake.url(), "", IMAGE).await, StepName::Challenge, "user name and password", "`credentials`");
}

#[tokio::test]
async fn closed_port_is_said_at_the_connection() {
    let fake = registry().await;
    fake.stop().await;
    fails_at(&check(&fake.url(), "", IMAGE).await, StepName::Connect, "cannot be connected to", "nothing listens there");
}

#[tokio::test]
async fn mirrors_are_tried_too_by_their_own_names_and_without_credentials() {
    let (fake, good, bad) = (registry().await, FakeUpstream::start().await, FakeUpstream::start().await);
    good.put_image("hub/library/x", "1", &[pseudo_random(1, 1000)]);
    bad.put_image("library/x", "1", &[]);
    bad.require_basic("user", "hunter2");
    fake.require_bearer_of("user", "hunter2");
    let mirrors = |urls: String| format!("credentials: {{username: user, password: 'file:password'}}\n    mirrors: [{urls}]");
    let named = format!("{{upstream: '{}', upstream_prefix: hub}}", good.url());
    let report = check(&fake.url(), &mirrors(named.clone()), IMAGE).await;
    assert!(report.is_ok() && report.mirrors.len() == 1, "{report:#?}");
    assert_eq!((report.mirrors[0].upstream.clone(), report.mirrors[0].steps.len()), (good.url(), 7));
    assert!(good.journal().iter().all(|exchange| exchange.authorization.is_none()));

    let report = check(&fake.url(), &mirrors(format!("{named}, '{}'", bad.url())), IMAGE).await;
    assert!(!report.is_ok() && report.steps.iter().all(|step| step.outcome == Outcome::Ok), "{report:#?}");
    fails_at(&report.mirrors[1], StepName::Challenge, "user name and password", "`credentials`");
}

#[tokio::test(flavor = "multi_thread")]
async fn command_names_the_mirror_that_fails() {
    let (fake, mirror) = (registry().await, FakeUpstream::start().await);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("headpond.yaml");
    std::fs::write(&file, configuration(&fake.url(), &format!("mirrors: '{}'", mirror.url()))).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_headpond"));
    command.args(["check-upstream", "up", "library/x:1", "--config"]).arg(&file).env_remove("HEADPOND_CONFIG");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    let (upstream, mirrored) = stdout.split_once(&format!("\nmirror of up: {}\n", mirror.url())).unwrap();
    assert!(!upstream.contains("FAILED") && mirrored.contains("FAILED   manifest"), "{stdout}");
}

#[tokio::test]
async fn a_name_that_is_not_found_here_may_be_known_to_the_proxy_that_the_rule_goes_through() {
    let fake = FakeUpstream::start().await;
    for (no_proxy, outcome) in [(None, Outcome::Ok), (Some(".invalid"), Outcome::Failed)] {
        let mut settings = settings("https://registry.invalid");
        settings.proxies = Proxies { http: None, https: Some("http://127.0.0.1:9".to_owned()), no_proxy: no_proxy.map(str::to_owned) };
        let metrics = Metrics::new().unwrap();
        let endpoint = Endpoint::new(settings, &stores(&fake, Aws::default(), &metrics), &Allowances::default(), fake.clock()).unwrap();
        let report = Upstream::new(endpoint, metrics.for_rule("up")).check(None).await;
        assert_eq!((report.steps[0].step, report.steps[0].outcome), (StepName::Name, outcome), "{report:#?}");
    }
}

#[tokio::test]
async fn unknown_name_is_said_at_the_name() {
    let report = check("https://registry.invalid", "", IMAGE).await;
    fails_at(&report, StepName::Name, "registry.invalid", "`upstream`");
}

#[tokio::test]
async fn certificate_of_an_unknown_authority_is_explained() {
    let fake = FakeUpstream::start_tls().await;
    fails_at(&check(&fake.url(), "", IMAGE).await, StepName::Connect, "", "name a file with it in the rule's `ca`");
}

#[tokio::test]
async fn registry_without_tls_is_told_from_one_that_is_down() {
    let fake = registry().await;
    let report = check(&fake.url().replace("http://", "https://"), "", IMAGE).await;
    fails_at(&report, StepName::Connect, "", "write http:// before the host");
}

#[tokio::test]
async fn realm_elsewhere_is_said_and_gets_nothing() {
    let fake = registry().await;
    fake.realm("http://elsewhere.invalid/token");
    let report = check(&fake.url(), "credentials: {username: user, password: 'file:password'}", IMAGE).await;
    fails_at(&report, StepName::Token, "elsewhere.invalid", "`realms`");
}

#[tokio::test]
async fn something_else_than_a_registry_is_said_at_the_challenge() {
    let fake = registry().await;
    fake.on(On::Any).always(Fault::Status(404));
    fails_at(&check(&fake.url(), "", IMAGE).await, StepName::Challenge, "/v2/ is answered 404", "base path");
}

#[tokio::test]
async fn image_that_is_not_there_is_said_at_the_manifest() {
    let fake = registry().await;
    let report = check(&fake.url(), "", Some("library/none")).await;
    assert!(!report.is_ok());
    let manifest = report.steps.iter().find(|step| step.step == StepName::Manifest).unwrap();
    assert!(manifest.seen.contains("library/none/manifests/latest answered 404"), "{manifest:?}");
}

#[tokio::test]
async fn used_up_quota_is_said_and_costs_no_get() {
    let fake = registry().await;
    fake.on(On::Manifests).always(Fault::Header("ratelimit-remaining", "0;w=21600".to_owned()));
    fails_at(&check(&fake.url(), "", IMAGE).await, StepName::Quota, "0 pulls left in 6 h", "wait until pulls are free again");
    fake.on(On::Manifests).always(Fault::Status(429));
    let report = check(&fake.url(), "", IMAGE).await;
    let failed: Vec<StepName> = report.steps.iter().filter(|step| step.outcome == Outcome::Failed).map(|step| step.step).collect();
    assert_eq!(failed, [StepName::Manifest, StepName::Quota]);
    assert_eq!(fake.manifest_gets(), 0);
}

#[tokio::test]
async fn content_network_that_fails_is_said_at_the_blob() {
    let fake = registry().await;
    fake.on(On::BlobGet).always(Fault::Status(403));
    let report = check(&fake.url(), "", IMAGE).await;
    let blob = report.steps.iter().find(|step| step.step == StepName::Blob).unwrap();
    assert_eq!(blob.outcome, Outcome::Failed);
    assert!(blob.seen.contains("/cdn/") && !blob.seen.contains("secret"), "{blob:?}");
}

#[tokio::test]
async fn registry_of_which_no_image_is_known_is_checked_up_to_the_challenge() {
    let fake = registry().await;
    let report = check(&fake.url(), "", None).await;
    assert!(report.is_ok());
    let outcomes: Vec<_> = report.steps.iter().map(|step| (step.step, step.outcome)).collect();
    assert_eq!(outcomes[2..], [(StepName::Challenge, Outcome::Ok), (StepName::Manifest, Outcome::Skipped)]);
}

/// The built program, which no variable of this machine disturbs.
async fn run(base: &str, arguments: &'static [&'static str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("headpond.yaml");
    std::fs::write(&file, format!("listen: 0.0.0.0:5000\n{}", configuration(base, ""))).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_headpond"));
    command.arg("check-upstream").args(arguments).arg("--config").arg(&file).env_remove("HEADPOND_CONFIG");
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn command_prints_the_steps_and_the_next_command() {
    let fake = registry().await;
    let output = run(&fake.url(), &["up", "library/x:1"]).await;
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
    assert!(stdout.starts_with(&format!("up: {}\n  ok       name       127.0.0.1 is 127.0.0.1\n", fake.url())), "{stdout}");
    assert!(stdout.contains("\n  ok       quota      it tells of none\n"), "{stdout}");
    assert!(stderr.contains("next: headpond serve --config ") && stderr.contains("docker pull 127.0.0.1:5000/up/library/x:1"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn command_exits_1_with_a_hint_where_a_step_fails() {
    let fake = registry().await;
    fake.require_bearer_of("user", "password");
    let output = run(&fake.url(), &["up", "library/x:1"]).await;
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout.contains("\n  FAILED   token      ") && stdout.contains("\n           hint: the image is private"), "{stdout}");
    assert!(stderr.contains("then: headpond check-upstream up library/x:1 --config "), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn command_prints_json_and_names_the_rules_there_are() {
    let fake = registry().await;
    let output = run(&fake.url(), &["up", "library/x:1", "--json"]).await;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["steps"][0], serde_json::json!({"step": "name", "outcome": "ok", "seen": "127.0.0.1 is 127.0.0.1"}));
    assert_eq!(report["steps"].as_array().unwrap().len(), 7);
    let output = run(&fake.url(), &["down"]).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("no rule has the prefix down") && stderr.contains("hint: the rules are up"), "{stderr}");
}
