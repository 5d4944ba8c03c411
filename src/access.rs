//! Who asks, and whether they may.

pub mod action;
pub mod authenticate;
mod cidr;
pub mod principal;
pub mod users;
mod verdicts;

pub use action::Action;
pub use authenticate::{AuthenticateError, Authenticator};
pub use principal::Principal;
pub use users::{Users, UsersError};
