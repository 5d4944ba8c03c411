//! Every integration test in one binary, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice)]

mod architecture;
mod auth;
mod bad_input;
mod catalog;
mod chart;
mod cli;
mod cli_store;
mod config;
mod control;
mod documents;
mod errors;
mod fake_bucket;
mod fake_upstream;
mod faulty_disk;
mod faulty_records;
mod fill;
mod freshness;
mod headpond;
mod hosted;
mod http;
mod manifests;
mod names;
mod outage;
mod pull;
mod referrers;
mod reload;
mod scrub;
mod server;
mod server_tls;
mod storage;
mod tags;
mod tags_list;
mod upstream;
