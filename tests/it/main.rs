//! Every integration test in one binary, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod cli;
mod config;
mod fake_upstream;
mod faulty_disk;
mod faulty_records;
mod fill;
mod headpond;
mod pull;
mod server;
mod server_tls;
mod storage;
mod upstream;
