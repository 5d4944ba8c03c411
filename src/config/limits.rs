//! Every named limit and wait, with its default.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::problems::Problems;
use super::shapes::Text;

/// Longest duration in a configuration: ten years, so that sums of times cannot overflow.
const MAX_DURATION: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
/// Bounds of `max_header_bytes`: hyper's buffer cannot be smaller, and larger ones only serve attackers.
const HEADER_BYTES: std::ops::RangeInclusive<u64> = 8 * 1024..=1024 * 1024;
/// Bounds of `upload_part`: S3 takes no smaller parts, and each one is in memory.
const UPLOAD_PART_BYTES: std::ops::RangeInclusive<u64> = 5 * 1024 * 1024..=1024 * 1024 * 1024;
/// Most of `gc_settle`: what is condemned counts as absent meanwhile, and a condemnation is believed for minutes only.
const MAX_GC_SETTLE: Duration = Duration::from_secs(2 * 60);
/// Limits for which 0 means something: "none" or "at once".
const MAY_BE_ZERO: [&str; 22] = [
    "max_redirects",
    "circuit_cooldown",
    "revalidate_wait",
    "revalidate_backoff",
    "negative_ttl",
    "max_unfollowed_fills",
    "max_bypasses",
    "parallel_above",
    "memory_cache",
    "tags_list_ttl",
    "shutdown_delay",
    "users_verdict_ttl",
    "redirect_min_size",
    "view_ttl",
    "pulled_interval",
    "retire_after",
    "scrub_interval",
    "scrub_looks",
    "quarantine_size",
    "gc_grace",
    "gc_interval",
    "gc_settle",
];

/// Writes one limit's value down once: the struct, its raw form, its default and the words about it.
macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty = $value:literal $($unit:ident)?;)+) => {
        /// Every limit and wait of a running server. Sizes are bytes.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits {
            $($(#[doc = $doc])+ #[doc = concat!("Default: ", $value, $(" ", stringify!($unit),)? ".")] pub $name: $type,)+
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: limits!(@value $value $($unit)?),)+ }
            }
        }

        /// Limits and waits: durations such as 10s or 1h, sizes such as 64MiB, and counts.
        #[derive(Debug, Default, Deserialize, JsonSchema)]
        #[schemars(rename = "Limits", deny_unknown_fields)]
        #[serde(default)]
        pub(super) struct RawLimits {
            $($(#[doc = $doc])+ #[doc = concat!("Default: ", $value, $(stringify!($unit),)? ".")] pub(super) $name: Option<Text>,)+
        }

        fn read(raw: RawLimits, problems: &mut Problems) -> Limits {
            let default = Limits::default();
            Limits { $($name: limit(raw.$name, stringify!($name), default.$name, problems),)+ }
        }
    };
    (@value $value:literal $unit:ident) => { units::$unit($value) };
    (@value $value:literal) => { $value };
}

