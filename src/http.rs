//! The edges in: listeners, TLS, and what a request meets before a handler.

pub mod activity;
pub mod connection;
pub mod listener;
pub mod proxy_protocol;
pub mod server;
pub mod tls;
