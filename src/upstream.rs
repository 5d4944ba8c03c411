//! The client of other registries: authentication, redirects, time limits, and a circuit per
//! upstream and credential.
//!
//! An [`Endpoint`] is what rules with equal settings share: connections, tokens, circuit. What a 429 said
//! is shared by all endpoints of one source ([`Allowances`]). An [`Upstream`] is an endpoint as one rule uses it. Nothing is retried here but the one refresh of
//! a rejected token or credential, nothing is stored, and a client's own credentials never come this far. This
//! module alone names the HTTP client, and the SDK of the services of AWS that give credentials.

mod address;
mod admission;
mod allowance;
mod blob;
mod blob_health;
mod certificate_name;
mod challenge;
mod check;
mod circuit;
mod client;
mod content_range;
mod credentials;
mod endpoint;
mod error;
mod error_body;
mod exchange;
mod landings;
mod link;
mod manifest;
mod proxies;
mod quota;
mod reach;
mod realm;
mod redirect;
mod referrers;
mod replica;
mod retry_after;
mod settings;
mod source_id;
mod stall;
mod standing;
mod status;
mod tags;
mod throttle;
mod token;
mod transport;

pub use reqwest::Url;

pub use self::allowance::Allowances;
pub use self::blob::BlobStream;
pub use self::check::{CheckReport, Outcome, Sample, Step, StepName};
pub use self::circuit::{CircuitState, Purpose};
pub use self::client::Upstream;
pub use self::credentials::{Aws, CredentialSource, CredentialStore, CredentialStores, EcrTokens};
pub use self::endpoint::{Endpoint, UpstreamBuildError};
pub use self::error::{Unavailability, UpstreamError};
pub use self::manifest::{ManifestBody, ManifestHead};
pub use self::proxies::Proxies;
pub use self::quota::Quota;
pub use self::replica::{Replica, Replicas, Told};
pub use self::settings::{ClientCertificate, Credential, UpstreamLimits, UpstreamSettings};
pub use self::source_id::SourceId;
