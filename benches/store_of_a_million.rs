//! A store of a million blobs: how soon it serves, how long its walk takes, what its index holds in
//! memory, and what evicting ten thousand blobs does to those who are served.
//!
//! `make bench-store`; `ARGS='--blobs 100000 --directory /dev/shm'` for others. It takes an inode for
//! each blob. Nothing here is pass or fail.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use headpond::app::{Running, World, start};
use headpond::config::Config;
use headpond::oci::Digest;
use headpond::storage::{BlobLinkRecord, RecordKey, Store, StoreParts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Blobs that clients ask for.
const HOT: u64 = 1000;
/// Their length.
const HOT_BYTES: usize = 16 * 1024;
/// Blobs that are evicted while they do.
const EVICTED: u64 = 10_000;
/// Clients that ask, each as fast as it is answered.
const CLIENTS: usize = 4;
const BLOCK: u64 = 4096;
/// How often that is measured.
const ROUNDS: usize = 5;
/// Says how long a blob is, and then nothing.
const UPSTREAM: &str = "http://127.0.0.1:19009";

struct Arguments {
    blobs: u64,
    directory: PathBuf,
}

impl Arguments {
    fn parse() -> Self {
        let mut arguments = Self { blobs: 1_000_000, directory: std::env::temp_dir() };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--blobs" => arguments.blobs = words.next().unwrap().parse().unwrap(),
                "--directory" => arguments.directory = words.next().unwrap().into(),
                // What cargo adds.
                _ => {}
            }
        }
        arguments
    }
}

/// What clients ask for.
struct Blobs {
    hot: Vec<Digest>,
    /// Larger ones, which others have to go for.
    evicting: Vec<Digest>,
}

fn main() {
    let arguments = Arguments::parse();
    let directory = tempfile::tempdir_in(&arguments.directory).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let made = Instant::now();
    let asked = make_store(directory.path(), arguments.blobs, &runtime);
    println!("{} blobs made in {:.1?}, in {}", arguments.blobs, made.elapsed(), directory.path().display());
    let small = tempfile::tempdir_in(&arguments.directory).unwrap();
    make_store(small.path(), 0, &runtime);
    runtime.block_on(measure(directory.path(), small.path(), arguments.blobs, asked));
}

/// Blobs of one byte, older ones first, and some that are asked for; the bytes are not those of
/// their digests, which only clients check.
fn make_store(directory: &Path, blobs: u64, runtime: &tokio::runtime::Runtime) -> Blobs {
    let store = Store::open(StoreParts::directory(&directory.join("headpond-data"))).unwrap();
    let root = directory.join("headpond-data/blobs/sha256");
    (0..256).for_each(|fan| fs::create_dir_all(root.join(format!("{fan:02x}"))).unwrap());
    for number in 0..blobs {
        let hex = Digest::of(&number.to_le_bytes()).hex();
        fs::write(root.join(hex.get(..2).unwrap()).join(&hex), b"x").unwrap();
    }
    let name = headpond::oci::RepositoryName::parse("up/library/x").unwrap();
    let hot: Vec<Digest> = (0..HOT).map(|number| Digest::of(format!("hot {number}").as_bytes())).collect();
    let evicting: Vec<Digest> = (0..ROUNDS as u64).map(|number| Digest::of(format!("large {number}").as_bytes())).collect();
    // What the rule's upstream is called in records.
    let source = Digest::of(format!("{UPSTREAM}\n").as_bytes()).hex().get(..16).unwrap().to_owned();
    for digest in &evicting {
        let link = BlobLinkRecord { source: source.clone(), size_bytes: None, linked_at: 0 };
        runtime.block_on(store.records.write(&RecordKey::blob_link(&name, digest), &link)).unwrap();
    }
    for digest in &hot {
        let staged = store.blobs.stage(Some(HOT_BYTES as u64)).unwrap();
        staged.write_at(&vec![7; HOT_BYTES], 0).unwrap();
        staged.commit(digest).unwrap();
        let link = BlobLinkRecord { source: source.clone(), size_bytes: Some(HOT_BYTES as u64), linked_at: 0 };
        let word = headpond::storage::SourceBlobRecord { vouched_at: 1 };
        runtime.block_on(async {
            store.records.write(&RecordKey::blob_link(&name, digest), &link).await.unwrap();
            store.records.write(&RecordKey::source_blob(&source, digest), &word).await.unwrap();
        });
    }
    Blobs { hot, evicting }
}

fn configuration(directory: &Path, max_bytes: Option<u64>) -> Config {
    let max_size = max_bytes.map(|bytes| format!(", max_size: {bytes}")).unwrap_or_default();
    let text = format!(
        "listen: 127.0.0.1:0\nadmin: {{address: 127.0.0.1:0}}\nstorage: {{path: headpond-data, min_free: 0{max_size}}}\n\
         rules:\n  - prefix: up\n    upstream: {UPSTREAM}\n"
    );
    Config::parse(&text, directory).unwrap()
}

