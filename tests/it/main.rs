//! Every integration test in one binary, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod architecture;
mod cli;
mod config;
mod documents;
mod fake_upstream;
mod fill;
mod headpond;
mod pull;
mod server;
mod server_tls;
mod upstream;
