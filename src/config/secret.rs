//! Secrets: given by reference, never printed.

use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

/// A secret text; wiped from memory when dropped, and `Debug` does not show it.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(SecretString::from(text))
    }

    /// The secret itself. Every call is a place to look at when reviewing.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// For comparing configurations on reload; not in constant time, so not for authentication.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

/// Why a reference gives no secret. Never holds the text of the reference: it may be the secret.
#[derive(Debug, Error)]
pub(super) enum SecretError {
    #[error("a secret cannot be written here")]
    Literal,
    #[error("the environment variable `{0}` is not set")]
    Unset(String),
    #[error("{0}: {1}")]
    File(String, std::io::Error),
    #[error("{0} is larger than {max} bytes", max = MAX_SECRET_BYTES)]
    TooLarge(String),
    #[error("the secret is empty")]
    Empty,
    #[error("an ARN cannot stand here; for an upstream, write `credentials: arn:…`")]
    Arn,
}

/// How a secret is given.
pub(super) const REFERENCE_HINT: &str = "refer to it: env:NAME for an environment variable, file:PATH for a file";

impl SecretError {
    /// What to do about it.
    pub(super) const fn hint(&self) -> &'static str {
        match self {
            Self::Unset(_) => "set it where Headpond is started and checked, or refer to a file: file:PATH",
            Self::File(..) => "a path is relative to the configuration's folder, and what it names must be readable by Headpond's user",
            Self::Empty => "write it there; a newline at the end is no part of it",
            Self::Literal | Self::TooLarge(_) | Self::Arn => REFERENCE_HINT,
        }
    }
}

/// Largest file taken as a secret: registry tokens are some kilobytes, and a wrong path must not fill memory.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// Resolves `env:NAME` or `file:path`; a trailing newline is dropped, as editors and `echo` add one.
pub(super) fn resolve(reference: &str, directory: &Path) -> Result<Secret, SecretError> {
    let text = match reference.split_once(':') {
        Some(("env", name)) => std::env::var(name).map_err(|_| SecretError::Unset(name.to_owned()))?,
        Some(("file", path)) => read_file(&directory.join(path))?,
        Some(("arn", _)) => return Err(SecretError::Arn),
        _ => return Err(SecretError::Literal),
    };
    let text = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if text.is_empty() { Err(SecretError::Empty) } else { Ok(Secret::new(text.to_owned())) }
}

/// The file that a reference names; none for an environment variable.
pub(super) fn file(reference: &str, directory: &Path) -> Option<PathBuf> {
    reference.strip_prefix("file:").map(|path| directory.join(path))
}

fn read_file(path: &Path) -> Result<String, SecretError> {
    let shown = path.display().to_string();
    let file_bytes = std::fs::metadata(path).map_err(|error| SecretError::File(shown.clone(), error))?.len();
    if file_bytes > MAX_SECRET_BYTES {
        return Err(SecretError::TooLarge(shown));
    }
    std::fs::read_to_string(path).map_err(|error| SecretError::File(shown, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_does_not_show_itself() {
        assert_eq!(format!("{:?}", Secret::new("hunter2".to_owned())), "Secret(…)");
    }

    #[test]
    fn file_loses_one_trailing_newline() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("password"), "a b\n\r\n").unwrap();
        assert_eq!(resolve("file:password", directory.path()).unwrap().expose(), "a b\n");
    }

    #[test]
    fn literal_is_refused_without_repeating_it() {
        for text in ["hunter2", "hunter2:x", "arn:aws:secretsmanager:x:hunter2", "file:/nonexistent/secret"] {
            let error = resolve(text, Path::new("")).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        assert!(matches!(resolve("hunter2", Path::new("")), Err(SecretError::Literal)));
        assert!(matches!(resolve("env:HEADPOND_NOT_SET_ANYWHERE", Path::new("")), Err(SecretError::Unset(_))));
    }
}
