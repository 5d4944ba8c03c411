//! `headpond healthcheck`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::{Admin, reachable};

/// For the whole check.
const LIMIT: Duration = Duration::from_secs(3);
const HINT: &str = "is `headpond serve` running? name its admin port with --admin or --config";
/// Of an answer, no more than its first line is needed.
const MAX_ANSWER_BYTES: u64 = 1024;

#[derive(Debug, Args)]
pub(super) struct Healthcheck {
    /// Address of the admin port. Default: that of the file, else 127.0.0.1:5001.
    #[arg(long, value_name = "ADDR:PORT", env = "HEADPOND_ADMIN")]
    admin: Option<SocketAddr>,
    /// The configuration file that the server runs with.
    #[arg(long, value_name = "FILE", env = "HEADPOND_CONFIG")]
    config: Option<PathBuf>,
}

impl Healthcheck {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let address = match (self.admin, &self.config) {
            (Some(address), _) => address,
            (None, Some(file)) => Admin::load(file)?.address,
            (None, None) => Admin::default().address,
        };
        let address = reachable(address);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
        let answer = runtime.block_on(async { tokio::time::timeout(LIMIT, ask(address)).await });
        let status_line = match answer {
            Ok(Ok(status_line)) => status_line,
            Ok(Err(error)) => bail!("{address} is not healthy: {error}\n    hint: {HINT}"),
            Err(_) => bail!("{address} is not healthy: no answer within {} s\n    hint: {HINT}", LIMIT.as_secs()),
        };
        ensure!(status_line.starts_with("HTTP/1.1 200"), "{address} answers {status_line:?}");
        Ok(ExitCode::SUCCESS)
    }
}

async fn ask(address: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned())
}
