//! How a source can fail to tell credentials.

use thiserror::Error;

/// Why there are no credentials. Each message reads alone, with a hint, and holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(in super::super) enum ReadError {
    /// The source answers, and not with credentials; it takes an operator to change that.
    #[error("{0}")]
    Refused(String),
    /// The source does not answer.
    #[error("{0}")]
    Unreachable(String),
}

impl ReadError {
    pub(super) fn refused(what: impl Into<String>) -> Self {
        Self::Refused(what.into())
    }

    pub(super) fn unreachable(what: impl Into<String>) -> Self {
        Self::Unreachable(what.into())
    }

    /// The label `outcome` of the metrics.
    pub(super) const fn outcome(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Unreachable(_) => "unreachable",
        }
    }
}
