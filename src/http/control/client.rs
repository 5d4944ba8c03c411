//! The other end of the control socket, in the commands.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::unix::net::UnixStream as StdStream;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::upkeep::report::Event;

/// Longest line of an answer, and longest refusal.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// Why a command got no answer, or not all of it.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The server does not want to.
    #[error("{error}")]
    Refused {
        /// What it said.
        error: String,
        /// What it said to do.
        hint: Option<String>,
    },
    /// The server has gone, or something else answers.
    #[error("the server went away before it was through: {0}")]
    Gone(String),
    /// The socket failed.
    #[error("the control socket fails: {0}")]
    Socket(#[from] io::Error),
}

/// What the server tells of a run. Dropping it ends the run.
#[derive(Debug)]
pub struct ControlEvents<R> {
    body: Incoming,
    unread: BytesMut,
    lines: VecDeque<Bytes>,
    /// Moves the connection; ends with this.
    _connection: JoinSet<()>,
    kind: PhantomData<fn() -> R>,
}

/// Asks the server at the other end of `stream` for a run: `/scrub` or `/gc`.
///
/// # Errors
/// When it refuses, or does not answer.
pub async fn ask_control<R>(stream: StdStream, path: &str, options: &(impl Serialize + Sync)) -> Result<ControlEvents<R>, ControlError> {
    let gone = |error: hyper::Error| ControlError::Gone(error.to_string());
    let stream = UnixStream::from_std(stream)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(gone)?;
    let mut moves = JoinSet::new();
    // What breaks it breaks the body, too, and is told there.
    moves.spawn(async move { drop(connection.await) });
    let json = serde_json::to_vec(options).map_err(io::Error::other)?;
    let request = Request::post(path).header(HOST, "headpond").header(CONTENT_TYPE, "application/json").body(Full::new(Bytes::from(json)));
    let response = sender.send_request(request.map_err(io::Error::other)?).await.map_err(gone)?;
    let (status, body) = (response.status(), response.into_body());
    if status == StatusCode::OK {
        return Ok(ControlEvents { body, unread: BytesMut::new(), lines: VecDeque::new(), _connection: moves, kind: PhantomData });
    }
    let text = Limited::new(body, MAX_LINE_BYTES).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let refusal: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let said = |name: &str| refusal.get(name).and_then(|value| value.as_str()).map(str::to_owned);
    let error = said("error").unwrap_or_else(|| format!("the server answers {status}: {}", String::from_utf8_lossy(&text)));
    Err(ControlError::Refused { error, hint: said("hint") })
}

impl<R: DeserializeOwned> ControlEvents<R> {
    /// The next event; `None` after the last one.
    ///
    /// # Errors
    /// When the server goes away before the run has ended.
    pub async fn next(&mut self) -> Result<Option<Event<R>>, ControlError> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                let event = serde_json::from_slice(&line);
                return event.map(Some).map_err(|error| ControlError::Gone(format!("it says what this version does not know: {error}")));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|error| ControlError::Gone(error.to_string()))?;
            self.unread.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line = self.unread.split_to(end + 1).freeze();
                self.lines.push_back(line);
            }
            if self.unread.len() > MAX_LINE_BYTES {
                return Err(ControlError::Gone("it sends a line without end".to_owned()));
            }
        }
    }
}
