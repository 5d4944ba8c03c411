//! The store by itself: its contract, its durability, its lock, what a crash leaves.

mod contract;
mod leftovers;
mod power_loss;
mod room;

use headpond::oci::{Digest, RepositoryName, Tag};

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn tag(text: &str) -> Tag {
    Tag::parse(text).unwrap()
}

fn digest(number: u64) -> Digest {
    Digest::of(&number.to_le_bytes())
}
