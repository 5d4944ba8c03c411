//! The configuration file: what it gives, and what is said of one that is wrong.

use std::path::Path;
use std::time::Duration;

use headpond::config::{Config, ConfigProblems, Credentials, LogFormat, Overrides, Prefetch, Prefix, Scheme};
use headpond::oci::Platform;

fn parse(text: &str) -> Config {
    Config::parse(text, Path::new("/etc/headpond")).unwrap()
}

fn problems(text: &str) -> ConfigProblems {
    Config::parse(text, Path::new("/etc/headpond")).unwrap_err()
}

/// The paths with their words, for comparing.
fn said(text: &str) -> Vec<(String, String)> {
    problems(text).problems.into_iter().map(|problem| (problem.path, problem.what)).collect()
}

fn paths(text: &str) -> Vec<String> {
    said(text).into_iter().map(|(path, _)| path).collect()
}

#[test]
fn no_configuration_is_the_documented_one() {
    let config = Config::load(None, &Overrides::default()).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.listen[0].address.to_string(), "127.0.0.1:5000");
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:5001");
    assert_eq!(config.storage.path, Path::new("./headpond-data"));
    assert!(config.auth.anonymous.is_some_and(|anonymous| anonymous.cidrs.is_empty()));
    assert_eq!(config.rules.len(), 8);
}

#[test]
fn file_with_only_rules_is_whole_and_replaces_the_default_ones() {
    let config = parse("rules: [{prefix: docker-hub/, upstream: docker.io}]");
    assert_eq!(config.rules.len(), 1);
    assert_eq!(config.rules[0].prefix, Prefix::Name("docker-hub".to_owned()));
    assert_eq!(config.rules[0].upstream.host, "registry-1.docker.io");
    assert_eq!(config.listen, Config::default().listen);
}

#[test]
fn every_key_reaches_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    for file in ["tls.crt", "tls.key", "ca.crt", "users.htpasswd", "upstream-ca.crt"] {
        std::fs::write(directory.path().join(file), "").unwrap();
    }
    std::fs::write(directory.path().join("password"), "hunter2\n").unwrap();
    let text = r#"
listen:
  - 127.0.0.1:5000
  - {address: "[::1]:5443", tls: {certificate: tls.crt, key: tls.key, client_ca: ca.crt}, proxy_protocol: true}
admin: {address: 127.0.0.1:6001}
storage: {path: data}
auth: {anonymous: {pull: true, cidrs: [10.0.0.0/8, 192.0.2.1]}, users: users.htpasswd}
log: {level: "info,headpond::cache=debug", format: json}
limits: {stall_timeout: 500ms, memory_cache: 1GiB, max_fills: 7, shutdown_delay: 0}
rules:
  - prefix: team/hub
    upstream: http://127.0.0.1:5100/base
    upstream_prefix: mirror
    hosts: [Docker.io, "index.docker.io:443"]
    mirror: true
    ca: upstream-ca.crt
    credentials: {username: someone, password: "file:password"}
    realms: auth.example.com
    anonymous: true
    allow: ["library/*"]
    deny: "library/evil"
    freshness: {default: 1h, tags: {"*": 2h, latest: 15m, "nightly-*": 1m}, max_stale: 30d}
"#;
    let config = Config::parse(text, directory.path()).unwrap();
    let tls = config.listen[1].tls.as_ref().unwrap();
    assert_eq!(tls.client_ca.as_deref(), Some(directory.path().join("ca.crt").as_path()));
    assert!(config.listen[1].proxy_protocol && !config.listen[0].proxy_protocol);
    assert_eq!(config.admin.address.port(), 6001);
    assert_eq!(config.storage.path, directory.path().join("data"));
    assert_eq!(
        config.auth.anonymous.as_ref().unwrap().cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.0.0.0/8", "192.0.2.1/32"]
    );
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(
        (config.limits.stall_timeout, config.limits.memory_cache, config.limits.max_fills),
        (Duration::from_millis(500), 1 << 30, 7)
    );
    let rule = &config.rules[0];
    assert_eq!((rule.upstream.scheme, rule.upstream.port, rule.upstream.base_path.as_str()), (Scheme::Http, Some(5100), "/base"));
    assert_eq!(rule.hosts, ["docker.io", "index.docker.io:443"]);
    assert_eq!(rule.realms, ["auth.example.com"]);
    let Some(Credentials::Password { username, password, file }) = &rule.credentials else { panic!("{:?}", rule.credentials) };
    assert_eq!((username.as_str(), password.expose()), ("someone", "hunter2"));
    assert_eq!(file.as_deref(), Some(directory.path().join("password").as_path()));
    assert_eq!(rule.freshness.window("latest"), Duration::from_secs(15 * 60));
    assert_eq!(rule.freshness.window("nightly-1"), Duration::from_secs(60));
    assert_eq!(rule.freshness.window("1.2"), Duration::from_secs(2 * 60 * 60));
    assert_eq!(rule.deny[0].as_str(), "library/evil");
    assert!(!format!("{config:?}").contains("hunter2"), "a secret in Debug");
}

