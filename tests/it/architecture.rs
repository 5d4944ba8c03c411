//! The invariants of ARCHITECTURE.md that can be read off the source: who may name whom.
//!
//! Every path in `src/` outside comments, strings and test code is made absolute and held against
//! the tables below. A failure names file and line. The last tests plant mistakes in a small
//! sample, so that the checker itself can be seen to fail.

mod scan;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use scan::{Mention, Source};

/// Which modules each module may name. Nothing runs back up: `upstream` and `storage` do not know
/// each other, `http` knows no upstream, `access` knows rules and not the other way round.
const MAY_NAME: [(&str, &[&str]); 16] = [
    ("main", &["cli", "http"]),
    ("cli", &["app", "config", "access", "http", "upkeep"]),
    ("http", &["registry", "upkeep", "access", "rules", "cache", "cluster", "storage", "telemetry", "config", "oci"]),
    ("registry", &["access", "cache", "rules", "upstream", "telemetry", "config", "oci"]),
    ("access", &["rules", "cluster", "clock", "config", "oci"]),
    ("cache", &["upstream", "storage", "telemetry", "tasks", "clock", "config", "oci"]),
    ("upstream", &["cluster", "telemetry", "clock", "oci"]),
    ("cluster", &["telemetry", "clock"]),
    ("upkeep", &["storage", "telemetry", "tasks", "clock", "oci"]),
    ("storage", &["telemetry", "clock", "oci"]),
    ("rules", &["config", "oci"]),
    ("telemetry", &["config"]),
    ("config", &["oci"]),
    ("oci", &[]),
    ("tasks", &[]),
    ("clock", &[]),
];

/// The composition root: the one module that may name everything.
const ROOT: &str = "app";

/// Of these modules only some names may be used by some files: what an answer is made of, and how
/// an open file is read, but not how either came to be.
const ONLY_THESE_NAMES: [(&str, &str, &[&str]); 4] = [
    ("http", "cache", &["BlobAnswer", "BlobDelivery", "CachedManifest", "Demand", "Follower", "ManifestHeader", "StaleReason"]),
    ("http::delivery", "storage", &["OpenBlob", "PieceReader"]),
    ("http", "storage", &[]),
    (
        "http",
        "cluster",
        &[
            "ERROR_HEADER",
            "PROOF_HEADER",
            "RefusalKind",
            "ReplicaKey",
            "ReplicaRequest",
            "STALE_HEADER",
            "UNATTENDED_HEADER",
            "VALIDATED_HEADER",
        ],
    ),
];

/// Crates that only some modules may name. The composition root passes some through.
const CRATES_OF: [(&str, &[&str]); 14] = [
    ("aws_sdk_ecr", &["upstream"]),
    ("aws_sdk_secretsmanager", &["upstream"]),
    ("axum", &["http", ROOT]),
    ("hyper", &["http", ROOT]),
    ("hyper_util", &["http"]),
    ("tokio_rustls", &["http"]),
    ("tower", &["http", ROOT]),
    ("object_store", &["storage", ROOT]),
    ("reqwest", &["upstream"]),
    ("prometheus", &["telemetry"]),
    ("tracing_subscriber", &["telemetry", "config"]),
    ("clap", &["cli", "config", "main"]),
    ("bcrypt", &["access", "cli"]),
    ("anyhow", &["cli", ROOT, "main"]),
];

/// Modules that only parse, validate and evaluate.
const PURE: [&str; 2] = ["oci", "rules"];
/// What a pure module may not name: other tasks, other machines, the disk, the clock.
const IMPURE: [&str; 12] = [
    "tokio",
    "tokio_util",
    "futures",
    "http",
    "http_body",
    "moka",
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "std::thread",
    "std::time::SystemTime",
];

/// Longest file: one past it is two files.
const MAX_LINES: usize = 500;

/// Everything in `sources` that breaks an invariant, as `file:line: what`.
fn violations(sources: &[Source]) -> Vec<String> {
    let test_files: BTreeSet<String> = sources.iter().flat_map(Source::test_files).collect();
    sources.iter().filter(|source| !test_files.contains(&source.path)).flat_map(violations_of).collect()
}

fn violations_of(source: &Source) -> Vec<String> {
    let module = source.module();
    let room = module.split("::").next().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    let mut add = |line: usize, what: String| found.push(format!("{}:{line}: {what}", source.path));
    if source.lines() > MAX_LINES {
        add(source.lines(), format!("more than {MAX_LINES} lines"));
    }
    for mention in source.mentions() {
        let problems = [rooms(&room, &mention), names(&module, &room, &mention), crates(&room, &mention), purity(&room, &mention)];
        problems.into_iter().flatten().for_each(|what| add(mention.line, what));
    }
    for (word, line) in source.words() {
        match word.as_str() {
            "async" | "await" if PURE.contains(&room.as_str()) => add(line, format!("`{word}` in the pure module {room}")),
            "static" if module != "main" => add(line, "a static: long-lived parts are built in app.rs".to_owned()),
            _ => {}
        }
    }
    found.dedup();
    found
}

