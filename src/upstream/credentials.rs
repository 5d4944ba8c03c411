//! Where the credentials of an upstream come from, and how they are kept.
//!
//! A [`CredentialStore`] keeps what its source told last and gives it to the exchange. It reads
//! the source again when that is due, and when the upstream refuses what it has. The kinds of sources
//! have a file each; none of them knows of upstreams, so what they hold goes nowhere but through
//! `exchange` and `token`.

mod aws;
mod ecr;
mod error;
mod file;
mod login;
mod process;
mod secrets_manager;
mod source;
mod store;

pub use self::aws::Aws;
pub(super) use self::error::ReadError;
pub(super) use self::login::Login;
pub use self::source::{CredentialSource, EcrTokens};
pub use self::store::{CredentialStore, CredentialStores};