limits! {
    /// To open a connection upstream, TLS included.
    connect_timeout: Duration = 5 s;
    /// For the answer to a HEAD, or the head of an answer, of an upstream.
    head_timeout: Duration = 10 s;
    /// For a whole manifest from upstream.
    manifest_timeout: Duration = 30 s;
    /// Without a byte from upstream, a transfer counts as broken.
    stall_timeout: Duration = 10 s;
    /// Redirects followed for one request upstream.
    max_redirects: usize = 5;
    /// First pause after an upstream gave no answer, in which it is not asked.
    circuit_cooldown: Duration = 1 s;
    /// Longest such pause.
    circuit_max_cooldown: Duration = 60 s;
    /// How long a client waits for a stale tag to be confirmed before it is served as it is.
    revalidate_wait: Duration = 1 s;
    /// Pause after a tag could not be confirmed, before it is tried again.
    revalidate_backoff: Duration = 30 s;
    /// How long "not found" is remembered.
    negative_ttl: Duration = 30 s;
    /// Largest blob that is fetched (ECR: 52,000 MiB).
    max_blob_size: u64 = 52000 MiB;
    /// Blobs on their way in at one time.
    max_fills: usize = 256;
    /// Of these, how many may be without a client.
    max_unfollowed_fills: usize = 32;
    /// Blobs of each rule that are fetched before a client asks for them, at one time.
    max_prefetches: usize = 4;
    /// Clients that are streamed a blob which is not kept, at one time.
    max_bypasses: usize = 64;
    /// Connections upstream that one blob may use; a rule's `connections` goes before.
    fill_connections: usize = 4;
    /// How long a blob of which nothing is here waits for one of the connections that its rule's `max_connections` allows.
    connection_wait: Duration = 5 min;
    /// Longer blobs may come over several connections.
    parallel_above: u64 = 32 MiB;
    /// Attempts of a transfer in a row that bring no byte, before it fails.
    fill_attempts: usize = 5;
    /// Manifests kept in memory.
    memory_cache: u64 = 64 MiB;
    /// How long a list of tags or of referrers is served before upstream is asked again.
    tags_list_ttl: Duration = 5 min;
    /// Client connections at one time, over all listeners; more wait to be accepted.
    max_connections: usize = 16384;
    /// For a client to send the head of a request.
    header_read_timeout: Duration = 10 s;
    /// Largest head of a request; more is answered 431.
    max_header_bytes: u64 = 32 KiB;
    /// For a client to complete the TLS handshake, and to send its PROXY header.
    tls_handshake_timeout: Duration = 10 s;
    /// After which a connection without a request is closed.
    idle_timeout: Duration = 120 s;
    /// After which a client that takes no byte of its answer is cut off.
    client_stall_timeout: Duration = 5 min;
    /// Between "not ready" and the end of accepting, so that load balancers notice.
    shutdown_delay: Duration = 0 s;
    /// For requests under way to end at shutdown; the rest is cut.
    drain_deadline: Duration = 30 s;
    /// How long it is remembered that a password was right, or wrong.
    users_verdict_ttl: Duration = 60 s;
    /// Passwords checked at one time; each takes a processor.
    max_password_checks: usize = 4;
    /// With `storage.delivery: redirect`, smaller blobs are answered directly.
    redirect_min_size: u64 = 1 MiB;
    /// How long the URL of a redirect holds; it never outlives the credentials it is signed with.
    redirect_expiry: Duration = 15 min;
    /// For a small request to the bucket, with its retries.
    bucket_timeout: Duration = 10 s;
    /// Attempts of one request to the bucket.
    bucket_attempts: usize = 3;
    /// Parts that large blobs are sent to the bucket in; larger where a blob would have more than 10,000.
    upload_part: u64 = 8 MiB;
    /// Such parts in memory at one time.
    max_upload_parts: usize = 5;
    /// Blobs on their way to the bucket while they come in, and as many again from disk.
    max_uploads: usize = 16;
    /// How long what other replicas may have changed is believed before the bucket is asked again.
    view_ttl: Duration = 10 s;
    /// How often at most it is written down that an image was pulled.
    pulled_interval: Duration = 6 h;
    /// Records of cached images that nobody pulled for so long are removed; 0 keeps them.
    retire_after: Duration = 90 day;
    /// Bytes a second that a scrub reads.
    scrub_rate: u64 = 32 MiB;
    /// Blobs a second that a scrub of the disk looks for in the bucket behind it, which may have lost them; 0 is none.
    scrub_looks: usize = 50;
    /// Between two scrubs in the background; 0 is never.
    scrub_interval: Duration = 7 day;
    /// Of rotten blobs, how much is kept for whoever wants to know what happened; 0 is nothing.
    quarantine_size: u64 = 1024 MiB;
    /// How long a blob that nothing refers to is kept.
    gc_grace: Duration = 24 h;
    /// Between two garbage collections in the background; 0 is never.
    gc_interval: Duration = 24 h;
    /// Between the moment from which such a blob counts as absent, and its deletion.
    gc_settle: Duration = 5 s;
    /// How often the names of `cluster.peers` are resolved.
    peers_refresh: Duration = 5 s;
    /// For another replica to accept a connection, and to answer a small request.
    peer_timeout: Duration = 3 s;
}

/// The units that defaults above are written in.
#[allow(non_snake_case)]
mod units {
    use std::time::Duration;

    pub(super) const fn s(value: u64) -> Duration {
        Duration::from_secs(value)
    }

    pub(super) const fn min(value: u64) -> Duration {
        Duration::from_secs(value * 60)
    }

    pub(super) const fn h(value: u64) -> Duration {
        Duration::from_secs(value * 60 * 60)
    }

    pub(super) const fn day(value: u64) -> Duration {
        Duration::from_secs(value * 24 * 60 * 60)
    }

    pub(super) const fn KiB(value: u64) -> u64 {
        value * 1024
    }

    pub(super) const fn MiB(value: u64) -> u64 {
        value * 1024 * 1024
    }
}

/// A kind of limit: how its text is read.
trait Limit: Sized + PartialEq {
    const HINT: &str;
    const ZERO: Self;
    fn parse(text: &str) -> Option<Self>;
}

