//! Upstreams behind a proxy.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use headpond::app::World;
use headpond::upstream::Proxies;
use reqwest::{Client, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::fake_upstream::FakeUpstream;
use crate::headpond::{Headpond, configuration};

const TAG: &str = "/v2/up/library/x/manifests/1";

/// A forward proxy: whatever host it is asked for is the fake upstream.
struct Proxy {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    async fn before(fake: &FakeUpstream) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, heads, target) = (listener.local_addr().unwrap().port(), Arc::<Mutex<Vec<String>>>::default(), fake.host());
        let seen = Arc::clone(&heads);
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(forward(client, target.clone(), Arc::clone(&seen)));
            }
        });
        Self { port, heads, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// Its URL, by a name of this machine.
    fn url(&self) -> String {
        format!("http://somebody:secret@localhost:{}", self.port)
    }

    /// The first head of every connection, in lower case.
    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// A SOCKS proxy (RFC 1928) that asks for no name, and the address types and hosts that it was asked for.
async fn socks_before(fake: &FakeUpstream) -> (u16, Arc<Mutex<Vec<(u8, String)>>>, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, asked, target) = (listener.local_addr().unwrap().port(), Arc::<Mutex<Vec<_>>>::default(), fake.host());
    let seen = Arc::clone(&asked);
    let accepting = tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let (target, seen) = (target.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                let mut methods = vec![0; 2];
                client.read_exact(&mut methods).await.unwrap();
                methods.resize(usize::from(methods[1]), 0);
                client.read_exact(&mut methods).await.unwrap();
                client.write_all(&[5, 0]).await.unwrap();
                let mut request = [0; 4];
                client.read_exact(&mut request).await.unwrap();
                let length = if request[3] == 3 { usize::from(client.read_u8().await.unwrap()) } else { 4 };
                let mut address = vec![0; length + 2];
                client.read_exact(&mut address).await.unwrap();
                seen.lock().unwrap().push((request[3], String::from_utf8_lossy(&address[..length]).into_owned()));
                client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
                let mut upstream = TcpStream::connect(target).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut upstream).await;
            });
        }
    });
    (port, asked, AbortOnDropHandle::new(accepting))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socks_proxy_that_resolves_names_is_gone_through_end_to_end() {
    let fake = FakeUpstream::start_tls().await;
    let image = fake.put_image("library/x", "1", &["layer".into()]);
    let (port, asked, _accepting) = socks_before(&fake).await;
    let proxies = Proxies { https: Some(format!("socks5h://localhost:{port}")), ..Proxies::default() };
    let server = server(&fake, "https://registry.example", "ca: ca.pem", proxies).await;
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    assert_eq!(server.get(&Headpond::blob(&image.layers[0])).await.digest(), image.layers[0]);
    assert_eq!(*asked.lock().unwrap(), vec![(3, "registry.example".to_owned()); 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_cannot_be_used_is_said_at_start_without_its_password() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("headpond.yaml");
    std::fs::write(&file, configuration("https://registry.example", "", "")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_headpond"));
    command.args(["serve", "--config", file.to_str().unwrap()]).stdin(Stdio::null());
    command.env("ALL_PROXY", "socks://somebody:secret@proxy.corp:1080").env_remove("HTTPS_PROXY").env_remove("https_proxy");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && stderr.contains("(or ALL_PROXY") && stderr.contains("socks5://host:port"), "{stderr}");
    assert!(!stderr.contains("secret"), "{stderr}");
}

async fn forward(mut client: TcpStream, target: String, heads: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = client.read_u8().await else { return };
        head.push(byte);
    }
    let mut upstream = TcpStream::connect(target).await.unwrap();
    let text = String::from_utf8(head.clone()).unwrap().to_ascii_lowercase();
    let told =
        if text.starts_with("connect ") { client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await } else { upstream.write_all(&head).await };
    heads.lock().unwrap().push(text);
    if told.is_ok() {
        let _ = copy_bidirectional(&mut client, &mut upstream).await;
    }
}

/// A server whose upstream is `url`, in a world with these proxies.
async fn server(fake: &FakeUpstream, url: &str, rule: &str, proxies: Proxies) -> Headpond {
    let directory = tempfile::tempdir().unwrap();
    if url.starts_with("https") {
        std::fs::write(directory.path().join("ca.pem"), fake.ca_pem()).unwrap();
    }
    let text = configuration(url, rule, "limits: {connect_timeout: 2s}");
    Headpond::of(fake, &text, directory, World { proxies, ..World::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn https_goes_through_a_proxy_by_connect_and_end_to_end() {
    let fake = FakeUpstream::start_tls().await;
    let image = fake.put_image("library/x", "1", &["layer".into()]);
    let proxy = Proxy::before(&fake).await;
    let proxies = Proxies { https: Some(proxy.url()), ..Proxies::default() };
    let server = server(&fake, "https://registry.example", "ca: ca.pem", proxies).await;
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    assert_eq!(server.get(&Headpond::blob(&image.layers[0])).await.digest(), image.layers[0]);
    assert_eq!(proxy.heads().len(), 2, "a connection for each lane");
    for head in proxy.heads() {
        assert!(head.starts_with("connect registry.example:443 http/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nproxy-authorization: basic "), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_goes_through_the_proxy_for_http() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let proxy = Proxy::before(&fake).await;
    let proxies = Proxies { http: Some(proxy.url()), https: Some("http://127.0.0.1:9".to_owned()), ..Proxies::default() };
    let server = server(&fake, "http://registry.example", "", proxies).await;
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    assert!(proxy.heads()[0].starts_with("get http://registry.example/v2/library/x/manifests/1 "), "{:?}", proxy.heads());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_proxy_names_and_loopback_are_reached_directly() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let proxy = Proxy::before(&fake).await;
    let proxies = Proxies { http: Some(proxy.url()), https: None, no_proxy: Some("other.example,.registry.invalid".to_owned()) };
    let direct = server(&fake, "http://eu.registry.invalid", "", proxies.clone()).await;
    assert_eq!(direct.get(TAG).await.status, StatusCode::SERVICE_UNAVAILABLE, "there is no such name");
    let loopback = server(&fake, &fake.url(), "", proxies).await;
    assert_eq!(loopback.get(TAG).await.digest(), image.digest);
    assert!(proxy.heads().is_empty(), "{:?}", proxy.heads());
}

/// A process that is killed when a test ends.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_takes_its_proxies_from_the_environment() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let proxy = Proxy::before(&fake).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("headpond.yaml");
    std::fs::write(&file, configuration("http://registry.example", "", "")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_headpond"));
    command.args(["serve", "--config", file.to_str().unwrap()]).stdin(Stdio::null()).stdout(Stdio::piped());
    command.env("HTTP_PROXY", proxy.url()).env("NO_PROXY", "");
    let mut process = Process(command.spawn().unwrap());
    let banner = BufReader::new(process.0.stdout.take().unwrap());
    let port = tokio::task::spawn_blocking(move || {
        let mut lines = banner.lines().map(Result::unwrap);
        let line = lines.find(|line| line.contains("registry ")).unwrap();
        line.trim_end_matches("/v2/").rsplit_once(':').unwrap().1.to_owned()
    });
    let port = port.await.unwrap();
    let client = Client::builder().no_proxy().build().unwrap();
    let answer = client.get(format!("http://127.0.0.1:{port}{TAG}")).send().await.unwrap();
    assert_eq!(answer.bytes().await.unwrap(), image.manifest);
    assert!(!proxy.heads().is_empty());
}
