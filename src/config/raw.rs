//! The file as written: shapes only, every key optional, so that one wrong key can be taken out and
//! the rest still be checked. The documentation of the keys is here, as it goes into the schema.
//!
//! Unknown keys are found by `read`, all at once; `deny_unknown_fields` is said to the schema only.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::limits::RawLimits;
use super::shapes::{List, Text, TextOr};

/// The configuration of headpond. Every key may be left out.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(title = "headpond", deny_unknown_fields)]
#[serde(default)]
pub(super) struct RawConfig {
    /// Where clients connect: an address, a mapping, or a list of either. Default: 127.0.0.1:5000.
    pub(super) listen: Option<List<TextOr<RawListen>>>,
    /// Where operators connect: health and metrics.
    pub(super) admin: Option<RawAdmin>,
    /// Where content is kept.
    pub(super) storage: Option<RawStorage>,
    /// Who may pull.
    pub(super) auth: Option<RawAuth>,
    /// The other replicas over the same bucket.
    pub(super) cluster: Option<RawCluster>,
    /// The pull-through cache rules; they replace the default ones.
    pub(super) rules: Option<List<RawRule>>,
    /// Log lines, on stderr.
    pub(super) log: Option<RawLog>,
    /// Limits and waits.
    pub(super) limits: Option<RawLimits>,
}

/// One address that clients connect to.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "Listen", deny_unknown_fields)]
#[serde(default)]
pub(super) struct RawListen {
    /// IP address and port, such as 0.0.0.0:5000 or [::]:5000.
    pub(super) address: Option<Text>,
    /// Serve TLS. Without it, plain HTTP.
    pub(super) tls: Option<RawTls>,
    /// Expect a PROXY protocol v2 header on every connection. Default: false.
    pub(super) proxy_protocol: Option<bool>,
}

/// The files of a TLS listener, in PEM; read again on SIGHUP.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "Tls", deny_unknown_fields)]
#[serde(default)]
pub(super) struct RawTls {
    /// The certificate chain, the server's own first.
    pub(super) certificate: Option<Text>,
    /// The private key.
    pub(super) key: Option<Text>,
    /// Only clients with a certificate of one of these authorities may connect.
    pub(super) client_ca: Option<Text>,
}

/// The admin port.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "Admin", deny_unknown_fields)]
#[serde(default)]
pub(super) struct RawAdmin {
    /// IP address and port. Default: 127.0.0.1:5001.
    pub(super) address: Option<Text>,
}

/// The store.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "Storage", deny_unknown_fields)]
#[serde(default)]
pub(super) struct RawStorage {
    /// A directory, made if missing; with `s3`, the disk tier in front of the bucket. Default: ./headpond-data in the working directory.
    pub(super) path: Option<Text>,
    /// Most that is kept in the directory, such as 200GiB; what was used longest ago goes first. With `s3`, 0 keeps no blob there. Default: no limit.
    pub(super) max_size: Option<Text>,
    /// What is left free on the directory's file system. Default: 5 % of it, at most 1GiB.
    pub(super) min_free: Option<Text>,
    /// Keep content in a bucket, which any number of replicas may share.
    pub(super) s3: Option<RawS3>,
    /// `proxy`, or `redirect`: blobs that the bucket holds are answered with a redirect to it. Default: proxy.
    pub(super) delivery: Option<Text>,
}

