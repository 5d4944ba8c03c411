//! The `headpond` program.

use std::io::Write;
use std::process::ExitCode;

use headpond::cli::{self, Cli};
use headpond::http::tls;

/// musl's own allocator is slow under many threads, and glibc's keeps what bursts took.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tls::install_provider();
    match cli::run(Cli::read()) {
        Ok(code) => code,
        Err(error) => {
            // Nothing can be done where stderr is closed.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
