//! A password in a file, such as a mounted secret of Kubernetes.

use std::path::Path;

use secrecy::SecretString;
use tokio::io::AsyncReadExt;

use super::ReadError;

/// Largest file taken as a password, as for the configuration: a wrong path must not fill memory.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Reads a password; one newline at its end is dropped, as editors and `echo` add one.
pub(super) async fn read(path: &Path) -> Result<SecretString, ReadError> {
    let failed = |error: std::io::Error| ReadError::unreachable(format!("{}: {error}", path.display()));
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).await.map_err(failed)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(ReadError::refused(format!("{} is larger than {MAX_FILE_BYTES} bytes", path.display())));
    }
    let password = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if password.is_empty() {
        // As it is while it is being written anew.
        return Err(ReadError::unreachable(format!("{} is empty", path.display())));
    }
    Ok(SecretString::from(password))
}
