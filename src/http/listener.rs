//! Sockets that are bound, all of them, before anything is announced.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;
use tokio::net::TcpListener;

use super::tls::{TlsContext, TlsError};
use crate::config::Listen;

/// A socket that accepts connections from now on; they wait in the kernel until it is served.
#[derive(Debug)]
pub struct BoundListener {
    pub(super) socket: TcpListener,
    pub(super) tls: Option<Arc<TlsContext>>,
    pub(super) proxy_protocol: bool,
    local_address: SocketAddr,
}

/// Why a listener could not be set up.
#[derive(Debug, Error)]
pub enum BindError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}\n    hint: {hint}", hint = hint(source))]
    Address {
        /// The address of the configuration.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The certificate, key or client authorities cannot be used.
    #[error("cannot serve TLS on {address}: {source}")]
    Tls {
        /// The address of the configuration.
        address: SocketAddr,
        /// What is wrong with the files.
        source: TlsError,
    },
}

fn hint(error: &io::Error) -> &'static str {
    // Only these three are common enough to know what to say.
    if error.kind() == io::ErrorKind::AddrInUse {
        "another process listens there (`ss -ltnp` names it); stop it, or choose another port with --listen or --admin"
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "ports below 1024 need a privilege; choose a higher port, or grant CAP_NET_BIND_SERVICE"
    } else if error.kind() == io::ErrorKind::AddrNotAvailable {
        "this machine has no such address; 0.0.0.0 or [::] listens on all it has"
    } else {
        "choose another address with --listen or --admin"
    }
}

impl BoundListener {
    /// Binds one listener.
    ///
    /// # Errors
    /// When the address cannot be bound, or the TLS files cannot be used.
    pub async fn bind(listen: &Listen) -> Result<Self, BindError> {
        let address = listen.address;
        let tls = listen.tls.as_ref().map(TlsContext::load).transpose().map_err(|source| BindError::Tls { address, source })?;
        let refused = |source| BindError::Address { address, source };
        let socket = TcpListener::bind(address).await.map_err(refused)?;
        let local_address = socket.local_addr().map_err(refused)?;
        Ok(Self { socket, tls: tls.map(Arc::new), proxy_protocol: listen.proxy_protocol, local_address })
    }

    /// Binds all, or none: the first that fails closes those before it.
    ///
    /// # Errors
    /// Those of [`BoundListener::bind`].
    pub async fn bind_all(listen: &[Listen]) -> Result<Vec<Self>, BindError> {
        let mut bound = Vec::with_capacity(listen.len());
        for one in listen {
            bound.push(Self::bind(one).await?);
        }
        Ok(bound)
    }

    /// The address that was bound; its port is the real one where port 0 was asked for.
    #[must_use]
    pub const fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// The TLS of this listener, to reload it while it is served.
    #[must_use]
    pub const fn tls(&self) -> Option<&Arc<TlsContext>> {
        self.tls.as_ref()
    }
}
