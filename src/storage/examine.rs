//! Reading a record by somebody who wants to know what is wrong with it.

use object_store::GetOptions;
use serde::de::DeserializeOwned;

use super::records::{RecordKey, Records};
use super::{StorageError, Version};

/// What is in a record's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Examined<R> {
    /// Nothing.
    Absent,
    /// Something that is not of its form.
    Unreadable {
        /// What is wrong with it.
        detail: String,
        /// Which state of it.
        version: Version,
    },
    /// A record.
    Record(R, Version),
}

impl Records {
    /// Reads a record without a word to the log if it is not of its form.
    ///
    /// # Errors
    /// When the store cannot say.
    pub async fn examine<R: DeserializeOwned>(&self, key: &RecordKey<R>) -> Result<Examined<R>, StorageError> {
        let Some(read) = self.bytes(key.key(), GetOptions::default()).await? else { return Ok(Examined::Absent) };
        Ok(match serde_json::from_slice(&read.bytes) {
            Ok(record) => Examined::Record(record, read.version()),
            Err(error) => Examined::Unreadable { detail: error.to_string(), version: read.version() },
        })
    }
}
