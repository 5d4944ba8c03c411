//! Headpond: a self-hosted pull-through cache for container images.
//!
//! The modules stand in the order in which a pull flows through them; ARCHITECTURE.md walks it.
//!
//! | module | owns |
//! |---|---|
//! | [`cli`] | the commands: parse, call the library, print |
//! | [`app`] | the composition root: the one file that names everything |
//! | [`config`] | the configuration file: raw, validated, every problem at once |
//! | [`http`] | the edges in: listeners, routes, handlers, delivery, the one mapping of errors |
//! | [`access`] | who asks, and whether they may: `Authorized<Target>` |
//! | [`rules`] | pure: names and `ns` to one canonical `Target` |
//! | [`registry`] | the use cases, without HTTP types |
//! | [`cache`] | lookup, freshness, flights, fills |
//! | [`cluster`] | the other replicas: who they are, who owns what, how they prove it |
//! | [`upstream`] | the client of other registries |
//! | [`upkeep`] | scrubs and garbage collections of a store |
//! | [`storage`] | blobs and records on disk |
//! | [`oci`] | pure: the vocabulary of the specifications |
//! | [`telemetry`] | logging and metrics |
//! | [`tasks`], [`clock`] | owned tasks and their end; wall time where it is data |

pub mod access;
pub mod app;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod http;
pub mod oci;
pub mod registry;
pub mod rules;
pub mod storage;
pub mod tasks;
pub mod telemetry;
pub mod upkeep;
pub mod upstream;
