//! TLS listeners: what is negotiated, who is let in, and certificates that change at run time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use headpond::config::{Limits, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::server::{Server, Start, connect, read_to_close, request};

/// An authority in a directory of its own, with the files it has issued.
struct Authority {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.crt"), issuer.pem()).unwrap();
        Self { directory, issuer }
    }

    /// Writes `<name>.crt` and `<name>.key`, for `localhost`.
    fn issue(&self, name: &str) -> Tls {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let files = self.files(name);
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    fn files(&self, name: &str) -> Tls {
        let file = |extension: &str| self.directory.path().join(format!("{name}.{extension}"));
        Tls { certificate: file("crt"), key: file("key"), client_ca: None }
    }

    /// A client that trusts this authority, with a certificate if one is given.
    fn client(&self, own: Option<&Tls>) -> TlsConnector {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
                builder.with_client_auth_cert(vec![certificate(&files.certificate)], key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

fn certificate(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).unwrap()
}

async fn handshake(server: &Server, client: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
    client.connect(ServerName::try_from("localhost").unwrap(), connect(server).await).await
}

fn presented(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

#[tokio::test]
async fn tls_is_served_and_the_request_says_so() {
    let authority = Authority::new();
    let server = Start { tls: Some(authority.issue("server")), ..Start::default() }.with_echo().await;
    let mut stream = handshake(&server, &authority.client(None)).await.unwrap();
    assert!(request(&mut stream, "/").await.ends_with(" Https"));
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn http2_is_preferred_over_tls() {
    let authority = Authority::new();
    let server = Start { tls: Some(authority.issue("server")), ..Start::default() }.with_echo().await;
    let root = reqwest::Certificate::from_pem(authority.issuer.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap();
    let answer = client.get(format!("https://localhost:{}/", server.address.port())).send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    assert!(answer.text().await.unwrap().ends_with(" Https"));
}

#[tokio::test]
async fn certificate_is_swapped_while_served_and_open_connections_live_on() {
    let authority = Authority::new();
    let server = Start { tls: Some(authority.issue("server")), ..Start::default() }.with_echo().await;
    let client = authority.client(None);
    let mut before = handshake(&server, &client).await.unwrap();
    let renewed = authority.issue("server");
    server.tls.as_ref().unwrap().reload(&renewed).unwrap();
    let after = handshake(&server, &authority.client(None)).await.unwrap();
    assert_eq!(presented(&after), certificate(&renewed.certificate));
    assert_ne!(presented(&before), presented(&after));
    request(&mut before, "/").await;
}

#[tokio::test]
async fn bad_new_certificate_is_refused_and_the_old_one_served_on() {
    let authority = Authority::new();
    let files = authority.issue("server");
    let old = certificate(&files.certificate);
    let server = Start { tls: Some(files.clone()), ..Start::default() }.with_echo().await;
    let tls = server.tls.as_ref().unwrap();
    let other = authority.issue("other");
    let mismatched = Tls { key: other.key, ..files.clone() };
    let refused = tls.reload(&mismatched).unwrap_err().to_string();
    assert!(refused.contains("server.crt") && refused.contains("other.key"), "{refused}");
    std::fs::write(&files.certificate, "-----BEGIN CERTIFICATE-----\nhalf").unwrap();
    assert!(tls.reload(&files).unwrap_err().to_string().contains("server.crt"));
    std::fs::write(&files.certificate, "").unwrap();
    assert!(tls.reload(&files).is_err());
    std::fs::remove_file(&files.certificate).unwrap();
    assert!(tls.reload(&files).is_err());
    let stream = handshake(&server, &authority.client(None)).await.unwrap();
    assert_eq!(presented(&stream), old);
}

#[tokio::test]
async fn client_without_a_certificate_of_the_authority_is_kept_out() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let files = Tls { client_ca: Some(authority.directory.path().join("ca.crt")), ..authority.issue("server") };
    let server = Start { tls: Some(files.clone()), ..Start::default() }.with_echo().await;
    let mut known = handshake(&server, &authority.client(Some(&authority.issue("client")))).await.unwrap();
    assert!(request(&mut known, "/").await.ends_with(" Https"));
    for kept_out in [authority.client(None), authority.client(Some(&stranger.issue("client")))] {
        // In TLS 1.3 the client learns of it only when it reads.
        if let Ok(mut stream) = handshake(&server, &kept_out).await {
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
            assert_eq!(read_to_close(&mut stream).await, "");
        }
    }
    let other_authority = Tls { client_ca: Some(stranger.directory.path().join("ca.crt")), ..files };
    server.tls.as_ref().unwrap().reload(&other_authority).unwrap();
    let mut now_known = handshake(&server, &authority.client(Some(&stranger.issue("client")))).await.unwrap();
    assert!(request(&mut now_known, "/").await.ends_with(" Https"));
}

#[tokio::test]
async fn handshake_that_hangs_holds_nobody_up_and_is_cut_off() {
    let authority = Authority::new();
    let limits = Limits { tls_handshake_timeout: Duration::from_millis(300), ..Limits::default() };
    let server = Start { tls: Some(authority.issue("server")), limits, ..Start::default() }.with_echo().await;
    let mut hanging = connect(&server).await;
    let mut stream = handshake(&server, &authority.client(None)).await.unwrap();
    request(&mut stream, "/").await;
    assert_eq!(read_to_close(&mut hanging).await, "");
}

#[tokio::test]
async fn proxy_header_comes_before_tls() {
    let authority = Authority::new();
    let server = Start { tls: Some(authority.issue("server")), proxy_protocol: true, ..Start::default() }.with_echo().await;
    let mut stream = connect(&server).await;
    stream.write_all(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\x0a\x00\x00\x01\x30\x39\x13\x88").await.unwrap();
    let mut stream = authority.client(None).connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
    assert!(request(&mut stream, "/").await.ends_with("192.0.2.1:12345 Https"));
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_closed() {
    let authority = Authority::new();
    let server = Start { tls: Some(authority.issue("server")), ..Start::default() }.with_echo().await;
    let mut stream = connect(&server).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(!read_to_close(&mut stream).await.contains("200"));
}
