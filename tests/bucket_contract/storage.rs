//! The contract of the stores, as the tests in process have it.

#[path = "../it/storage/contract.rs"]
pub(crate) mod contract;
