//! From names to addresses.

use std::io;
use std::net::SocketAddr;

use async_trait::async_trait;

/// Resolves names; the seam where a test lets replicas come and go.
#[async_trait]
pub trait Names: Send + Sync {
    /// Every address behind `host:port`.
    ///
    /// # Errors
    /// When the name cannot be resolved.
    async fn resolve(&self, host_and_port: &str) -> io::Result<Vec<SocketAddr>>;
}

/// The resolver of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemNames;

#[async_trait]
impl Names for SystemNames {
    async fn resolve(&self, host_and_port: &str) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host(host_and_port).await?.collect())
    }
}