#[test]
fn every_problem_is_reported_at_once_with_its_path() {
    let text = r"
listen: [127.0.0.1:5000, {address: nowhere, tls: {certificate: /nonexistent.crt}}, {tls: 5}]
admin: {adress: 127.0.0.1:5001}
storage: {max_size: 200GiB, path: [1]}
auth: {anonymous: maybe, users: /nonexistent.htpasswd, token_key: x}
log: {level: loud, format: xml}
limits: {stall_timeout: 10, max_fills: 0, memory_cache: big, max_header_bytes: 1MiB, max_header_byte: 1}
rules:
  - {prefix: a, upstream: 'https://user:hunter2@host'}
  - 5
  - {prefix: quay, upstream: quay.io, mirrors: [quay.io, 'ftp://x'], credentials: {username: u, password: hunter2}}
  - {prefix: quay/, upstream: quay.io, freshness: {default: soon, tags: {'a b': 1h}}}
  - {prefix: ROOT, upstream: quay.io, upstream_prefix: x1, hosts: ['a b'], allow: ['[x]'], credentials: ecr}
cluster: {peers: x}
";
    let found = problems(text);
    let mut paths: Vec<&str> = found.problems.iter().map(|problem| problem.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(
        paths,
        [
            "admin.adress",
            "auth.anonymous",
            "auth.token_key",
            "auth.users",
            "cluster.peers",
            "limits.max_fills",
            "limits.max_header_byte",
            "limits.memory_cache",
            "limits.stall_timeout",
            "listen[1].address",
            "listen[1].tls.certificate",
            "listen[1].tls.key",
            "listen[2].address",
            "listen[2].tls",
            "log.format",
            "log.level",
            "rules[0].prefix",
            "rules[0].upstream",
            "rules[1]",
            "rules[2].credentials.password",
            "rules[2].mirrors[0]",
            "rules[2].mirrors[1]",
            "rules[3].freshness.default",
            "rules[3].freshness.tags.a b",
            "rules[3].prefix",
            "rules[4].allow[0]",
            "rules[4].credentials",
            "rules[4].hosts[0]",
            "rules[4].upstream_prefix",
            "storage.path",
            "storage.s3",
        ]
    );
    let text = found.to_string();
    assert!(text.starts_with("configuration: 31 problems\n"), "{text}");
    assert!(text.contains("admin.adress: unknown key\n    hint: did you mean `address`?"), "{text}");
    assert!(text.contains("limits.max_header_byte: unknown key\n    hint: did you mean `max_header_bytes`?"), "{text}");
    assert!(text.contains("rules[2].mirrors[0]: is the upstream itself"), "{text}");
    assert!(!text.contains("hunter2"), "a secret in {text}");
}

#[test]
fn key_of_a_later_version_is_refused_as_not_available() {
    for (text, path) in [
        ("registry: {id: '123456789012'}", "registry"),
        ("auth: {access_keys: []}", "auth.access_keys"),
        ("auth: {ecr_tokens: {canary: x}}", "auth.ecr_tokens"),
    ] {
        assert_eq!(said(text), [(path.to_owned(), "is not available in this version".to_owned())]);
    }
}

#[test]
fn storage_in_a_bucket_is_read() {
    let text = "storage: {path: tier, max_size: 0, delivery: redirect, s3: {bucket: b, prefix: /p/, endpoint: 'http://127.0.0.1:9000/', sse: kms, kms_key: k}}";
    let storage = parse(text).storage;
    let s3 = storage.s3.unwrap();
    assert_eq!((storage.max_size, storage.delivery), (Some(0), headpond::config::DeliveryMode::Redirect));
    assert_eq!((s3.bucket.as_str(), s3.prefix.as_str(), s3.endpoint.as_deref()), ("b", "p", Some("http://127.0.0.1:9000")));
    assert_eq!((s3.region.as_deref(), s3.path_style), (Some("us-east-1"), true));
    assert_eq!(s3.encryption, headpond::config::Encryption::Kms(Some("k".to_owned())));
}

#[test]
fn a_bucket_goes_into_the_path_where_no_host_name_has_it() {
    for (s3, path_style) in [
        ("{bucket: b}", false),
        ("{bucket: b.c}", true),
        ("{bucket: b, endpoint: 'http://s3.local'}", true),
        ("{bucket: b, endpoint: 'https://s3.example.com', path_style: false}", false),
    ] {
        assert_eq!(parse(&format!("storage: {{s3: {s3}}}")).storage.s3.unwrap().path_style, path_style, "{s3}");
    }
}

#[test]
fn storage_that_cannot_be_is_refused() {
    for (text, path) in [
        ("storage: {max_size: 0}", "storage.max_size"),
        ("storage: {max_size: 63MiB}", "storage.max_size"),
        ("storage: {min_free: x}", "storage.min_free"),
        ("storage: {delivery: redirect}", "storage.delivery"),
        ("storage: {delivery: maybe, s3: {bucket: b}}", "storage.delivery"),
        ("storage: {s3: {prefix: b}}", "storage.s3.bucket"),
        ("storage: {s3: {bucket: b, endpoint: 'ftp://x'}}", "storage.s3.endpoint"),
        ("storage: {s3: {bucket: b, public_endpoint: 'http://u:p@x'}}", "storage.s3.public_endpoint"),
        ("storage: {s3: {bucket: b, access_key: 'file:/dev/null'}}", "storage.s3.access_key"),
        ("storage: {s3: {bucket: b, kms_key: k}}", "storage.s3.kms_key"),
        ("storage: {s3: {bucket: 's3://b'}}", "storage.s3.bucket"),
        ("storage: {s3: {bucket: b/c}}", "storage.s3.bucket"),
        ("storage: {s3: {bucket: b, prefix: a//b}}", "storage.s3.prefix"),
        ("storage: {s3: {bucket: b, prefix: ../b}}", "storage.s3.prefix"),
        ("storage: {s3: {bucket: b, path_style: false, endpoint: 'http://127.0.0.1:9000'}}", "storage.s3.path_style"),
        (
            "storage: {s3: {bucket: b, path_style: false, endpoint: 'http://s3.local', public_endpoint: 'http://[::1]'}}",
            "storage.s3.path_style",
        ),
    ] {
        assert!(paths(text).iter().any(|found| found == path), "{text}: {:?}", paths(text));
    }
}

/// What is wrong with a rule of these further keys.
fn wrong_in_rule(keys: &str) -> Vec<String> {
    paths(&format!("rules: [{{prefix: up, upstream: quay.io, {keys}}}]"))
}

#[test]
fn a_rule_says_how_blobs_come() {
    let rule = |keys: &str| parse(&format!("rules: [{{prefix: up, upstream: quay.io, {keys}}}]")).rules.remove(0);
    let line = rule("connections: 8, max_connections: 16, max_bandwidth: 100MiB").line;
    assert_eq!((line.connections, line.max_connections, line.max_bandwidth), (Some(8), Some(16), Some(100 << 20)));
    assert_eq!(wrong_in_rule("connections: 0"), ["rules[0].connections"]);
    assert_eq!(wrong_in_rule("max_connections: many"), ["rules[0].max_connections"]);
    assert_eq!(wrong_in_rule("max_bandwidth: 1KiB"), ["rules[0].max_bandwidth"]);
    let arm = Prefetch::Platforms(vec![Platform::parse("linux/arm64").unwrap()]);
    for (keys, prefetch) in [
        ("", Prefetch::Off),
        ("prefetch: off", Prefetch::Off),
        ("prefetch: image", Prefetch::Image),
        ("prefetch: all", Prefetch::All),
        ("prefetch: {platforms: linux/arm64}", arm.clone()),
        ("prefetch: {platforms: [linux/arm64]}", arm),
    ] {
        assert_eq!(rule(keys).prefetch, prefetch, "{keys}");
    }
    assert_eq!(wrong_in_rule("prefetch: everything"), ["rules[0].prefetch"]);
    assert_eq!(wrong_in_rule("prefetch: {platforms: []}"), ["rules[0].prefetch.platforms"]);
    assert_eq!(wrong_in_rule("prefetch: {platforms: [arm64]}"), ["rules[0].prefetch.platforms[0]"]);
}

#[test]
fn key_without_a_value_is_refused() {
    assert_eq!(paths("listen: {address: 127.0.0.1:5000, tls: }"), ["listen.tls"]);
    assert_eq!(paths("rules: [~]"), ["rules[0]"]);
}

#[test]
fn emptied_list_does_not_mean_everything() {
    assert_eq!(paths("auth: {anonymous: {cidrs: []}}"), ["auth.anonymous.cidrs"]);
    assert_eq!(paths("rules: []"), ["rules"]);
    assert_eq!(paths("listen: []"), ["listen"]);
    assert_eq!(paths("rules: [{prefix: hub, upstream: docker.io, allow: []}]"), ["rules[0].allow"]);
}

#[test]
fn one_address_is_named_without_an_index() {
    assert_eq!(paths("listen: nowhere"), ["listen"]);
    assert_eq!(paths("listen: {address: nowhere}"), ["listen.address"]);
    assert_eq!(parse("listen: 0.0.0.0:80").listen[0].address.to_string(), "0.0.0.0:80");
}

#[test]
fn address_named_twice_is_refused() {
    assert_eq!(paths("listen: [127.0.0.1:1, 127.0.0.1:1]"), ["listen[1].address"]);
    assert_eq!(paths("admin: {address: 127.0.0.1:5000}"), ["admin.address"]);
    parse("{listen: [127.0.0.1:0, 127.0.0.1:0], admin: {address: 127.0.0.1:0}}");
}

#[test]
fn file_that_is_missing_empty_or_not_yaml_is_named_with_a_hint() {
    let directory = tempfile::tempdir().unwrap();
    let load = |name: &str| Config::load(Some(&directory.path().join(name)), &Overrides::default()).unwrap_err().to_string();
    assert!(load("missing.yaml").contains("No such file"), "{}", load("missing.yaml"));
    for (name, text, what) in [
        ("empty.yaml", "", "the file is empty"),
        ("comment.yaml", "# nothing\n", "the file is empty"),
        ("text.yaml", "hello", "not a mapping"),
        ("list.yaml", "- a", "not a mapping"),
        ("garbage.yaml", "a: [1", "not YAML"),
        ("duplicate.yaml", "rules: []\nrules: []\n", "duplicate"),
        ("two.yaml", "a: 1\n---\nb: 1\n", "document"),
    ] {
        std::fs::write(directory.path().join(name), text).unwrap();
        let said = load(name);
        assert!(said.contains(what) && said.contains(name) && said.contains("hint: "), "{said}");
    }
}

#[test]
fn file_of_garbage_does_not_print_a_book() {
    let text = format!("rules: [{}]", "5, ".repeat(500));
    assert!(problems(&text).problems.len() <= 100);
}

#[test]
fn overrides_win_over_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("headpond.yaml");
    std::fs::write(&file, "{listen: 127.0.0.1:1, storage: {path: data}, log: {level: warn}}").unwrap();
    let overrides = Overrides {
        listen: vec!["127.0.0.1:2".parse().unwrap(), "127.0.0.1:3".parse().unwrap()],
        admin: Some("127.0.0.1:4".parse().unwrap()),
        storage: Some("elsewhere".into()),
        log_level: Some("debug".to_owned()),
        log_format: Some(LogFormat::Json),
    };
    let config = Config::load(Some(&file), &overrides).unwrap();
    assert_eq!(config.listen.iter().map(|listen| listen.address.port()).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(config.admin.address.port(), 4);
    assert_eq!(config.storage.path, Path::new("elsewhere"));
    assert_eq!((config.log.level.as_str(), config.log.format), ("debug", LogFormat::Json));
}

#[test]
fn override_of_listen_never_drops_tls_silently() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("headpond.yaml");
    for name in ["crt", "key"] {
        std::fs::write(directory.path().join(name), "").unwrap();
    }
    std::fs::write(&file, "listen: {address: 127.0.0.1:1, tls: {certificate: crt, key: key}}").unwrap();
    let with = |ports: &[u16]| {
        let listen = ports.iter().map(|port| std::net::SocketAddr::from(([127, 0, 0, 1], *port))).collect();
        Config::load(Some(&file), &Overrides { listen, ..Overrides::default() })
    };
    let config = with(&[2]).unwrap();
    assert!(config.listen[0].address.port() == 2 && config.listen[0].tls.is_some());
    assert_eq!(with(&[2, 3]).unwrap_err().problems[0].path, "--listen");
}

