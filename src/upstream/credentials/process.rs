//! Credential helpers of docker: `PROGRAM … get`, the server on stdin, one JSON object on stdout.

use std::process::{ExitStatus, Stdio};

use secrecy::SecretString;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::super::Credential;
use super::ReadError;

/// Largest answer: a helper prints one small object.
const MAX_OUTPUT_BYTES: u64 = 64 * 1024;
/// The name that stands for an identity token in place of a password.
const IDENTITY_TOKEN: &str = "<token>";

/// What a helper prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Printed {
    username: String,
    secret: SecretString,
}

/// Runs the helper, without a shell. It ends with this future, at the latest.
pub(super) async fn read(command: &[String], server: &str) -> Result<Credential, ReadError> {
    let Some((program, arguments)) = command.split_first() else { return Err(ReadError::refused("no process is named")) };
    let (status, stdout) =
        run(program, arguments, server).await.map_err(|error| ReadError::unreachable(format!("cannot run {program}: {error}")))?;
    if stdout.len() as u64 > MAX_OUTPUT_BYTES {
        return Err(ReadError::refused(format!("{program} prints more than {MAX_OUTPUT_BYTES} bytes")));
    }
    if !status.success() {
        return Err(failed(program, server, status, &stdout));
    }
    // Neither output nor the reason of the failure is quoted: both may hold the secret.
    let printed: Printed = serde_json::from_slice(&stdout).map_err(|_| {
        ReadError::refused(format!("{program} printed no JSON object with Username and Secret, as a credential helper of docker does"))
    })?;
    if printed.username == IDENTITY_TOKEN {
        return Err(ReadError::refused(format!(
            "{program} gives an identity token for {server}, which is not taken; log in there with a user name and a password or access token"
        )));
    }
    Ok(Credential { username: printed.username, password: printed.secret })
}

async fn run(program: &str, arguments: &[String], server: &str) -> std::io::Result<(ExitStatus, Vec<u8>)> {
    let mut child = Command::new(program)
        .args(arguments)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Not this server's own, which is its log.
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let tell = async {
        if let Some(mut stdin) = stdin {
            // A helper that knows its server may end without reading.
            let _ = stdin.write_all(format!("{server}\n").as_bytes()).await;
        }
    };
    let ((), stdout) = tokio::join!(tell, within(stdout));
    let stdout = stdout?;
    Ok((child.wait().await?, stdout))
}

/// Reads a pipe up to just past the limit. What comes after that breaks on a closed pipe.
async fn within(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(MAX_OUTPUT_BYTES + 1).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// A helper that fails says why on stderr, and some that they know nothing on stdout. Neither is quoted:
/// what a helper prints when it fails may hold what it was to print.
fn failed(program: &str, server: &str, status: ExitStatus, stdout: &[u8]) -> ReadError {
    if stdout.starts_with(b"credentials not found") {
        return ReadError::refused(format!("{program} has no credentials for {server}; log in there with the client that it belongs to"));
    }
    ReadError::refused(format!(
        "{program} failed ({status}); it says why when it is run by hand, as the user of headpond: echo {server} | {program} … get"
    ))
}
