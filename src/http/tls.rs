//! TLS of a listener, from files that can be read again while it is served.
//!
//! The whole `ServerConfig` is swapped, not the certificate alone: so client authorities change with
//! it, and sessions of the old ones cannot be resumed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

use crate::config::Tls;

/// The protocols offered, the preferred one first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What new connections of a listener are given.
#[derive(Debug)]
pub struct TlsContext {
    current: ArcSwap<ServerConfig>,
}

/// Why the files of a listener cannot be used. Names the file, never its content.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read, or is not PEM.
    #[error("{file}: {source}\n    hint: PEM files are needed, the server's own certificate first")]
    Pem {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// A file has no certificate in it.
    #[error("{0}: holds no certificate")]
    NoCertificate(PathBuf),
    /// The certificate and key cannot be used, or do not belong together.
    #[error("{certificate} and {key}: {source}\n    hint: the key must be the certificate's own")]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// A certificate of the client authorities cannot be used.
    #[error("{file}: {source}")]
    Authority {
        /// The authorities' file.
        file: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// The client authorities cannot be used together.
    #[error("{file}: {source}")]
    Authorities {
        /// The authorities' file.
        file: PathBuf,
        /// What rustls says.
        source: VerifierBuilderError,
    },
}

impl TlsContext {
    /// Reads the files.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn load(files: &Tls) -> Result<Self, TlsError> {
        Ok(Self { current: ArcSwap::from_pointee(server_config(files)?) })
    }

    /// Reads the files again, or others. Connections that are open keep what they have.
    ///
    /// # Errors
    /// When a file cannot be used; what was served before is then served on.
    pub fn reload(&self, files: &Tls) -> Result<(), TlsError> {
        self.current.store(Arc::new(server_config(files)?));
        Ok(())
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }
}

fn server_config(files: &Tls) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let certificates = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| TlsError::Pem { file: files.key.clone(), source })?;
    let pair = |source| TlsError::Pair { certificate: files.certificate.clone(), key: files.key.clone(), source };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().map_err(pair)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let roots = Arc::new(authorities(file)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|source| TlsError::Authorities { file: file.clone(), source })?)
        }
    };
    let mut config = builder.with_single_cert(certificates, key).map_err(pair)?;
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |source| TlsError::Pem { file: file.to_owned(), source };
    let certificates = CertificateDer::pem_file_iter(file).map_err(pem)?.collect::<Result<Vec<_>, _>>().map_err(pem)?;
    if certificates.is_empty() { Err(TlsError::NoCertificate(file.to_owned())) } else { Ok(certificates) }
}

fn authorities(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|source| TlsError::Authority { file: file.to_owned(), source })?;
    }
    Ok(roots)
}

/// Makes aws-lc-rs the provider of every rustls in the process; a second call changes nothing.
pub fn install_provider() {
    // The error only says that there is one already, and it is the same: no other is compiled in.
    let _ = CryptoProvider::install_default(aws_lc_rs::default_provider());
}
