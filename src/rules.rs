//! Pure: what a name, with or without `ns`, means.
//!
//! [`RuleTable::resolve`] makes every name canonical before anything is decided about it, so that
//! `docker-hub/nginx`, `docker-hub/library/nginx` and `library/nginx?ns=docker.io` are one target
//! under one policy. No I/O, no async.

mod table;
mod target;

pub use table::{ResolveError, RuleTable};
pub use target::{PullThrough, Target};
