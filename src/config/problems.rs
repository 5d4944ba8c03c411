//! Problems of a configuration, collected instead of returned at the first.

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// One thing that is wrong (or, as a warning, probably not meant).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, as in `rules[2].upstream`; empty when it is the whole file.
    pub path: String,
    /// What is wrong. Never holds the value of a secret.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.what)?;
        match &self.hint {
            Some(hint) => write!(f, "\n    hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct ConfigProblems {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// At least one, in the order in which they were found.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}: ", file.display())?,
            None => f.write_str("configuration: ")?,
        }
        match self.problems.len() {
            1 => f.write_str("1 problem")?,
            count => write!(f, "{count} problems")?,
        }
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// The collector that validation writes to.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    /// Most problems that are kept: a file of garbage must not print a book.
    const MAX: usize = 100;

    /// Adds a problem with a hint. A second problem of one path is a consequence of the first and
    /// is dropped.
    pub(super) fn add(&mut self, path: impl Into<String>, what: impl Into<String>, hint: impl Into<String>) {
        let path = path.into();
        if self.0.len() < Self::MAX && !self.has(&path) {
            self.0.push(Problem { path, what: what.into(), hint: Some(hint.into()).filter(|hint| !hint.is_empty()) });
        }
    }

    /// Whether something was already said of `path`.
    pub(super) fn has(&self, path: &str) -> bool {
        self.0.iter().any(|problem| problem.path == path)
    }

    /// Reports a file that is named but cannot be opened.
    pub(super) fn check_readable(&mut self, path: &str, file: &Path) {
        if let Err(error) = std::fs::File::open(file) {
            self.add(path, format!("{}: {error}", file.display()), "a relative path is relative to the configuration file");
        }
    }

    /// Forgets the problems that do not matter here.
    pub(super) fn retain(&mut self, matters: impl FnMut(&Problem) -> bool) {
        self.0.retain(matters);
    }

    /// `config`, if nothing is wrong.
    pub(super) fn into_result<T>(self, file: Option<&Path>, config: T) -> Result<T, ConfigProblems> {
        if self.0.is_empty() { Ok(config) } else { Err(ConfigProblems { file: file.map(Path::to_owned), problems: self.0 }) }
    }
}
