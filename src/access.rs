//! Who asks, and whether they may.

pub mod action;
pub mod authenticate;
pub mod authorize;
mod cidr;
pub mod principal;
pub mod replica;
mod sight;
pub mod users;
mod verdicts;

pub use action::Action;
pub use authenticate::{AuthenticateError, Authenticator};
pub use authorize::{Authorized, Authorizer, Forbidden};
pub use principal::Principal;
pub use replica::{ReplicaCheck, RequestLine};
pub use sight::Sight;
pub use users::{Users, UsersError};