#[test]
fn credentials_of_every_kind_are_taken() {
    let credentials = |upstream: &str, credentials: &str| {
        let text = format!("rules: [{{prefix: hub, upstream: '{upstream}', credentials: {credentials}}}]");
        parse(&text).rules.remove(0).credentials.unwrap()
    };
    let arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:ecr-pullthroughcache/hub-aB3dEf";
    let Credentials::SecretsManager(read) = credentials("docker.io", arn) else { panic!("not a secret") };
    assert_eq!((read.as_str(), read.region()), (arn, "eu-west-1"));
    let host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
    let account = |upstream: &str, text: &str| {
        let Credentials::Ecr(account) = credentials(upstream, text) else { panic!("not of ECR: {text}") };
        (account.account, account.region, account.role)
    };
    assert_eq!(account(host, "ecr"), (Some("123456789012".to_owned()), "eu-west-1".to_owned(), None));
    let role = "arn:aws:iam::123456789012:role/pull";
    let told = account("10.0.0.1:5000", &format!("{{ecr: {{region: us-east-1, role: '{role}'}}}}"));
    assert_eq!(told, (None, "us-east-1".to_owned(), Some(role.to_owned())));
    assert_eq!(credentials("ghcr.io", "{process: [helper, x]}"), Credentials::Process(vec!["helper".to_owned(), "x".to_owned()]));
    assert_eq!(credentials("ghcr.io", "{process: ./helper}"), Credentials::Process(vec!["/etc/headpond/./helper".to_owned()]));
}

