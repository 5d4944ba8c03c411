//! Bodies that count what they send, and that can be held, cut, dripped and endless.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use headpond::oci::Digest;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;

use super::State;
use super::faults::Fault;

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Small, so that counting and cutting are exact enough.
const PIECE_BYTES: usize = 32 * 1024;

/// A body without faults.
pub(super) fn plain(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Where a body is, and what is to happen to it.
struct Sending {
    state: Arc<State>,
    digest: Digest,
    /// What is left to send; its first byte is byte `position` of the content.
    rest: Bytes,
    position: u64,
    hold_at: u64,
    cut_at: u64,
    piece_bytes: usize,
    pause: Duration,
    endless: bool,
    failed: bool,
}

/// A body of `bytes`, which begin at byte `position` of the content.
pub(super) fn content(state: &Arc<State>, digest: Digest, bytes: Bytes, position: u64, faults: &[Fault]) -> Body {
    let mut sending = Sending {
        state: Arc::clone(state),
        digest,
        rest: bytes,
        position,
        hold_at: u64::MAX,
        cut_at: u64::MAX,
        piece_bytes: PIECE_BYTES,
        pause: Duration::ZERO,
        endless: false,
        failed: false,
    };
    for fault in faults {
        match fault {
            Fault::HoldBodyAt(at) => sending.hold_at = *at,
            Fault::CutBodyAt(at) => sending.cut_at = *at,
            Fault::Drip(bytes, pause) => (sending.piece_bytes, sending.pause) = (*bytes, *pause),
            Fault::Endless => sending.endless = true,
            // The connection is cut where the announced bytes are missing.
            Fault::LengthOff(1..) => sending.cut_at = sending.position + sending.rest.len() as u64,
            _ => {}
        }
    }
    StreamBody::new(stream::unfold(sending, next_piece).map(|piece| piece.map(Frame::data))).boxed_unsync()
}

async fn next_piece(mut sending: Sending) -> Option<(io::Result<Bytes>, Sending)> {
    if sending.failed {
        return None;
    }
    if sending.rest.is_empty() && sending.endless {
        sending.rest = Bytes::from(vec![0; PIECE_BYTES]);
    }
    if sending.position >= sending.cut_at {
        // Let the connection write out what it has before it is closed.
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
        sending.failed = true;
        return Some((Err(io::Error::other("cut")), sending));
    }
    if sending.rest.is_empty() {
        return None;
    }
    if sending.position >= sending.hold_at {
        sending.state.released.subscribe().wait_for(|released| *released).await.unwrap();
        sending.hold_at = u64::MAX;
    }
    if !sending.pause.is_zero() {
        tokio::time::sleep(sending.pause).await;
    }
    let limit = sending.cut_at.min(sending.hold_at) - sending.position;
    let length = sending.rest.len().min(sending.piece_bytes).min(usize::try_from(limit).unwrap());
    let piece = sending.rest.split_to(length);
    sending.position += length as u64;
    sending.state.journal.sent(&sending.digest, length);
    Some((Ok(piece), sending))
}
