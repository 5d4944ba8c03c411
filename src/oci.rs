//! The vocabulary of the OCI distribution and image specifications: names, digests, media types,
//! manifests, byte ranges and error codes.
//!
//! Pure: parse and validate only. No async, no I/O, no HTTP library. Everything here can be built
//! from untrusted input, so every parser is total and every length has a limit.

pub mod byte_range;
pub mod digest;
pub mod error_code;
pub mod manifest;
pub mod media_type;
pub mod platform;
pub mod reference;
pub mod referrer;
pub mod repository_name;
pub mod tag;

pub use byte_range::{ByteRange, RangeRequest};
pub use digest::{Algorithm, Digest, DigestHasher};
pub use error_code::ErrorCode;
pub use manifest::{Descriptor, ManifestSummary};
pub use media_type::MediaType;
pub use platform::Platform;
pub use reference::Reference;
pub use referrer::Referrer;
pub use repository_name::RepositoryName;
pub use tag::Tag;
