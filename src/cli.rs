//! The commands: parse, call the library, print. One file per command.
//!
//! What a command is for goes to stdout; what is said about it, and what to do next, to stderr.

mod check_config;
mod check_upstream;
mod gc;
mod hash_password;
mod healthcheck;
mod schema;
mod scrub;
mod serve;
mod store_command;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};

/// A pull-through cache for container images.
#[derive(Debug, Parser)]
#[command(name = "headpond", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the cache. Without a configuration: on 127.0.0.1:5000, for eight public registries.
    Serve(serve::Serve),
    /// Check a configuration file: every problem, or a summary of its rules.
    CheckConfig(check_config::CheckConfig),
    /// Try the upstream of a rule step by step, and say what is wrong and what to do.
    CheckUpstream(check_upstream::CheckUpstream),
    /// Compare everything in the store with its digest, and mend what can be mended.
    Scrub(scrub::Scrub),
    /// Remove blobs that nothing refers to: marked now, deleted once their grace is over.
    Gc(gc::Gc),
    /// Print the JSON Schema of the configuration file, for editors.
    Schema(schema::PrintSchema),
    /// Hash a password for the file of users (auth.users).
    HashPassword(hash_password::HashPassword),
    /// Ask a running server whether it is alive, for container health checks.
    Healthcheck(healthcheck::Healthcheck),
}

impl Cli {
    /// Reads the command line and the variables; prints what is wrong with them and ends the process.
    #[must_use]
    pub fn read() -> Self {
        let command = Self::command().mut_subcommands(|subcommand| subcommand.mut_args(empty_is_unset));
        Self::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }
}

/// A variable that an image presets can be set to nothing, but not be taken away, by those who run it.
fn empty_is_unset(argument: Arg) -> Arg {
    let is_empty = argument.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    if is_empty { argument.env(Resettable::Reset) } else { argument }
}

/// Runs the command.
///
/// # Errors
/// What to print before exiting with 1.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Serve(command) => command.run(),
        Command::CheckConfig(command) => command.run(),
        Command::CheckUpstream(command) => command.run(),
        Command::Scrub(command) => command.run(),
        Command::Gc(command) => command.run(),
        Command::Schema(command) => command.run(),
        Command::HashPassword(command) => command.run(),
        Command::Healthcheck(command) => command.run(),
    }
}

/// Prints what the command is for. A reader that has gone, as in `headpond schema | head`, is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// Says something about it. Nothing can be done where stderr is closed.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
