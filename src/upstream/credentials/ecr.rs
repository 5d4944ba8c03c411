//! Authorization tokens of private ECR registries.

use std::time::SystemTime;

use aws_config::SdkConfig;
use aws_config::identity::IdentityCache;
use aws_config::sts::AssumeRoleProvider;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_ecr::Client;
use aws_sdk_ecr::error::ProvideErrorMetadata;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use secrecy::SecretString;

use super::super::Credential;
use super::aws::{Aws, Refusal, words};
use super::{EcrTokens, ReadError};

/// What the role's sessions are called, in the logs of its account.
const SESSION_NAME: &str = "headpond";

/// `GetAuthorizationToken`: name and password, and when they end. The token is good for every
/// registry that the caller may pull from, so no registry is named.
pub(super) async fn read(aws: &Aws, tokens: &EcrTokens) -> Result<(Credential, SystemTime), ReadError> {
    let config = aws.config(&tokens.region).await;
    let config = match &tokens.role {
        Some(role) => assume(config, role).await,
        None => config,
    };
    let answer = Client::new(&config).get_authorization_token().send().await.map_err(|error| match error.as_service_error() {
        Some(said) => {
            refused(tokens, &Refusal { code: said.code().unwrap_or("an unknown error"), message: said.message().unwrap_or_default() })
        }
        None => ReadError::unreachable(format!("{}: {}{}", asked(tokens), words(&error), assumed(tokens))),
    })?;
    let unusable = || ReadError::refused(format!("ECR in {} answered without a usable token", tokens.region));
    let told = answer.authorization_data().first().ok_or_else(unusable)?;
    let token = told.authorization_token().and_then(decode).ok_or_else(unusable)?;
    let ends_at = told.expires_at().and_then(|at| SystemTime::try_from(*at).ok()).ok_or_else(unusable)?;
    Ok((token, ends_at))
}

async fn assume(config: SdkConfig, role: &str) -> SdkConfig {
    let provider = AssumeRoleProvider::builder(role).configure(&config).session_name(SESSION_NAME).build().await;
    // The provider is used once: a cache shared with others would keep it for good.
    let config = config.into_builder().identity_cache(IdentityCache::no_cache());
    config.credentials_provider(SharedCredentialsProvider::new(provider)).build()
}

/// base64 of `AWS:password`.
fn decode(token: &str) -> Option<Credential> {
    let pair = String::from_utf8(BASE64_STANDARD.decode(token).ok()?).ok()?;
    let (username, password) = pair.split_once(':').filter(|(_, password)| !password.is_empty())?;
    Some(Credential { username: username.to_owned(), password: SecretString::from(password) })
}

fn asked(tokens: &EcrTokens) -> String {
    format!("ECR in {} gives no authorization token", tokens.region)
}

fn assumed(tokens: &EcrTokens) -> String {
    let hint = |role: &String| format!("; is sts:AssumeRole on {role} allowed to the role of headpond, and does its trust policy name it?");
    tokens.role.as_ref().map(hint).unwrap_or_default()
}

fn refused(tokens: &EcrTokens, refusal: &Refusal<'_>) -> ReadError {
    let who = tokens.role.as_deref().unwrap_or("the role of headpond");
    let allow = format!("allow ecr:GetAuthorizationToken (on *) to {who}");
    refusal.error(&asked(tokens), refusal.is_of_permissions().then_some(allow.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_a_name_and_a_password() {
        assert_eq!(decode("QVdTOmE6Yg==").unwrap(), Credential { username: "AWS".to_owned(), password: "a:b".into() });
        for text in ["", "QVdT", "QVdTOg==", "no base64!"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