/// The table of modules.
fn rooms(room: &str, mention: &Mention) -> Option<String> {
    let other = mention.own_module()?;
    if room == ROOT || room == "lib" || room == other {
        return None;
    }
    match MAY_NAME.iter().find(|(name, _)| *name == room) {
        None => Some(format!("module {room} is in no table of tests/it/architecture.rs")),
        Some((_, allowed)) => (!allowed.contains(&other)).then(|| format!("{room} names {other}: {mention}")),
    }
}

/// The table of names; the first row for a module counts.
fn names(module: &str, room: &str, mention: &Mention) -> Option<String> {
    let other = mention.own_module()?;
    let holds = |scope: &str| scope == module || scope == room;
    let (scope, _, allowed) = ONLY_THESE_NAMES.iter().find(|(scope, of, _)| holds(scope) && *of == other)?;
    let name = mention.name();
    (!allowed.contains(&name)).then(|| format!("{scope} may not use {name} of {other}: {mention}"))
}

/// The table of crates.
fn crates(room: &str, mention: &Mention) -> Option<String> {
    let name = mention.outer_crate()?;
    let (_, allowed) = CRATES_OF.iter().find(|(of, _)| *of == name)?;
    (!allowed.contains(&room)).then(|| format!("{room} names the crate {name}: {mention}"))
}

fn purity(room: &str, mention: &Mention) -> Option<String> {
    let is_impure = || IMPURE.iter().any(|impure| mention.starts_with(impure));
    (PURE.contains(&room) && is_impure()).then(|| format!("the pure module {room} names {mention}"))
}

#[test]
fn source_holds_its_invariants() {
    let sources = Source::read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.len() > 50, "the source was not found");
    let found = violations(&sources);
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

#[test]
fn tables_name_modules_that_exist() {
    let sources = Source::read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let modules: BTreeSet<String> = sources.iter().map(Source::module).collect();
    for (name, others) in MAY_NAME {
        for name in others.iter().chain([&name]) {
            assert!(modules.contains(*name), "{name}");
        }
    }
    for (scope, of, _) in ONLY_THESE_NAMES {
        assert!(modules.contains(scope) && modules.contains(of), "{scope} {of}");
    }
    for (_, allowed) in CRATES_OF {
        assert!(allowed.iter().all(|name| modules.contains(*name)), "{allowed:?}");
    }
}

/// Bodies pass as they are and hashes are over what was sent: a client that decompresses breaks
/// both. And one TLS stack: two providers in one process panic at the first handshake.
#[test]
fn dependencies_bring_no_decompression_and_no_second_tls_stack() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["tree", "--locked", "--offline", "--edges", "no-dev", "--prefix", "none", "--format", "{p} {f}"];
    let output = Command::new(cargo).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(unwanted(&tree), Vec::<String>::new());
    assert!(tree.lines().any(|line| line.starts_with("reqwest ")), "{tree}");
}

/// Lines of `cargo tree` (`name version features`) that may not be there.
fn unwanted(tree: &str) -> Vec<String> {
    const CRATES: [&str; 6] = ["ring", "openssl", "openssl-sys", "native-tls", "serde_yaml", "serde_yml"];
    const DECOMPRESSION: [&str; 4] = ["gzip", "brotli", "zstd", "deflate"];
    let is_unwanted = |line: &&str| {
        let name = line.split(' ').next().unwrap_or_default();
        let features = line.split(' ').nth(2).unwrap_or_default();
        CRATES.contains(&name) || (name == "reqwest" && features.split(',').any(|feature| DECOMPRESSION.contains(&feature)))
    };
    tree.lines().filter(is_unwanted).map(str::to_owned).collect()
}

#[test]
fn unwanted_dependencies_are_found() {
    let tree = "reqwest v0.13.5 gzip,stream\nreqwest v0.13.5 stream\nring v0.17.14 \nrustring v1.0.0 gzip\n";
    assert_eq!(unwanted(tree), ["reqwest v0.13.5 gzip,stream", "ring v0.17.14 "]);
}

fn found_in(files: &[(&str, &str)]) -> Vec<String> {
    let sources: Vec<Source> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
    violations(&sources)
}

