//! All integration tests: one binary, so that they link once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod cli;
mod config;
mod server;
mod server_tls;