#[test]
fn credentials_that_cannot_be_are_refused_with_a_hint() {
    for (credentials, path, what) in [
        ("ecr", "credentials", "need a region"),
        ("{ecr: {region: 'a b'}}", "credentials.ecr.region", "is no region"),
        ("{ecr: {region: eu-west-1, role: pull}}", "credentials.ecr.role", "is not the ARN of a role"),
        ("'arn:aws:secretsmanager:eu-west-1:1:secret:x'", "credentials", "not the ARN of a secret"),
        ("hunter2", "credentials", "not credentials"),
        ("{process: []}", "credentials.process", "names no program"),
        ("{username: u, password: 'env:X', ecr: {}}", "credentials", "of more than one kind"),
        ("{process: x, ecr: {}}", "credentials", "of more than one kind"),
        ("{username: u, password: 'arn:aws:x'}", "credentials.password", "an ARN cannot stand here"),
    ] {
        let found = problems(&format!("rules: [{{prefix: hub, upstream: docker.io, credentials: {credentials}}}]"));
        let problem = &found.problems[0];
        assert_eq!((found.problems.len(), problem.path.as_str()), (1, format!("rules[0].{path}").as_str()), "{found}");
        assert!(problem.what.contains(what) && problem.hint.is_some(), "{found}");
        assert!(!found.to_string().contains("hunter2"), "{found}");
    }
}

