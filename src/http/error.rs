//! Everything that can keep a request from being answered.

use thiserror::Error;

use super::route::RouteError;
use crate::access::{AuthenticateError, Forbidden};
use crate::registry::RegistryError;
use crate::rules::ResolveError;

/// A request's failure, whichever step it came from.
#[derive(Debug, Error)]
pub(super) enum HttpError {
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(transparent)]
    Authenticate(#[from] AuthenticateError),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("n is the number of entries wanted, 0 or more, in digits")]
    PageSize,
}
