//! The edges in: listeners, routes, handlers, delivery, and the one mapping of errors.
//!
//! Only this module names axum and hyper, and it reaches the cache only through `registry`.
//! [`dispatch`] reads top to bottom as the design does: request → canonical target → authorized →
//! lookup → delivery.

pub mod activity;
mod admin;
pub mod connection;
mod control;
mod delivery;
mod dispatch;
mod error;
mod error_response;
pub mod listener;
pub mod proxy_protocol;
mod replica;
mod request_record;
mod route;
mod selection;
pub mod server;
pub mod tls;
mod v2;

pub use admin::{Readiness, admin_router};
pub use control::{ControlError, ControlEvents, ask_control, serve_control};
pub use dispatch::{Edge, Gate};
pub use error_response::{ErrorKind, TABLE};
pub use listener::{BindError, BoundListener};
pub use route::{Route, RouteError, parse};
pub use server::{ClientAddress, Drained, Scheme, serve};
pub use tls::{TlsContext, TlsError, install_provider};
