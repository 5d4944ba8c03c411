//! `headpond hash-password`

use std::io::{self, BufRead, IsTerminal};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use bcrypt::Version;
use clap::Args;

/// bcrypt's cost: some 50 ms for each password that the server does not know yet.
const COST: u32 = 10;
/// bcrypt looks at no more than this; longer ones would be cut without a word.
const MAX_PASSWORD_BYTES: usize = 71;

#[derive(Debug, Args)]
pub(super) struct HashPassword {
    /// Print a whole line of the file of users, for this name.
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    user: Option<String>,
}

fn parse_name(name: &str) -> Result<String, &'static str> {
    let holds =
        !name.is_empty() && name.len() <= 255 && !name.starts_with('#') && !name.contains(':') && !name.chars().any(char::is_control);
    if holds { Ok(name.to_owned()) } else { Err("a name has 1 to 255 characters, no ':' and no '#' at its start") }
}

impl HashPassword {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let password = if io::stdin().is_terminal() { prompt()? } else { read_line(io::stdin().lock())? };
        ensure!(
            !password.is_empty(),
            "the password is empty\n    hint: type it when asked, or pipe it in: printf %s \"$PASSWORD\" | headpond hash-password"
        );
        ensure!(
            password.len() <= MAX_PASSWORD_BYTES,
            "the password is longer than {MAX_PASSWORD_BYTES} bytes, which is all that bcrypt looks at\n    hint: choose a shorter one"
        );
        // The version that htpasswd writes, so that other servers take the line too.
        let hash = bcrypt::hash_with_result(&password, COST).context("cannot hash the password")?.format_for_version(Version::TwoY);
        match &self.user {
            None => {
                super::print(&hash)?;
                super::say("next: write NAME:HASH as a line of the file that auth.users names, then send the server SIGHUP");
            }
            Some(user) => {
                super::print(&format!("{user}:{hash}"))?;
                super::say("next: append this line to the file that auth.users names, then send the server SIGHUP");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn prompt() -> anyhow::Result<String> {
    let password = rpassword::prompt_password("Password: ").context("cannot read from the terminal")?;
    let again = rpassword::prompt_password("Again: ").context("cannot read from the terminal")?;
    if password != again {
        bail!("the two passwords differ\n    hint: run the command again");
    }
    Ok(password)
}

/// The first line, without its end.
fn read_line(stdin: impl BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    let most = u64::try_from(MAX_PASSWORD_BYTES)? + 3;
    stdin.take(most).read_line(&mut line).context("cannot read the password from stdin")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