#[test]
fn credentials_that_are_probably_not_meant_are_warned_of() {
    let warned = |upstream: &str, credentials: &str| -> Vec<String> {
        let text = format!("rules: [{{prefix: hub, upstream: '{upstream}', credentials: {credentials}, anonymous: true}}]");
        parse(&text).warnings().into_iter().map(|warning| format!("{}: {}", warning.path, warning.what)).collect()
    };
    let arn = |name: &str| format!("arn:aws:secretsmanager:eu-west-1:123456789012:secret:{name}");
    assert_eq!(warned("docker.io", &arn("ecr-pullthroughcache/hub")), Vec::<String>::new());
    assert!(warned("docker.io", &arn("hub"))[0].starts_with("rules[0].credentials: the secret's name"));
    assert_eq!(warned("123456789012.dkr.ecr.eu-west-1.amazonaws.com", "ecr"), Vec::<String>::new());
    assert!(warned("evil.example", "{ecr: {region: eu-west-1}}")[0].contains("not one of ECR's own"));
    let unusable =
        parse(&format!("auth: {{anonymous: {{pull: true}}}}\nrules: [{{prefix: hub, upstream: docker.io, credentials: '{}'}}]", arn("x")))
            .warnings();
    assert!(unusable.iter().any(|warning| warning.hint.as_ref().is_some_and(|hint| hint.contains("anonymous: true"))), "{unusable:?}");
}

