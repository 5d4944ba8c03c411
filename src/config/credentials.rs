//! Credentials for an upstream: what they are, or where they are read while headpond runs.

mod arn;
mod ecr;

use std::path::{Path, PathBuf};

pub use arn::SecretArn;
pub use ecr::EcrAccount;

use super::problems::Problems;
use super::raw::RawCredentials;
use super::secret::{self, Secret};
use super::shapes::{List, Text, TextOr};
use super::upstream_address::UpstreamAddress;

/// How an upstream is told who asks; what they hold is never sent anywhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password that the configuration refers to.
    Password {
        /// The name; not a secret.
        username: String,
        /// The password or token, as it was when the configuration was read.
        password: Secret,
        /// The file it is in, read again while headpond runs; none for an environment variable.
        file: Option<PathBuf>,
    },
    /// A secret of AWS Secrets Manager, in the form that ECR's pull-through cache has.
    SecretsManager(SecretArn),
    /// Authorization tokens of a private ECR registry.
    Ecr(EcrAccount),
    /// A credential helper of docker: the program and its arguments, before `get`.
    Process(Vec<String>),
}

impl Credentials {
    /// Who asks, in few words and without a secret.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Password { username, .. } => format!("as {username}"),
            Self::SecretsManager(arn) => format!("as the secret {} says", arn.name()),
            Self::Ecr(EcrAccount { role: Some(role), .. }) => format!("with ECR tokens as {role}"),
            Self::Ecr(_) => "with ECR tokens".to_owned(),
            Self::Process(command) => format!("as {} says", command.first().map_or("the process", String::as_str)),
        }
    }
}

const FORMS_HINT: &str =
    "write {username: NAME, password: \"env:VARIABLE\"}, the ARN of a secret of Secrets Manager, `ecr`, or {process: [PROGRAM]}";
const PROCESS_HINT: &str = "name a credential helper of docker, such as [docker-credential-NAME]; it is run without a shell";
/// Most words of a command.
const MAX_ARGUMENTS: usize = 64;

/// `upstream` is where the credentials are for; none where that is wrong itself.
pub(super) fn validate(
    raw: TextOr<RawCredentials>,
    upstream: Option<&UpstreamAddress>,
    path: &str,
    directory: &Path,
    problems: &mut Problems,
) -> Option<Credentials> {
    let raw = match raw {
        TextOr::Mapping(raw) => raw,
        TextOr::Text(text) if text == "ecr" => return ecr::validate(None, upstream, path, problems).map(Credentials::Ecr),
        TextOr::Text(text) if text.starts_with("arn:") => return arn::validate(&text, path, problems).map(Credentials::SecretsManager),
        TextOr::Text(_) => {
            problems.add(path, "not credentials", FORMS_HINT);
            return None;
        }
    };
    let has_password = raw.username.is_some() || raw.password.is_some();
    match (has_password, raw.ecr, raw.process) {
        (false, Some(ecr), None) => ecr::validate(Some(ecr), upstream, &format!("{path}.ecr"), problems).map(Credentials::Ecr),
        (false, None, Some(words)) => process(words, &format!("{path}.process"), directory, problems).map(Credentials::Process),
        (_, None, None) => password(raw.username, raw.password, path, directory, problems),
        _ => {
            problems.add(path, "are of more than one kind", FORMS_HINT);
            None
        }
    }
}

fn password(username: Option<Text>, reference: Option<Text>, path: &str, directory: &Path, problems: &mut Problems) -> Option<Credentials> {
    let username = username.map(|username| username.0);
    let username_path = format!("{path}.username");
    match &username {
        None => problems.add(&username_path, "is missing", "the name that the upstream registry knows"),
        Some(name) if name.is_empty() || name.contains(':') || name.chars().any(char::is_control) => {
            problems.add(&username_path, "must not be empty or hold a ':' or control characters", "HTTP cannot send such a name");
        }
        Some(_) => {}
    }
    let password_path = format!("{path}.password");
    let Some(Text(reference)) = reference else {
        problems.add(password_path, "is missing", secret::REFERENCE_HINT);
        return None;
    };
    let resolved = secret::resolve(&reference, directory).map_err(|error| problems.add(password_path, error.to_string(), error.hint()));
    Some(Credentials::Password { username: username?, password: resolved.ok()?, file: secret::file(&reference, directory) })
}

/// A program with a '/' in it is relative to the file, any other is looked up in `PATH`.
fn process(words: List<Text>, path: &str, directory: &Path, problems: &mut Problems) -> Option<Vec<String>> {
    let mut command: Vec<String> = words.entries(path).into_iter().map(|(_, Text(word))| word).collect();
    match command.first_mut() {
        Some(program) if !program.is_empty() => {
            if program.contains('/') {
                *program = directory.join(&*program).to_string_lossy().into_owned();
            }
        }
        _ => {
            problems.add(path, "names no program", PROCESS_HINT);
            return None;
        }
    }
    if command.len() > MAX_ARGUMENTS || command.iter().any(|word| word.contains('\0')) {
        problems.add(path, format!("must be at most {MAX_ARGUMENTS} words without NUL"), PROCESS_HINT);
        return None;
    }
    Some(command)
}
