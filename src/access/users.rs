//! Users: a htpasswd file with bcrypt hashes.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use bcrypt::HashParts;
use thiserror::Error;

/// Largest file, in bytes: some ten thousand users.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Highest bcrypt cost that is taken: 2^14 rounds are about a second of a processor, for each new password.
const MAX_COST: u32 = 14;
/// What a name that no user has is checked against when there are no users; bcrypt's usual cost.
const USUAL_COST: u32 = 10;

/// The users of one file.
#[derive(Clone)]
pub struct Users {
    hashes: HashMap<Arc<str>, Arc<str>>,
    nobody: Arc<str>,
}

/// Why a file of users is refused; nothing of it is then used.
#[derive(Debug, Error)]
pub enum UsersError {
    /// The file cannot be read.
    #[error("{file}: {source}")]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Lines that are not users, all of them.
    #[error("{file}:{}", ListedLines(lines))]
    Lines {
        /// The file.
        file: PathBuf,
        /// Line number, from 1, and what is wrong with it.
        lines: Vec<(usize, LineError)>,
    },
}

struct ListedLines<'a>(&'a [(usize, LineError)]);

impl fmt::Display for ListedLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(line, error)| write!(f, "\n    line {line}: {error}"))
    }
}

/// What is wrong with a line. Never repeats it: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LineError {
    /// No ':', or nothing before it.
    #[error("is not of the form name:hash")]
    Form,
    /// Another hash than bcrypt, or none.
    #[error("is {0}, which is too weak; only bcrypt is taken: `headpond hash-password --user NAME` makes such a line")]
    Weak(&'static str),
    /// Meant as bcrypt, but not well formed.
    #[error("holds a bcrypt hash that is cut short or altered")]
    Malformed,
    /// A cost out of range.
    #[error("has the bcrypt cost {0}; 4 to {MAX_COST} are taken, as every new password costs that much time")]
    Cost(u32),
    /// A user who is there already.
    #[error("names a user for the second time")]
    Twice,
}

impl Users {
    /// Reads a file. Empty lines and lines that start with '#' are skipped.
    ///
    /// # Errors
    /// When it cannot be read, or any line is no user with a bcrypt hash.
    pub fn load(file: &Path) -> Result<Self, UsersError> {
        let read = std::fs::metadata(file).and_then(|metadata| {
            if metadata.len() > MAX_FILE_BYTES {
                return Err(std::io::Error::other(format!("the file is larger than {MAX_FILE_BYTES} bytes")));
            }
            std::fs::read_to_string(file)
        });
        let text = read.map_err(|source| UsersError::Read { file: file.to_owned(), source })?;
        Self::parse(&text).map_err(|lines| UsersError::Lines { file: file.to_owned(), lines })
    }

    fn parse(text: &str) -> Result<Self, Vec<(usize, LineError)>> {
        let mut hashes: HashMap<Arc<str>, Arc<str>> = HashMap::new();
        let mut wrong = Vec::new();
        let mut highest_cost = None;
        for (index, line) in text.lines().map(str::trim_end).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match parse_line(line) {
                Ok((name, _, _)) if hashes.contains_key(name) => wrong.push((index + 1, LineError::Twice)),
                Ok((name, hash, cost)) => {
                    highest_cost = highest_cost.max(Some(cost));
                    hashes.insert(name.into(), hash.into());
                }
                Err(error) => wrong.push((index + 1, error)),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let cost = highest_cost.unwrap_or(USUAL_COST);
        Ok(Self { hashes, nobody: format!("$2b${cost:02}${}", ".".repeat(53)).into() })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The user's name and hash; for a name that nobody has no name, and a hash that takes as long.
    pub(super) fn find(&self, name: &str) -> (Option<Arc<str>>, Arc<str>) {
        match self.hashes.get_key_value(name) {
            Some((name, hash)) => (Some(Arc::clone(name)), Arc::clone(hash)),
            None => (None, Arc::clone(&self.nobody)),
        }
    }
}

/// Shows names, not hashes.
impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.hashes.keys()).finish()
    }
}

fn parse_line(line: &str) -> Result<(&str, &str, u32), LineError> {
    let (name, hash) = line.split_once(':').filter(|(name, _)| !name.is_empty()).ok_or(LineError::Form)?;
    if !["$2a$", "$2b$", "$2y$"].iter().any(|version| hash.starts_with(version)) {
        return Err(LineError::Weak(kind_of(hash)));
    }
    let parts = HashParts::from_str(hash).map_err(|_| LineError::Malformed)?;
    let cost = parts.get_cost();
    if (4..=MAX_COST).contains(&cost) { Ok((name, hash, cost)) } else { Err(LineError::Cost(cost)) }
}

fn kind_of(hash: &str) -> &'static str {
    const KINDS: [(&str, &str); 6] = [
        ("$apr1$", "MD5"),
        ("$1$", "MD5"),
        ("{SHA}", "SHA-1"),
        ("$2x$", "a hash of a broken bcrypt ($2x$)"),
        ("$5$", "SHA-256 crypt"),
        ("$6$", "SHA-512 crypt"),
    ];
    let known = KINDS.iter().find(|(prefix, _)| hash.starts_with(prefix));
    known.map_or("crypt or a password in plain text", |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$04$BO2RZrQrrDUyYUaBuIElaOEOmUPMFbItKqtwZ2m2ZeHJMcL7DOiQ2";

    #[test]
    fn bcrypt_lines_are_users() {
        let users = Users::parse(&format!("# users\n\na:{HASH}\nb:{}\r\n", HASH.replace("2y", "2a"))).unwrap();
        assert_eq!(users.len(), 2);
        assert_eq!(users.find("a").0.as_deref(), Some("a"));
        let (nobody, hash) = users.find("c");
        assert_eq!(nobody, None);
        assert_eq!(HashParts::from_str(&hash).unwrap().get_cost(), 4);
        assert!(!format!("{users:?}").contains("$2"));
    }

    #[test]
    fn every_line_that_is_not_bcrypt_is_refused_by_its_number() {
        let text = format!(
            "a:{HASH}\nb:$apr1$x$y\nc:{{SHA}}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\nd:hunter2\ne:$2y$04$short\nf\n:{HASH}\na:{HASH}\ng:{}\nh:{}",
            HASH.replace("$04$", "$31$"),
            HASH.replace("2y", "2x"),
        );
        let wrong = Users::parse(&text).unwrap_err();
        assert_eq!(wrong.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8, 9, 10]);
        let said = UsersError::Lines { file: "users".into(), lines: wrong }.to_string();
        assert!(said.contains("line 2: is MD5, which is too weak") && said.contains("line 9: has the bcrypt cost 31"), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}