/// A bucket of S3, or of a server that speaks its protocol.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "S3", deny_unknown_fields)]
#[serde(default)]
pub(super) struct RawS3 {
    /// The bucket's name. It must exist.
    pub(super) bucket: Option<Text>,
    /// What all keys start with. Default: nothing.
    pub(super) prefix: Option<Text>,
    /// URL of the server. Default: that of AWS in the region.
    pub(super) endpoint: Option<Text>,
    /// URL under which clients reach it, for redirects. Default: `endpoint`.
    pub(super) public_endpoint: Option<Text>,
    /// Region. Default: that of the environment; us-east-1 where an `endpoint` is named.
    pub(super) region: Option<Text>,
    /// Put the bucket's name into the path, not into the host. Default: true where an `endpoint` is named.
    pub(super) path_style: Option<bool>,
    /// Encryption that the server is asked for: none, s3 or kms. Default: none, which leaves it to the bucket.
    pub(super) sse: Option<Text>,
    /// Identifier of the key for `sse: kms`. Default: the account's own.
    pub(super) kms_key: Option<Text>,
    /// A reference: env:NAME or file:PATH. Default: credentials as the AWS SDK finds them.
    pub(super) access_key: Option<Text>,
    /// A reference: env:NAME or file:PATH.
    pub(super) secret_key: Option<Text>,
}

/// Replicas over one bucket.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "Cluster", deny_unknown_fields)]
#[serde(default)]
pub(super) struct RawCluster {
    /// host:port of a name that resolves to every replica, or a list of such. Needs `auth.token_key`.
    pub(super) peers: Option<List<Text>>,
}

/// Who may pull.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "Auth", deny_unknown_fields)]
#[serde(default)]
pub(super) struct RawAuth {
    /// Pulls without credentials: `none`, or a mapping. Default: everybody, but none once there are users.
    pub(super) anonymous: Option<TextOr<RawAnonymous>>,
    /// A htpasswd file with bcrypt hashes, as `headpond hash-password` prints them; read again on SIGHUP.
    pub(super) users: Option<Text>,
    /// A key that all replicas share, of 32 bytes or more. A reference: env:NAME or file:PATH.
    pub(super) token_key: Option<Text>,
}

/// Pulls without credentials.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "Anonymous", deny_unknown_fields)]
#[serde(default)]
pub(super) struct RawAnonymous {
    /// Whether they are served. Default: true.
    pub(super) pull: Option<bool>,
    /// Networks that they may come from, such as 10.0.0.0/8. Default: all.
    pub(super) cidrs: Option<List<Text>>,
}

/// A pull-through cache rule: names that start with the prefix are pulled from the upstream.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "Rule", deny_unknown_fields)]
#[serde(default)]
pub(super) struct RawRule {
    /// 2 to 30 characters, such as docker-hub or team/docker; or ROOT, for names that no other rule takes.
    pub(super) prefix: Option<Text>,
    /// host[:port], which means https, or a URL: http://127.0.0.1:5100, https://host/base.
    pub(super) upstream: Option<Text>,
    /// Registries with the same content, asked where the upstream fails: each an address, or a mapping.
    pub(super) mirrors: Option<List<TextOr<RawMirror>>>,
    /// Further hosts that this rule answers for in `?ns=`, beside the upstream's own.
    pub(super) hosts: Option<List<Text>>,
    /// Where two rules answer for one host, the one to take. Default: false.
    pub(super) mirror: Option<bool>,
    /// What stands upstream in place of the prefix. Default: ROOT, which is nothing.
    pub(super) upstream_prefix: Option<Text>,
    /// Authorities, in PEM, trusted for this upstream beside those of the system.
    pub(super) ca: Option<Text>,
    /// Shown to this upstream, where it asks for a certificate.
    pub(super) client_certificate: Option<RawClientCertificate>,
    /// Hosts and networks at private addresses to which the upstream may redirect, or send for tokens.
    pub(super) private_hosts: Option<List<Text>>,
    /// Credentials for this upstream. Content fetched with them is for users only, unless `anonymous` is true.
    pub(super) credentials: Option<TextOr<RawCredentials>>,
    /// Further hosts whose token service may be given the credentials.
    pub(super) realms: Option<List<Text>>,
    /// Content fetched with the credentials may be pulled by anybody who may pull. Default: false.
    pub(super) anonymous: Option<bool>,
    /// Only names that match one of these patterns (without the prefix; `*` is any run of characters).
    pub(super) allow: Option<List<Text>>,
    /// No names that match one of these patterns; wins over `allow`.
    pub(super) deny: Option<List<Text>>,
    /// How long a tag is served before upstream is asked again.
    pub(super) freshness: Option<RawFreshness>,
    /// While upstream tells that no more than so many pulls are left, tags are not confirmed, and the rest is kept for what is not cached. Default: 0, which is off.
    pub(super) quota_floor: Option<u64>,
    /// Connections that one large blob may come over. Default: `limits.fill_connections`.
    pub(super) connections: Option<Text>,
    /// Connections for blobs at one time, over all blobs of this rule. Default: no limit.
    pub(super) max_connections: Option<Text>,
    /// Bytes of blobs a second from this upstream, such as 100MiB. Default: no limit.
    pub(super) max_bandwidth: Option<Text>,
    /// What the first missing blob of an image brings with it: `off`, `image`, `all`, or a mapping. Default: off.
    pub(super) prefetch: Option<TextOr<RawPrefetch>>,
}

