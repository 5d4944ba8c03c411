//! What every request pays for before anything is looked up, and what a fill pays for each piece.
//!
//! `cargo bench`; nothing here is pass or fail. `make bench` measures the whole server.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use headpond::cache::fill::Coverage;
use headpond::config::{Config, Prefix, Rule, UpstreamAddress};
use headpond::http::parse;
use headpond::oci::{Digest, RangeRequest, RepositoryName};
use headpond::rules::RuleTable;
use http::{Method, Uri};

/// Rules in the larger table.
const MANY_RULES: usize = 1000;
/// What upstream sends at a time, more or less.
const PIECE_BYTES: u64 = 64 * 1024;
/// Pieces of a blob of 256 MiB.
const PIECES: u64 = 4096;
/// Connections that bring them.
const CONNECTIONS: u64 = 4;

fn routes(c: &mut Criterion) {
    let digest = Digest::of(b"layer");
    let mut group = c.benchmark_group("route");
    for (name, path) in [
        ("manifest_by_tag", "/v2/docker-hub/library/nginx/manifests/1.27?ns=docker.io".to_owned()),
        ("blob", format!("/v2/docker-hub/library/nginx/blobs/{digest}")),
        ("encoded_blob", format!("/v2/docker-hub/library/nginx/blobs/{}", digest.to_string().replace(':', "%3A"))),
        ("not_found", "/v2/_catalog".to_owned()),
    ] {
        let Ok(uri) = path.parse::<Uri>() else { continue };
        group.bench_function(name, |b| b.iter(|| parse(black_box(&Method::GET), black_box(&uri))));
    }
    group.finish();
}

fn rules(c: &mut Criterion) {
    let many = (0..MANY_RULES).filter_map(|index| {
        Some(Rule::new(Prefix::parse(&format!("team-{index}"))?, UpstreamAddress::parse(&format!("registry-{index}.example")).ok()?))
    });
    let mut group = c.benchmark_group("resolve");
    for (size, table) in [("default", RuleTable::new(Config::default().rules)), ("1000_rules", RuleTable::new(many.collect()))] {
        for (name, ns) in
            [("docker-hub/library/nginx", None), ("library/nginx", Some("docker.io")), ("team-999/a/b", None), ("nobody/knows/it", None)]
        {
            let Ok(repository) = RepositoryName::parse(name) else { continue };
            let id = ns.map_or_else(|| format!("{size}/{name}"), |ns| format!("{size}/{name}?ns={ns}"));
            group.bench_function(id, |b| b.iter(|| table.resolve(black_box(&repository), black_box(ns))));
        }
    }
    group.finish();
}

fn vocabulary(c: &mut Criterion) {
    let digest = Digest::of(b"layer");
    let text = digest.to_string();
    let mut group = c.benchmark_group("oci");
    group.bench_function("digest_parse", |b| b.iter(|| Digest::parse(black_box(&text))));
    group.bench_function("digest_print", |b| b.iter(|| black_box(&digest).to_string()));
    group.bench_function("name_parse", |b| b.iter(|| RepositoryName::parse(black_box("docker-hub/library/nginx"))));
    group.bench_function("range_parse", |b| b.iter(|| RangeRequest::parse(black_box("bytes=104857600-209715199"))));
    let bytes = vec![7; 1024 * 1024];
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("digest_of_1_mib", |b| b.iter(|| Digest::of(black_box(&bytes))));
    group.finish();
}

/// The offset of the nth piece when `connections` bring a blob in turns, each its own part.
fn offset(piece: u64, connections: u64) -> u64 {
    let part = PIECES / connections;
    ((piece % connections) * part + piece / connections) * PIECE_BYTES
}

fn coverage(c: &mut Criterion) {
    let mut group = c.benchmark_group("coverage");
    group.throughput(Throughput::Elements(PIECES));
    for (name, connections) in [("in_order", 1), ("four_connections", CONNECTIONS)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut coverage = Coverage::default();
                for piece in 0..PIECES {
                    let start = offset(piece, connections);
                    coverage.add(start..start + PIECE_BYTES);
                    black_box(coverage.covered_to(0));
                }
                coverage.is_complete(PIECES * PIECE_BYTES)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, routes, rules, vocabulary, coverage);
criterion_main!(benches);
