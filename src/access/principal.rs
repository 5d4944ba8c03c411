//! Who asks.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::cluster::ReplicaRequest;

/// Who asks; only made by the [`Authenticator`](super::Authenticator), once it is sure.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// Somebody without credentials, from a network that may pull so.
    Anonymous {
        /// The client's address; IPv4 also where it came mapped into IPv6.
        address: IpAddr,
    },
    /// A user of the htpasswd file.
    User {
        /// The name in the file.
        name: Arc<str>,
    },
    /// Another replica, for a client that it has let in.
    Replica(ReplicaRequest),
}

impl Principal {
    /// Whether nothing is known but the address.
    #[must_use]
    pub const fn is_anonymous(&self) -> bool {
        matches!(self, Self::Anonymous { .. })
    }
}

/// For log lines: the name, `anonymous`, or `replica`.
impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous { .. } => "anonymous",
            Self::User { name } => name,
            Self::Replica(_) => "replica",
        })
    }
}