/// What the first missing blob of an image brings with it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "Prefetch", deny_unknown_fields)]
#[serde(default)]
pub(super) struct RawPrefetch {
    /// The image's other blobs, and the same image for these platforms, such as linux/arm64.
    pub(super) platforms: Option<List<Text>>,
}

/// A mirror of an upstream. It is asked without the rule's credentials.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "Mirror", deny_unknown_fields)]
#[serde(default)]
pub(super) struct RawMirror {
    /// host[:port], which means https, or a URL.
    pub(super) upstream: Option<Text>,
    /// What stands there in place of the rule's prefix. Default: the rule's `upstream_prefix`.
    pub(super) upstream_prefix: Option<Text>,
    /// Authorities, in PEM, trusted for this mirror beside those of the system.
    pub(super) ca: Option<Text>,
}

/// A client certificate for an upstream; read again on SIGHUP.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "ClientCertificate", deny_unknown_fields)]
#[serde(default)]
pub(super) struct RawClientCertificate {
    /// The certificate chain in PEM, the own one first.
    pub(super) certificate: Option<Text>,
    /// The private key in PEM.
    pub(super) key: Option<Text>,
}

/// Credentials for an upstream: a name and a password, tokens of ECR, or a process. In place of the mapping: the ARN of a secret, or `ecr`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "Credentials", deny_unknown_fields)]
#[serde(default)]
pub(super) struct RawCredentials {
    /// The name; it is not a secret.
    pub(super) username: Option<Text>,
    /// A reference: env:NAME or file:PATH. A password written here is refused.
    pub(super) password: Option<Text>,
    /// Authorization tokens of a private ECR registry.
    pub(super) ecr: Option<RawEcr>,
    /// A credential helper of docker with its arguments, such as [docker-credential-NAME].
    pub(super) process: Option<List<Text>>,
}

/// Authorization tokens of a private ECR registry.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "Ecr", deny_unknown_fields)]
#[serde(default)]
pub(super) struct RawEcr {
    /// The region that is asked. Default: that of the upstream's host.
    pub(super) region: Option<Text>,
    /// ARN of a role to assume first. Default: none.
    pub(super) role: Option<Text>,
}

/// How long a tag is served before upstream is asked again.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "Freshness", deny_unknown_fields)]
#[serde(default)]
pub(super) struct RawFreshness {
    /// For every tag that no pattern names. Default: 24h.
    pub(super) default: Option<Text>,
    /// By pattern, such as `latest: 15m` or `"*-nightly": 1h`; the most exact one that matches counts.
    pub(super) tags: Option<BTreeMap<String, Option<Text>>>,
    /// Past this, a tag that upstream did not confirm is no longer served. Default: never.
    pub(super) max_stale: Option<Text>,
}

/// Log lines.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "Log", deny_unknown_fields)]
#[serde(default)]
pub(super) struct RawLog {
    /// error, warn, info, debug, trace, or by module: `info,headpond::upstream=debug`. Default: info.
    pub(super) level: Option<Text>,
    /// text or json. Default: text.
    pub(super) format: Option<Text>,
}
