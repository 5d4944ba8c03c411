//! Which authorization tokens of ECR.

use super::super::problems::Problems;
use super::super::raw::RawEcr;
use super::super::shapes::Text;
use super::super::upstream_address::UpstreamAddress;
use super::arn::is_account;

/// Whose tokens, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EcrAccount {
    /// The account of the registry, twelve digits; none where the host does not tell.
    pub account: Option<String>,
    /// The region that is asked for tokens.
    pub region: String,
    /// ARN of the role to assume first. Default: none.
    pub role: Option<String>,
    /// Whether the upstream's host is one of ECR's own.
    pub is_of_host: bool,
}

const REGION_HINT: &str =
    "write it, such as {ecr: {region: eu-west-1}}; only hosts like ACCOUNT.dkr.ecr.REGION.amazonaws.com tell their region themselves";

/// Account and region of a private ECR registry, by its host: plain, FIPS and dual-stack ones.
fn of_host(host: &str) -> Option<(&str, &str)> {
    let (account, rest) = host.split_once(".dkr").filter(|(account, _)| is_account(account))?;
    let rest = rest.strip_prefix(['.', '-'])?.strip_prefix("ecr")?;
    let (region, domain) = rest.strip_prefix("-fips").unwrap_or(rest).strip_prefix('.')?.split_once('.')?;
    let is_of_aws = matches!(
        domain,
        "amazonaws.com" | "amazonaws.com.cn" | "amazonaws.eu" | "on.aws" | "on.amazonwebservices.com.cn" | "sc2s.sgov.gov" | "c2s.ic.gov"
    );
    (is_of_aws && is_region(region)).then_some((account, region))
}

fn is_region(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_role(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let ["arn", partition, "iam", "", account, resource] = parts.as_slice() else { return false };
    let is_named = resource.strip_prefix("role/").is_some_and(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()));
    partition.starts_with("aws") && is_account(account) && is_named && text.len() <= 2048
}

pub(super) fn validate(raw: Option<RawEcr>, upstream: Option<&UpstreamAddress>, path: &str, problems: &mut Problems) -> Option<EcrAccount> {
    let RawEcr { region, role } = raw.unwrap_or_default();
    let upstream = upstream?;
    let told = of_host(&upstream.host);
    let region = match region {
        Some(Text(region)) if !is_region(&region) => {
            problems.add(format!("{path}.region"), format!("`{region}` is no region"), "such as eu-west-1");
            return None;
        }
        Some(Text(region)) => Some(region),
        None => told.map(|(_, region)| region.to_owned()),
    };
    if region.is_none() {
        problems.add(path, "need a region, which the upstream's host does not tell", REGION_HINT);
    }
    let role = role.map(|Text(role)| role);
    if role.as_ref().is_some_and(|role| !is_role(role)) {
        problems.add(format!("{path}.role"), "is not the ARN of a role", "arn:aws:iam::ACCOUNT:role/NAME");
        return None;
    }
    Some(EcrAccount { account: told.map(|(account, _)| account.to_owned()), region: region?, role, is_of_host: told.is_some() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_ecr_tell_account_and_region() {
        for (host, region) in [
            ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", Some("us-gov-west-1")),
            ("123456789012.dkr-ecr.eu-west-1.on.aws", Some("eu-west-1")),
            ("123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example", None),
            ("12345678901.dkr.ecr.eu-west-1.amazonaws.com", None),
            ("public.ecr.aws", None),
        ] {
            assert_eq!(of_host(host), region.map(|region| ("123456789012", region)), "{host}");
        }
    }

    #[test]
    fn roles_are_arns() {
        assert!(is_role("arn:aws:iam::123456789012:role/path/pull"));
        for text in ["pull", "arn:aws:iam::123456789012:user/x", "arn:aws:iam::1:role/x", "arn:aws:iam::123456789012:role/"] {
            assert!(!is_role(text), "{text}");
        }
    }
}