#[test]
fn users_end_anonymous_pull_unless_it_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("users"), "").unwrap();
    let auth = |text: &str| Config::parse(text, directory.path()).unwrap().auth;
    assert!(auth("auth: {users: users}").anonymous.is_none());
    assert!(auth("auth: {users: users, anonymous: {}}").anonymous.is_some());
    assert!(auth("auth: {anonymous: none}").anonymous.is_none());
    assert!(auth("auth: {anonymous: {pull: false}}").anonymous.is_none());
}

#[test]
fn what_is_probably_not_meant_is_warned_of() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("secret"), "x").unwrap();
    let text = "listen: 0.0.0.0:5000\nrules: [{prefix: hub, upstream: 'http://hub', credentials: {username: u, password: 'file:secret'}}]";
    let warnings = Config::parse(text, directory.path()).unwrap().warnings();
    assert_eq!(warnings.iter().map(|warning| warning.path.as_str()).collect::<Vec<_>>(), ["listen[0]", "rules[0]", "rules[0].upstream"]);
    assert_eq!(Config::default().warnings(), []);
    let warnings = parse("storage: {max_size: 1000PiB, min_free: 1000PiB}").warnings();
    assert_eq!(warnings.iter().map(|warning| warning.path.as_str()).collect::<Vec<_>>(), ["storage.max_size", "storage.min_free"]);
    std::fs::write(directory.path().join("key"), "x").unwrap();
    let text = "storage: {s3: {bucket: b, access_key: 'file:key', secret_key: 'file:key'}, delivery: redirect}\n\
                limits: {gc_grace: 5m, upload_part: 1GiB}";
    let warnings = Config::parse(text, directory.path()).unwrap().warnings();
    assert_eq!(warnings.iter().map(|warning| warning.path.as_str()).collect::<Vec<_>>(), ["limits.gc_grace", "limits.upload_part"]);
}

#[test]
fn a_condemned_blob_is_not_left_for_longer_than_a_condemnation_is_believed() {
    let directory = tempfile::tempdir().unwrap();
    let settle = |text: &str| Config::parse(&format!("limits: {{gc_settle: {text}}}"), directory.path());
    assert_eq!(settle("2m").unwrap().limits.gc_settle, std::time::Duration::from_secs(120));
    assert!(settle("3m").is_err());
}

#[test]
fn schema_closes_every_object_and_knows_every_key() {
    fn check(schema: &serde_json::Value, path: &str) {
        if schema.get("properties").is_some() {
            assert_eq!(schema.get("additionalProperties"), Some(&serde_json::Value::Bool(false)), "{path}");
        }
        if let Some(object) = schema.as_object() {
            object.iter().for_each(|(key, value)| check(value, &format!("{path}/{key}")));
        }
        schema.as_array().into_iter().flatten().for_each(|value| check(value, path));
    }
    let schema = headpond::config::schema();
    check(&schema, "");
    assert!(!schema.to_string().contains("null"));
    assert!(schema.pointer("/$defs/Limits/properties/stall_timeout").is_some());
    assert!(schema.pointer("/$defs/Rule/properties/upstream_prefix").is_some());
}