#[test]
fn planted_mistakes_are_found() {
    for (path, text, found) in [
        (
            "src/storage/disk.rs",
            "use crate::upstream::Upstream;",
            "src/storage/disk.rs:1: storage names upstream: crate::upstream::Upstream",
        ),
        (
            "src/upstream.rs",
            "\nuse crate::{oci::Digest,\n storage::{Store, read::ReadNow}};",
            "src/upstream.rs:3: upstream names storage: ",
        ),
        ("src/http/v2/blob.rs", "fn f() { crate::upstream::get() }", "src/http/v2/blob.rs:1: http names upstream: crate::upstream::get"),
        ("src/http/v2/blob.rs", "use crate::cache::Cache;", "src/http/v2/blob.rs:1: http may not use Cache of cache: "),
        ("src/http/v2/blob.rs", "use crate::storage::OpenBlob;", "src/http/v2/blob.rs:1: http may not use OpenBlob of storage: "),
        ("src/http/delivery.rs", "use crate::storage::Store;", "src/http/delivery.rs:1: http::delivery may not use Store of storage: "),
        ("src/http/delivery.rs", "use crate::cache::*;", "src/http/delivery.rs:1: http may not use * of cache: "),
        ("src/rules/table.rs", "fn f() -> super::super::access::Authorized<()> { g() }", "src/rules/table.rs:1: rules names access: "),
        ("src/rules/table.rs", "async fn f() {}", "src/rules/table.rs:1: `async` in the pure module rules"),
        ("src/oci/tag.rs", "\n\nfn f() { std::fs::read(x) }", "src/oci/tag.rs:3: the pure module oci names std::fs::read"),
        ("src/oci/tag.rs", "use std::{fmt, net::IpAddr};", "src/oci/tag.rs:1: the pure module oci names std::net::IpAddr"),
        ("src/cache.rs", "use reqwest as client;", "src/cache.rs:1: cache names the crate reqwest: reqwest"),
        ("src/cache.rs", "fn f(x: ::object_store::Error) {}", "src/cache.rs:1: cache names the crate object_store: "),
        ("src/registry/pull.rs", "type T = axum::Router;", "src/registry/pull.rs:1: registry names the crate axum: axum::Router"),
        ("src/registry/pull.rs", "static X: u8 = 1;", "src/registry/pull.rs:1: a static: "),
        ("src/registry/pull.rs", "const C: &'static str = r#\"\"#; /* */ static mut X: u8 = 1;", "src/registry/pull.rs:1: a static: "),
        ("src/manager.rs", "use crate::oci::Digest;", "src/manager.rs:1: module manager is in no table"),
    ] {
        let all = found_in(&[(path, text)]);
        assert!(all.iter().any(|one| one.starts_with(found)), "{path}: {text}\nwanted {found}\ngot {all:#?}");
    }
    let long = "\n".repeat(MAX_LINES + 1);
    assert_eq!(found_in(&[("src/oci/tag.rs", long.as_str())]), ["src/oci/tag.rs:501: more than 500 lines"]);
}

#[test]
fn what_is_not_code_or_only_for_tests_is_not_held_against_a_file() {
    for (path, text) in [
        ("src/storage/disk.rs", "// use crate::upstream::Upstream;\n/* /* nested */ crate::upstream::x */\n//! [`crate::upstream`]"),
        ("src/storage/disk.rs", r##"const A: &str = "crate::upstream::x \" static "; const B: &str = r#"crate::upstream"x"#;"##),
        ("src/storage/disk.rs", "fn f<'a>(x: &'a u8, y: &'static u8) -> char { '\"' }\nfn g() -> char { '\\'' }"),
        ("src/storage/disk.rs", "#[cfg(test)]\nmod tests {\n use crate::upstream::Upstream;\n fn f() { reqwest::get() }\n}"),
        ("src/storage/disk.rs", "#[cfg(test)]\nuse crate::upstream::Upstream;\nfn f() {}"),
        ("src/oci/tag.rs", "impl Tag {\n #[cfg(test)]\n async fn f(x: [u8; 2]) { g().await }\n fn h() {}\n}"),
        ("src/http/delivery.rs", "use crate::storage::{OpenBlob, PieceReader};\nuse crate::cache::Follower;"),
        ("src/app.rs", "use crate::upstream::Upstream;\nuse crate::storage::Store;"),
        ("src/main.rs", "static ALLOCATOR: u8 = 1;"),
    ] {
        assert_eq!(found_in(&[(path, text)]), Vec::<String>::new(), "{path}: {text}");
    }
    let tests = ("src/oci/tag/tests.rs", "use std::fs;");
    assert_eq!(found_in(&[("src/oci/tag.rs", "#[cfg(test)]\nmod tests;"), tests]), Vec::<String>::new());
    assert_eq!(found_in(&[("src/oci/tag.rs", "mod tests;"), tests]).len(), 1);
}