impl Limit for Duration {
    const HINT: &str = "a duration with its unit, such as 500ms, 10s, 5m or 24h";
    const ZERO: Self = Self::ZERO;

    fn parse(text: &str) -> Option<Self> {
        if text == "0" {
            return Some(Self::ZERO);
        }
        humantime::parse_duration(text).ok().filter(|duration| *duration <= MAX_DURATION)
    }
}

impl Limit for u64 {
    const HINT: &str = "a size with its unit, such as 64MiB or 2GiB";
    const ZERO: Self = 0;

    fn parse(text: &str) -> Option<Self> {
        text.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64())
    }
}

impl Limit for usize {
    const HINT: &str = "a whole number";
    const ZERO: Self = 0;

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|count| *count <= 1_000_000)
    }
}

fn limit<T: Limit>(raw: Option<Text>, name: &str, default: T, problems: &mut Problems) -> T {
    let Some(Text(text)) = raw else { return default };
    let path = format!("limits.{name}");
    match T::parse(&text) {
        None => problems.add(path, format!("`{text}` is out of range or not of this form"), T::HINT),
        Some(value) if value == T::ZERO && !MAY_BE_ZERO.contains(&name) => {
            problems.add(path, "must be more than 0", "leave it out for its default");
        }
        Some(value) => return value,
    }
    default
}

/// Reads a duration at `path`; `default` where it is left out or wrong.
pub(super) fn duration(raw: Option<Text>, path: &str, problems: &mut Problems) -> Option<Duration> {
    let Text(text) = raw?;
    let duration = Duration::parse(&text);
    if duration.is_none() {
        problems.add(path, format!("`{text}` is not a duration of at most ten years"), Duration::HINT);
    }
    duration
}

/// Reads a size at `path`; `None` where it is left out or wrong.
pub(super) fn size(raw: Option<Text>, path: &str, problems: &mut Problems) -> Option<u64> {
    let Text(text) = raw?;
    let size = <u64 as Limit>::parse(&text);
    if size.is_none() {
        problems.add(path, format!("`{text}` is not a size"), <u64 as Limit>::HINT);
    }
    size
}

/// Reads a count at `path`, of 1 or more; `None` where it is left out or wrong.
pub(super) fn count(raw: Option<Text>, path: &str, problems: &mut Problems) -> Option<usize> {
    let Text(text) = raw?;
    let count = <usize as Limit>::parse(&text).filter(|count| *count > 0);
    if count.is_none() {
        problems.add(path, format!("`{text}` is not a count from 1 to 1,000,000"), "leave it out for its default");
    }
    count
}

pub(super) fn validate(raw: Option<RawLimits>, problems: &mut Problems) -> Limits {
    let limits = read(raw.unwrap_or_default(), problems);
    if !HEADER_BYTES.contains(&limits.max_header_bytes) {
        problems.add("limits.max_header_bytes", "must be 8KiB to 1MiB", "leave it out for its default of 32KiB");
    }
    if limits.circuit_max_cooldown < limits.circuit_cooldown {
        problems.add("limits.circuit_max_cooldown", "is shorter than limits.circuit_cooldown", "raise it, or lower the other");
    }
    if !UPLOAD_PART_BYTES.contains(&limits.upload_part) {
        problems.add("limits.upload_part", "must be 5MiB to 1GiB", "S3 takes no smaller parts; leave it out for its default of 8MiB");
    }
    if limits.gc_settle > MAX_GC_SETTLE {
        problems.add("limits.gc_settle", "must be at most 2min", "leave it out for its default of 5s");
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_may_be_zero_are_limits() {
        let schema = schemars::schema_for!(RawLimits).to_value();
        for name in MAY_BE_ZERO {
            assert!(schema["properties"].get(name).is_some(), "{name}");
        }
    }

    #[test]
    fn limits_are_read_with_their_units() {
        for (text, bytes) in
            [("64MiB", Some(64 << 20)), ("64 MiB", Some(64 << 20)), ("1.5GiB", Some(3 << 29)), ("10", Some(10)), ("-1", None), ("x", None)]
        {
            assert_eq!(<u64 as Limit>::parse(text), bytes, "{text}");
        }
        for (text, duration) in [("1h 30m", Some(5400)), ("0", Some(0)), ("10", None), ("20years", None), ("99999999999999999999s", None)] {
            assert_eq!(<Duration as Limit>::parse(text), duration.map(Duration::from_secs), "{text}");
        }
        assert_eq!(
            (<usize as Limit>::parse("7"), <usize as Limit>::parse("-7"), <usize as Limit>::parse("9999999")),
            (Some(7), None, None)
        );
    }
}
