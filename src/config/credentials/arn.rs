//! The ARN of a secret.

use std::fmt;

use super::super::problems::Problems;

/// The ARN of a secret of AWS Secrets Manager. It names a secret and is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretArn(String);

/// What the names of secrets for ECR's own pull-through cache start with.
const ECR_NAME_PREFIX: &str = "ecr-pullthroughcache/";
/// Longest ARN that ECR takes.
const MAX_CHARACTERS: usize = 612;
const HINT: &str = "arn:aws:secretsmanager:REGION:ACCOUNT:secret:ecr-pullthroughcache/NAME-SUFFIX";

impl SecretArn {
    /// Parses `arn:PARTITION:secretsmanager:REGION:ACCOUNT:secret:NAME`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.splitn(7, ':').collect();
        let ["arn", partition, "secretsmanager", region, account, "secret", name] = parts.as_slice() else { return None };
        let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_+=.@-".contains(&b));
        let is_partition = *partition == "aws" || partition.strip_prefix("aws-").is_some_and(is_word);
        let holds = is_partition && is_word(region) && is_account(account) && is_name && text.len() <= MAX_CHARACTERS;
        holds.then(|| Self(text.to_owned()))
    }

    /// The ARN.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where the secret is.
    #[must_use]
    pub fn region(&self) -> &str {
        self.0.split(':').nth(3).unwrap_or_default()
    }

    /// The secret's name, with the suffix that Secrets Manager gave it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.splitn(7, ':').nth(6).unwrap_or_default()
    }

    /// Whether a pull-through cache rule of ECR could name it too.
    #[must_use]
    pub fn is_of_ecr(&self) -> bool {
        self.name().starts_with(ECR_NAME_PREFIX)
    }
}

impl fmt::Display for SecretArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An account of AWS: twelve digits.
pub(super) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

pub(super) fn validate(text: &str, path: &str, problems: &mut Problems) -> Option<SecretArn> {
    let arn = SecretArn::parse(text);
    if arn.is_none() {
        problems.add(path, "not the ARN of a secret of AWS Secrets Manager", HINT);
    }
    arn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arns_name_region_and_secret() {
        let arn =
            SecretArn::parse("arn:aws-us-gov:secretsmanager:us-gov-west-1:123456789012:secret:ecr-pullthroughcache/hub-aB3dEf").unwrap();
        assert_eq!((arn.region(), arn.name()), ("us-gov-west-1", "ecr-pullthroughcache/hub-aB3dEf"));
        assert!(arn.is_of_ecr());
        assert!(!SecretArn::parse("arn:aws:secretsmanager:eu-west-1:123456789012:secret:hub").unwrap().is_of_ecr());
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "arn:aws:secretsmanager:eu-west-1:1:secret:x",
            "arn:aws:secretsmanager::123456789012:secret:x",
            "arn:aws:secretsmanager:eu-west-1:123456789012:secret:",
            "arn:aws:secretsmanager:eu-west-1:123456789012:secret:a b",
            "arn:aws:secretsmanager:eu-west-1:123456789012:secret:x:password",
            "arn:aws:iam::123456789012:role/x",
            "arn:azure:secretsmanager:eu-west-1:123456789012:secret:x",
        ] {
            assert_eq!(SecretArn::parse(text), None, "{text}");
        }
    }
}
