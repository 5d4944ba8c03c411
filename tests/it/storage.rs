//! The store by itself: its contract, its durability, its lock, what a crash leaves.

mod blob_files;
pub(crate) mod contract;
mod guard;
mod hosted_room;
mod kinds;
mod leftovers;
mod listing;
mod odd_disks;
mod power_loss;
mod room;
mod server;
mod slow_line;
