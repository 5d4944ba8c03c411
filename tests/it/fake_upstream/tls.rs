//! A certificate authority, and certificates of it for loopback and for a client.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

pub(super) struct Tls {
    pub(super) ca_pem: String,
    pub(super) acceptor: TlsAcceptor,
    /// Of the second port: it asks for a certificate where the first needs one, and takes none too.
    pub(super) cdn_acceptor: TlsAcceptor,
    /// Certificate and key of a client.
    pub(super) client_pem: String,
}

/// Whether clients have to have a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clients {
    /// They are not asked.
    Anybody,
    /// They need one.
    Known,
}

impl Tls {
    pub(super) fn new(clients: Clients) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(ca, ca_key);
        let signed = |names: &[&str]| {
            let key = KeyPair::generate().unwrap();
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            (CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap(), key)
        };
        let (certificate, key) = signed(&["127.0.0.1", "localhost", "registry.example"]);
        let (client, client_key) = signed(&["headpond.example"]);
        let acceptor = |needs_one: bool| {
            let provider = Arc::new(aws_lc_rs::default_provider());
            let config = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
            let config = match clients {
                Clients::Anybody => config.with_no_client_auth(),
                Clients::Known => {
                    let mut roots = RootCertStore::empty();
                    roots.add(ca_certificate.der().clone()).unwrap();
                    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                    let verifier = if needs_one { verifier } else { verifier.allow_unauthenticated() };
                    config.with_client_cert_verifier(verifier.build().unwrap())
                }
            };
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            let mut config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            TlsAcceptor::from(Arc::new(config))
        };
        Self {
            ca_pem: ca_certificate.pem(),
            acceptor: acceptor(true),
            cdn_acceptor: acceptor(false),
            client_pem: format!("{}{}", client.pem(), client_key.serialize_pem()),
        }
    }
}