#[test]
fn replicas_need_a_bucket_a_key_and_a_listener_that_they_hear() {
    let found = |text: &str| -> Vec<String> { problems(text).problems.into_iter().map(|problem| problem.path).collect() };
    assert_eq!(found("cluster: {peers: \"replicas:5000\"}"), ["storage.s3", "auth.token_key"]);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("key"), "0123456789abcdef0123456789abcdef").unwrap();
    let with = |listen: &str| {
        let text =
            format!("{listen}\nstorage: {{s3: {{bucket: b}}}}\nauth: {{token_key: \"file:key\"}}\ncluster: {{peers: \"replicas:5000\"}}");
        Config::parse(&text, directory.path()).map_err(|found| found.problems.into_iter().map(|problem| problem.path).collect::<Vec<_>>())
    };
    assert_eq!(with("listen: 0.0.0.0:5000").unwrap().cluster.unwrap().peers, ["replicas:5000"]);
    for listen in ["listen: 0.0.0.0:5001", "listen: {address: 0.0.0.0:5000, proxy_protocol: true}"] {
        assert_eq!(with(listen).unwrap_err(), ["cluster.peers"], "{listen}");
    }
}

#[test]
fn mirrors_are_addresses_or_mappings() {
    let rule = |keys: &str| parse(&format!("rules: [{{prefix: hub, upstream: docker.io, {keys}}}]")).rules.remove(0);
    let one = rule("mirrors: mirror.gcr.io").mirrors.remove(0);
    assert_eq!((one.upstream.to_string().as_str(), one.upstream_prefix, one.ca), ("https://mirror.gcr.io", None, None));
    let two = rule("mirrors: [mirror.gcr.io, {upstream: 'http://127.0.0.1:5101', upstream_prefix: hub-proxy}]").mirrors.remove(1);
    assert_eq!(
        (two.upstream.to_string().as_str(), two.upstream_prefix),
        ("http://127.0.0.1:5101", Some(Prefix::Name("hub-proxy".to_owned())))
    );
    for (mirrors, path, what) in [
        ("[]", "rules[0].mirrors", "must be 1 to 8 mirrors"),
        ("[a, b, c, d, e, f, g, h, i]", "rules[0].mirrors", "must be 1 to 8 mirrors"),
        ("[registry-1.docker.io]", "rules[0].mirrors[0]", "is the upstream itself"),
        ("[a.example, 'https://A.example/']", "rules[0].mirrors[1]", "https://a.example is named twice"),
        ("['registry-1.docker.io:443']", "rules[0].mirrors[0]", "is the upstream itself"),
        ("['https://a.example:443', a.example]", "rules[0].mirrors[1]", "https://a.example is named twice"),
        ("['http://a.example', 'http://a.example:80']", "rules[0].mirrors[1]", "http://a.example:80 is named twice"),
        ("[{upstream_prefix: x1}]", "rules[0].mirrors[0].upstream", "is missing"),
        ("[{upstream: a, upstream_prefix: '/'}]", "rules[0].mirrors[0].upstream_prefix", "`/` is no prefix"),
        ("[{upstream: a, credentials: {}}]", "rules[0].mirrors[0].credentials", "unknown key"),
    ] {
        let found = said(&format!("rules: [{{prefix: hub, upstream: docker.io, mirrors: {mirrors}}}]"));
        assert!(found.contains(&(path.to_owned(), what.to_owned())), "{mirrors}: {found:?}");
    }
}

#[test]
fn private_hosts_are_names_addresses_and_networks() {
    let rules = parse("rules: [{prefix: a1, upstream: a, private_hosts: [MinIO.corp, 10.0.0.7, 10.1.2.3/16, 'fd00::/8']}]").rules;
    let named = &rules[0].private_hosts;
    assert_eq!(named.hosts, ["minio.corp"]);
    let networks: Vec<String> = named.networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.7/32", "10.1.0.0/16", "fd00::/8"]);
    for text in ["minio:9000", "http://minio", "10.0.0.0/33", "a b"] {
        let found = said(&format!("rules: [{{prefix: a1, upstream: a, private_hosts: '{text}'}}]"));
        assert_eq!(found, [("rules[0].private_hosts".to_owned(), format!("`{text}` is no host and no network"))]);
    }
}

#[test]
fn a_client_certificate_needs_both_its_files() {
    let found = said("rules: [{prefix: a1, upstream: a, client_certificate: {certificate: /nonexistent.crt}}]");
    let paths: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["rules[0].client_certificate.certificate", "rules[0].client_certificate.key"]);
}
