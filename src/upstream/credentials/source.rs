//! What credentials are read from: plain data.

use std::path::PathBuf;

use super::super::Credential;

/// Where the credentials of an upstream come from. Upstreams with equal sources share what is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// Given.
    Password {
        /// As they are at first.
        credential: Credential,
        /// The file that the password is in, read again now and then; none where it cannot change.
        file: Option<PathBuf>,
    },
    /// A secret of AWS Secrets Manager: a JSON object with `username` and `accessToken`.
    SecretsManager {
        /// The secret's ARN.
        arn: String,
        /// Where it is.
        region: String,
    },
    /// Authorization tokens of ECR.
    Ecr(EcrTokens),
    /// A credential helper of docker.
    Process {
        /// The program and its arguments, before `get`.
        command: Vec<String>,
        /// What it is asked for: the host of the registry.
        server: String,
    },
}

/// Whose authorization tokens of ECR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EcrTokens {
    /// The account of the registry, where it is known.
    pub account: Option<String>,
    /// The region that is asked.
    pub region: String,
    /// ARN of the role that is assumed first.
    pub role: Option<String>,
}

impl CredentialSource {
    /// The label `source` of the metrics.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Password { .. } => "file",
            Self::SecretsManager { .. } => "secrets_manager",
            Self::Ecr(_) => "ecr",
            Self::Process { .. } => "process",
        }
    }

    /// Who is asked for, whatever the password is at the time: what was fetched so far stays with it
    /// when the source tells others. For a given password it is the user name alone.
    pub(in super::super) fn identity(&self) -> String {
        match self {
            Self::Password { credential, .. } => credential.username.clone(),
            Self::SecretsManager { arn, .. } => arn.clone(),
            Self::Ecr(EcrTokens { account, role, .. }) => {
                format!("ecr:{}:{}", account.as_deref().unwrap_or_default(), role.as_deref().unwrap_or_default())
            }
            Self::Process { command, .. } => format!("process:{}", command.join("\u{1f}")),
        }
    }

    /// As whom an upstream is asked, for messages.
    pub(in super::super) fn who(&self) -> String {
        match self {
            Self::Password { credential, .. } => format!("as {}", credential.username),
            Self::SecretsManager { .. } | Self::Ecr(_) | Self::Process { .. } => format!("with what {} tells", self.shown()),
        }
    }

    /// The source, for messages.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Password { file: Some(file), .. } => file.display().to_string(),
            Self::Password { file: None, .. } => "the configuration".to_owned(),
            Self::SecretsManager { arn, .. } => format!("the secret {arn}"),
            Self::Ecr(EcrTokens { region, role: Some(role), .. }) => format!("ECR in {region} as {role}"),
            Self::Ecr(EcrTokens { region, role: None, .. }) => format!("ECR in {region}"),
            Self::Process { command, .. } => command.first().cloned().unwrap_or_default(),
        }
    }

    /// Whether it may tell something else later.
    pub(super) const fn changes(&self) -> bool {
        !matches!(self, Self::Password { file: None, .. })
    }

    /// Whether an upstream says 403, not 401, of credentials that are over: ECR does of its tokens.
    pub(in super::super) const fn is_over_at_403(&self) -> bool {
        matches!(self, Self::Ecr(_))
    }
}