async fn measure(directory: &Path, small: &Path, blobs: u64, asked: Blobs) {
    let hot = Arc::new(asked.hot);
    // What any server has in memory once it has served for a while is not the index of a large store.
    let (_, without_bytes) = served(small, 0, &hot).await;
    let (used_bytes, with_bytes) = served(directory, blobs, &hot).await;
    let each_bytes = with_bytes.saturating_sub(without_bytes) / blobs.max(1);
    println!("{each_bytes} bytes of memory for each blob (target 100); {} MiB in all", with_bytes >> 20);

    tokio::spawn(silent_upstream());
    let (running, _) = self::ready(configuration(directory, Some(used_bytes + (used_bytes / 64).min(64 << 20)))).await;
    walked(&running, blobs).await;
    // The records come after the blobs, and then their order.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let running = Arc::new(running);
    load(&running, &hot, u64::MAX, Duration::from_secs(2)).await;
    let (mut ratios, mut sums) = (Vec::new(), (Duration::ZERO, Duration::ZERO));
    for (round, digest) in asked.evicting.iter().enumerate() {
        let quiet = load(&running, &hot, u64::MAX, Duration::from_millis(500)).await;
        let evicted = metric(&running, "headpond_evicted_blobs_total");
        ask(&running, digest).await;
        let evicting = Instant::now();
        let beside = load(&running, &hot, evicted + EVICTED, Duration::from_secs(10)).await;
        let (took, evicted) = (evicting.elapsed(), metric(&running, "headpond_evicted_blobs_total") - evicted);
        let (count, quiet, beside) = (beside.len(), percentile(quiet, 99), percentile(beside, 99));
        let ratio = beside.as_secs_f64() / quiet.as_secs_f64();
        println!(
            "round {round}: {evicted} blobs evicted in {took:.0?} beside {count} hits; p99 {quiet:.2?} before, {beside:.2?} beside: {ratio:.2}"
        );
        ratios.push(ratio);
        sums = (sums.0 + quiet, sums.1 + beside);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2} (target 1.5)", ratios.get(ROUNDS / 2).unwrap());
    Arc::into_inner(running).unwrap().shut_down().await.unwrap();
}

/// Has a server serve for a while; what is on its disk then, and what it has in memory.
async fn served(directory: &Path, blobs: u64, hot: &Arc<Vec<Digest>>) -> (u64, u64) {
    let (running, ready) = ready(configuration(directory, None)).await;
    println!("with {} blobs ready to serve after {ready:.1?} (target 1 s)", blobs + HOT);
    let walking = Instant::now();
    walked(&running, blobs).await;
    println!("walked {} blobs in {:.1?}", blobs + HOT, walking.elapsed());
    let running = Arc::new(running);
    load(&running, hot, u64::MAX, Duration::from_secs(2)).await;
    let (used_bytes, memory_bytes) = (metric(&running, "headpond_storage_used_bytes"), resident_bytes());
    Arc::into_inner(running).unwrap().shut_down().await.unwrap();
    (used_bytes, memory_bytes)
}

async fn walked(running: &Running, blobs: u64) {
    while metric(running, "headpond_blobs") < blobs + HOT {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Answers every request with the head of a blob that takes as much as those that are to go.
async fn silent_upstream() {
    let listener = tokio::net::TcpListener::bind(UPSTREAM.trim_start_matches("http://")).await.unwrap();
    let mut open = Vec::new();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\nx", EVICTED * BLOCK);
        stream.write_all(head.as_bytes()).await.unwrap();
        open.push(stream);
    }
}

/// Asks for a blob and goes away.
async fn ask(running: &Running, digest: &Digest) {
    let mut stream = TcpStream::connect(running.addresses.first().unwrap()).await.unwrap();
    let request = format!("GET /v2/up/library/x/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    });
}

/// A server, and after how long it answered.
async fn ready(config: Config) -> (Running, Duration) {
    let starting = Instant::now();
    let running = start(config, World::default()).await.unwrap();
    let mut stream = TcpStream::connect(running.addresses.first().unwrap()).await.unwrap();
    stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
    (running, starting.elapsed())
}

/// Has clients ask for hot blobs until so many are evicted, or for so long; how long each answer took.
async fn load(running: &Arc<Running>, hot: &Arc<Vec<Digest>>, until_evicted: u64, at_most: Duration) -> Vec<Duration> {
    let (address, is_over) = (*running.addresses.first().unwrap(), Arc::new(AtomicBool::new(false)));
    let clients = (0..CLIENTS).map(|client| {
        let (hot, is_over) = (Arc::clone(hot), Arc::clone(&is_over));
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let (mut times, mut next) = (Vec::new(), client * 251);
            let mut buffer = vec![0; 64 * 1024];
            while !is_over.load(Ordering::Relaxed) {
                let digest = hot.get(next % hot.len()).unwrap();
                next += 1;
                let asked = Instant::now();
                let request = format!("GET /v2/up/library/x/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n");
                stream.write_all(request.as_bytes()).await.unwrap();
                read_answer(&mut stream, &mut buffer).await;
                times.push(asked.elapsed());
            }
            times
        })
    });
    let clients: Vec<_> = clients.collect();
    let begun = Instant::now();
    while begun.elapsed() < at_most && metric(running, "headpond_evicted_blobs_total") < until_evicted {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    is_over.store(true, Ordering::Relaxed);
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await.unwrap());
    }
    times
}

async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) {
    let (mut read, mut body_at) = (0, None);
    while body_at.is_none_or(|at| read < at + HOT_BYTES) {
        let more = stream.read(buffer.get_mut(read..).unwrap()).await.unwrap();
        assert!(more > 0, "the connection was closed");
        read += more;
        let head = buffer.get(..read).unwrap();
        body_at = body_at.or_else(|| head.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4));
        assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(head));
    }
}

fn percentile(mut times: Vec<Duration>, percent: usize) -> Duration {
    times.sort_unstable();
    times.get(times.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
}

fn metric(running: &Running, name: &str) -> u64 {
    let text = String::from_utf8(running.metrics.expose().unwrap()).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok());
    value.unwrap_or(0.0) as u64
}

fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * fs::metadata("/proc/self").map_or(BLOCK, |metadata| metadata.blksize().max(BLOCK)).min(BLOCK)
}
