//! The PROXY protocol, version 2: who the client is, said by the load balancer in front.
//!
//! Exactly the header is read, so that what follows (TLS, HTTP) starts at its first byte. Only to be
//! used on listeners that nothing but the load balancer can reach: the header is believed.

use std::io;
use std::net::SocketAddr;

use ppp::v2::{Addresses, Command, Header, PROTOCOL_PREFIX};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Largest header, in bytes: addresses, and what load balancers add to them. The format would allow 64 KiB.
const MAX_HEADER_BYTES: usize = 4096;
/// Prefix, command, family and the length of the rest.
const FIXED_BYTES: usize = 16;

/// Why a connection does not start with a header.
#[derive(Debug, Error)]
pub enum ProxyProtocolError {
    /// The connection broke off.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Something else came, such as plain HTTP, TLS or version 1.
    #[error("the connection does not start with a PROXY protocol v2 header")]
    NotAHeader,
    /// The header is longer than is taken.
    #[error("the PROXY protocol header is longer than {MAX_HEADER_BYTES} bytes")]
    TooLong,
    /// The header is not well formed.
    #[error("the PROXY protocol header is malformed: {0}")]
    Malformed(#[from] ppp::v2::ParseError),
}

/// Reads the header. `None` where it names no client over IP: health checks of the load balancer
/// itself (`LOCAL`) and unknown families, for which the connection's own address counts.
///
/// # Errors
/// When the connection starts with anything else.
pub async fn read_client(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, ProxyProtocolError> {
    let mut bytes = vec![0; FIXED_BYTES];
    stream.read_exact(&mut bytes).await?;
    if !bytes.starts_with(PROTOCOL_PREFIX) {
        return Err(ProxyProtocolError::NotAHeader);
    }
    let rest_bytes = bytes.last_chunk().map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
    if FIXED_BYTES + rest_bytes > MAX_HEADER_BYTES {
        return Err(ProxyProtocolError::TooLong);
    }
    bytes.resize(FIXED_BYTES + rest_bytes, 0);
    stream.read_exact(bytes.get_mut(FIXED_BYTES..).unwrap_or_default()).await?;
    let header = Header::try_from(bytes.as_slice())?;
    Ok(match (header.command, header.addresses) {
        (Command::Local, _) | (Command::Proxy, Addresses::Unspecified | Addresses::Unix(_)) => None,
        (Command::Proxy, Addresses::IPv4(address)) => Some(SocketAddr::from((address.source_address, address.source_port))),
        (Command::Proxy, Addresses::IPv6(address)) => Some(SocketAddr::from((address.source_address, address.source_port))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [PREFIX, &[0x20 | command, family], &length, rest].concat()
    }

    const IPV4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0x30, 0x39, 0x13, 0x88];

    async fn read(bytes: &[u8]) -> Result<Option<SocketAddr>, ProxyProtocolError> {
        let mut stream = bytes;
        read_client(&mut stream).await
    }

    #[tokio::test]
    async fn header_names_the_client_and_what_follows_is_left() {
        let tlv = [0x04, 0, 1, 42];
        let bytes = [header(1, 0x11, &[&IPV4[..], &tlv].concat()), b"GET /".to_vec()].concat();
        let mut stream = bytes.as_slice();
        assert_eq!(read_client(&mut stream).await.unwrap(), Some("192.0.2.1:12345".parse().unwrap()));
        assert_eq!(stream, b"GET /");
        let ipv6 = [[0xfd; 16], [0xfe; 16]].concat();
        let read = read(&header(1, 0x21, &[&ipv6[..], &[0, 1, 0, 2]].concat())).await.unwrap();
        assert_eq!(read, Some("[fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd]:1".parse().unwrap()));
    }

    #[tokio::test]
    async fn health_check_of_the_balancer_names_nobody() {
        assert_eq!(read(&header(0, 0x00, &[])).await.unwrap(), None);
        assert_eq!(read(&header(0, 0x11, &IPV4)).await.unwrap(), None);
        assert_eq!(read(&header(1, 0x00, &[])).await.unwrap(), None);
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        assert!(matches!(read(b"GET /v2/ HTTP/1.1\r\n").await, Err(ProxyProtocolError::NotAHeader)));
        assert!(matches!(read(b"PROXY TCP4 1.2.3.4 1.2.3.5 1 2\r\n").await, Err(ProxyProtocolError::NotAHeader)));
        assert!(matches!(read(&[PREFIX, &[0x21, 0x11, 0xff, 0xff]].concat()).await, Err(ProxyProtocolError::TooLong)));
        assert!(matches!(read(&header(1, 0x11, &IPV4[..8])).await, Err(ProxyProtocolError::Malformed(_))));
        assert!(matches!(read(&header(9, 0x11, &IPV4)).await, Err(ProxyProtocolError::Malformed(_))));
        assert!(matches!(read(&header(1, 0x11, &IPV4)[..20]).await, Err(ProxyProtocolError::Io(_))));
    }
}
