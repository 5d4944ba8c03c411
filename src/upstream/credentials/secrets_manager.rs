//! A secret of AWS Secrets Manager, in the form that ECR's pull-through cache has.

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::ProvideErrorMetadata;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;

use super::super::Credential;
use super::ReadError;
use super::aws::{Aws, Refusal, words};

/// The keys are the same for every upstream.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    username: String,
    access_token: SecretString,
}

/// `GetSecretValue`: the current version.
pub(super) async fn read(aws: &Aws, arn: &str, region: &str) -> Result<Credential, ReadError> {
    let client = Client::new(&aws.config(region).await);
    let answer = client.get_secret_value().secret_id(arn).send().await.map_err(|error| match error.as_service_error() {
        Some(said) => {
            refused(arn, &Refusal { code: said.code().unwrap_or("an unknown error"), message: said.message().unwrap_or_default() })
        }
        None => ReadError::unreachable(format!("the secret {arn} cannot be read: {}", words(&error))),
    })?;
    let text = answer.secret_string().ok_or_else(|| ReadError::refused(format!("the secret {arn} is binary; {FORM}")))?;
    parse(text).map_err(|what| ReadError::refused(format!("the secret {arn} {what}; {FORM}")))
}

const FORM: &str = r#"it must be a JSON object with the keys username and accessToken"#;

fn refused(arn: &str, refusal: &Refusal<'_>) -> ReadError {
    let allow = format!("allow secretsmanager:GetSecretValue on {arn} to the role of headpond");
    let hint = match refusal.code {
        "ResourceNotFoundException" => Some("check account, region and name, or create it"),
        "InvalidRequestException" => Some("it may be scheduled for deletion: restore it with `aws secretsmanager restore-secret`"),
        "DecryptionFailure" | "DecryptionFailureException" => Some("allow kms:Decrypt on its key to the role of headpond"),
        _ if refusal.is_of_permissions() => Some(allow.as_str()),
        _ => None,
    };
    refusal.error(&format!("the secret {arn} cannot be read"), hint)
}

/// What is wrong is said without the words of the parser, which quote the text.
fn parse(text: &str) -> Result<Credential, &'static str> {
    let value: Value = serde_json::from_str(text).map_err(|_| "is no JSON")?;
    let is_text = |key: &str| value.get(key).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    if !value.is_object() {
        return Err("is no JSON object");
    }
    if !is_text("username") {
        return Err("has no text under `username`");
    }
    if !is_text("accessToken") {
        return Err("has no text under `accessToken`");
    }
    let told: Told = serde_json::from_value(value).map_err(|_| "is of another form")?;
    Ok(Credential { username: told.username, password: told.access_token })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn secrets_of_another_form_are_refused_in_words_without_them() {
        let told = parse(r#"{"username":"u","accessToken":"t","more":1}"#).unwrap();
        assert_eq!((told.username.as_str(), told.password.expose_secret()), ("u", "t"));
        for (text, what) in [
            ("hunter2", "is no JSON"),
            (r#"["hunter2"]"#, "is no JSON object"),
            (r#"{"username":"u","password":"hunter2"}"#, "has no text under `accessToken`"),
            (r#"{"username":"u","accessToken":12345}"#, "has no text under `accessToken`"),
            (r#"{"accessToken":"hunter2"}"#, "has no text under `username`"),
        ] {
            assert_eq!(parse(text).unwrap_err(), what);
        }
    }
}
